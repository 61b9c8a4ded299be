"""What we ask rtnetlink (which interfaces, which addresses, what kind of address is this), and how we tell it things.

A full library costs 185 ms to import, twelve times what a whole `ipvsadm` command may take.
"""

import errno
import os
import struct
import sys
from _socket import AF_INET, AF_INET6, SOCK_RAW, inet_ntop, inet_pton, socket
from collections.abc import Iterator
from typing import NamedTuple

_AF_NETLINK, _NETLINK_ROUTE = 16, 0
_ERROR, _DONE = 2, 3
_GETLINK, _GETADDR, _GETROUTE = 18, 22, 26
_TELL_LINKS, _TELL_IPV4, _TELL_IPV6 = 0x1, 0x10, 0x100  # groups of notifications
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
_RTA_DST, _RTA_OIF, _RTA_PREFSRC, _IFA_ADDRESS, _IFA_LOCAL, _IFLA_NAME = 1, 4, 7, 1, 2, 3
_IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _INFO_KIND = 4, 10, 18, 1

# kinds of address, as routes have them
UNICAST, LOCAL, BROADCAST, ANYCAST, MULTICAST = 1, 2, 3, 4, 5
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
# in IPv4, in IPv6, sit, GRE over IPv4, over IPv6: GUE and FOU have none of their own, and come out of these
_ARPHRD_TUNNELS = (768, 769, 776, 778, 823)
# tun and WireGuard, PPP, raw IP, the kinds of tunnel
_ARPHRD_LINKLESS = (0xFFFE, 512, 519, *_ARPHRD_TUNNELS)
_SCOPE_GLOBAL = 0


class Interface(NamedTuple):
    """A network interface.

    Attributes:
        hardware: its ARPHRD number.
        kind: "veth", "bridge" and so on; "" if a driver of its own makes it.
        master: the ifindex of what it is a part of; 0: of nothing.
        mtu: the longest packet that it carries.
    """

    ifindex: int
    name: str
    hardware: int
    kind: str = ""
    master: int = 0
    mtu: int = 0

    @property
    def ethernet(self) -> bool:
        """Do its frames begin with an Ethernet header?"""
        return self.hardware in (ARPHRD_ETHER, ARPHRD_LOOPBACK)

    @property
    def linkless(self) -> bool:
        """Do its packets begin with their IP header?"""
        return self.hardware in _ARPHRD_LINKLESS

    @property
    def tunnel(self) -> bool:
        """Do packets come out of it that came to this host in others?"""
        return self.hardware in _ARPHRD_TUNNELS


class Address(NamedTuple):
    """An address of an interface, as bytes."""

    ifindex: int
    family: int
    address: bytes
    globally: bool


def _ask(kind: int, flags: int, body: bytes) -> Iterator[tuple[int, bytes]]:
    s = socket(_AF_NETLINK, SOCK_RAW, _NETLINK_ROUTE)
    try:
        s.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, 1, 0) + body)
        while True:
            data = s.recv(1 << 17)
            at = 0
            while at < len(data):
                length, answer = struct.unpack_from("=IH", data, at)
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    number = -struct.unpack_from("=i", data, at + 16)[0]
                    if not number:
                        return  # "done", to who asked to be told
                    raise OSError(number, os.strerror(number))
                yield answer, data[at + 16 : at + length]
                at += length + 3 & ~3
            if not flags & _DUMP:
                return
    finally:
        s.close()


def change(kind: int, body: bytes, flags: int = 0) -> None:
    """Have something changed. `flags`: of REPLACE, EXCLUSIVE, CREATE.

    Raises:
        OSError: the kernel's refusal.
    """
    for _ in _ask(kind, _ACK | flags, body):
        pass


def listen() -> socket:
    """What becomes readable when an interface or an address comes, changes or goes. The caller closes it."""
    s = socket(_AF_NETLINK, SOCK_RAW, _NETLINK_ROUTE)
    try:
        s.bind((0, _TELL_LINKS | _TELL_IPV4 | _TELL_IPV6))
        s.setblocking(False)
    except OSError:
        s.close()
        raise
    return s


def drain(listening: socket) -> None:
    """Read all that was told: what has changed is asked for afterwards."""
    while True:
        try:
            listening.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # more was told than there was room for
                raise


def dump(kind: int, body: bytes) -> Iterator[bytes]:
    """All things of a kind: what stands behind the header of each."""
    for _, data in _ask(kind, _DUMP, body):
        yield data


def attribute(kind: int, value: bytes | int | str) -> bytes:
    """One attribute, padded: bytes as they are, a number as 32 bits, a text with its NUL."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = os.fsencode(value) + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Kind -> value of all attributes of a message."""
    found = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += length + 3 & ~3
    return found


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def interfaces() -> list[Interface]:
    """All interfaces of our network namespace."""
    found = []
    for _, data in _ask(_GETLINK, _DUMP, bytes(16)):
        _, hardware, index = struct.unpack_from("=BxHi", data)
        of = attributes(data[16:])
        kind = attributes(of.get(_IFLA_LINKINFO, b"")).get(_INFO_KIND, b"")
        (master,) = struct.unpack("=I", of.get(_IFLA_MASTER, bytes(4)))
        (mtu,) = struct.unpack("=I", of.get(_IFLA_MTU, bytes(4)))
        found.append(Interface(index, _text(of.get(_IFLA_NAME, b"")), hardware, _text(kind), master, mtu))
    return found


def addresses() -> list[Address]:
    """All addresses of our network namespace."""
    found = []
    for _, data in _ask(_GETADDR, _DUMP, bytes(8)):
        family, _, _, scope, index = struct.unpack_from("=BBBBI", data)
        of = attributes(data[8:])
        address = of.get(_IFA_LOCAL) or of.get(_IFA_ADDRESS)
        if address and family in (AF_INET, AF_INET6):
            found.append(Address(index, family, address, scope == _SCOPE_GLOBAL))
    return found


def kind_of(family: int, address: str) -> int:
    """UNICAST, LOCAL, BROADCAST, ...: what our namespace's routing takes an address for.

    An address that no route leads to is judged by its form alone, as the kernel does.
    """
    raw = inet_pton(family, address)
    if family == AF_INET:
        if raw[0] >> 4 == 0xE:
            return MULTICAST
        if raw[0] == 0 or raw[0] >> 4 == 0xF:
            return BROADCAST
    elif raw[0] == 0xFF:
        return MULTICAST
    route = _route(family, raw)
    return int(route[7]) if route else UNICAST


def source_for(family: int, address: str) -> tuple[int, str]:
    """By which interface packets of our own would leave for an address, and from which address; (0, "") if nowhere."""
    route = _route(family, inet_pton(family, address))
    known = attributes(route[12:]) if route else {}
    if _RTA_OIF not in known or _RTA_PREFSRC not in known:
        return 0, ""
    return int.from_bytes(known[_RTA_OIF], sys.byteorder), inet_ntop(family, known[_RTA_PREFSRC])


def _route(family: int, raw: bytes) -> bytes | None:
    """What the kernel answers to a question for the route to an address; None: there is none."""
    body = struct.pack("=BBBBBBBBI", family, len(raw) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += struct.pack("=HH", 4 + len(raw), _RTA_DST) + raw
    try:
        for _, data in _ask(_GETROUTE, 0, body):
            return data
    except OSError as error:
        if error.errno not in (
            errno.ENETUNREACH,
            errno.EHOSTUNREACH,
            errno.EACCES,
            errno.EINVAL,
            errno.ENETDOWN,
            errno.EAFNOSUPPORT,
            errno.EOPNOTSUPP,
        ):
            raise
    return None
