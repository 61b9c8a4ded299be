"""LVS-NAT: a request gets the real server's address and port, a reply the VIP's; else only TTL and sums change."""

import struct
from dataclasses import replace

import pytest

from pylvs.datapath.maps import possible_cpus
from support.harness import MACS, Harness, frame
from support.packets import (
    ACK,
    DESTINATION,
    HOP_BY_HOP,
    PSH,
    ROUTING,
    TCP,
    UDP,
    Packet,
    address,
    checksum,
    dissect,
    ones_sum,
    pseudo,
    udp,
    wrong_sums,
)
from support.talk import IPV4, IPV6, Family, Talk


def _changed(before: bytes, after: Packet, source: tuple[str, int], destination: tuple[str, int]) -> None:
    """Assert that the packet has these ends now, TTL - 1, right sums, and is the same in all else."""
    old = dissect(before)
    assert (after.source, after.destination) == (source, destination)
    assert after.ttl == old.ttl - 1
    assert not wrong_sums(after.raw)
    at = 10 if old.protocol == TCP else 6  # ports and checksum may differ
    same = [old.raw[:2], old.tos, old.ident, old.df, len(old.raw), old.segment[4:16], old.segment[18:]]
    now = [after.raw[:2], after.tos, after.ident, after.df, len(after.raw), after.segment[4:16], after.segment[18:]]
    if old.protocol == UDP:
        same[5:], now[5:] = [old.segment[4:at], old.payload], [after.segment[4:at], after.payload]
    assert now == same
    if old.version == 4:
        assert after.raw[20 : old.head] == old.raw[20 : old.head], "IP options"
        assert after.raw[6:8] == old.raw[6:8], "flags and fragment offset"
    else:
        assert after.raw[:7] == old.raw[:7], "traffic class, flow label, length, next header"
        assert after.raw[40 : old.head] == old.raw[40 : old.head], "extension headers"


def _both_ways(talk: Talk, payload: bytes = b"", **of_ip: object) -> None:
    """A packet each way, and both rightly changed."""
    vip, client = (talk.family.vip, talk.port), (talk.family.client, talk.sport)
    server = (talk.rs, talk.rport)
    question, answer = talk.question("S", payload, **of_ip), talk.answer("SA", payload, **of_ip)
    there, back = talk.lvs.from_client(question), talk.lvs.from_server(answer)
    assert there.reason == "forwarded_nat_request"
    assert back.reason == "forwarded_nat_reply"
    _changed(question, there.packet, client, server)
    _changed(answer, back.packet, vip, client)


@pytest.mark.parametrize("rport", [80, 8080])
def test_addresses_and_ports(lvs: Harness, family: Family, protocol: int, rport: int) -> None:
    _both_ways(Talk(lvs, family, protocol, rport=rport).serve(), tos=0xB8, ttl=17)


def test_next_hops(lvs: Harness, family: Family, protocol: int) -> None:
    """Straight to the next hop's address, but for the few that are left to the neighbour code."""
    talk = Talk(lvs, family, protocol).serve().opens()
    hops = [(talk.asks("A").frame[:12], talk.answers("A").frame[:12]) for _ in range(20)]
    assert sum(hop == MACS["r0"] + MACS["d1"] for hop, _ in hops) >= 15
    assert sum(hop == MACS["c0"] + MACS["d0"] for _, hop in hops) >= 15


def test_the_neighbour_code_is_asked_now_and_then(lvs: Harness, family: Family) -> None:
    """So that what the kernel knows of the next hop does not grow old; seen by the untouched Ethernet addresses."""
    talk = Talk(lvs, family).serve()
    asked = []
    for number in range(160):
        lvs.shift(0.02)  # what a CPU was told about a route holds for a tick of the clock
        if talk.asks("S").frame[:12] == MACS["d0"] + MACS["c0"]:
            asked.append(number)
    assert asked[0] == 0
    # each CPU leaves its first packet and then one in 16 to it
    assert 160 // 16 <= len(asked) <= 160 // 16 + possible_cpus()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 511, 512, 513, 1023, 1024])
