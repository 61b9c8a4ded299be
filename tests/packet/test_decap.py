"""Tunnel packets through the program of a real server: what comes out is the inner packet, or what came in.

The topology is that of support/unwrapping.py.
"""

import json
import re
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import packets, unwrapping
from support.packets import TCP, UDP, dissect, tcp_packet, wrong_sums
from support.recordings import GOLDEN
from support.unwrapping import DIP, RIP, WRAPPINGS, RealServer, frame, gre, gue, gue_of, ipip, pending, wrap

CIP, VIP, CIP6, VIP6 = "10.1.0.1", "10.99.0.1", "fd00:1::1", "fd00:99::1"
ECN = {"not-ect": 0, "ect1": 1, "ect0": 2, "ce": 3}
# RFC 6040, figure 4: rows are the inner packet's, columns the outer one's in the order of ECN
RFC6040 = {
    "not-ect": ("not-ect", "not-ect", "not-ect", None),
    "ect1": ("ect1", "ect1", "ect1", "ce"),
    "ect0": ("ect0", "ect1", "ect0", "ce"),
    "ce": ("ce", "ce", "ce", "ce"),
}

families = pytest.mark.parametrize("v6", [False, True], ids=["over4", "over6"])
inners = pytest.mark.parametrize("inner6", [False, True], ids=["inner4", "inner6"])
wrappings = pytest.mark.parametrize("name", WRAPPINGS)


@pytest.fixture(scope="module")
def made() -> Iterator[RealServer]:
    server = RealServer()
    yield server
    server.close()


@pytest.fixture
def server(made: RealServer) -> Iterator[RealServer]:
    """A real server that unwraps everything that is for one of its addresses."""
    made.enter()
    try:
        made.set()
        yield made
    finally:
        made.leave()


def client(v6: bool = False, protocol: int = TCP, payload: bytes = b"GET / HTTP/1.0\r\n\r\n", **of_ip: int) -> bytes:
    """A client's packet to the VIP."""
    ends = (CIP6, VIP6) if v6 else (CIP, VIP)
    if protocol == UDP:
        return packets.ip(*ends, UDP, packets.udp(1025, 53, payload), **of_ip)  # type: ignore[arg-type]
    return tcp_packet(ends[0], 1025, ends[1], 80, "P", payload, **of_ip)


# ---- what a director sends ----


@families
@inners
@wrappings
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_the_inner_packet_comes_out(server: RealServer, name: str, v6: bool, inner6: bool, protocol: int) -> None:
    for length in (0, 1, 18, 511, 512, 513, 1301):
        inner = client(inner6, protocol, (bytes(range(256)) * 6)[:length])
        result = server.send(frame(wrap(name, inner, v6)))
        assert result.reason == f"unwrapped_{name.partition('-')[0]}"
        assert result.packet == inner
        assert not wrong_sums(result.packet)


def test_what_the_kernel_sends_comes_out(server: RealServer) -> None:
    """Recorded: what kernel IPVS made of clients' packets, by every type, option and pair of families."""
    cases = json.loads((GOLDEN / "wire" / "tun.json").read_text(encoding="utf-8"))
    seen = set()
    routes = ("local 10.2.0.0/16 dev lo", "local fd00:2::/64 dev lo")  # all real servers of the recordings
    unwrapping.ip("".join(f"route add {route}\n" for route in routes))
    server.set(ports={int(port) for case in cases for port in re.findall(r"--tun-port (\d+)", case["restore"])})
    for case in cases:
        for sent in case["packets"]:
            for where, raw in sent.get("out", ()):
                packet = bytes.fromhex(raw)
                if where != "server" or not _is_tunnel(packet):
                    continue
                result = server.send(frame(packet))
                if packets.dissect(packet).raw[0] >> 4 == 4 and packet[6] & 0x3F | packet[7]:
                    assert result.reason == "up_fragment"
                    continue
                assert result.reason.startswith("unwrapped_"), (case["id"], sent)
                assert packet.endswith(result.packet)
                assert _same_request(result.packet, bytes.fromhex(sent["sent"])), case["id"]
                seen.add((case["id"], result.reason))
    unwrapping.ip("".join(f"route del {route}\n" for route in routes))
    assert {name for name, _ in seen} == {case["id"] for case in cases}
    assert len({reason for _, reason in seen}) == 3


