"""Is all that the connection table says true? Every slot, tag, count and reference, against each other.

audit(lvs.instance) fails where two of them disagree, and answers how many slots hold what.
"""

from collections import Counter
from typing import Any, NamedTuple

from pylvs.datapath import _layout, programs
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import BACK, CONN, GROUP, MORE
from pylvs.datapath.table import GROUP_SLOTS, Hash
from pylvs.model import MASQ

_KIND, _MORE_SHIFT = _layout.LIFE_KIND, _layout.LIFE_MORE_SHIFT


class Ledger(NamedTuple):
    """How many slots hold what."""

    conns: int
    backs: int
    mores: int


def audit(running: Instance) -> Ledger:
    """Compare everything with everything, while nothing happens."""
    memory, tags = running.slots.memory[:], running.tags.memory[: running.slots.entries]
    parity = programs.PARITY * GROUP_SLOTS if running.config.get(0, "table") % 2 else 0
    kinds = {number: record[0] & _KIND for number, record in enumerate(CONN.iterate(memory)) if record[0] & _KIND}
    by_kind: dict[int, list[int]] = {}
    for number, kind in kinds.items():
        by_kind.setdefault(kind, []).append(number)
    conns, backs, mores = (by_kind.pop(k, []) for k in (_layout.SLOT_CONN, _layout.SLOT_BACK, _layout.SLOT_MORE))
    assert not by_kind, f"slots that are neither free nor anything: {by_kind}"
    assert len(conns) == running.runtime.get(0, "conns"), "runtime.conns"
    _loads(running, memory, conns)
    _references(memory, conns, backs, mores, parity)
    _places(running, memory, tags, kinds, mores)
    return Ledger(len(conns), len(backs), len(mores))


def _loads(running: Instance, memory: Any, conns: list[int]) -> None:
    total: Counter[int] = Counter()
    active: Counter[int] = Counter()
    for number in conns:
        dest = CONN.get(memory, number, "dest")
        total[dest] += 1
        active[dest] += not CONN.get(memory, number, "status") >> 8 & _layout.CONN_INACTIVE
    loads = running.dest_loads
    for dest in range(running.config.get(0, "dests_high")):
        counted = (loads.get(dest, "active"), loads.get(dest, "total"))
        assert counted == (active[dest], total[dest]), f"ActiveConn and all of real server {dest}"


def _references(memory: Any, conns: list[int], backs: list[int], mores: list[int], parity: int) -> None:
    alive = {1 + (number | parity) for number in conns}
    led_to: Counter[int] = Counter()
    for number in backs:
        both = BACK.get(memory, number, "conns")
        newest, before = both & 0xFFFFFFFF, both >> 32
        assert newest in alive, "a real server's side that leads to no connection"
        assert not before or before in alive, "the connection before it is none"
        led_to.update(one for one in (newest, before) if one)
    for number in conns:
        masq = CONN.get(memory, number, "status") >> 8 & _layout.CONN_METHOD == MASQ
        assert led_to[1 + (number | parity)] == masq, "from the real server's side, under LVS-NAT and nowhere else"
        place = CONN.get(memory, number, "life") >> _MORE_SHIFT & 0xFF
        if place:
            more = number // GROUP_SLOTS * GROUP_SLOTS + place - 1
            assert more in mores
            assert MORE.get(memory, more, "conn") == number | parity, "its rest is another's"
    with_more = [n for n in conns if CONN.get(memory, n, "life") >> _MORE_SHIFT & 0xFF]
    assert len(with_more) == len(mores), "rests that belong to nobody"


def _places(running: Instance, memory: Any, tags: bytes, kinds: dict[int, int], mores: list[int]) -> None:
    used, spilled = Counter(number // GROUP_SLOTS for number in kinds), Counter[int]()
    wanted = bytearray(len(tags))
    for number in mores:
        wanted[number] = _layout.TAG_HELD
    for number, spot in Hash(running).spots(memory):
        group = number // GROUP_SLOTS
        assert group in (spot.group, spot.other), "a slot where nobody looks for it"
        spilled[spot.group] += group != spot.group
        wanted[number] = spot.tag
    assert tags == bytes(wanted), "tags"
    counts = [GROUP.unpack(running.groups.memory, number) for number in range(running.groups.entries)]
    assert counts == [(used[group], spilled[group]) for group in range(len(counts))], "used and spilled"
