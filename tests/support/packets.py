"""Frames from keyword arguments, and an independent look at frames: what is in them, and are their checksums right?

Nothing here is shared with the packet path: the sums are taken over the whole packet by the textbook's definition,
never mended, so that a wrong mending shows.
"""

import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
# The letters of the recorded conversations (tests/golden).
FLAGS = {
    "S": SYN, "SA": SYN | ACK, "A": ACK, "F": FIN | ACK, "R": RST, "RA": RST | ACK, "P": PSH | ACK, "N": 0,
    "SF": SYN | FIN, "U": URG,
}  # fmt: skip

HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT, DESTINATION = 0, 43, 44, 59, 60
ICMP, TCP, UDP, ESP, AH, ICMP6, SCTP = 1, 6, 17, 50, 51, 58, 132
CHUNKS = {
    "DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5, "ABORT": 6, "SHUTDOWN": 7,
    "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10, "COOKIE_ACK": 11, "ECNE": 12, "CWR": 13, "SHUTDOWN_COMPLETE": 14,
}  # fmt: skip
"""The types of SCTP's chunks."""
ETH_IPV4, ETH_IPV6, ETH_ARP = 0x0800, 0x86DD, 0x0806

Address = bytes
_EXTENSIONS = (HOP_BY_HOP, ROUTING, DESTINATION)


def address(text: str) -> Address:
    """The bytes of an IPv4 or IPv6 address."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def text(raw: Address) -> str:
    """The text of an address's bytes."""
    return socket.inet_ntop(socket.AF_INET6 if len(raw) == 16 else socket.AF_INET, raw)


def mac(colons: str) -> bytes:
    return bytes.fromhex(colons.replace(":", ""))


def ones_sum(data: bytes) -> int:
    """The Internet checksum's sum, not complemented: 0xFFFF over what is whole."""
    if len(data) & 1:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    return ~ones_sum(data) & 0xFFFF


def pseudo(src: Address, dst: Address, protocol: int, length: int) -> bytes:
    """The pseudo header of TCP, UDP and ICMPv6."""
    if len(src) == 16:
        return src + dst + struct.pack("!II", length, protocol)
    return src + dst + struct.pack("!HH", protocol, length)


# ---- building ----


def tcp(
    sport: int,
    dport: int,
    flags: int | str = SYN,
    *,
    payload: bytes = b"",
    seq: int = 1000,
    ack: int = 2000,
    window: int = 8192,
    options: bytes = b"",
) -> bytes:
    """A TCP segment without its checksum, which needs the addresses: `ip()` puts it in."""
    bits = FLAGS[flags] if isinstance(flags, str) else flags
    options += bytes(-len(options) % 4)
    offset = (20 + len(options)) // 4 << 4
    return struct.pack("!HHIIBBHHH", sport, dport, seq, ack, offset, bits, window, 0, 0) + options + payload