def _is_tunnel(packet: bytes) -> bool:
    p = dissect(packet)
    return p.protocol in (unwrapping.IPIP, unwrapping.IPV6, unwrapping.GRE) or p.protocol == UDP


def _same_request(inner: bytes, sent: bytes) -> bool:
    """The director has taken a hop off the TTL, and nothing else."""
    a, b = dissect(inner), dissect(sent)
    return (a.src, a.dst, a.segment, a.tos, a.ttl + 1) == (b.src, b.dst, b.segment, b.tos, b.ttl)


def test_padding_of_ethernet_is_no_part_of_it(server: RealServer) -> None:
    inner = client(payload=b"")
    for name in WRAPPINGS:
        result = server.send(frame(wrap(name, inner)) + b"\xa5" * 7)
        assert result.packet == inner + b"\xa5" * 7, "the stack cuts it off, by the inner length"


def test_options_of_the_outer_header_go_with_it(server: RealServer) -> None:
    inner = client()
    assert server.send(frame(ipip(inner, options=b"\x01" * 12))).packet == inner
    limit = (packets.DESTINATION, b"\x04\x01\x04\x01\x01\x00")  # as Linux's own IPv6 tunnels have it
    for name in WRAPPINGS:
        assert server.send(frame(wrap(name, inner, True, extensions=[limit]))).packet == inner


def test_only_one_layer_comes_off(server: RealServer) -> None:
    inner = ipip(client(), src=CIP, dst=VIP)
    assert server.send(frame(ipip(inner))).packet == inner


@inners
@pytest.mark.parametrize("inside", ECN)
def test_congestion_is_passed_on(server: RealServer, inside: str, inner6: bool) -> None:
    for outside, wanted in zip(ECN, RFC6040[inside], strict=True):
        inner = client(inner6, tos=0xB8 | ECN[inside])
        for name in WRAPPINGS:
            for v6 in (False, True):
                result = server.send(frame(wrap(name, inner, v6, tos=0x20 | ECN[outside])))
                if wanted is None:
                    assert result.reason == "dropped_ecn"
                    continue
                assert result.packet == client(inner6, tos=0xB8 | ECN[wanted])


# ---- checksums ----


@families
@inners
@pytest.mark.parametrize("name", ["gre-csum", "gue-csum", "gue-remcsum"])
def test_a_wrong_checksum_is_dropped(server: RealServer, name: str, v6: bool, inner6: bool) -> None:
    good = bytearray(frame(wrap(name, client(inner6, payload=bytes(700)), v6)))
    for at in (len(good) - 1, len(good) - 600):
        bad = bytearray(good)
        bad[at] ^= 0x10
        assert server.send(bytes(bad)).reason == "dropped_checksum"
    assert server.send(bytes(good)).reason.startswith("unwrapped")


@families
@inners
@pytest.mark.parametrize("name", ["gre-csum", "gue-csum"])
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_an_inner_checksum_that_a_device_was_to_make(
    server: RealServer, name: str, v6: bool, inner6: bool, protocol: int
) -> None:
    """The outer checksum is what it will be when that is made; on a veth it never is."""
    inner = client(inner6, protocol, b"x" * 601)
    wrapped = wrap(name, inner, v6)
    assert wrapped.endswith(inner)
    unmade = wrapped[: -len(inner)] + pending(inner)
    assert server.send(frame(unmade)).packet == pending(inner)
    broken = bytearray(unmade)
    broken[10 - len(inner)] ^= 1  # in the inner header: what is behind it has no sum yet
    assert server.send(frame(bytes(broken))).reason == "dropped_checksum"


