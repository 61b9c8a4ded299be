"""WireGuard interfaces without wg(8): what that would tell the kernel, by generic netlink."""

import os
import struct
from socket import AF_INET, AF_INET6, AF_NETLINK, SOCK_RAW, if_nametoindex, inet_aton, inet_pton, socket

_GENERIC, _CTRL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 16, 3, 1, 2
_REQUEST, _ACK, _DUMP, _ERROR, _DONE = 1, 4, 0x300, 2, 3
_GET, _SET = 0, 1
_IFINDEX, _PRIVATE_KEY, _PUBLIC_KEY, _PORT, _PEERS = 1, 3, 4, 6, 8
_PEER_KEY, _PEER_ENDPOINT, _PEER_ALLOWED = 1, 4, 9
_ALLOWED_FAMILY, _ALLOWED_ADDRESS, _ALLOWED_BITS = 1, 2, 3
_NESTED = 0x8000


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nest(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(parts))


def _ask(family: int, command: int, body: bytes, flags: int) -> bytes:
    """All that the kernel answers, attributes only."""
    with socket(AF_NETLINK, SOCK_RAW, _GENERIC) as s:
        s.send(struct.pack("=IHHIIBBH", 20 + len(body), family, _REQUEST | flags, 1, 0, command, 1, 0) + body)
        got = b""
        while True:
            data, at = s.recv(1 << 16), 0
            while at < len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind == _DONE:
                    return got
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", data, at + 16)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return got
                got += data[at + 20 : at + length]
                at += length + 3 & ~3


def _find(attributes: bytes, kind: int) -> bytes:
    at = 0
    while at < len(attributes):
        length, this = struct.unpack_from("=HH", attributes, at)
        if this & ~_NESTED == kind:
            return attributes[at + 4 : at + length]
        at += length + 3 & ~3
    raise KeyError(kind)


def _wireguard() -> int:
    name = _attribute(_FAMILY_NAME, b"wireguard\0")
    return int.from_bytes(_find(_ask(_CTRL, _GET_FAMILY, name, _ACK), _FAMILY_ID)[:2], "little")


def key(device: str, port: int) -> bytes:
    """Give an interface of the namespace that we are in a key and a UDP port; its public key."""
    family, which = _wireguard(), _attribute(_IFINDEX, struct.pack("=I", if_nametoindex(device)))
    own = _attribute(_PRIVATE_KEY, os.urandom(32)) + _attribute(_PORT, struct.pack("=H", port))
    _ask(family, _SET, which + own, _ACK)
    return _find(_ask(family, _GET, which, _DUMP), _PUBLIC_KEY)


def peer(device: str, public_key: bytes, address: str, port: int) -> None:
    """Let whatever leaves by an interface go to this peer, and whatever comes from it pass."""
    allowed = [
        _nest(
            0,
            _attribute(_ALLOWED_FAMILY, struct.pack("=H", family)),
            _attribute(_ALLOWED_ADDRESS, inet_pton(family, "::" if family == AF_INET6 else "0.0.0.0")),
            _attribute(_ALLOWED_BITS, b"\0"),
        )
        for family in (AF_INET, AF_INET6)
    ]
    endpoint = struct.pack("=HH4s8x", AF_INET, int.from_bytes(struct.pack(">H", port), "little"), inet_aton(address))
    about = _nest(
        0, _attribute(_PEER_KEY, public_key), _attribute(_PEER_ENDPOINT, endpoint), _nest(_PEER_ALLOWED, *allowed)
    )
    which = _attribute(_IFINDEX, struct.pack("=I", if_nametoindex(device)))
    _ask(_wireguard(), _SET, which + _nest(_PEERS, about), _ACK)
