"""The connection table as a command sees it: reading, counting and ending connections.

The table is read through shared memory, a piece at a time (pieces.py): no system call per entry, constant memory. Only
what was chosen is made readable.
"""

import os
import struct
import sys
from _socket import AF_INET, AF_INET6, htons, inet_ntop, ntohs
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from pylvs.datapath import _layout, programs, syscall
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import CALL_ID, CONN, CONN_IPV4, CONN_REST, MORE, TUPLE
from pylvs.datapath.pieces import (
    ALL,
    AT,
    FAMILY,
    KIND,
    SIZE,
    STATE,
    TEMPLATES,
    TICK,
    column,
    pieces,
    state_name,
)
from pylvs.datapath.records import unpack_address
from pylvs.errors import DatapathError
from pylvs.model import Connection, endpoint, protocol_name
from pylvs.selections import Selection

GROUPINGS = ("service", "rip", "state", "client")

_FLUSH_AT_ONCE = 384  # connections: FLUSH_MOST of bpf/flush.h
_ADDRESSES = 4096  # virtual addresses that are remembered as text
_GROUP = _layout.GROUP_SLOTS
_FWMARK_IPV4 = CONN_IPV4.place("rest")[0] + CONN_REST.place("fwmark")[0]
_HEAD = bytes(14)  # an Ethernet header's place
NOWHERE = {AF_INET: "0.0.0.0", AF_INET6: "::"}
_NO_PORT = 65535  # what an invalid template has (facts 2.11)


class Entry(NamedTuple):
    """One connection as the table holds it: numbers, not yet made readable.

    Attributes:
        number: its slot.
        life: its slot's life word, which tells it from all that were and will be there.
        left: nanoseconds until its time is over.
        timeout: milliseconds that each packet gives it.
        flags: conn_flag of the layout; a persistence template's has CONN_TEMPLATE.
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

    @property
    def template(self) -> bool:
        """Is it a persistence template?"""
        return bool(self.flags & _layout.CONN_TEMPLATE)

    @property
    def state_name(self) -> str:
        return state_name(self.protocol, self.state, self.template)

    @property
    def ports(self) -> tuple[int, int, int]:
        """Those of client, service and real server as listings show them: a template has no client port, and one that
        is not valid any more (facts 2.11) 65535 for the others."""
        if not self.template:
            return self.cport, self.vport, self.dport
        if self.life & _layout.LIFE_KIND == _layout.SLOT_INVALID:
            return 0, _NO_PORT, _NO_PORT
        return 0, self.vport, self.dport


# ---- reading --------------------------------------------------------------------------------------------------------


def entries(instance: Instance, which: Selection | None = None) -> Iterator[Entry]:
    """The chosen connections whose time is not over, in no particular order; None chooses all.

    Each is of one piece: its slot's life word is the same after it was read as before. Connections that come or go
    meanwhile may be there or not.
    """
    unpack, make = CONN.unpack, tuple.__new__
    for first, records, places, now in pieces(instance, which):
        tick, rest = now // TICK, now % TICK
        for place in places:
            (
                life, status, expires, timeout, packets, dest, cport, vport, dport, protocol, family, addresses,
            ) = unpack(records, place)  # fmt: skip
            left = ((expires - tick) & ALL) * TICK - rest
            if left > timeout * 1_000_000:
                left = timeout * 1_000_000
            # make: what Entry(...) does, in a third of the time
            yield make(Entry, (
                first + place, life, status & 0xFF, status >> 8 & 0xFFFF, left, timeout, packets, dest,
                ntohs(cport), ntohs(vport), ntohs(dport), protocol, family, addresses,
            ))  # fmt: skip


class Reader:
    """Makes entries readable; real servers' and virtual addresses, of which there are few, are made so once."""

    def __init__(self, instance: Instance):
        self._instance = instance
        self._servers: dict[int, str] = {}
        self._virtual: dict[bytes, str] = {}

    def server(self, dest: int, family: int) -> str:
        """The address of a real server; all zero for a connection of this family that has none."""
        if dest == _layout.DEST_NONE:
            return NOWHERE[family]
        text = self._servers.get(dest)
        if text is None:
            dests = self._instance.dests
            text = self._servers[dest] = unpack_address(dests.get(dest, "address"), dests.get(dest, "family"))
        return text

    def fwmark(self, entry: Entry) -> int:
        """The packet mark at a connection's birth."""
        if entry.family == AF_INET:
            return int.from_bytes(entry.addresses[_FWMARK_IPV4 : _FWMARK_IPV4 + 4], sys.byteorder)
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
            if len(self._virtual) > _ADDRESSES:
                self._virtual.clear()
            virtual = self._virtual[raw] = inet_ntop(entry.family, raw)
        return inet_ntop(entry.family, entry.addresses[:width]), virtual

    def read(self, entry: Entry) -> Connection:
        """A connection as listings show it."""
        if entry.flags & _layout.CONN_TEMPLATE:
            return self._template(entry)
        caddr, vaddr = self.addresses(entry)
        return tuple.__new__(Connection, (
            entry.family, entry.protocol, caddr, entry.cport, vaddr, entry.vport, self.server(entry.dest, entry.family),
            entry.dport, state_name(entry.protocol, entry.state), entry.left // 1_000_000,
            entry.flags & _layout.CONN_METHOD, False, entry.packets, self.fwmark(entry), "", b"",
        ))  # fmt: skip

    def _template(self, entry: Entry) -> Connection:
        caddr, vaddr = self.addresses(entry)
        cport, vport, dport = entry.ports
        engine, data = self.engine_data(entry)
        return Connection(
            entry.family, entry.protocol, caddr, cport, vaddr, vport, self.server(entry.dest, entry.family), dport,
            entry.state_name, entry.left // 1_000_000, entry.flags & _layout.CONN_METHOD,
            True, entry.packets, self.fwmark(entry), engine, data,
        )  # fmt: skip

    def engine_data(self, entry: Entry) -> tuple[str, bytes]:
        """The persistence engine of a template, and what it knows it by; both empty where there is none."""
        if not entry.template or not entry.cport:
            return "", b""
        width = 4 if entry.family == AF_INET else 16
        key = TUPLE.pack(
            src=entry.addresses[:width].ljust(16, b"\0"),
            dst=entry.addresses[width : 2 * width].ljust(16, b"\0"),
            sport=htons(entry.cport),
            dport=htons(entry.vport),
            protocol=entry.protocol,
            family=entry.family,
        )
        known = self._instance.call_ids.get(key)
        return ("", b"") if known is None else ("sip", CALL_ID.get(known, 0, "text")[: CALL_ID.get(known, 0, "length")])