def udp(sport: int, dport: int, payload: bytes = b"x") -> bytes:
    """A UDP datagram without its checksum."""
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def crc32c(data: bytes) -> int:
    """Bit by bit, as the textbook has it."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def chunk(kind: int | str, body: bytes = b"", *, flags: int = 0, length: int | None = None) -> bytes:
    """An SCTP chunk, padded; `length`: what it claims instead of the truth."""
    number = CHUNKS[kind] if isinstance(kind, str) else kind
    body += bytes(-len(body) % 4)
    return struct.pack("!BBH", number, flags, 4 + len(body) if length is None else length) + body


def sctp(sport: int, dport: int, *chunks: bytes | str, tag: int = 7) -> bytes:
    """An SCTP packet with its checksum; chunks are bytes, or the names of empty ones."""
    body = b"".join(chunk(one) if isinstance(one, str) else one for one in chunks)
    head = struct.pack("!HHI", sport, dport, tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + body)) + body


def with_checksum(protocol: int, src: Address, dst: Address, segment: bytes) -> bytes:
    """A TCP, UDP, ICMP or ICMPv6 message with its checksum put in; anything else as it is."""
    at = {TCP: 16, UDP: 6, ICMP6: 2, ICMP: 2}.get(protocol)
    if at is None or len(segment) < at + 2:
        return segment
    zeroed = segment[:at] + b"\0\0" + segment[at + 2 :]
    covered = b"" if protocol == ICMP else pseudo(src, dst, protocol, len(segment))
    value = checksum(covered + zeroed)
    if protocol == UDP:
        value = value or 0xFFFF
    return segment[:at] + struct.pack("!H", value) + segment[at + 2 :]


def ip(
    src: str,
    dst: str,
    protocol: int,
    segment: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    ident: int = 1,
    df: bool = False,
    fragment: int = 0,
    more: bool = False,
    options: bytes = b"",
    flow: int = 0,
    extensions: Sequence[tuple[int, bytes]] = (),
    check: bool = True,
) -> bytes:
    """An IPv4 or IPv6 packet.

    Args:
        fragment: the offset in bytes; more: the More Fragments bit (IPv4).
        options: IPv4 options, padded to whole words.
        extensions: IPv6 extension headers in order: (type, the bytes after its two first ones).
        check: put the transport checksum in.
    """
    a, b = address(src), address(dst)
    if check:
        segment = with_checksum(protocol, a, b, segment)
    if len(a) == 16:
        chain, following = b"", [kind for kind, _ in extensions[1:]]
        for (_, body), after in zip(extensions, [*following, protocol], strict=False):
            body += bytes(-(len(body) + 2) % 8)
            chain += bytes((after, (len(body) + 2) // 8 - 1)) + body
        first = extensions[0][0] if extensions else protocol
        head = struct.pack("!IHBB", 6 << 28 | tos << 20 | flow, len(chain) + len(segment), first, ttl)
        return head + a + b + chain + segment
    options += bytes(-len(options) % 4)
    length = 20 + len(options)
    bits = (0x4000 if df else 0) | (0x2000 if more else 0) | fragment // 8
    head = struct.pack("!BBHHHBBH", 0x40 | length // 4, tos, length + len(segment), ident, bits, ttl, protocol, 0)
    head += a + b + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + segment


def tcp_packet(
    src: str, sport: int, dst: str, dport: int, flags: int | str = SYN, payload: bytes = b"", **of_ip: Any
) -> bytes:
    """A TCP packet; `of_ip` are `ip()`'s arguments."""
    return ip(src, dst, TCP, tcp(sport, dport, flags, payload=payload), **of_ip)


def udp_packet(src: str, sport: int, dst: str, dport: int, payload: bytes = b"x", **of_ip: Any) -> bytes:
    """A UDP packet; `of_ip` are `ip()`'s arguments."""
    return ip(src, dst, UDP, udp(sport, dport, payload), **of_ip)


def sctp_packet(src: str, sport: int, dst: str, dport: int, *chunks: bytes | str, **of_ip: Any) -> bytes:
    """An SCTP packet; `of_ip` are `ip()`'s arguments."""
    return ip(src, dst, SCTP, sctp(sport, dport, *chunks), **of_ip)


def icmp_error(
    src: str, dst: str, kind: tuple[int, int], quoted: bytes, word: int = 0, wrong: int = 0, **of_ip: Any
) -> bytes:
    """An ICMP error of (type, code) about a packet; `word` stands behind the checksum, to which `wrong` is added."""
    protocol = ICMP6 if ":" in src else ICMP
    message = struct.pack("!BBHI", *kind, 0, word) + quoted
    over = pseudo(address(src), address(dst), ICMP6, len(message)) if protocol == ICMP6 else b""
    right = (checksum(over + message) + wrong) % 0x10000
    return ip(src, dst, protocol, message[:2] + struct.pack("!H", right) + message[4:], check=False, **of_ip)


def ether(packet: bytes, dst: bytes, src: bytes, kind: int | None = None) -> bytes:
    """An Ethernet frame; its type is the packet's own if none is given."""
    if kind is None:
        kind = ETH_IPV6 if packet[0] >> 4 == 6 else ETH_IPV4
    return dst + src + struct.pack("!H", kind) + packet


def resum_ipv4(packet: bytes) -> bytes:
    """The packet with a right IPv4 header checksum, after something in the header was changed."""
    length = (packet[0] & 15) * 4
    head = packet[:10] + b"\0\0" + packet[12:length]
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + packet[length:]


