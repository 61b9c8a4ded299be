"""Reading the connection table: through shared memory, no system call per entry, constant memory."""

from _socket import AF_INET, inet_ntop, ntohs
from collections.abc import Iterator
from typing import NamedTuple

from pylvs.datapath import _layout
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import CONN, CONN_IPV4, CONN_REST, MORE
from pylvs.datapath.services import unpack_address
from pylvs.model import TCP, Connection
from pylvs.protocols import tcp, udp

_AT_ONCE = 4096  # slots: what is copied and then looked through
_GROUP = _layout.GROUP_SLOTS
_TICK = 1 << 20  # nanoseconds
_HALF = 1 << 31
_FWMARK_IPV4 = CONN_IPV4.place("rest")[0] + CONN_REST.place("fwmark")[0]


class Entry(NamedTuple):
    """One connection as the table holds it: numbers, not yet made readable.

    Attributes:
        number: its slot.
        life: its slot's life word, which tells it from all that were and will be there.
        left: nanoseconds until its time is over.
        timeout: milliseconds that each packet gives it.
        flags: conn_flag of the layout.
        addresses: caddr and vaddr as the slot holds them, 32 bytes.
    """

    number: int
    life: int
    state: int
    flags: int
    left: int
    timeout: int
    packets: int
    dest: int
    cport: int
    vport: int
    dport: int
    protocol: int
    family: int
    addresses: bytes


def state_name(protocol: int, state: int) -> str:
    """The name that listings show for a state."""
    names = tcp.STATES if protocol == TCP else udp.STATES
    return names[state] if state < len(names) else "ERR!"


def entries(instance: Instance) -> Iterator[Entry]:
    """Every connection whose time is not over, in no particular order.

    Each is of one piece: its slot's life word is the same after it was read as before. Connections that come or go
    meanwhile may be there or not.
    """
    memory, tags = instance.slots.memory, instance.tags.memory
    size, kind_mask, kind = CONN.size, _layout.LIFE_KIND, _layout.SLOT_CONN
    lives, words = instance.slots.words, CONN.size // 4
    empty = bytes(_GROUP)
    for first in range(0, instance.slots.entries, _AT_ONCE):
        count = min(_AT_ONCE, instance.slots.entries - first)
        held = tags[first : first + count]
        for at in range(0, count, _GROUP):
            if held[at : at + _GROUP] == empty:
                continue
            number = first + at - 1
            now = instance.now()
            tick, rest = now // _TICK, now % _TICK
            start = (first + at) * size
            for record in CONN.iterate(memory[start : start + _GROUP * size]):
                number += 1
                life = record[0]
                if life & kind_mask != kind:
                    continue
                _, status, expires, timeout, packets, dest, cport, vport, dport, protocol, family, addresses = record
                left = ((expires - tick + _HALF) % (2 * _HALF) - _HALF) * _TICK - rest
                if left <= 0 or lives[number * words] != life:
                    continue
                yield Entry(
                    number, life, status & 0xFF, status >> 8 & 0xFFFF, min(left, timeout * 1_000_000), timeout, packets,
                    dest, ntohs(cport), ntohs(vport), ntohs(dport), protocol, family, addresses,
                )  # fmt: skip


class Reader:
    """Makes entries readable; real servers' and virtual addresses, of which there are few, are made so once."""

    def __init__(self, instance: Instance):
        self._instance = instance
        self._servers: dict[int, str] = {}
        self._virtual: dict[bytes, str] = {}

    def server(self, dest: int) -> str:
        """The address of a real server."""
        text = self._servers.get(dest)
        if text is None:
            dests = self._instance.dests
            text = self._servers[dest] = unpack_address(dests.get(dest, "address"), dests.get(dest, "family"))
        return text

    def fwmark(self, entry: Entry) -> int:
        """The packet mark at a connection's birth."""
        if entry.family == AF_INET:
            return int.from_bytes(entry.addresses[_FWMARK_IPV4 : _FWMARK_IPV4 + 4], "little")
        place = entry.life >> _layout.LIFE_MORE_SHIFT & 0xFF
        if not place:
            return 0
        rest = MORE.get(self._instance.slots.memory, entry.number // _GROUP * _GROUP + place - 1, "rest")
        return int(CONN_REST.get(rest, 0, "fwmark"))

    def addresses(self, entry: Entry) -> tuple[str, str]:
        """(client's address, virtual address)"""
        width = 4 if entry.family == AF_INET else 16
        raw = entry.addresses[width : 2 * width]
        virtual = self._virtual.get(raw)
        if virtual is None:
            if len(self._virtual) > _AT_ONCE:
                self._virtual.clear()
            virtual = self._virtual[raw] = inet_ntop(entry.family, raw)
        return inet_ntop(entry.family, entry.addresses[:width]), virtual

    def read(self, entry: Entry) -> Connection:
        """A connection as listings show it."""
        caddr, vaddr = self.addresses(entry)
        return Connection(
            entry.family, entry.protocol, caddr, entry.cport, vaddr, entry.vport, self.server(entry.dest), entry.dport,
            state_name(entry.protocol, entry.state), entry.left // 1_000_000, entry.flags & _layout.CONN_METHOD,
            packets=entry.packets, fwmark=self.fwmark(entry),
        )  # fmt: skip


def connections(instance: Instance) -> Iterator[Connection]:
    """Every connection whose time is not over, in no particular order."""
    reader = Reader(instance)
    return map(reader.read, entries(instance))
