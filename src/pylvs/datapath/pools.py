"""Pools in the shared maps: what a service schedules over, and how (layout.h says what stands where).

Rules of this file:
 - A pool is written where nobody looks, with an odd version, and gets its even one last. The version never comes again,
   so that a packet that has read something of the pool that was here before knows that it must look again.
 - Of a pool in use only weights change, each in one store.
 - A change copies the bytes of the pool before it and replaces what is different: it costs the same whatever a real
   server is, and little per real server.
"""

from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from pylvs import schedulers
from pylvs.datapath import _layout
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import DEST, POOL_HEAD, POOL_OPTIONS, POOL_SERVER, SLOT
from pylvs.datapath.maps import SharedArray
from pylvs.datapath.records import real_server
from pylvs.errors import TableFull
from pylvs.model import RealServer

_FIRST = 2  # a pool's real servers stand behind its head and its options
_STATE = (1 << _layout.STATE_TAG_SHIFT) - 1
_WORDS = SLOT // 4
_TABLE, _NAME, _FLAGS = (POOL_OPTIONS.place(name)[0] for name in ("table", "name", "flags"))
_DEST, _WEIGHT, _LAST = (POOL_SERVER.place(name)[0] // 4 for name in ("dest", "weight", "last_weight"))


class Member(NamedTuple):
    """A real server's place in a pool: its number among all, and what its service says about it."""

    dest: int
    weight: int
    flags: int
    last_weight: int = 0
    upper: int = 0
    lower: int = 0
    tunnel: int = 0

    def pack(self) -> bytes:
        return POOL_SERVER.pack(**self._asdict())


def configured(record: bytes, member: Member) -> RealServer:
    """The real server of a struct dest as its pool has it."""
    return real_server(record, member.weight, member.flags, member.upper, member.lower, member.tunnel)


class Pool(NamedTuple):
    """A pool's content.

    Attributes:
        head: what the scheduler has put there, its present state among it.
        bound: by which change the scheduler was bound.
        options: a struct pool_options.
        servers: the records of its real servers, newest first.
        table, name: the scheduler's.
    """

    scheduler: int
    head: schedulers.Head
    bound: int
    options: bytes
    servers: bytes
    table: bytes = b""
    name: str = ""

    @property
    def flags(self) -> int:
        return int.from_bytes(self.options[_FLAGS : _FLAGS + 4], "little")

    @property
    def length(self) -> int:
        """How many real servers."""
        return len(self.servers) // SLOT

    def members(self) -> list[Member]:
        return [Member(*record[:7]) for record in POOL_SERVER.iterate(self.servers)]


class Row:
    """Real servers as schedulers see them (`schedulers.Servers`); what nobody asks for is not looked at.

    Args:
        records: as they stand in the pool.
        dests: the array of what real servers are.
        family: the service's.
        newcomers: number and record of those that are not there yet.
    """

    def __init__(self, records: bytes, dests: SharedArray, family: int, newcomers: Mapping[int, bytes] | None = None):
        self._words, self._dests, self._newcomers = memoryview(records), dests, newcomers or {}
        self.family = family

    def __len__(self) -> int:
        return len(self._words) // SLOT

    @cached_property
    def weights(self) -> Sequence[int]:
        return self._words.cast("i")[_WEIGHT::_WORDS].tolist()

    @cached_property
    def last_weights(self) -> Sequence[int]:
        return self._words.cast("i")[_LAST::_WORDS].tolist()

    @cached_property
    def _numbers(self) -> Sequence[int]:
        return self._words.cast("I")[_DEST::_WORDS].tolist()

    def _record(self, place: int) -> bytes:
        number = self._numbers[place]
        return self._newcomers.get(number) or self._dests.read(number)

    def endpoint(self, place: int) -> tuple[bytes, int]:
        record = self._record(place)
        return DEST.get(record, 0, "address"), int.from_bytes(DEST.get(record, 0, "port").to_bytes(2, "little"), "big")

    def real_server(self, place: int) -> RealServer:
        member = Member(*POOL_SERVER.unpack(self._words, place)[:7])
        return configured(self._record(place), member)


class Pools:
    """All pools of one director.

    Attributes:
        used: which slots are.
    """

    def __init__(self, instance: Instance):
        self._instance, self._slots = instance, instance.pools
        self.used = bytearray(self._slots.entries)
        self.used[0] = 1
        services = instance.services
        for number in range(instance.config.get(0, "services_high")):
            pool = services.get(number, "pool")
            if services.get(number, "flags") & _layout.SERVICE_USED and pool:
                self._mark(pool, 1)

    def _size(self, pool: int) -> int:
        table, name = POOL_OPTIONS.unpack(self._slots.memory, pool + 1)[4:6]
        return _room(_FIRST + self._slots.get(pool, "count") + -(-2 * table // SLOT) + -(-name // SLOT))

    def _mark(self, pool: int, used: int) -> None:
        size = self._size(pool)
        self.used[pool : pool + size] = bytes([used]) * size

    # ---- reading ----------------------------------------------------------------------------------------------------

    def read(self, number: int) -> Pool:
        """A service's pool; for whoever holds the lock."""
        return read(self._instance, number)

    def place(self, pool: int, dest: int) -> int | None:
        """Where a real server stands in a pool, or None."""
        first = (pool + _FIRST) * _WORDS
        words = self._slots.words[first + _DEST : first + self._slots.get(pool, "count") * _WORDS : _WORDS]
        try:
            return words.tolist().index(dest)
        except ValueError:
            return None

    def scheduler(self, pool: int) -> schedulers.Scheduler:
        """Who chooses from it."""
        kind = self._slots.get(pool, "scheduler")
        if kind <= len(schedulers.NAMES):
            return schedulers.find(schedulers.name_of(kind))
        return schedulers.find(schedulers.name_of(kind, _read(self._slots, pool).name))

    def member(self, pool: int, place: int) -> Member:
        """One of a pool's real servers."""
        return Member(*POOL_SERVER.unpack(self._slots.memory, pool + _FIRST + place)[:7])

    # ---- changing ---------------------------------------------------------------------------------------------------

    def weigh(self, pool: int, place: int, weight: int) -> None:
        """Give a real server another weight, in one store."""
        self._slots.put(pool + _FIRST + place, "weight", weight, POOL_SERVER)
        if weight:
            self._slots.put(pool + _FIRST + place, "last_weight", weight, POOL_SERVER)

    def write(self, number: int, content: Pool) -> int:
        """Write a pool for a service, where no packet finds it yet. Returns its slot.

        Raises:
            TableFull
        """
        name = content.name.encode()
        options = bytearray(content.options)
        options[_TABLE : _TABLE + 4] = (len(content.table) // 2).to_bytes(4, "little")
        options[_NAME : _NAME + 4] = len(name).to_bytes(4, "little")
        tail = b"".join(part + bytes(-len(part) % SLOT) for part in (content.table, name))
        body = content.servers + tail
        pool = self._find(_FIRST + len(body) // SLOT, content.length, len(content.table) // 2)
        version = self._new_version(number)
        self._slots.put(pool, "version", version - 1)
        head = POOL_HEAD.pack(
            scheduler=content.scheduler, count=content.length, state=content.head.state,
            step=content.head.step, top=content.head.top, version=version - 1, bound=content.bound,
        )  # fmt: skip
        self._slots.write(pool, b"".join((head, options, body)))
        self._slots.put(pool, "version", version)
        return pool

    def _new_version(self, number: int) -> int:
        """One that never was, and whose tag is not that of a state which the service or its pool may still have."""
        config, services = self._instance.config, self._instance.services
        pool = services.get(number, "pool")
        tags = {services.get(number, "state") >> _layout.STATE_TAG_SHIFT, _tag(self._slots.get(pool, "version"))}
        version = config.get(0, "pool_version") + 2
        while _tag(version) in tags or not version & 0xFFFFFFFF:
            version += 2
        config.put(0, "pool_version", version)
        return version & 0xFFFFFFFF

    def _find(self, size: int, servers: int, entries: int) -> int:
        size = _room(size)
        config, free = self._instance.config, bytes(size)
        pool = self.used.find(free, config.get(0, "pool_next"))
        if pool < 0:
            pool = self.used.find(free)
        if pool < 0:
            table = f" and a table of {entries} entries" if entries else ""
            raise TableFull(
                f"no room for a service with {servers} real servers{table}; load with more: "
                "pylvs unload; pylvs load --max-services N --max-dests N"
            )
        config.put(0, "pool_next", pool + size)
        return pool

    def reserve(self, number: int, content: Pool) -> int:
        """Write a pool that the service gets later, while others are written. Returns its slot.

        Raises:
            TableFull
        """
        pool = self.write(number, content)
        self._mark(pool, 1)
        return pool

    def swap(self, number: int, pool: int) -> None:
        """Make a pool that was written the service's, in one store; 0: it has none any more."""
        services = self._instance.services
        old = services.get(number, "pool")
        services.put(number, "pool", pool)
        if pool:
            self._mark(pool, 1)
        if old:
            self._mark(old, 0)


def _room(size: int) -> int:
    """What is taken for a pool of so many slots: an eighth more at most, so that a pool that grows by a real server
    fits where it was before the last change."""
    step = 1 << max(size.bit_length() - 4, 0)
    return -(-size // step) * step


def _tag(version: int) -> int:
    return (version >> 1) & 0x3FF


def read(instance: Instance, number: int) -> Pool:
    """A service's pool. Without the lock it may be a mixture: look afterwards whether the service still has it, and
    whether its version is the same."""
    services = instance.services
    slot, word = services.get(number, "pool"), services.get(number, "state")
    pool = _read(instance.pools, slot)
    if word >> _layout.STATE_TAG_SHIFT == _tag(instance.pools.get(slot, "version")):
        pool = pool._replace(head=pool.head._replace(state=word & _STATE))
    return pool


def _read(slots: SharedArray, slot: int) -> Pool:
    scheduler, count, state, step, top, _, bound = POOL_HEAD.unpack(slots.memory, slot)
    options = slots.read(slot + 1)
    entries, name = POOL_OPTIONS.unpack(options)[4:6]
    at = slot + _FIRST + count
    behind = at + -(-2 * entries // SLOT)
    return Pool(
        scheduler, schedulers.Head(state, step, top), bound, options, slots.read(slot + _FIRST, count),
        slots.read(at, behind - at)[: 2 * entries],
        slots.read(behind, -(-name // SLOT))[:name].decode(errors="replace"),
    )  # fmt: skip


def pack_table(places: Sequence[int]) -> bytes:
    """A lookup table as pools have it."""
    return array("H", places).tobytes()
