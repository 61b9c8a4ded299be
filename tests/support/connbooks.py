"""What a director that rests holds in its connection table, after all of it has been held against all else.

audit(lvs.instance) fails where two places disagree, and answers how many slots hold what.
"""

from collections import Counter
from typing import NamedTuple

from pylvs.datapath import _layout
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import CONN
from pylvs.datapath.table import GROUP_SLOTS, TAG_WORDS, Hash
from support.books import books


class Ledger(NamedTuple):
    """How many slots hold connections, their real servers' sides, and what some of them have no room for."""

    conns: int
    backs: int
    mores: int


def audit(running: Instance) -> Ledger:
    """Compare everything with everything, while nothing happens."""
    books(running)
    memory = running.slots.memory[:]
    _astray(running, memory)
    kinds = Counter(record[0] & _layout.LIFE_KIND for record in CONN.iterate(memory))
    return Ledger(*(kinds[kind] for kind in (_layout.SLOT_CONN, _layout.SLOT_BACK, _layout.SLOT_MORE)))


def _astray(running: Instance, memory: bytes) -> None:
    """Each group counts those that are not where looking for them begins, and else nobody would look further."""
    counts: Counter[tuple[int, int]] = Counter()
    for number, spot in Hash(running).spots(memory):
        home = spot.group, spot.place // 8
        counts[home] += (number // GROUP_SLOTS, number // 8 % TAG_WORDS) != home
    for group in range(running.groups.entries):
        wanted = sum(counts[group, word] << 8 * word for word in range(TAG_WORDS))
        assert running.groups.get(group, "astray") == wanted, f"group {group}: keys that went astray"