def resum_icmp6(packet: bytes) -> bytes:
    """The packet with a right ICMPv6 checksum."""
    p = dissect(packet)
    message = p.segment[:2] + b"\0\0" + p.segment[4:]
    right = checksum(pseudo(address(p.src), address(p.dst), ICMP6, len(message)) + message)
    return packet[: p.head] + message[:2] + struct.pack("!H", right) + message[4:]


# ---- looking ----


class Packet(NamedTuple):
    """What a packet says. `segment` is all from the transport header on; ports are 0 where there are none."""

    version: int
    src: str
    dst: str
    protocol: int
    ttl: int
    tos: int
    ident: int
    df: bool
    head: int
    """Offset of the transport header from the IP header's first byte."""
    segment: bytes
    raw: bytes
    """The IP packet: as long as its header says, without padding."""

    @property
    def sport(self) -> int:
        return int(struct.unpack_from("!H", self.segment)[0])

    @property
    def dport(self) -> int:
        return int(struct.unpack_from("!H", self.segment, 2)[0])

    @property
    def payload(self) -> bytes:
        if self.protocol == SCTP:
            return self.segment[12:]
        if self.protocol == TCP:
            return self.segment[(self.segment[12] >> 4) * 4 :]
        return self.segment[8:]

    @property
    def source(self) -> tuple[str, int]:
        return self.src, self.sport

    @property
    def destination(self) -> tuple[str, int]:
        return self.dst, self.dport

    @property
    def icmp(self) -> tuple[int, int, int]:
        """(type, code, the second word) of an ICMP message."""
        kind, code, _, word = struct.unpack_from("!BBHI", self.segment)
        return kind, code, word

    @property
    def quoted(self) -> bytes:
        """The packet that an ICMP error is about."""
        return self.segment[8:]


def dissect(packet: bytes) -> Packet:
    """Read an IP packet; ValueError says what makes no sense in it."""
    version = packet[0] >> 4
    if version == 4:
        length, total = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        if length < 20 or not length <= total <= len(packet):
            raise ValueError(f"IPv4 header of {length}, total {total}, of {len(packet)} bytes")
        raw = packet[:total]
        return Packet(
            4, text(raw[12:16]), text(raw[16:20]), raw[9], raw[8], raw[1], int.from_bytes(raw[4:6], "big"),
            bool(raw[6] & 0x40), length, raw[length:], raw,
        )  # fmt: skip
    if version != 6:
        raise ValueError(f"IP version {version}")
    total = 40 + int.from_bytes(packet[4:6], "big")
    if total > len(packet):
        raise ValueError(f"IPv6 packet of {total} in {len(packet)} bytes")
    raw, at, following = packet[:total], 40, packet[6]
    while following in _EXTENSIONS:
        following, at = raw[at], at + (raw[at + 1] + 1) * 8
    tos = int.from_bytes(raw[:2], "big") >> 4 & 0xFF
    return Packet(6, text(raw[8:24]), text(raw[24:40]), following, raw[7], tos, 0, True, at, raw[at:], raw)


def wrong_sums(packet: bytes) -> list[str]:
    """The names of the checksums in an IP packet that are wrong; none if all is well. A UDP checksum of 0 over IPv4
    means that there is none."""
    p = dissect(packet)
    wrong = []
    if p.version == 4 and ones_sum(p.raw[: p.head]) != 0xFFFF:
        wrong.append("IPv4 header")
    a, b = address(p.src), address(p.dst)
    if p.protocol == UDP and p.version == 4 and p.segment[6:8] == b"\0\0":
        return wrong
    if p.protocol == UDP and p.segment[6:8] == b"\0\0":
        wrong.append("UDP over IPv6 without a sum")
    elif p.protocol in (TCP, UDP, ICMP6):
        if ones_sum(pseudo(a, b, p.protocol, len(p.segment)) + p.segment) != 0xFFFF:
            wrong.append({TCP: "TCP", UDP: "UDP", ICMP6: "ICMPv6"}[p.protocol])
    elif p.protocol == SCTP and len(p.segment) >= 12:
        if crc32c(p.segment[:8] + bytes(4) + p.segment[12:]).to_bytes(4, "little") != p.segment[8:12]:
            wrong.append("SCTP")
    elif p.protocol == ICMP and ones_sum(p.segment) != 0xFFFF:
        wrong.append("ICMP")
    return wrong
