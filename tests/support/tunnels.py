"""An independent look at packets in tunnels and at fragments: what the outer headers say, and what is inside.

The sums are taken over whole packets, as in packets.py.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from support.packets import (
    FRAGMENT,
    TCP,
    UDP,
    Packet,
    address,
    checksum,
    dissect,
    ones_sum,
    pseudo,
    resum_ipv4,
    wrong_sums,
)

IPIP, IPV6_IN, GRE = 4, 41, 47
GUE_HEADER, GRE_SUMMED = 12, 0x8000


class Tunnelled(NamedTuple):
    """A packet in a tunnel.

    Attributes:
        kind: "ipip", "gue" or "gre".
        summed: has the tunnel a checksum of its own?
        inner: the packet inside.
        ports: GUE's.
    """

    outer: Packet
    kind: str
    summed: bool
    inner: bytes
    ports: tuple[int, int] = (0, 0)

    @property
    def overhead(self) -> int:
        return len(self.outer.raw) - len(self.inner)


def unwrap(packet: bytes) -> Tunnelled:
    """Take a packet out of its tunnel; AssertionError says what is wrong with the headers."""
    outer = dissect(packet)
    segment = outer.segment
    if outer.protocol in (IPIP, IPV6_IN):
        kind, summed, inner, carried, ports = "ipip", False, segment, outer.protocol, (0, 0)
    elif outer.protocol == GRE:
        flags, inside = struct.unpack_from("!HH", segment)
        assert flags in (0, GRE_SUMMED), f"GRE's flags are {flags:#x}"
        kind, summed, ports = "gre", bool(flags), (0, 0)
        assert not summed or segment[6:8] == bytes(2), "what is reserved is not 0"
        inner, carried = segment[8 if summed else 4 :], {0x0800: IPIP, 0x86DD: IPV6_IN}[inside]
    else:
        assert outer.protocol == UDP, f"no tunnel, but protocol {outer.protocol}"
        sport, dport, length, sum_ = struct.unpack_from("!HHHH", segment)
        assert length == len(segment), f"UDP of {length} in {len(segment)}"
        first, carried, flags = struct.unpack_from("!BBH", segment, 8)
        assert (first, flags) == (0, 0), "GUE with options"
        kind, summed, inner, ports = "gue", sum_ != 0, segment[GUE_HEADER:], (sport, dport)
    assert carried == (IPIP if inner[0] >> 4 == 4 else IPV6_IN)
    assert len(dissect(inner).raw) == len(inner), "something follows"
    return Tunnelled(outer, kind, summed, inner, ports)


def wrong_tunnel_sums(packet: bytes) -> list[str]:
    """The names of the wrong checksums of a packet in a tunnel, inside and outside. A sum of 0 in a UDP header, over
    IPv6 too, means that there is none (RFC 6935)."""
    tunnelled = unwrap(packet)
    outer, segment = tunnelled.outer, tunnelled.outer.segment
    wrong = [f"inner {name}" for name in wrong_sums(tunnelled.inner)]
    if outer.version == 4 and ones_sum(outer.raw[: outer.head]) != 0xFFFF:
        wrong.append("outer IPv4 header")
    if tunnelled.summed and tunnelled.kind == "gre" and ones_sum(segment) != 0xFFFF:
        wrong.append("GRE")
    if tunnelled.summed and tunnelled.kind == "gue":
        wrong += [f"outer {name}" for name in wrong_sums(outer.raw)]
    return wrong


def without_whims(packet: bytes) -> bytes:
    """A packet in a tunnel without what its sender is free to choose: the identification of what may be fragmented, and
    GUE's source port. And without the tunnel's own sum, if it has one: recorded is what the device was to finish."""
    outer = dissect(packet)
    raw = bytearray(outer.raw)
    if outer.protocol == UDP:
        raw[outer.head : outer.head + 2] = bytes(2)
        if raw[outer.head + 6 : outer.head + 8] != bytes(2):
            raw[outer.head + 6 : outer.head + 8] = b"\xff\xff"
    if outer.protocol == GRE and raw[outer.head] & 0x80:
        raw[outer.head + 4 : outer.head + 6] = bytes(2)
    if outer.version == 6:
        return bytes(raw)
    if not outer.df:
        raw[4:6] = bytes(2)
    return resum_ipv4(bytes(raw))


def pending(packet: bytes) -> bytes:
    """A TCP or UDP packet as a sender on the same machine hands it over: its transport checksum is still to be
    finished, and the field holds the sum of the pseudo header."""
    p = dissect(packet)
    at = p.head + (16 if p.protocol == TCP else 6)
    sum_ = ones_sum(pseudo(address(p.src), address(p.dst), p.protocol, len(p.segment)))
    return packet[:at] + sum_.to_bytes(2, "big") + packet[at + 2 :]


def reassemble(pieces: Sequence[bytes]) -> bytes:
    """The packet that was sent in these pieces; they must be in order, of one identification, and leave no gap. IPv4
    options are the first one's."""
    whole, head, idents = b"", b"", set()
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        if piece[0] >> 4 == 4:
            raw = dissect(piece).raw
            assert not wrong_ipv4_header(raw)
            word = int.from_bytes(raw[6:8], "big")
            assert word & 0x4000 == 0, "a fragment with DF"
            length = (raw[0] & 15) * 4
            offset, more, ident, data = (word & 0x1FFF) * 8, bool(word & 0x2000), raw[4:6], raw[length:]
            head = head or raw[:length]
            assert raw[:2] + raw[8:10] + raw[12:20] == head[:2] + head[8:10] + head[12:20]
        else:
            raw = piece[: 40 + int.from_bytes(piece[4:6], "big")]
            assert raw[6] == FRAGMENT
            word, ident, data = int.from_bytes(raw[42:44], "big"), raw[44:48], raw[48:]
            offset, more = word & ~7, bool(word & 1)
            head = head or raw[:6] + raw[40:41] + raw[7:40]
            assert raw[:4] + raw[40:41] + raw[7:40] == head[:4] + head[6:]
        idents.add(ident)
        assert offset == len(whole), f"offset {offset} after {len(whole)} bytes"
        assert more != last
        assert last or len(data) % 8 == 0
        whole += data
    assert len(idents) == 1
    if head[0] >> 4 == 4:
        return resum_ipv4(
            head[:2] + (len(head) + len(whole)).to_bytes(2, "big") + head[4:6] + bytes(2) + head[8:] + whole
        )
    return head[:4] + len(whole).to_bytes(2, "big") + head[6:] + whole


def wrong_ipv4_header(packet: bytes) -> bool:
    return checksum(packet[: (packet[0] & 15) * 4]) != 0
