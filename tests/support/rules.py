"""The steps of the connection table, one at a time (rules.bpf.c), on the maps of a director.

steps = Steps(lvs)
key = steps.key(flow)
slot = steps.take(key)
steps.publish(slot, key)
"""

import os
import socket
import struct
import sys
from pathlib import Path
from typing import NamedTuple

from pylvs.datapath import _layout, programs, syscall
from pylvs.datapath.btf import Btf
from pylvs.datapath.layout import CONN, Layout
from pylvs.datapath.maps import possible_cpus
from pylvs.datapath.object import Object
from pylvs.protocols import tcp
from support.crowd import built
from support.harness import Harness
from support.packets import TCP, address

FREE, FILLING, LIVE, BACK, MORE, DEAD = (
    getattr(_layout, f"SLOT_{name}") for name in ("FREE", "FILLING", "CONN", "BACK", "MORE", "DEAD")
)
TURN = 1 << _layout.LIFE_TURN_SHIFT
_HEAD = struct.Struct("=QQQIIII")


class Key(NamedTuple):
    """A struct tuple, and its hash."""

    packed: bytes
    hash: int
    tag: int
    group: int
    other: int


def _layout_of(read: Btf, name: str) -> Layout:
    """A structure that only the packet path knows; but for members without a name."""
    size, members = read.structs[name]
    return Layout((size, {one: (at, read.format(kind)[0]) for one, (at, kind) in members.items() if one}))


class Found(NamedTuple):
    """What table_find answers; number -1: nothing."""

    number: int
    life: int


