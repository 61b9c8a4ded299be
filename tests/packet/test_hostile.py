"""Packets that lie about themselves, or end too early: never forwarded wrongly, always dropped or handed up by name."""

import struct

import pytest

from support.harness import MACS, Harness, Result, frame
from support.packets import DESTINATION, HOP_BY_HOP, ROUTING, TCP, UDP, ip, resum_ipv4, tcp, tcp_packet, udp, wrong_sums
from support.talk import IPV4, IPV6, Family, Talk


def _harmless(result: Result) -> None:
    """Handed up as it came or dropped: `send` sees to the rest."""
    assert result.handed_up or result.dropped, result


def _shapes(talk: Talk) -> dict[str, bytes]:
    """A packet of each kind that the director reads."""
    if talk.family is IPV4:
        more = {"options": {"options": b"\x07\x27\x04" + bytes(37)}}
    else:
        more = {
            "extensions": {"extensions": [(HOP_BY_HOP, b"\1\4" + bytes(4)), (DESTINATION, b"\1\x0c" + bytes(12))]},
            "routing": {"extensions": [(ROUTING, bytes(6) + bytes(16))]},
        }
    shapes = {"plain": talk.question("S", b"payload"), "later": talk.question("A", b"payload")}
    shapes |= {name: talk.question("S", b"payload", **arguments) for name, arguments in more.items()}
    if talk.protocol == TCP:
        options = bytes.fromhex("020405b40402080a0000000100000000")
        shapes["tcp options"] = talk.question("S", b"payload", tcp_options=options)
    return shapes


def _least(family: Family) -> int:
    """BPF_PROG_TEST_RUN wants a whole IP header; shorter frames come over the cable."""
    return 14 + family.head


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "of a connection"])
def test_every_way_to_be_cut_short(lvs: Harness, family: Family, protocol: int, known: bool) -> None:
    """The header promises more bytes than there are."""
    talk = Talk(lvs, family, protocol).serve()
    if known:
        talk.opens()
    for packet in _shapes(talk).values():
        whole = frame(packet)
        for length in range(_least(family), len(whole)):
            result = lvs.send(whole[:length])
            assert result.reason == "up_malformed", length
    assert len(lvs.entries()) == known


def test_frames_shorter_than_an_ip_header(lvs: Harness, family: Family) -> None:
    whole = frame(Talk(lvs, family).serve().question("S"))
    cut = [whole[:length] for length in range(14, _least(family))]
    assert lvs.wire(cut) == {"up_malformed": len(cut)}


def test_every_truthful_length(lvs: Harness, family: Family, protocol: int) -> None:
    """The header says how short it is: what lacks the ports is handed up, what lacks more of TCP or UDP is dropped."""
    talk = Talk(lvs, family, protocol).serve()
    full = tcp(1025, 80) if protocol == TCP else udp(1025, 80, b"")
    for length in range(len(full)):
        result = lvs.from_client(ip(family.client, family.vip, protocol, full[:length], check=False))
        assert result.reason == ("up_malformed" if length < 4 else "dropped_truncated"), length
    assert not lvs.entries()
    talk.opens()
    for length in range(len(full)):
        result = lvs.from_client(ip(family.client, family.vip, protocol, full[:length], check=False))
        assert result.reason == ("up_malformed" if length < 4 else "dropped_truncated"), length


def test_cut_packets_of_nobodys_service_are_not_ours_to_drop(lvs: Harness, family: Family, protocol: int) -> None:
    Talk(lvs, family, protocol).serve()
    segment = struct.pack("!HH", 1025, 81)
    assert lvs.from_client(ip(family.client, family.vip, protocol, segment, check=False)).reason == "up_no_service"


def test_packets_in_pieces(lvs: Harness, family: Family) -> None:
    """Cut replies too."""
    talk = Talk(lvs, family).serve().opens()
    whole = frame(talk.answer("A", b"payload"), "d1")
    for length in range(_least(family), len(whole)):
        _harmless(lvs.send(whole[:length], "d1"))


# IPv4 headers that make no sense.


