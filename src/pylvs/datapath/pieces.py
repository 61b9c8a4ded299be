"""The connection table piece by piece: which connections are chosen.

A piece is copied and then looked through a column at a time, so that a million connections are counted in a fraction of
a second: choosing works on the raw numbers.
"""

import sys
from _socket import AF_INET, AF_INET6, htons
from collections.abc import Callable, Iterator
from itertools import compress
from typing import Any, NamedTuple

from pylvs.datapath import _layout, resize
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import CONN
from pylvs.protocols import STATES
from pylvs.selections import Selection

TICK = 1 << 20  # nanoseconds
ALL = (1 << 32) - 1
TEMPLATES = (_layout.SLOT_TEMPLATE, _layout.SLOT_INVALID)
TEMPLATE_STATES = ("NONE", "ASSURED")
SIZE = CONN.size
AT = CONN.place("at")[0]
LOW = 0 if sys.byteorder == "little" else 3  # the low byte of a 32-bit word
KIND, STATE = (CONN.place(name)[0] + LOW for name in ("life", "status"))
PROTOCOL, FAMILY = CONN.place("protocol")[0], CONN.place("family")[0]

_AT_ONCE = 4096  # slots: what is copied and then looked through
_HALF = 1 << 31
_IS_CONN = bytes(kind in (_layout.SLOT_CONN, *TEMPLATES) for kind in range(256))
_IS_TEMPLATE = bytes(kind in TEMPLATES for kind in range(256))


class Piece(NamedTuple):
    """Some slots as they were at one moment, and which of them are meant."""

    first: int
    records: bytes
    places: list[int]
    now: int


_Test = Callable[[bytes, list[int]], list[int]]


def state_name(protocol: int, state: int, template: bool = False) -> str:
    """The name that listings show for a state."""
    names = TEMPLATE_STATES if template else STATES.get(protocol, ())
    return names[state] if state < len(names) else "ERR!"


def column(records: bytes, name: str) -> list[int]:
    """One number of every record."""
    offset, form, size = CONN.place(name)
    view: Any = memoryview(records)
    numbers: list[int] = view.cast(form)[offset // size :: SIZE // size].tolist()
    return numbers


def _equal(name: str, value: int) -> _Test:
    def test(records: bytes, places: list[int]) -> list[int]:
        numbers = column(records, name)
        return [place for place in places if numbers[place] == value]

    return test


def _within(offset: int, address: bytes, bits: int) -> _Test:
    """Of these connections' family, and one of their addresses begins with so many bits of `address`."""
    family, width = (AF_INET, 4) if len(address) == 4 else (AF_INET6, 16)
    shift = 8 * width - bits
    wanted, begin = int.from_bytes(address, "big") >> shift, AT + offset

    def test(records: bytes, places: list[int]) -> list[int]:
        families = records[FAMILY::SIZE]
        number = int.from_bytes
        return [
            place
            for place in places
            if families[place] == family
            and number(records[place * SIZE + begin : place * SIZE + begin + width], "big") >> shift == wanted
        ]

    return test


def _in_states(names: frozenset[str]) -> _Test:
    wanted = {(protocol, state, 0) for protocol, known in STATES.items()
              for state, name in enumerate(known) if name in names}  # fmt: skip
    templates = {state for state, name in enumerate(TEMPLATE_STATES) if name in names}

    def test(records: bytes, places: list[int]) -> list[int]:
        kinds = records[KIND::SIZE].translate(_IS_TEMPLATE)
        shown = list(zip(records[PROTOCOL::SIZE], records[STATE::SIZE], kinds, strict=True))
        return [place for place in places if shown[place] in wanted or (kinds[place] and shown[place][1] in templates)]

    return test


def _served_by(instance: Instance, address: bytes) -> _Test:
    dests, family = instance.dests, AF_INET if len(address) == 4 else AF_INET6
    whole = address.ljust(16, b"\0")
    wanted = {
        number
        for number in range(instance.config.get(0, "dests_high"))
        if dests.get(number, "address") == whole and dests.get(number, "family") == family
    }
    if not any(address):
        wanted.add(_layout.DEST_NONE)

    def test(records: bytes, places: list[int]) -> list[int]:
        numbers = column(records, "dest")
        return [place for place in places if numbers[place] in wanted]

    return test


def _tests(instance: Instance, which: Selection) -> list[_Test]:
    """What a connection has to pass; the quick ones first."""
    tests: list[_Test] = []
    if which.states:
        tests.append(_in_states(which.states))
    if which.protocol:
        tests.append(_equal("protocol", which.protocol))
    if which.service_port:
        tests.append(_equal("vport", htons(which.service_port)))
    if which.client_port is not None:
        tests.append(_equal("cport", htons(which.client_port)))
    if which.server:
        tests.append(_served_by(instance, which.server))
    if which.server_port is not None:
        tests.append(_equal("dport", htons(which.server_port)))
    if which.service:
        tests.append(_within(len(which.service), which.service, 8 * len(which.service)))
    if which.client:
        tests.append(_within(0, which.client, which.client_bits))
    return tests


def pieces(instance: Instance, which: Selection | None) -> Iterator[Piece]:
    """The chosen connections, in no particular order: those whose time is not over.

    Each is of one piece: its slot's life word is the same after it was read as before. Connections that come or go
    meanwhile may be there or not. While somebody looks, the table keeps its size.
    """
    for _ in range(2):  # between the two lines below another resizing may begin, and be killed
        resize.finish_if_left(instance)
        with instance.settled():
            if instance.config.get(0, "resizing") == _layout.RESIZING_NOT:
                yield from _settled_pieces(instance, which)
                return
    with instance.settled():
        yield from _settled_pieces(instance, which)


def _settled_pieces(instance: Instance, which: Selection | None) -> Iterator[Piece]:
    memory, tags, entries = instance.slots.memory, instance.tags.memory, instance.slots.entries
    life, words = CONN.place("life")[0] // 4, SIZE // 4
    tests = _tests(instance, which or Selection())
    for first in range(0, entries, _AT_ONCE):
        count = min(_AT_ONCE, entries - first)
        if tags[first : first + count].count(_layout.TAG_FREE) == count:
            continue
        lives = instance.slots.words[first * words + life : (first + count) * words : words]
        before = lives.tobytes()
        records = memory[first * SIZE : (first + count) * SIZE]
        after = lives.tobytes()
        places = list(compress(range(count), records[KIND::SIZE].translate(_IS_CONN)))
        if before != after:
            old, new = memoryview(before).cast("I"), memoryview(after).cast("I")
            places = [place for place in places if old[place] == new[place]]
        now = instance.now()
        tick, expires = now // TICK, column(records, "expires")
        places = [place for place in places if 0 < (expires[place] - tick) & ALL < _HALF]
        for test in tests:
            places = test(records, places)
        if places:
            yield Piece(first, records, places, now)
