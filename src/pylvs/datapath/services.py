"""Virtual services and real servers in the shared maps.

Rules of this file:
 - What packets see of a service changes in one store: the service's `pool`. A change writes a whole new pool beside
   the old one and then points there; so a weight, a new real server and another scheduler all appear atomically.
 - Around that store, `config.changing` names the service: a command that was killed in between left the pool either
   old or new, and the next command makes the rest agree with it (`repair`).
 - The caller holds the namespace's lock while changing anything.
 - What a process remembers (`_Memory`) holds as long as `config.generation` is what it left behind.
"""

import struct
import time
from _socket import AF_INET6, htonl, htons, inet_ntop, inet_pton, ntohl, ntohs
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pylvs import schedulers
from pylvs.datapath import _layout
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import DEST, POOL_HEAD, POOL_OPTIONS, POOL_SERVER, SERVICE, SERVICE_KEY
from pylvs.datapath.maps import SharedArray
from pylvs.datapath.statistics import Statistics
from pylvs.errors import NoSuchDestination, NoSuchService, TableFull
from pylvs.model import MASQ, RealServer, VirtualService, scheduler_flag_names

_REST = 50_000_000  # ns that a slot of a pool rests before it is written again
_TRASH_TICK = 60 * 10**9
_TRASH_IDLE = 120 * 10**9
_NUMBER = struct.Struct("=I")
_ALL = 0xFFFFFFFF  # config.changing: a flush
_FIRST = 2  # a pool's real servers stand behind its head and its options
_ENGINES = ("", "sip")
_SCHEDULER_FLAGS = (_layout.POOL_SCHED1, _layout.POOL_SCHED2, _layout.POOL_SCHED3)


class Member(NamedTuple):
    """A real server's place in a pool: its number among all, and what its service says about it."""

    dest: int
    weight: int
    flags: int


class _Memory:
    """What reading all tables told us, so that restoring 100,000 real servers does not read them as often."""

    def __init__(self, instance: Instance):
        config = instance.config
        services, pools = instance.services, instance.pools
        self.used = bytearray(pools.entries)
        self.used[0] = 1
        for number in range(config.get(0, "services_high")):
            pool = services.get(number, "pool")
            if services.get(number, "flags") & _layout.SERVICE_USED and pool:
                size = pool_size(pools, pool)
                self.used[pool : pool + size] = b"\1" * size
        self.trash: dict[bytes, int] = {}
        dests = instance.dests
        for number in range(config.get(0, "dests_high")):
            if dests.get(number, "flags") & (_layout.DEST_USED | _layout.DEST_AVAILABLE) == _layout.DEST_USED:
                self.trash[_identity(dests.read(number))] = number
        self.members: dict[int, dict[bytes, int]] = {}
        self.free_service = self.free_dest = 0


def _identity(record: bytes) -> bytes:
    """By what a real server is known again in the trash (facts 1.11): its address and port, and its service."""
    return DEST.pack(
        address=DEST.get(record, 0, "address"),
        port=DEST.get(record, 0, "port"),
        family=DEST.get(record, 0, "family"),
        key=DEST.get(record, 0, "key"),
    )


def _endpoint(record: bytes) -> bytes:
    """By what a real server is known within its service: address, port and family, which stand first in its record."""
    return record[: DEST.place("flags")[0]]


def pack_address(address: str) -> bytes:
    """An address as the maps hold it."""
    if ":" in address:
        return inet_pton(AF_INET6, address)
    return inet_pton(2, address) + bytes(12)


def unpack_address(raw: bytes, family: int) -> str:
    """The text of an address from the maps."""
    return inet_ntop(family, raw if family == AF_INET6 else raw[:4])


def service_key(service: VirtualService) -> bytes:
    """The key under which the packet path finds a service."""
    family, protocol, address, port, fwmark = service.key
    return SERVICE_KEY.pack(
        address=pack_address(address) if address else bytes(16),
        fwmark=fwmark,
        port=htons(port),
        protocol=protocol,
        family=family,
    )