def _with(packet: bytes, at: int, value: bytes, resum: bool = True) -> bytes:
    changed = packet[:at] + value + packet[at + len(value) :]
    return resum_ipv4(changed) if resum else changed


@pytest.mark.parametrize("version", [v for v in range(16) if v != 4])
def test_wrong_version_behind_the_ipv4_type(lvs: Harness, version: int) -> None:
    packet = _with(Talk(lvs, IPV4).serve().question("S"), 0, bytes((version << 4 | 5,)))
    assert lvs.send(MACS["d0"] + MACS["c0"] + b"\x08\x00" + packet).reason == "up_malformed"


@pytest.mark.parametrize("words", range(5))
def test_header_length_below_the_least(lvs: Harness, words: int) -> None:
    packet = _with(Talk(lvs, IPV4).serve().question("S"), 0, bytes((0x40 | words,)), resum=False)
    assert lvs.from_client(packet).reason == "up_malformed"


@pytest.mark.parametrize("words", range(6, 16))
def test_header_length_into_the_segment(lvs: Harness, words: int) -> None:
    """The sum over what would be the options gives it away."""
    packet = _with(Talk(lvs, IPV4).serve().question("S", b"z" * 64), 0, bytes((0x40 | words,)), resum=False)
    assert lvs.from_client(packet).reason == "up_malformed"


@pytest.mark.parametrize("words", range(6, 16))
def test_header_length_beyond_the_packet(lvs: Harness, words: int) -> None:
    packet = ip(IPV4.client, IPV4.vip, UDP, udp(1025, 80, b""))[:20]
    packet = struct.pack("!BBH", 0x40 | words, 0, 20) + packet[4:]
    _harmless(lvs.from_client(packet))
    assert not lvs.entries()


@pytest.mark.parametrize("bit", range(160))
def test_each_flipped_bit_of_the_header(lvs: Harness, bit: int) -> None:
    """The header's checksum tells, whatever it was."""
    packet = bytearray(Talk(lvs, IPV4).serve().question("S"))
    packet[bit // 8] ^= 0x80 >> bit % 8
    assert lvs.send(MACS["d0"] + MACS["c0"] + b"\x08\x00" + bytes(packet)).reason == "up_malformed"


@pytest.mark.parametrize("total", [0, 1, 19, 20, 39, 41, 100, 0xFFFF])
def test_wrong_total_length(lvs: Harness, total: int) -> None:
    packet = Talk(lvs, IPV4).serve().question("S")
    assert len(packet) == 40
    result = lvs.from_client(_with(packet, 2, struct.pack("!H", total)))
    assert result.reason == ("dropped_truncated" if total == 39 else "up_malformed")


# IPv6 headers that make no sense.


@pytest.mark.parametrize("version", [v for v in range(16) if v != 6])
def test_wrong_version_behind_the_ipv6_type(lvs: Harness, version: int) -> None:
    packet = _with(Talk(lvs, IPV6).serve().question("S"), 0, bytes((version << 4,)), resum=False)
    assert lvs.send(MACS["d0"] + MACS["c0"] + b"\x86\xdd" + packet).reason == "up_malformed"


@pytest.mark.parametrize("length", [0, 1, 3, 4, 19, 21, 100, 0xFFFF])
def test_wrong_payload_length(lvs: Harness, length: int) -> None:
    packet = _with(Talk(lvs, IPV6).serve().question("S"), 4, struct.pack("!H", length), resum=False)
    result = lvs.from_client(packet)
    assert result.reason == ("dropped_truncated" if length in (4, 19) else "up_malformed")


@pytest.mark.parametrize("units", [1, 2, 5, 31, 255])
def test_extension_header_longer_than_the_packet(lvs: Harness, units: int) -> None:
    packet = bytearray(Talk(lvs, IPV6).serve().question("S", extensions=[(DESTINATION, bytes(6))]))
    packet[41] = units
    _harmless(lvs.from_client(bytes(packet)))
    assert not lvs.entries()


def test_extension_headers_that_lead_nowhere(lvs: Harness) -> None:
    """One after the other to the packet's end, and no TCP behind them."""
    Talk(lvs, IPV6).serve()
    for count in range(1, 12):
        body = bytes((DESTINATION, 0)) + bytes(6)
        packet = struct.pack("!IHBB", 6 << 28, 8 * count, DESTINATION, 64)
        packet += Talk(lvs, IPV6).question("S")[8:40] + body * count
        _harmless(lvs.from_client(packet))


# TCP and UDP headers that make no sense: forwarded or not, what leaves is what came.


@pytest.mark.parametrize("sport, dport", [(0, 80), (0, 0), (80, 80), (65535, 80)])
def test_odd_ports(lvs: Harness, family: Family, protocol: int, sport: int, dport: int) -> None:
    Talk(lvs, family, protocol).serve()
    segment = tcp(sport, dport) if protocol == TCP else udp(sport, dport)
    result = lvs.from_client(ip(family.client, family.vip, protocol, segment))
    if result.forwarded:
        assert not wrong_sums(result.packet.raw)
        assert result.packet.sport == sport
    else:
        assert result.reason == "up_no_service"


@pytest.mark.parametrize("words", [0, 1, 4, 6, 15])
def test_tcp_header_length_is_the_receivers_affair(lvs: Harness, family: Family, words: int) -> None:
    Talk(lvs, family).serve()
    segment = bytearray(tcp(1025, 80, "S"))
    segment[12] = words << 4
    result = lvs.from_client(ip(family.client, family.vip, TCP, bytes(segment)))
    assert result.reason == "forwarded_nat_request"
    assert result.packet.segment[12] == words << 4
    assert not wrong_sums(result.packet.raw)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 12, 14, 1000, 65535])
