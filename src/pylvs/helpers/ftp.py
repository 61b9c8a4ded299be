r"""What the two sides of an FTP control connection say about their connections for data (facts section 10).

    the client:       PASV   EPSV   EPSV 1   PORT 10,1,0,1,200,10   EPRT |1|10.1.0.1|51210|
    the real server:  227 ... (10,2,0,1,200,10)   229 ... (|||51210|)

The packet path (bpf/ftp/read.h) reads the same, a byte at a time; here it is said in a form to be read by people, and
that the tests hold against it. Small and capital letters are the same, and what is split over two segments is not
understood. Of an IPv6 address written with a piece of IPv4 nothing is understood, either.
"""

import re
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple

READ = 2032  # bytes of a segment: of a longer one nothing is read
WIDEST = 64  # bytes of an address and a port in an answer

_ASK = re.compile(rb"(?P<pasv>PASV\r\n)|EPSV(?:(?P<plain>\r)|(?P<space> ))", re.IGNORECASE)
_NUMBERS = re.compile(rb"([0-9]*),([0-9]*),([0-9]*),([0-9]*),([0-9]*),([0-9]*)")
_QUAD = re.compile(rb"([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9]+)")


class Asked(NamedTuple):
    """What a client asks for.

    Attributes:
        mode: "PASV" or "EPSV": the real server is to say where; "PORT": it is to come to the client.
        address, port: in mode PORT, of the client.
    """

    mode: str
    address: str = ""
    port: int = 0


class Announced(NamedTuple):
    """Where a real server waits for its client.

    Attributes:
        port: there.
        begin, end: of the piece of the answer that says so.
    """

    port: int
    begin: int
    end: int


def asked(payload: bytes, six: bool = False) -> Asked | None:
    """What a client's segment asks for; None: nothing of this kind.

    Args:
        six: the connection is of IPv6. Then there are neither PASV nor PORT.
    """
    if len(payload) > READ:
        return None
    for found in _ASK.finditer(payload):
        if found.start() + 6 > len(payload):
            break
        if found["pasv"]:
            if not six:
                return Asked("PASV")
        elif found["plain"]:
            return Asked("EPSV")
        else:
            family = payload[found.end() : found.end() + 2]
            return Asked("EPSV") if family == (b"2\r" if six else b"1\r") else None
    verb = payload[:5].upper()
    if len(payload) < 6 or verb not in (b"PORT ", b"EPRT "):
        return None
    at = len(payload) - len(payload[4:].lstrip(b" "))
    if verb == b"PORT ":
        plain = None if six else _plain(payload, at)
        return Asked("PORT", plain[0], plain[1].port) if plain else None
    wide = _wide(payload, at, six)
    return Asked("PORT", wide[0], wide[1].port) if wide and wide[0] else None


def announced(payload: bytes, mode: str, six: bool = False) -> Announced | None:
    """What a real server's segment answers to PASV or EPSV; None: it is none, or nobody understands it.

    Where the answer names an address, the connection still goes to the real server.
    """
    if len(payload) > READ or payload[:4] != {"PASV": b"227 ", "EPSV": b"229 "}[mode]:
        return None
    if mode == "PASV":
        begin = re.compile(rb"[0-9(]").search(payload, 4)
        if begin is None:
            return None
        at = begin.start()
        while payload[at : at + 1] == b"(":
            at += 1
        return _narrow(_plain(payload, at))
    at = payload.find(b"(", 4)
    if at < 0:
        return None
    while payload[at : at + 1] == b"(":
        at += 1
    return _narrow(_wide(payload, at, six))


def _narrow(found: tuple[str, Announced] | None) -> Announced | None:
    return found[1] if found and found[1].end - found[1].begin <= WIDEST else None


def rewritten(payload: bytes, found: Announced, mode: str, vip: str) -> bytes:
    """The answer as the client gets it: the real server's port, at the VIP (dotted, or of IPv6)."""
    if mode == "PASV":
        line = ",".join([*vip.split("."), str(found.port >> 8), str(found.port & 255)])
    else:
        line = f"|||{found.port}|"
    return payload[: found.begin] + line.encode() + payload[found.end :]


def _plain(payload: bytes, at: int) -> tuple[str, Announced] | None:
    """h1,h2,h3,h4,p1,p2, with any other character behind it; a number that is left out is 0."""
    found = _NUMBERS.match(payload, at)
    if found is None or found.end() == len(payload):
        return None
    numbers = [int(text or b"0") for text in found.groups()]
    port = numbers[4] << 8 | numbers[5]
    if max(numbers) > 255 or not port:
        return None
    return ".".join(map(str, numbers[:4])), Announced(port, at, found.end())


def _wide(payload: bytes, at: int, six: bool) -> tuple[str, Announced] | None:
    """|1|address|port|, or |||port|; then the address is empty. | stands for any visible character."""
    delimiter = payload[at : at + 1]
    if not b"!" <= delimiter <= b"~":
        return None
    end = at + 1
    address = ""
    if payload[end : end + 1] == delimiter:
        if payload[end + 1 : end + 2] != delimiter:
            return None
        end += 2
    else:
        if payload[end : end + 2] != (b"2" if six else b"1") + delimiter:
            return None
        begin, end = end + 2, payload.find(delimiter, end + 2)
        address = _address(payload[begin:end], six) if end >= 0 else ""
        if not address:
            return None
        end += 1
    digits = re.compile(rb"[0-9]*").match(payload, end)
    assert digits is not None
    if payload[digits.end() : digits.end() + 1] != delimiter or not 1 <= int(digits[0] or b"0") <= 65535:
        return None
    return address, Announced(int(digits[0]), at, digits.end() + 1)


def _address(text: bytes, six: bool) -> str:
    if six:
        try:
            return "" if b"." in text or b"%" in text else str(IPv6Address(text.decode("ascii")))
        except (AddressValueError, UnicodeDecodeError):
            return ""
    quad = _QUAD.fullmatch(text)
    if quad is None or any(int(number) > 255 for number in quad.groups()):
        return ""
    return ".".join(str(int(number)) for number in quad.groups())