@families
def test_gre_s_checksum_that_a_device_was_to_make(server: RealServer, v6: bool) -> None:
    """Kernel IPVS leaves it so on a veth."""
    inner = client()
    wrapped = wrap("gre-csum", inner, v6)
    at = len(wrapped) - len(inner) - 4
    assert wrapped[at : at + 2] != b"\0\0"
    assert server.send(frame(wrapped[:at] + b"\0\0" + wrapped[at + 2 :])).packet == inner


@families
def test_gue_s_checksum_that_a_device_was_to_make(server: RealServer, v6: bool) -> None:
    inner = client()
    wrapped = bytearray(gue(inner, v6, check=True))
    head = 40 if v6 else 20
    half = packets.ones_sum(
        packets.pseudo(wrapped[8:24], wrapped[24:40], UDP, len(wrapped) - 40)
        if v6
        else packets.pseudo(wrapped[12:16], wrapped[16:20], UDP, len(wrapped) - 20)
    )
    wrapped[head + 6 : head + 8] = struct.pack("!H", half)
    assert server.send(frame(bytes(wrapped))).packet == inner


def test_remote_checksums_of_udp_are_never_zero(server: RealServer) -> None:
    """Zero would say that there is none."""
    for last in range(0x10000):
        inner = client(protocol=UDP, payload=struct.pack("!HH", 0xBEEF, last))
        if dissect(inner).segment[6:8] == b"\xff\xff":
            break
    assert server.send(frame(unwrapping.remcsum(inner))).packet == inner


# ---- what is not taken ----


def test_what_is_for_others_goes_on(server: RealServer) -> None:
    inner = client()
    elsewhere = tcp_packet(CIP, 1025, "10.77.0.1", 80, "S")
    elsewhere6 = tcp_packet(CIP6, 1025, "fd00:77::1", 80, "S")
    for packet, reason in (
        (inner, "up_other"),
        (packets.ip(DIP, RIP, UDP, packets.udp(1, 6081, b"x" * 60)), "up_other"),
        (packets.ip(DIP, RIP, 50, bytes(40)), "up_other"),
        (ipip(inner, dst="10.2.0.7"), "up_not_local"),
        (ipip(inner, True, dst="fd00:2::7"), "up_not_local"),
        (ipip(elsewhere), "up_inner"),
        (gre(elsewhere6), "up_inner"),
        (gue(elsewhere6, True), "up_inner"),
        (ipip(inner, more=True), "up_fragment"),
        (ipip(inner, fragment=800), "up_fragment"),
        (gre(inner, flags=0x2000), "up_header"),
        (gre(inner, flags=0x0001), "up_header"),
    ):
        assert server.send(frame(packet)).reason == reason
    assert server.send(frame(ipip(inner), mac=bytes(6))).reason == "up_other_host"
    assert server.send(b"\xff" * 12 + b"\x08\x06" + bytes(46)).reason == "up_other_host"


def test_fragments_over_ipv6_are_handed_up(server: RealServer) -> None:
    inner = client()
    head = struct.pack("!BBHI", unwrapping.IPIP, 0, 1, 7)
    packet = packets.ip(unwrapping.DIP6, unwrapping.RIP6, packets.FRAGMENT, head + inner, check=False)
    assert server.send(frame(packet)).reason == "up_fragment"


@pytest.mark.parametrize(
    "head",
    [
        b"\x40\x04\0\0",  # version 1
        b"\x20\x04\0\0",  # a control message
        b"\x00\x06\0\0",  # TCP
        b"\x00\x04\x80\0",  # a flag that nobody knows
        b"\x00\x04\0\1",  # private flags, but no room for them
        b"\x01\x04\0\1\x80\0\0\0",  # remote checksum, but no room for it
        b"\x01\x04\0\1\x40\0\0\0",  # an unknown private flag
        b"\x02\x04\0\1\x80\0\0\0\0\x14\0\0",  # a field in front of where the sum begins
    ],
    ids=lambda head: head.hex(),
)
def test_gue_that_wants_something_else_goes_on(server: RealServer, head: bytes) -> None:
    assert server.send(frame(gue_of(client(), head))).reason == "up_header"