def test_lengths(lvs: Harness, family: Family, protocol: int, size: int) -> None:
    _both_ways(Talk(lvs, family, protocol).serve(), b"\xa5" * size)


def test_full_frames(lvs: Harness, family: Family, protocol: int) -> None:
    size = 1500 - family.head - (20 if protocol == TCP else 8)
    _both_ways(Talk(lvs, family, protocol).serve(), bytes(n * 7 & 0xFF for n in range(size)))


def test_tcp_options_stay(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve()
    options = bytes.fromhex("020405b40402080a000000010000000001030307")
    question = talk.question("S", tcp_options=options)
    _changed(question, lvs.from_client(question).packet, (family.client, 1025), (family.server, 8080))


@pytest.mark.parametrize("words", [1, 2, 5, 10])
def test_ip_options(lvs: Harness, protocol: int, words: int) -> None:
    options = (b"\x07" + bytes((words * 4 - 1, 4)) + bytes(words * 4))[: words * 4]  # record route, room left
    _both_ways(Talk(lvs, IPV4, protocol).serve(), b"data", options=options)


EXTENSIONS = {
    "hop-by-hop": [(HOP_BY_HOP, b"\x01\x04" + bytes(4))],
    "destination": [(DESTINATION, b"\x01\x04" + bytes(4))],
    "routing": [(ROUTING, b"\x00\x00" + bytes(4) + address("fd00:1::7"))],
    "long": [(DESTINATION, b"\x01\x1c" + bytes(28))],
    "all": [
        (HOP_BY_HOP, b"\x01\x04" + bytes(4)), (DESTINATION, b"\x01\x04" + bytes(4)),
        (ROUTING, b"\x00\x00" + bytes(4) + address("fd00:1::7")), (DESTINATION, b"\x01\x04" + bytes(4)),
    ],
    "seven": [(DESTINATION, b"\x01\x04" + bytes(4))] * 7,
}  # fmt: skip


@pytest.mark.parametrize("chain", EXTENSIONS.values(), ids=EXTENSIONS)
def test_extension_headers(lvs: Harness, protocol: int, chain: list[tuple[int, bytes]]) -> None:
    _both_ways(Talk(lvs, IPV6, protocol).serve(), b"data", extensions=chain, flow=0x12345)


# UDP's own ways with checksums.


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 503, 504, 505, 511, 512, 513, 1016, 1471, 1472])
def test_udp_without_a_checksum_gets_one(lvs: Harness, size: int) -> None:
    """As from kernel IPVS: mended to a full one, in both directions."""
    talk = Talk(lvs, IPV4, UDP).serve()
    payload = bytes(n * 31 & 0xFF for n in range(size))
    there = lvs.from_client(talk.question(payload=payload, check=False))
    back = lvs.from_server(talk.answer(payload=payload, check=False))
    for result, reason in ((there, "forwarded_nat_request"), (back, "forwarded_nat_reply")):
        assert result.reason == reason
        assert result.packet.segment[6:8] != b"\0\0"
        assert not wrong_sums(result.packet.raw)
        assert result.packet.payload == payload


@pytest.mark.parametrize("with_sum", [True, False])
def test_a_udp_checksum_of_zero_is_written_as_ffff(lvs: Harness, family: Family, with_sum: bool) -> None:
    """0 would mean that there is none."""
    if family is IPV6 and not with_sum:
        pytest.skip("over IPv6 there is always a checksum")
    talk = Talk(lvs, family, UDP).serve()
    source, target = address(family.client), address(family.server)
    after = udp(talk.sport, talk.rport, b"\0\0more")
    missing = 0xFFFF - ones_sum(pseudo(source, target, UDP, len(after)) + after)
    payload = struct.pack("!H", missing) + b"more"
    assert checksum(pseudo(source, target, UDP, len(after)) + udp(talk.sport, talk.rport, payload)) == 0
    result = lvs.from_client(talk.question(payload=payload, check=with_sum))
    assert result.packet.segment[6:8] == b"\xff\xff"
    assert not wrong_sums(result.packet.raw)