def test_wrong_udp_length(lvs: Harness, family: Family, length: int) -> None:
    """With a checksum it is mended by what changed; without one, what is made up must not read beyond the packet."""
    Talk(lvs, family, UDP).serve()
    segment = struct.pack("!HHHH", 1025, 80, length, 0) + b"ABCDE"
    for check in (True, False):
        if family is IPV6 and not check:
            continue
        result = lvs.from_client(ip(family.client, family.vip, UDP, segment, check=check))
        assert result.forwarded or result.reason == "dropped_rewrite_failed"
        if result.forwarded:
            assert result.packet.segment[4:6] == struct.pack("!H", length)
            assert result.packet.payload == b"ABCDE"
            if check:
                assert not wrong_sums(result.packet.raw)


def test_land(lvs: Harness, family: Family) -> None:
    """The VIP as its own client: whatever becomes of it, no loop and no crash."""
    Talk(lvs, family).serve()
    result = lvs.from_client(tcp_packet(family.vip, 80, family.vip, 80, "S"))
    assert result.forwarded or result.handed_up or result.dropped


@pytest.mark.parametrize("seed", range(8))
def test_noise(lvs: Harness, family: Family, seed: int) -> None:
    """Random bytes behind a right Ethernet header; and right packets with some random bytes."""
    from random import Random

    random = Random(seed)
    talk = Talk(lvs, family, random.choice((TCP, UDP))).serve(2)
    talk.opens()
    kind = b"\x08\x00" if family is IPV4 else b"\x86\xdd"
    for _ in range(250):
        size = random.randrange(family.head, 200)
        lvs.send(MACS["d0"] + MACS["c0"] + kind + random.randbytes(size))
        packet = bytearray(talk.question(random.randrange(64), random.randbytes(random.randrange(30))))
        for _ in range(random.randrange(1, 4)):
            packet[random.randrange(len(packet))] = random.randrange(256)
        if family is IPV4 and packet[0] & 15 >= 5 and len(packet) >= (packet[0] & 15) * 4:
            packet = bytearray(resum_ipv4(bytes(packet)))
        result = lvs.send(MACS["d0"] + MACS["c0"] + kind + bytes(packet))
        if result.forwarded:
            assert result.packet.dst in family.servers
    assert talk.asks("A").reason in ("forwarded_nat_request", "up_no_connection")