def connections(instance: Instance, which: Selection | None = None) -> Iterator[Connection]:
    """The chosen connections whose time is not over, in no particular order; None chooses all."""
    reader = Reader(instance)
    return map(reader.read, entries(instance, which))


# ---- counting -------------------------------------------------------------------------------------------------------


def count(instance: Instance, which: Selection | None = None) -> int:
    """How many connections are chosen."""
    return sum(len(piece.places) for piece in pieces(instance, which))


def _picker(*members: tuple[int, str]) -> struct.Struct:
    """For members of a record by their offsets, in ascending order."""
    form, at = "=", 0
    for offset, letters in members:
        form += f"{offset - at}x{letters}"
        at = offset + struct.calcsize("=" + letters)
    return struct.Struct(form)


def _member(name: str) -> tuple[int, str]:
    offset, form, _ = CONN.place(name)
    return offset, form


# grouping -> what tells one group from another, of a connection of IPv4 and of IPv6
_KEYS = {
    "service": tuple(
        _picker(_member("vport"), _member("protocol"), (AT + width, f"{width}s")) for width in (4, 16)
    ),
    "rip": 2 * (_picker(_member("dest"), _member("dport"), _member("family")),),
    "state": 2 * (_picker((KIND, "B"), (STATE, "B"), _member("protocol")),),
    "client": tuple(_picker((AT, f"{width}s")) for width in (4, 16)),
}  # fmt: skip


def _readable(reader: Reader, by: str, key: tuple) -> str:
    if by == "state":
        return state_name(key[2], key[1], key[0] in TEMPLATES)
    if by == "rip":
        return endpoint(reader.server(key[0], key[2]), ntohs(key[1]))
    text = inet_ntop(AF_INET if len(key[-1]) == 4 else AF_INET6, key[-1])
    if by == "client":
        return text
    return f"{protocol_name(key[1]).lower()}/{endpoint(text, ntohs(key[0]))}"


def count_by(instance: Instance, by: str, which: Selection | None = None) -> dict[str, int]:
    """How many of the chosen connections each service, real server, state or client has; those with most first.

    Args:
        by: one of GROUPINGS. Memory grows with the number of groups alone.
    """
    counts: Counter[tuple] = Counter()
    for _, records, places, _ in pieces(instance, which):
        families = records[FAMILY::SIZE]
        four = [place for place in places if families[place] == AF_INET]
        six = [place for place in places if families[place] != AF_INET] if len(four) != len(places) else []
        for picker, mine in zip(_KEYS[by], (four, six), strict=True):
            unpack = picker.unpack_from
            counts.update([unpack(records, place * SIZE) for place in mine])
    # two real servers of the same address and port, of two services, are one
    named: Counter[str] = Counter()
    reader = Reader(instance)
    for key, number in counts.items():
        named[_readable(reader, by, key)] += number
    return dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))


# ---- ending ---------------------------------------------------------------------------------------------------------


def chosen(instance: Instance, which: Selection | None = None) -> Iterator[tuple[int, int]]:
    """(slot's number as the programs have it, life word) of each chosen connection: what `flush` asks for. Persistence
    templates come last: they do not end before their connections."""
    parity = programs.PARITY * _GROUP if instance.config.get(0, "table") % 2 else 0
    for templates in (False, True):
        for first, records, places, _ in pieces(instance, which):
            lives = column(records, "life")
            for place in places:
                if (lives[place] & _layout.LIFE_KIND in TEMPLATES) == templates:
                    yield first + place | parity, lives[place]


def flush(instance: Instance, named: Iterable[tuple[int, int]]) -> int:
    """End connections at once. The caller holds the namespace's lock.

    A connection that has ended meanwhile is left alone, and so is whoever has its slot now.

    Args:
        named: (slot, life word) of each, as `chosen` gives them.

    Returns:
        How many of them this call has ended.

    Raises:
        DatapathError: the programs that run cannot do this.
    """
    try:
        program = instance.program("flush")
    except FileNotFoundError:
        raise DatapathError(
            "the programs that run are of an older version, which cannot end connections; pylvs load puts this "
            "version's in their place"
        ) from None
    try:
        rest, ended = iter(named), 0
        while batch := list(islice(rest, _FLUSH_AT_ONCE)):
            pairs = struct.pack(f"={2 * len(batch)}I", *(word for pair in batch for word in pair))
            ended += syscall.run(program, _HEAD + pairs)[0]
        return ended
    finally:
        os.close(program)