def pack_options(service: VirtualService) -> bytes:
    """What a service's pool says beside its real servers."""
    flags = _layout.POOL_PERSISTENT if service.persistent else 0
    flags |= _layout.POOL_ONE_PACKET if service.one_packet else 0
    for name, bit in zip(scheduler_flag_names(service.scheduler), _SCHEDULER_FLAGS, strict=True):
        flags |= bit if name in service.scheduler_flags else 0
    return POOL_OPTIONS.pack(
        flags=flags,
        timeout=service.persistent,
        netmask=service.netmask if service.family == AF_INET6 else htonl(service.netmask),
        engine=_ENGINES.index(service.persistence_engine),
    )


def pool_size(pools: SharedArray, pool: int) -> int:
    """How many slots a pool takes."""
    table = POOL_OPTIONS.get(pools.memory, pool + 1, "table")
    return int(_FIRST + pools.get(pool, "count") + -(-table // _layout.POOL_TABLE_SLOT))


def _service_of(key: bytes, scheduler: int, options: bytes) -> VirtualService:
    address, fwmark, port, protocol, family = SERVICE_KEY.unpack(key)
    flags, timeout, netmask, engine = struct.unpack_from("=4I", options)
    name = schedulers.name_of(scheduler)
    return VirtualService(
        "" if fwmark else unpack_address(address, family),
        ntohs(port),
        protocol,
        family,
        fwmark,
        name,
        tuple(
            flag for flag, bit in zip(scheduler_flag_names(name), _SCHEDULER_FLAGS, strict=True) if flags & bit
        ),
        timeout if flags & _layout.POOL_PERSISTENT else 0,
        netmask if family == AF_INET6 else ntohl(netmask),
        _ENGINES[engine],
        bool(flags & _layout.POOL_ONE_PACKET),
    )


def _serves(key: bytes) -> int:
    """What a service of this key makes packets be looked up as (enum family_bit). As in the kernel, any service on
    port 21 counts for FTP, and one by mark has the port 0."""
    family, port = SERVICE_KEY.get(key, 0, "family"), ntohs(SERVICE_KEY.get(key, 0, "port"))
    found = _layout.SERVES_IPV6 if family == AF_INET6 else _layout.SERVES_IPV4
    found |= _layout.SERVES_MARKS if SERVICE_KEY.get(key, 0, "fwmark") else 0
    return found | {0: _layout.SERVES_PORT_ZERO, 21: _layout.SERVES_FTP}.get(port, 0)


def conn_flags(method: int) -> int:
    """The flags that a connection to such a real server is born with (facts 1.8)."""
    return method | _layout.CONN_INACTIVE | (0 if method == MASQ else _layout.CONN_NOOUTPUT)


class ServiceTable:
    """All services of one director.

    Attributes:
        statistics: their counters.
    """

    def __init__(self, instance: Instance):
        self._instance = instance
        self.statistics = Statistics(instance)
        self._memory: _Memory | None = None
        self._generation = -1

    def _remembered(self) -> _Memory:
        generation = self._instance.config.get(0, "generation")
        if self._memory is None or generation != self._generation:
            self._memory = _Memory(self._instance)
            self._generation = generation
        return self._memory

    # ---- reading ----------------------------------------------------------------------------------------------------

    def find(self, service: VirtualService) -> int | None:
        """The number of a service, or None."""
        return self.find_key(service_key(service))

    def find_key(self, key: bytes) -> int | None:
        """The number of the service that packets find under a key, or None."""
        value = self._instance.service_index.get(key)
        return None if value is None else int(_NUMBER.unpack(value)[0])

    def number(self, service: VirtualService) -> int:
        """The number of a service.

        Raises:
            NoSuchService
        """
        found = self.find(service)
        if found is None:
            raise NoSuchService(f"{service} is not defined")
        return found

    def numbers(self) -> Iterator[int]:
        """The numbers of all services, in the order in which they were made."""
        if self._instance.config.get(0, "changing") == _ALL:
            return  # being flushed: packets find none of them any more
        yield from self._used_numbers()

    def _used_numbers(self) -> Iterator[int]:
        for number in range(self._instance.config.get(0, "services_high")):
            if self._instance.services.get(number, "flags") & _layout.SERVICE_USED:
                yield number

    def look(self, number: int) -> tuple[VirtualService, list[Member]] | None:
        """A service and its real servers, newest first, as they were at one moment; None if it is gone by now.

        Whoever only looks holds no lock: a pool is never changed while a service points to it, so what was read is of
        one piece if the service still points there afterwards.
        """
        services = self._instance.services
        while services.get(number, "flags") & _layout.SERVICE_USED:
            pool, key = services.get(number, "pool"), services.get(number, "key")
            if not pool:
                break  # still being made
            kind, members = self._instance.pools.get(pool, "scheduler"), self._pool_members(pool)
            options = self._instance.pools.read(pool + 1)
            if services.get(number, "pool") != pool or services.get(number, "key") != key:
                continue
            changing = self._instance.config.get(0, "changing")
            if changing == _ALL or (changing == number + 1 and self.find_key(key) != number):
                break  # a command is just making or deleting it, or was killed while it did
            return _service_of(key, kind, options), members
        return None

    def head(self, number: int) -> tuple[int, int, int, int, int]:
        """(scheduler, real servers, state, step, top) of a service's pool."""
        pool = self._instance.services.get(number, "pool")
        return POOL_HEAD.unpack(self._instance.pools.memory, pool)[:5]

    def members(self, number: int) -> list[Member]:
        """A service's real servers, newest first; for whoever holds the lock."""
        return self._pool_members(self._instance.services.get(number, "pool"))

    def _member_dests(self, number: int) -> set[int]:
        return {member.dest for member in self.members(number)}

    def _pool_members(self, pool: int) -> list[Member]:
        records = self._instance.pools.read(pool + _FIRST, self._instance.pools.get(pool, "count"))
        return [Member(*record[:3]) for record in POOL_SERVER.iterate(records)]

    def real_server(self, member: Member) -> RealServer:
        """A real server as it is configured."""
        dests = self._instance.dests
        family = dests.get(member.dest, "family")
        address = unpack_address(dests.get(member.dest, "address"), family)
        port = ntohs(dests.get(member.dest, "port"))
        load = self._instance.dest_loads
        upper, lower = load.get(member.dest, "upper"), load.get(member.dest, "lower")
        return RealServer(address, port, member.flags & _layout.CONN_METHOD, member.weight, upper, lower)

    def counters(self, number: int) -> list[int]:
        """The counters of a service and its real servers."""
        mine = [self.statistics.of_service(number)]
        return mine + [self.statistics.of_dest(member.dest) for member in self.members(number)]

    def load(self, dest: int) -> tuple[int, int, int]:
        """(active, inactive, persistent) connections of a real server. Counters that move while we look never go below
        0."""
        loads = self._instance.dest_loads
        active = max(loads.get(dest, "active"), 0)
        return active, max(loads.get(dest, "total") - active, 0), max(loads.get(dest, "persistent"), 0)

    def _member_index(self, number: int) -> dict[bytes, int]:
        memory = self._remembered()
        index = memory.members.get(number)
        if index is None:
            dests = self._instance.dests
            index = memory.members[number] = {
                _endpoint(dests.read(member.dest)): member.dest for member in self.members(number)
            }
        return index

    def find_dest(self, number: int, server: RealServer) -> int | None:
        """The number of a service's real server, or None."""
        wanted = DEST.pack(address=pack_address(server.address), port=htons(server.port), family=server.family)
        return self._member_index(number).get(_endpoint(wanted))

    # ---- changing ---------------------------------------------------------------------------------------------------

    def add(self, service: VirtualService) -> None:
        """Define a new service, without real servers.

        Raises:
            TableFull
        """
        instance, memory = self._instance, self._remembered()
        number = self._free_number("services", _layout.SERVICE_USED, memory.free_service)
        memory.free_service = number + 1
        key = service_key(service)
        self._begin(number)
        made = instance.config.get(0, "generation")
        instance.services.write(number, SERVICE.pack(key=key, flags=_layout.SERVICE_USED, made=made))
        self.statistics.clear(self.statistics.of_service(number))
        if number >= instance.config.get(0, "services_high"):
            instance.config.put(0, "services_high", number + 1)
        scheduler = schedulers.find(service.scheduler)
        self._commit(number, scheduler.NUMBER, [], scheduler.start([]), pack_options(service))
        instance.config.put(0, "families", instance.config.get(0, "families") | _serves(key))
        instance.service_index.put(key, _NUMBER.pack(number))
        self._done()

    def edit(self, number: int, service: VirtualService) -> None:
        """Give a service another scheduler and other options. With the same scheduler nothing starts anew."""
        scheduler, members = schedulers.find(service.scheduler), self.members(number)
        kind, _, state, step, top = self.head(number)
        head = schedulers.Head(state, step, top)
        if kind != scheduler.NUMBER:
            head = scheduler.start([member.weight for member in members])
        self._begin(number)
        self._commit(number, scheduler.NUMBER, members, head, pack_options(service))
        self._done()

    def delete(self, number: int) -> None:
        """Remove a service; its real servers go to the trash, its connections stay until their time is over."""
        self._begin(number)
        self._instance.service_index.delete(self._instance.services.get(number, "key"))
        self._tidy(number, self._member_dests(number))
        self._serve_families()
        self._done()

    def flush(self) -> None:
        """Remove all services; for packets, all at once."""
        config, services = self._instance.config, self._instance.services
        config.put(0, "changing", _ALL)
        config.put(0, "families", 0)
        for number in list(self._used_numbers()):
            self._instance.service_index.delete(services.get(number, "key"))
            self._tidy(number, self._member_dests(number))
        self._done()

    def add_server(self, number: int, server: RealServer, local: bool) -> None:
        """Add a real server at the list's head. One that waits in the trash comes back with its connections.

        Raises:
            TableFull
        """
        instance, memory = self._instance, self._remembered()
        self._empty_trash()
        key = instance.services.get(number, "key")
        made = instance.services.get(number, "made")
        record = DEST.pack(
            address=pack_address(server.address), port=htons(server.port), family=server.family,
            flags=_layout.DEST_USED | (_layout.DEST_LOCAL if local else 0), service=number, key=key,
            service_made=made,
        )  # fmt: skip
        identity = _identity(record)
        dest = memory.trash.get(identity)
        self._begin(number)
        if dest is None:
            dest = self._free_number("dests", _layout.DEST_USED, memory.free_dest)
            memory.free_dest = dest + 1
            instance.dests.write(dest, record)
            instance.dest_loads.write(dest, bytes(instance.dest_loads.layout.size))
            self.statistics.clear(self.statistics.of_dest(dest))
            if dest >= instance.config.get(0, "dests_high"):
                instance.config.put(0, "dests_high", dest + 1)
        elif instance.dests.get(dest, "service_made") != made:
            self.statistics.clear(self.statistics.of_dest(dest))  # its service was deleted and made anew
            instance.dests.put(dest, "service", number)
            instance.dests.put(dest, "service_made", made)
        memory.trash.pop(identity, None)
        index = self._member_index(number)
        members = [Member(dest, server.weight, conn_flags(server.method)), *self.members(number)]
        self._make_available(dest, local)
        self._put_limits(dest, server)
        self._change_members(number, members, lambda place: place + 1)
        index[_endpoint(record)] = dest
        self._done()

    def edit_server(self, number: int, dest: int, server: RealServer, local: bool) -> None:
        """Change a real server's weight and method. Connections keep the method that they were born with."""
        members = [
            Member(dest, server.weight, conn_flags(server.method)) if member.dest == dest else member
            for member in self.members(number)
        ]
        self._begin(number)
        self._make_available(dest, local)
        self._put_limits(dest, server)
        self._change_members(number, members, lambda place: place)
        self._done()

    def delete_server(self, number: int, dest: int) -> None:
        """Take a real server out of its service, into the trash."""
        old = self.members(number)
        gone = next((place for place, member in enumerate(old) if member.dest == dest), None)
        if gone is None:
            raise NoSuchDestination("the service has no such real server")
        index = self._member_index(number)
        self._begin(number)
        self._change_members(number, old[:gone] + old[gone + 1 :], lambda place: place - (place >= gone))
        self._to_trash(dest)
        del index[_endpoint(self._instance.dests.read(dest))]
        self._done()

    def _change_members(self, number: int, members: Sequence[Member], places: schedulers.Places) -> None:
        kind, _, state, step, top = self.head(number)
        scheduler = schedulers.find(schedulers.name_of(kind))
        weights = [member.weight for member in members]
        options = self._instance.pools.read(self._instance.services.get(number, "pool") + 1)
        head = scheduler.changed(schedulers.Head(state, step, top), weights, places)
        self._commit(number, kind, members, head, options)

    def repair(self) -> None:
        """Finish what a killed command began (the lock is held, so nobody else is at it)."""
        changing = self._instance.config.get(0, "changing")
        if not changing:
            return
        self._memory = None
        if changing == _ALL:
            self.flush()
            return
        number = changing - 1
        services = self._instance.services
        if services.get(number, "flags") & _layout.SERVICE_USED:
            everybody = range(self._instance.config.get(0, "dests_high"))  # also one that never came into the pool
            if self.find_key(services.get(number, "key")) != number:
                self._tidy(number, everybody)
            else:
                self._agree(number, self._member_dests(number), everybody)
        self._serve_families()
        self._done()

    # ---- steps of a change ------------------------------------------------------------------------------------------

    def _begin(self, number: int) -> None:
        self._instance.config.put(0, "changing", number + 1)

    def _done(self) -> None:
        config = self._instance.config
        generation = config.get(0, "generation") + 1
        config.put(0, "generation", generation)
        config.put(0, "changing", 0)
        self._generation = generation

    def _serve_families(self) -> None:
        """Tell the packet path what there are services of."""
        config, services = self._instance.config, self._instance.services
        left = config.get(0, "families")
        found = 0
        for number in self.numbers():
            found |= _serves(services.get(number, "key"))
            if found == left:
                return
        config.put(0, "families", found)

    def _commit(
        self, number: int, kind: int, members: Sequence[Member], head: schedulers.Head, options: bytes
    ) -> None:
        """Write a pool and make it the service's, in one store."""
        instance, memory = self._instance, self._remembered()
        size = _FIRST + len(members)
        pool = self._free_pool(memory, size)
        records = [POOL_HEAD.pack(scheduler=kind, count=len(members), state=head.state, step=head.step, top=head.top)]
        records.append(options)
        records += [POOL_SERVER.pack(dest=m.dest, weight=m.weight, flags=m.flags) for m in members]
        instance.pools.write(pool, b"".join(records))
        old = instance.services.get(number, "pool")
        old_size = pool_size(instance.pools, old) if old else 0
        instance.services.put(number, "pool", pool)
        memory.used[pool : pool + size] = b"\1" * size
        memory.used[old : old + old_size] = bytes(old_size)

    def _free_pool(self, memory: _Memory, size: int) -> int:
        config = self._instance.config
        free = bytes(size)
        pool = memory.used.find(free, config.get(0, "pool_next"))
        if pool < 0:
            # From the start again. A packet may still be reading what was given up a moment ago.
            passed = time.monotonic_ns() - config.get(0, "pool_wrapped")
            if passed < _REST:
                time.sleep((_REST - passed) / 1e9)
            config.put(0, "pool_wrapped", time.monotonic_ns())
            pool = memory.used.find(free)
        if pool < 0:
            raise TableFull(
                f"no room for a service with {size - _FIRST} real servers; load with more: "
                "pylvs unload; pylvs load --max-dests N"
            )
        config.put(0, "pool_next", pool + size)
        return pool

    def _free_number(self, table: str, used: int, hint: int) -> int:
        """A number that no service or real server has."""
        records = self._instance.services if table == "services" else self._instance.dests
        high = self._instance.config.get(0, f"{table}_high")
        if high < records.entries:
            return int(high)
        for number in (*range(hint, records.entries), *range(hint)):
            if not records.get(number, "flags") & used:
                return number
        what, option = ("services", "--max-services") if table == "services" else ("real servers", "--max-dests")
        raise TableFull(
            f"there is room for {records.entries} {what}; load with more: pylvs unload; pylvs load {option} N"
        )

    def _make_available(self, dest: int, local: bool) -> None:
        flags = _layout.DEST_USED | _layout.DEST_AVAILABLE | (_layout.DEST_LOCAL if local else 0)
        self._instance.dests.put(dest, "flags", flags)

    def _put_limits(self, dest: int, server: RealServer) -> None:
        """What connections ask of a real server beside its pool."""
        loads = self._instance.dest_loads
        loads.put(dest, "weight", server.weight)
        loads.put(dest, "upper", server.upper)
        loads.put(dest, "lower", server.lower)

    def _to_trash(self, dest: int) -> None:
        dests = self._instance.dests
        dests.put(dest, "deleted", self._instance.now())
        dests.put(dest, "flags", dests.get(dest, "flags") & ~_layout.DEST_AVAILABLE)
        self._remembered().trash[_identity(dests.read(dest))] = dest

    def _tidy(self, number: int, dests: Iterable[int]) -> None:
        """What remains to be done for a service that packets no longer find, and for those of `dests` that are its."""
        self._agree(number, set(), dests)
        memory = self._remembered()
        pool = self._instance.services.get(number, "pool")
        size = pool_size(self._instance.pools, pool) if pool else 0
        self._instance.services.write(number, bytes(SERVICE.size))
        memory.used[pool : pool + size] = bytes(size)
        memory.members.pop(number, None)
        memory.free_service = min(memory.free_service, number)

    def _agree(self, number: int, members: set[int], among: Iterable[int]) -> None:
        """Let those of `among` that are this service's be available if they are its members, and else in the trash."""
        dests = self._instance.dests
        for dest in among:
            flags = dests.get(dest, "flags")
            if not flags & _layout.DEST_USED or dests.get(dest, "service") != number:
                continue
            if dest in members and not flags & _layout.DEST_AVAILABLE:
                dests.put(dest, "flags", flags | _layout.DEST_AVAILABLE)
            elif dest not in members and flags & _layout.DEST_AVAILABLE:
                self._to_trash(dest)

    def _empty_trash(self) -> None:
        """Forget real servers that have been without a connection for as long as the kernel keeps them: a tick every
        60 s after the deletion sees them idle, and one at least 120 s later frees them (facts 1.11)."""
        memory = self._remembered()
        now = self._instance.now()
        for identity, dest in list(memory.trash.items()):
            if self._instance.dest_loads.get(dest, "total") > 0:
                continue
            deleted = self._instance.dests.get(dest, "deleted")
            idle = max(self._instance.dest_loads.get(dest, "idle") - deleted, 0)
            seen = max(-(-idle // _TRASH_TICK), 1) * _TRASH_TICK
            if now - deleted >= seen + _TRASH_IDLE:
                self._instance.dests.put(dest, "flags", 0)
                del memory.trash[identity]
                memory.free_dest = min(memory.free_dest, dest)
