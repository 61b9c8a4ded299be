"""How the connection table's slots are used: how full it is, and how far a packet's lookup has to go.

Where a key belongs is computed here as bpf/table.h does it; tests hold the two against each other.
"""

import os
import sys
from _socket import AF_INET, AF_INET6
from collections import Counter
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from pylvs.datapath import _layout, syscall
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import BACK, CONN, GROUP

GROUP_SLOTS, TAG_WORDS = _layout.GROUP_SLOTS, _layout.TAG_WORDS
FURTHEST = 2 * TAG_WORDS
"""A lookup looks at so many words of tags at most."""
SAMPLE = 256  # groups
_M64, _M32 = (1 << 64) - 1, (1 << 32) - 1
_AT_ONCE = 1 << 20  # tags
_IS_USED = bytes(tag != _layout.TAG_FREE for tag in range(256))
_ORDER = sys.byteorder
_KEYED = (_layout.SLOT_CONN, _layout.SLOT_BACK, _layout.SLOT_TEMPLATE, _layout.SLOT_INVALID)
_SLOT_BYTES = CONN.size + 1 + GROUP.size / GROUP_SLOTS  # the slot itself, its tag, its part of its group's counts
_WORDS = {AF_INET: Struct("=2I"), AF_INET6: Struct("=8I")}


class Spot(NamedTuple):
    """Where a key may be, as home_group, other_group, hash_place and hash_tag of table.h have it.

    Attributes:
        group: the group where it belongs.
        other: where it goes if that one is crowded.
        place: in a group, where looking for it begins.
        tag: eight bits of its hash.
    """

    group: int
    other: int
    place: int
    tag: int


class Usage(NamedTuple):
    """How full the table is.

    Attributes:
        slots: how many there are; `size` in bytes, with their tags and counts.
        used: slots that are not free. A LVS-NAT connection has two.
        connections: as the packet path counts them.
        spilled: connections that are not where they belong but in their other group.
        fill: for each number of used slots, 0 to 64, how many groups have that many.
    """

    slots: int
    size: int
    used: int
    connections: int
    spilled: int
    fill: list[int]


class Probes(NamedTuple):
    """How many words of eight tags a lookup looks at until it has found what is there.

    Attributes:
        groups: how many groups were looked at, of how many.
        found: for each number of words from 1 on, how many slots are found at it: up to 8 in the group where they
            belong, beyond that in the other one.
        lost: slots that no lookup finds. There are none, but for what changed just then.
    """

    groups: tuple[int, int]
    found: list[int]
    lost: int


class Hash:
    """The hash of one director's connection table."""

    def __init__(self, instance: Instance):
        self._seeds: tuple[int, ...] = instance.config.get(0, "seeds")
        self._mask: int = instance.config.get(0, "conn_slots") // GROUP_SLOTS - 1

    def spot(self, words: tuple[int, ...], ports: int, protocol: int, family: int) -> Spot:
        """Where a key belongs: hash_words of table.h.

        Args:
            words: source and destination address as they stand in memory, in 32-bit words.
            ports: source and destination port, likewise, as one word.
        """
        s = self._seeds
        width = len(words) // 2
        total = s[0] + (s[1] + words[0] & _M64) * (s[2] + words[width] & _M64)
        total += (s[3] + ports & _M64) * (s[4] + (family << 8 | protocol) & _M64)
        for number in range(1, width):
            place = 3 + 2 * number
            total += (s[place] + words[number] & _M64) * (s[place + 1] + words[width + number] & _M64)
        mixed = total >> 32 & _M32
        mixed = (mixed ^ mixed >> 15) * 0x9E3779B97F4A7C15 & _M64
        folded = mixed ^ mixed >> 32
        return Spot(
            folded & self._mask,
            (folded ^ (mixed >> 20 | 1)) & self._mask,
            mixed >> 52 & (GROUP_SLOTS - 1),
            _layout.TAG_FIRST + ((mixed >> 44 & 0xFF) * (256 - _layout.TAG_FIRST) >> 8),
        )

    def spots(self, records: bytes) -> Iterator[tuple[int, Spot]]:
        """(place among the records, where it belongs) of every slot that is found by a key."""
        for place, record in enumerate(BACK.iterate(records)):
            life, _, _, _, _, sport, dport, _, protocol, family, addresses = record
            if life & _layout.LIFE_KIND in _KEYED and family in _WORDS:
                words = _WORDS[family].unpack_from(addresses)
                ports = sport | dport << 16 if _ORDER == "little" else sport << 16 | dport
                yield place, self.spot(words, ports, protocol, family)


def usage(instance: Instance) -> Usage:
    """How full the table is, by its groups' own counts."""
    counts = instance.groups.words[: instance.groups.entries * (GROUP.size // 4)]
    step, used, spilled = GROUP.size // 4, GROUP.place("used")[0] // 4, GROUP.place("spilled")[0] // 4
    fill = [0] * (GROUP_SLOTS + 1)
    for number in counts[used::step].tolist():
        fill[min(number, GROUP_SLOTS)] += 1
    slots = instance.config.get(0, "conn_slots")
    return Usage(
        slots,
        int(slots * _SLOT_BYTES),
        sum(number * groups for number, groups in enumerate(fill)),
        instance.runtime.get(0, "conns"),
        sum(counts[spilled::step].tolist()),
        fill,
    )


def word_lengths(instance: Instance) -> list[int]:
    """For each number of used slots, 0 to 8, how many of the words of eight tags have that many."""
    memory, entries = instance.tags.memory, instance.tags.entries
    lengths = [0] * (GROUP_SLOTS // TAG_WORDS + 1)
    for first in range(0, entries, _AT_ONCE):
        used = memory[first : min(first + _AT_ONCE, entries)].translate(_IS_USED)
        for word, count in Counter(memoryview(used).cast("Q").tolist()).items():
            lengths[word.bit_count()] += count
    return lengths


def probes(instance: Instance, sample: int = SAMPLE) -> Probes:
    """How far lookups go, by the slots of at most so many groups, evenly over the table."""
    groups = instance.config.get(0, "conn_slots") // GROUP_SLOTS
    step = max(groups // sample, 1)
    found, lost, own = [0] * FURTHEST, 0, Hash(instance)
    # by system calls: a few groups are wanted, and mapping a large table takes longer than that
    fd = syscall.get(instance.table_pin("slots"))
    try:
        for group in range(0, groups, step):
            records = syscall.map_lookup(fd, group.to_bytes(4, _ORDER), GROUP_SLOTS * CONN.size)
            assert records is not None  # every element of an array is there
            for place, spot in own.spots(records):
                words = (place // 8 - spot.place // 8) % TAG_WORDS
                if group == spot.group:
                    found[words] += 1
                elif group == spot.other:
                    found[TAG_WORDS + words] += 1
                else:
                    lost += 1
    finally:
        os.close(fd)
    return Probes((len(range(0, groups, step)), groups), found, lost)
