"""Datagrams in pieces: cut by the textbook, and put together again by it."""

import struct
from collections.abc import Iterable, Sequence

from support.packets import FRAGMENT, Packet, dissect, ip

_HEADER = 8


def cut(packet: bytes, sizes: int | Sequence[int], ident: int = 1, more: bool = False) -> list[bytes]:
    """The fragments of an IP packet without options or extension headers.

    Args:
        sizes: how much of the datagram each has, in bytes, multiples of 8; a number: all of them; the last has the rest.
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
    """The IP packet that these fragments are of, in whatever order, some of them perhaps twice; None if one is missing."""
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


