"""Datagrams in pieces: cut by the textbook, and put together again by it; and what a director knows of them."""

import os
import struct
from collections.abc import Iterable, Sequence

from pylvs.datapath import syscall
from support.harness import Harness
from support.packets import FRAGMENT, UDP, Packet, dissect, ip
from support.talk import Family, Talk

PAYLOAD = bytes(range(256)) * 12
"""In no packet of an Ethernet, but in four of a thousand bytes."""

_HEADER = 8


def cut(packet: bytes, sizes: int | Sequence[int], ident: int = 1, more: bool = False) -> list[bytes]:
    """The fragments of an IP packet without options or extension headers.

    Args:
        sizes: how much of the datagram each has, multiples of 8 bytes; a number: all of them; the last has the rest.
        more: the last one says that there are more, which is not true.
    """
    whole, found, at = dissect(packet), [], 0
    numbers = [sizes] * (len(whole.segment) // sizes + 1) if isinstance(sizes, int) else [*sizes, len(whole.segment)]
    for size in numbers:
        part = whole.segment[at : at + size]
        if part:
            found.append(piece(packet, at, part, more or at + len(part) < len(whole.segment), ident))
        at += len(part)
    return found


def piece(packet: bytes, at: int, part: bytes, more: bool, ident: int = 1) -> bytes:
    """One fragment of an IP packet: these bytes at this offset."""
    p = dissect(packet)
    assert at % 8 == 0
    if p.version == 4:
        return ip(
            p.src, p.dst, p.protocol, part,
            ttl=p.ttl, tos=p.tos, ident=ident, fragment=at, more=more, check=False,
        )  # fmt: skip
    header = struct.pack("!HI", at | more, ident)
    return ip(p.src, p.dst, p.protocol, part, ttl=p.ttl, tos=p.tos, extensions=[(FRAGMENT, header)], check=False)


class Piece:
    """What a fragment says.

    Attributes:
        at: its offset; part: its bytes; key: which datagram it is of.
    """

    def __init__(self, packet: bytes):
        self.packet: Packet = dissect(packet)
        if self.packet.version == 4:
            (bits,) = struct.unpack_from("!H", self.packet.raw, 6)
            self.at, self.more, self.part = (bits & 0x1FFF) * 8, bool(bits & 0x2000), self.packet.segment
            self.protocol, ident = self.packet.protocol, self.packet.ident
        else:
            assert self.packet.protocol == FRAGMENT
            self.protocol, _, bits, ident = struct.unpack_from("!BBHI", self.packet.segment)
            self.at, self.more, self.part = bits & 0xFFF8, bool(bits & 1), self.packet.segment[_HEADER:]
        self.key = (self.packet.src, self.packet.dst, ident)


def join(packets: Iterable[bytes]) -> bytes | None:
    """The IP packet that these fragments are of, in whatever order, some perhaps twice; None if one is missing."""
    pieces = {one.at: one for one in map(Piece, packets)}
    assert len({one.key for one in pieces.values()}) <= 1, "of more than one datagram"
    segment = b""
    while len(segment) in pieces:
        one = pieces[len(segment)]
        segment += one.part
        if not one.more:
            first = pieces[0].packet
            return ip(first.src, first.dst, one.protocol, segment, ttl=first.ttl, ident=first.ident, check=False)
        if not one.part:
            return None
    return None


# ---- what a director knows -------------------------------------------------------------------------------------------


def serving(lvs: Harness, family: Family, protocol: int = UDP, method: str = "-m") -> Talk:
    """A service with one real server."""
    return Talk(lvs, family, protocol, rport=8080 if method == "-m" else 80).serve(method=method)


def known(lvs: Harness) -> int:
    """How many datagrams the director remembers."""
    fd = syscall.get(f"{lvs.instance.path}/maps/datagrams")
    try:
        return len(syscall.map_keys(fd, syscall.map_size(fd)[0]))
    finally:
        os.close(fd)


def traffic(lvs: Harness) -> tuple[int, ...]:
    """What was counted: connections, packets and bytes of both directions."""
    totals = lvs.director.totals()
    return totals.conns, totals.inpkts, totals.outpkts, totals.inbytes, totals.outbytes


def balanced(lvs: Harness) -> int:
    """received = forwarded + handed up + dropped + waiting; how many wait."""
    reasons, kinds = lvs.reasons(), ("forwarded_", "up_", "dropped_", "held_")
    while reasons != (now := lvs.reasons()):  # the heartbeat may just be giving some up
        reasons = now
    assert reasons["received"] == sum(count for name, count in reasons.items() if name.startswith(kinds))
    return reasons["held_fragment"]
