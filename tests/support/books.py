"""The books of a director that rests: every number agrees with every other.

What packets write from all CPUs at once, without a lock, is held against itself: the table's slots against their tags
and their groups' counts, the two sides of LVS-NAT connections against each other, the connections against what the
real servers carry, the packets against their reasons.
"""

import os
import struct
from collections import Counter
from typing import NamedTuple

from pylvs.datapath import _layout as layout
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import BACK, CONN, CONN_IPV4, CONN_REST, MORE, REASONS, TUPLE
from pylvs.datapath.programs import PARITY
from pylvs.datapath.table import Hash

AF_INET, MASQ = 2, 0
_STAND_INS = bytes.fromhex("0064ff9b0001fffe00000000")
PROGRAMS = [
    "catch_up", "complaint", "decide", "egress", "flush", "fragment", "ftp", "ftp_leaves", "ingress", "orphan", "purge",
    "related", "start", "steps_", "tunnelled",
]  # fmt: skip
"""What is pinned of programs when nothing is going on; one array of steps."""
_SLOTS = layout.GROUP_SLOTS


def programs(instance: Instance) -> list[str]:
    """What is pinned of programs, without the numbers of arrays."""
    return sorted(name.rstrip("0123456789") for name in os.listdir(f"{instance.path}/programs"))


class _Connection(NamedTuple):
    """What the books have to say of a connection."""

    kind: int
    key: tuple[bytes, bytes, int, int, int, int]
    reply: tuple[bytes, bytes, int, int, int, int]
    dest: int
    backed: bool
    """It has a real server's side."""
    inactive: bool
    flags: int
    more: int
    """Number of the slot with its rest, or -1."""
    control: int
    """Number of what controls it, or -1."""
    controls: int

    @property
    def template(self) -> bool:
        return self.kind != layout.SLOT_CONN