class Steps:
    """Use as a context manager."""

    def __init__(self, lvs: Harness):
        self.lvs = lvs
        instance = lvs.instance
        seeds, groups = instance.config.get(0, "seeds"), instance.groups.entries
        constants = {
            **programs.table_constants(instance.config.get(0, "table"), groups, seeds),
            "tcp_next": tcp.table_bytes(),
            "tcp_active": tcp.active_bytes(),
            "tcp_half_open": tcp.half_open_bytes(),
            "cpus": possible_cpus().to_bytes(4, "little"),
        }
        existing = instance.map_fds()
        try:
            read = Btf(Path(built("rules"), "rules.bpf.o").read_bytes())
            self._size, members = read.structs["ask"]
            self._places = {name: offset for name, (offset, _) in members.items()}
            self._birth, self._packet = _layout_of(read, "birth"), _layout_of(read, "packet")
            _layout.RODATA["rules"] = read.variables[".rodata"]
            self._object = Object("rules", {}, existing, constants, built("rules"))
        finally:
            _layout.RODATA.pop("rules", None)
            for fd in existing.values():
                os.close(fd)
        self.mask = groups - 1

    def __enter__(self) -> "Steps":
        return self

    def __exit__(self, *_: object) -> None:
        self._object.close()

    def run(
        self,
        step: str,
        key: Key | None = None,
        *,
        hash: int = 0,
        number: int = 0,
        life: int = 0,
        kind: int = 0,
        flag: int = 0,
        found: bytes = b"",
        birth: bytes = b"",
        packet: bytes = b"",
        now: int = 0,
    ) -> int:
        """One step; its answer."""
        head = _HEAD.pack(key.hash if key else hash, now or self.lvs.instance.now(), 0, number, life, kind, flag)
        asked = bytearray(self._size)
        parts = {"hash": head, "key": key.packed if key else b"", "found": found, "birth": birth, "packet": packet}
        for name, part in parts.items():
            at = self._places[name]
            asked[at : at + len(part)] = part
        syscall.map_update(self._object.maps["ask"], bytes(4), bytes(asked))
        assert syscall.run(self._object.programs[step], bytes(64))[0] == 0
        after = syscall.map_lookup(self._object.maps["ask"], bytes(4), self._size)
        assert after is not None
        return int(_HEAD.unpack_from(after)[2])

    def packet(self, protocol: int, event: int) -> bytes:
        """A struct packet, as far as state_move asks: TCP's flags, or SCTP's event."""
        packed = bytearray(self._packet.pack(tuple=bytes(36) + bytes((protocol, 2, 0, 0))))
        packed[self._packet.place("l4")[0] + 2] = event  # the union behind it has no name
        return bytes(packed)

    def key(self, source: tuple[str, int], destination: tuple[str, int], protocol: int = TCP) -> Key:
        addresses = [address(text) for text, _ in (source, destination)]
        family = 2 if len(addresses[0]) == 4 else 10
        ports = struct.pack("!HH", source[1], destination[1])
        packed = b"".join(a.ljust(16, b"\0") for a in addresses) + ports + bytes((protocol, family, 0, 0))
        hash = self.run("hash", Key(packed, 0, 0, 0, 0))
        folded = hash ^ hash >> 32
        tag = _layout.TAG_FIRST + ((hash >> 44 & 0xFF) * (256 - _layout.TAG_FIRST) >> 8)
        return Key(packed, hash, tag, folded & self.mask, (folded ^ (hash >> 20 | 1)) & self.mask)

    def take(self, key: Key, hurry: bool = False, now: int = 0) -> int:
        """The number of the slot taken, or -1."""
        return self.run("take", key, flag=hurry, now=now) - 1

    def fill(self, number: int, key: Key) -> None:
        """Let a slot have a key."""
        slots = self.lvs.instance.slots
        family, width = key.packed[37], 4 if key.packed[37] == 2 else 16
        slots.put(number, "cport", int.from_bytes(key.packed[32:34], sys.byteorder))
        slots.put(number, "vport", int.from_bytes(key.packed[34:36], sys.byteorder))
        slots.put(number, "protocol", key.packed[36])
        slots.put(number, "family", family)
        at, size = number * CONN.size + CONN.place("at")[0], 2 * width
        slots.memory[at : at + size] = key.packed[:width] + key.packed[16 : 16 + width]

    def become(self, number: int, kind: int) -> int:
        """Let a slot be of another kind in this life; its life word."""
        life = self.lvs.instance.slots.get(number, "life") & ~_layout.LIFE_KIND | kind
        self.lvs.instance.slots.put(number, "life", life)
        return int(life)

    def publish(self, number: int, key: Key) -> None:
        self.run("publish", number=number, kind=key.tag)

    def put(self, key: Key, kind: int) -> int:
        """A slot that is taken, filled, published and of some kind; its number."""
        number = self.take(key)
        self.fill(number, key)
        self.publish(number, key)
        self.become(number, kind)
        return number

    def find(self, key: Key, kind: int = LIVE, but: int = -1) -> Found:
        answer = self.run("find", key, kind=1 << kind, number=but + 1)
        return Found((answer & 0xFFFFFFFF) - 1, answer >> 32)

    def settle(self, number: int, key: Key, kind: int = LIVE) -> Found:
        answer = self.run("settle", key, number=number, kind=kind)
        return Found((answer & 0xFFFFFFFF) - 1, answer >> 32)

    def release(self, number: int, life: int) -> bool:
        return bool(self.run("release", number=number, life=life))

    def claim(self, key: Key, server: tuple[str, int], dest: int = 0, flags: int = _layout.CONN_INACTIVE) -> bool:
        """A new connection to a real server, by LVS-NAT unless the flags say otherwise."""
        birth = self._birth.pack(
            daddr=address(server[0]).ljust(16, b"\0"),
            dest=dest,
            flags=flags,
            dport=socket.htons(server[1]),
            kind=LIVE,
            timeout=3000,
        )
        return bool(self.run("claim", key, birth=birth))

    def free(self, number: int) -> bool:
        """Is a slot free, by its tag and by its life?"""
        instance = self.lvs.instance
        return not instance.tags.memory[number] and not instance.slots.get(number, "life") & _layout.LIFE_KIND