def test_dr_leaves_udp_without_a_checksum_alone(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4, UDP, port=53, rport=53).serve(method="-g")
    result = lvs.from_client(talk.question(payload=b"abc", check=False))
    assert result.reason == "forwarded_route"
    assert result.packet.segment[6:8] == b"\0\0"


def test_a_wrong_checksum_stays_wrong(lvs: Harness, family: Family, protocol: int) -> None:
    """Damage from before the director must not be signed by it: the receiver still sees it."""
    talk = Talk(lvs, family, protocol).serve()
    question = talk.question("S", b"payload")
    broken = question[:-1] + bytes((question[-1] ^ 0x40,))
    result = lvs.from_client(broken)
    assert result.reason == "forwarded_nat_request"
    assert wrong_sums(result.packet.raw) == ["TCP" if protocol == TCP else "UDP"]


def test_trailing_bytes_after_the_packet_are_no_part_of_it(lvs: Harness, family: Family, protocol: int) -> None:
    """Short frames are padded to 60 bytes on the wire."""
    talk = Talk(lvs, family, protocol).serve()
    question = talk.question("S")
    result = lvs.send(frame(question) + b"\xee" * 9)
    assert result.reason == "forwarded_nat_request"
    assert len(result.packet.raw) == len(question)
    assert not wrong_sums(result.packet.raw)
    assert lvs.director.totals().inbytes == len(question)


def test_merged_packets_are_rewritten_as_one(lvs: Harness, family: Family) -> None:
    """What GRO merged is longer than the MTU; what will leave is not, so it passes."""
    talk = Talk(lvs, family).serve()
    talk.asks("S")
    payload = bytes(2800)
    question = talk.question(ACK | PSH, payload)
    result = lvs.from_client(question, gso_size=1400, gso_segs=2)
    assert result.reason == "forwarded_nat_request"
    _changed(question, result.packet, (family.client, 1025), (family.server, 8080))
    assert lvs.director.totals().inbytes == len(question) + len(talk.question("S"))


def test_same_client_port_to_two_services(lvs: Harness, family: Family) -> None:
    """Two connections of one client port, told apart by the VIP's port and by the real server's port."""
    web = Talk(lvs, family).serve().opens()
    other = Talk(lvs, family, port=443, rport=8443).serve().opens()
    assert web.answers("A").packet.source == (family.vip, 80)
    assert other.answers("A").packet.source == (family.vip, 443)
    assert len(lvs.entries()) == 1 and lvs.instance.runtime.get(0, "conns") == 2


def test_udp_and_tcp_of_the_same_ports(lvs: Harness, family: Family) -> None:
    Talk(lvs, family, TCP).serve().opens()
    Talk(lvs, family, UDP).serve(2).opens()
    protocols = sorted(connection.protocol for connection in lvs.director.connections())
    assert protocols == [TCP, UDP]


def test_a_real_servers_other_traffic_is_not_a_reply(lvs: Harness, family: Family, protocol: int) -> None:
    talk = Talk(lvs, family, protocol).serve().opens()
    other = replace(talk, rport=9999)
    assert lvs.from_server(other.answer("A")).handed_up


def test_real_server_port_0_keeps_the_clients(lvs: Harness, family: Family, protocol: int) -> None:
    talk = Talk(lvs, family, protocol, rport=0)
    lvs.ipvsadm(f"-A {talk.key} -s rr")
    lvs.ipvsadm(f"-a {talk.key} -r {family.server} -m")
    assert talk.asks("S").packet.destination == (family.server, 80)