class _Books:
    def __init__(self, instance: Instance):
        self.instance = instance
        self.memory = instance.slots.memory[: instance.slots.entries * CONN.size]
        self.tags = instance.tags.memory[: instance.slots.entries]
        self.parity = (PARITY if instance.config.get(0, "table") % 2 else 0) * _SLOTS
        self.connections: dict[int, _Connection] = {}
        self.backs: dict[int, tuple[tuple[bytes, bytes, int, int, int, int], int]] = {}
        self.mores: dict[int, int] = {}
        for place, record in enumerate(CONN.iterate(self.memory)):
            kind = record[0] & layout.LIFE_KIND
            if kind in (layout.SLOT_CONN, layout.SLOT_TEMPLATE, layout.SLOT_INVALID):
                self.connections[place | self.parity] = self._connection(place, record)
            elif kind == layout.SLOT_BACK:
                conns = BACK.get(self.memory, place, "conns")
                self.backs[place | self.parity] = (self._key(record[6], record[7], *record[9:]), conns)
            elif kind == layout.SLOT_MORE:
                self.mores[place | self.parity] = MORE.get(self.memory, place, "conn")
            else:
                assert kind == layout.SLOT_FREE, f"slot {place} is left as of kind {kind}"

    @staticmethod
    def _key(
        sport: int, dport: int, protocol: int, family: int, addresses: bytes
    ) -> tuple[bytes, bytes, int, int, int, int]:
        width = 4 if family == AF_INET else 16
        return addresses[:width], addresses[width : 2 * width], sport, dport, protocol, family

    def _connection(self, place: int, record: tuple) -> _Connection:
        life, status, _, _, _, dest, cport, vport, dport, protocol, family, addresses = record
        key = self._key(cport, vport, protocol, family, addresses)
        server = b"" if dest == layout.DEST_NONE else self.instance.dests.get(dest, "address")
        server = server[: 4 if family == AF_INET else 16]
        if dest != layout.DEST_NONE and self.instance.dests.get(dest, "family") != family:
            server = struct.pack(">I", 0xFE000000 | dest) if family == AF_INET else _STAND_INS + struct.pack(">I", dest)
        more = life >> layout.LIFE_MORE_SHIFT & 0xFF
        assert (life >> layout.LIFE_TURN_SHIFT) & 0xFF == status >> 24, f"slot {place}: a status of another turn"
        at = place * CONN.size + CONN.place("at")[0] + CONN_IPV4.place("rest")[0]
        rest = self.memory[at : at + CONN_REST.size] if family == AF_INET else bytes(CONN_REST.size)
        if family != AF_INET and more:
            rest = MORE.get(self.memory, place // _SLOTS * _SLOTS + more - 1, "rest")
        kind = life & layout.LIFE_KIND
        nat = status >> 8 & layout.CONN_METHOD == MASQ
        rport = dport if nat else vport
        aside = 0 if nat else layout.BACK_ASIDE
        assert bool(status >> 8 & layout.CONN_TEMPLATE) == (kind != layout.SLOT_CONN)
        return _Connection(
            kind,
            key,
            (server, key[0], rport, cport, protocol ^ aside, family),
            dest,
            kind == layout.SLOT_CONN and (nat or bool(status >> 8 & layout.CONN_STACK)),
            bool(status >> 8 & layout.CONN_INACTIVE),
            status >> 8 & 0xFFFF,
            (place // _SLOTS * _SLOTS + more - 1) | self.parity if more else -1,
            CONN_REST.get(rest, 0, "control") - 1,
            CONN_REST.get(rest, 0, "controls"),
        )

    def check_groups(self) -> None:
        """Tags say what lies in their slots, and where it lies; the groups' counts say how much."""
        spilled: Counter[int] = Counter()
        astray: Counter[tuple[int, int]] = Counter()
        keyed = dict(Hash(self.instance).spots(self.memory))
        for place, tag in enumerate(self.tags):
            spot = keyed.get(place)
            if spot is not None:
                assert tag == spot.tag, f"slot {place}: tag {tag} is not its key's {spot.tag}"
                assert place // _SLOTS in (spot.group, spot.other), f"slot {place}: in none of its key's groups"
                spilled[spot.group] += place // _SLOTS != spot.group
                begin = spot.group * _SLOTS + spot.place
                astray[spot.group, spot.place // 8] += place // 8 != begin // 8
            elif place | self.parity in self.mores:
                assert tag == layout.TAG_HELD, f"slot {place}: the rest of a connection under tag {tag}"
            else:
                assert tag == layout.TAG_FREE, f"slot {place}: free, under tag {tag}"
        for group in range(self.instance.groups.entries):
            used = _SLOTS - self.tags[group * _SLOTS : (group + 1) * _SLOTS].count(layout.TAG_FREE)
            counts = self.instance.groups
            assert counts.get(group, "used") == used, f"group {group}: {counts.get(group, 'used')} used, not {used}"
            assert counts.get(group, "spilled") == spilled[group], (
                f"group {group}: {counts.get(group, 'spilled')} spilled, not {spilled[group]}"
            )
            counted = counts.get(group, "astray")
            for word in range(8):
                found = counted >> 8 * word & 0xFF
                assert found == astray[group, word], f"group {group}, word {word}: {found} astray"

    def check_references(self) -> None:
        """No key is there twice; both sides of a connection, and its rest, are there and know of each other."""
        found = self.connections.values()
        for keys in (
            [c.key for c in found if c.kind == layout.SLOT_CONN],
            [c.key for c in found if c.kind == layout.SLOT_TEMPLATE],
            [key for key, _ in self.backs.values()],
        ):
            twice = [key for key, count in Counter(keys).items() if count > 1]
            assert not twice, f"{len(twice)} keys are there twice, {twice[0]}"
        replies = Counter(c.reply for c in self.connections.values() if c.backed)
        for place, (key, conns) in self.backs.items():
            newest, before = conns & 0xFFFFFFFF, conns >> 32
            named = [number - 1 for number in (newest, before) if number]
            assert newest and len(set(named)) == len(named), f"reply side {place} names {conns:#x}"
            for number in named:
                owner = self.connections.get(number)
                assert owner and owner.backed and owner.reply == key, f"reply side {place} names {number}: {owner}"
            assert replies[key] <= 2 and len(named) == replies[key], f"{replies[key]} have the replies of {place}"
        missing = replies.keys() - {key for key, _ in self.backs.values()}
        assert not missing, f"{len(missing)} connections have no reply side, {missing}"
        rests = {c.more: number for number, c in self.connections.items() if c.more >= 0}
        assert rests == self.mores, "connections and their rests"

    def check_control(self) -> None:
        """Who controls others knows how many; of every Call-ID there is a template."""
        children = Counter(c.control for c in self.connections.values() if c.control >= 0)
        assert children.keys() <= self.connections.keys(), "a connection's controller is gone"
        for number, c in self.connections.items():
            assert c.controls == children[number], f"{number} controls {children[number]}, and says {c.controls}"
            template = self.connections.get(c.control)
            if template and template.template:
                assert c.dest == template.dest, f"{c} goes to {c.dest}, and its template {template} to {template.dest}"
        named = {c.key for c in self.connections.values() if c.template and c.key[2]}
        keys = len(self.instance.call_ids.keys())
        assert keys == len(named), f"{keys} Call-IDs for {len(named)} templates"

    def check_helper(self) -> None:
        """What the FTP helper remembers is of connections that it reads along on; who waits for a client is counted."""
        found = self.connections.values()
        helped = {
            TUPLE.pack(src=c.key[0].ljust(16, b"\0"), dst=c.key[1].ljust(16, b"\0"), sport=c.key[2], dport=c.key[3],
                       protocol=c.key[4], family=c.key[5])
            for c in found if c.flags & layout.CONN_FTP and not c.template
        }  # fmt: skip
        talks = set(self.instance.ftp_talks.keys())
        assert talks <= helped, f"{len(talks - helped)} of {len(talks)} FTP connections are gone"
        waiting = [c for c in found if c.flags & layout.CONN_NO_CPORT]
        assert all(c.backed and not c.key[2] and c.control >= 0 for c in waiting), waiting
        assert self.instance.runtime.get(0, "awaiting") == len(waiting)

    def check_counters(self) -> tuple[int, int]:
        """Real servers' loads and packets' reasons; (connections, active ones)."""
        instance = self.instance
        total: Counter[int] = Counter(c.dest for c in self.connections.values() if not c.template)
        templates: Counter[int] = Counter(c.dest for c in self.connections.values() if c.template)
        active: Counter[int] = Counter(c.dest for c in self.connections.values() if not c.inactive and not c.template)
        assert instance.runtime.get(0, "conns") == len(self.connections)
        for dest in range(instance.config.get(0, "dests_high")):
            load = instance.dest_loads
            found = (load.get(dest, "total"), load.get(dest, "active"), load.get(dest, "persistent"))
            assert found == (total[dest], active[dest], templates[dest]), f"real server {dest} carries {found}"
        bypassing = total[layout.DEST_NONE]
        assert sum(total.values()) - bypassing == sum(total[n] for n in range(instance.config.get(0, "dests_high")))
        counts = {name: instance.reasons.sums(number)[0] for number, name in enumerate(REASONS)}
        received = counts.pop("received")
        assert received == sum(count for name, count in counts.items() if not name.startswith(("answered_", "sent_")))
        return len(self.connections), sum(active.values())


def books(instance: Instance) -> tuple[int, int]:
    """(connections, active ones), from every place that tells of them; AssertionError where two of them disagree.

    The director has to rest: no packets, and no connection that the sweep is just about to end. No more than two
    connections may have had the same replies: of more than two the table only remembers the two newest.
    """
    found = _Books(instance)
    found.check_groups()
    found.check_references()
    found.check_control()
    found.check_helper()
    return found.check_counters()


class Ledger(NamedTuple):
    """How many slots hold what."""

    conns: int
    backs: int
    mores: int


def audit(instance: Instance) -> Ledger:
    """The same, and how many slots hold what."""
    books(instance)
    found = _Books(instance)
    return Ledger(len(found.connections), len(found.backs), len(found.mores))


def places(instance: Instance) -> dict[tuple[bytes, int], int]:
    """Number of the slot of every connection, by its client's address and port."""
    return {(c.key[0], struct.unpack(">H", struct.pack("=H", c.key[2]))[0]): number
            for number, c in _Books(instance).connections.items()}  # fmt: skip