def test_gue_has_room_for_more_than_it_uses(server: RealServer) -> None:
    inner = client()
    assert server.send(frame(gue_of(inner, b"\x03\x04\0\1" + bytes(12)))).packet == inner
    assert server.send(frame(gue_of(inner, b"\x02\x04\0\0" + bytes(8)))).packet == inner


def test_a_remote_checksum_outside_the_packet_is_no_packet(server: RealServer) -> None:
    inner = client()
    for start, field in ((20, 5000), (20, len(inner) - 1), (20, len(inner))):
        head = b"\x02\x04\0\1" + struct.pack("!IHH", 0x80000000, start, field)
        assert server.send(frame(gue_of(inner, head))).reason == "up_malformed"


@families
@inners
@wrappings
def test_what_was_cut_off_is_handed_up(server: RealServer, name: str, v6: bool, inner6: bool) -> None:
    whole = wrap(name, client(inner6, payload=b"x"), v6)
    for length in range(20 + 20 * v6, len(whole)):
        result = server.send(frame(_shortened(whole[:length])))
        assert result.reason in ("up_malformed", "up_header", "up_other"), length
        assert server.send(frame(whole[:length])).reason == "up_malformed", "the outer length tells of more"


def _shortened(packet: bytes) -> bytes:
    """The packet with the length in its header mended, and the UDP's in it."""
    changed = bytearray(packet)
    if version6 := packet[0] >> 4 == 6:
        changed[4:6] = struct.pack("!H", len(packet) - 40)
    else:
        changed[2:4] = struct.pack("!H", len(packet))
        changed[10:12] = b"\0\0"
        changed[10:12] = struct.pack("!H", packets.checksum(bytes(changed[:20])))
    head = 40 if version6 else 20
    if changed[6 if version6 else 9] == UDP and len(packet) >= head + 6:
        changed[head + 4 : head + 6] = struct.pack("!H", len(packet) - head)
    return bytes(changed)


def test_a_broken_outer_header_is_left_to_the_stack(server: RealServer) -> None:
    packet = bytearray(ipip(client()))
    packet[11] ^= 1
    assert server.send(frame(bytes(packet))).reason == "up_malformed"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_nothing_else_ever_comes_out(made: RealServer, data: st.DataObject) -> None:
    """Bytes of a tunnel packet are changed at random: it goes on as it came, or is dropped, or what comes out is the
    rest of it from some place on; except that ECN's two bits and a checksum left to us may be set there."""
    made.enter()
    try:
        name = data.draw(st.sampled_from(sorted(WRAPPINGS)))
        v6, inner6 = data.draw(st.booleans()), data.draw(st.booleans())
        inner = client(inner6, data.draw(st.sampled_from([TCP, UDP])), data.draw(st.binary(max_size=40)))
        changed = bytearray(frame(wrap(name, inner, v6)))
        last = min(len(changed), 14 + 40 + 20 + 40) - 1
        for at, value in data.draw(st.lists(st.tuples(st.integers(14, last), st.integers(0, 255)), max_size=4)):
            changed[at] = value
        if not v6 and data.draw(st.booleans()) and changed[14] & 15 >= 5:
            head = 14 + (changed[14] & 15) * 4
            changed[24:26] = b"\0\0"
            changed[24:26] = struct.pack("!H", packets.checksum(bytes(changed[14:head])))
        changed = changed[: data.draw(st.integers(34 + 20 * v6, len(changed)))]
        result = made.send(bytes(changed))
        if result.verdict != unwrapping.OK:
            return
        came = bytes(changed)[-len(result.frame[14:]) :]
        differing = [i for i, (a, b) in enumerate(zip(came, result.packet, strict=True)) if a != b]
        allowed = {1, 10, 11} if result.packet[0] >> 4 == 4 else {1}
        if name == "gue-remcsum":
            assert len(set(differing) - allowed) <= 2
        else:
            assert set(differing) <= allowed
    finally:
        made.leave()
