"""Virtual services and real servers in the shared maps.

Rules of this file:
 - What packets see of a service changes in one store: the service's `pool`, or a weight in it. A change writes a whole
   new pool beside the old one and then points there; so a new real server and another scheduler appear atomically.
 - Around that store, `config.changing` names the service: a command that was killed in between left the pool either
   old or new, and the next command makes the rest agree with it (`repair`). What can fail is done before.
 - The caller holds the namespace's lock while changing anything.
 - What a process remembers (`_Memory`) holds as long as `config.generation` is what it left behind.
"""

import struct
from _socket import htons
from collections.abc import Iterable, Iterator, Mapping

from pylvs import schedulers
from pylvs.datapath import _layout, egress, limits, numbers, orphans, parties, pools, speakers, tunnels
from pylvs.datapath.instance import Instance
from pylvs.datapath.layout import DEST, SERVICE, SERVICE_KEY
from pylvs.datapath.pools import Member, Pool, Pools, Row
from pylvs.datapath.records import (
    conn_flags,
    endpoint,
    endpoint_of,
    pack_address,
    pack_options,
    pack_tunnel,
    serves,
    service_key,
    unpack_address,
    virtual_service,
)
from pylvs.datapath.statistics import Statistics
from pylvs.datapath.trash import Trash
from pylvs.errors import NoSuchDestination, NoSuchService
from pylvs.model import RealServer, VirtualService

__all__ = ["Member", "ServiceTable", "service_key", "unpack_address"]
_NUMBER = struct.Struct("=I")
LASTING = _layout.SERVES_SPEAKERS | _layout.SERVES_ORPHANS
"""Of config.families, what is said of real servers (speakers.py, orphans.py)."""
_ALL = 0xFFFFFFFF  # config.changing: a flush


class _Memory:
    """What reading all tables told us, so that restoring 100,000 real servers does not read them as often."""

    def __init__(self, instance: Instance):
        self.pools = Pools(instance)
        self.trash = Trash(instance)
        self.members: dict[int, dict[bytes, int]] = {}
        self.free_service = self.free_dest = 0


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

        Whoever only looks holds no lock: what was read is of one piece if no change was made meanwhile.
        """
        services, config = self._instance.services, self._instance.config
        while services.get(number, "flags") & _layout.SERVICE_USED:
            generation, key = config.get(0, "generation"), services.get(number, "key")
            if not services.get(number, "pool"):
                break  # still being made
            version = self._version(number)
            pool = pools.read(self._instance, number)
            if (config.get(0, "generation"), services.get(number, "key")) != (generation, key):
                continue
            if self._version(number) != version:
                continue
            changing = config.get(0, "changing")
            if changing == _ALL or (changing == number + 1 and self.find_key(key) != number):
                break  # a command is just making or deleting it, or was killed while it did
            name = schedulers.name_of(pool.scheduler, pool.name)
            return virtual_service(key, name, pool.options), pool.members()
        return None

    def _version(self, number: int) -> tuple[int, int]:
        pool = self._instance.services.get(number, "pool")
        return pool, self._instance.pools.get(pool, "version")

    def members(self, number: int) -> list[Member]:
        """A service's real servers, newest first; for whoever holds the lock."""
        return pools.read(self._instance, number).members()

    def _member_dests(self, number: int) -> set[int]:
        return {member.dest for member in self.members(number)}

    def real_server(self, member: Member) -> RealServer:
        """A real server as it is configured."""
        return pools.configured(self._instance.dests.read(member.dest), member)

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
                endpoint(dests.read(member.dest)): member.dest for member in self.members(number)
            }
        return index

    def find_dest(self, number: int, server: RealServer) -> int | None:
        """The number of a service's real server, or None."""
        return self._member_index(number).get(endpoint_of(server))

    # ---- changing ---------------------------------------------------------------------------------------------------

    def add(self, service: VirtualService) -> None:
        """Define a new service, without real servers.

        Raises:
            TableFull, NoSuchScheduler
        """
        instance, memory = self._instance, self._remembered()
        number = numbers.free_service(instance, memory.free_service)
        key = service_key(service)
        pool = memory.pools.write(number, self._bound(service, b""))
        parties.invite_service(instance, key)
        memory.free_service = number + 1
        self._begin(number)
        made = instance.config.get(0, "generation")
        instance.services.write(number, SERVICE.pack(key=key, flags=_layout.SERVICE_USED, made=made))
        self.statistics.clear(self.statistics.of_service(number))
        if number >= instance.config.get(0, "services_high"):
            instance.config.put(0, "services_high", number + 1)
        memory.pools.swap(number, pool)
        egress.demand(instance, egress.of_service(service))
        instance.config.put(0, "families", instance.config.get(0, "families") | serves(key))
        instance.service_index.put(key, _NUMBER.pack(number))
        self._done()

    def edit(self, number: int, service: VirtualService) -> None:
        """Give a service another scheduler and other options. With the same scheduler nothing starts anew.

        Raises:
            TableFull, NoSuchScheduler
        """
        memory = self._remembered()
        old = memory.pools.read(number)
        new = self._bound(service, old.servers)
        if (new.scheduler, new.name) == (old.scheduler, old.name):
            new = new._replace(head=old.head, bound=old.bound)
        pool = memory.pools.write(number, new)
        self._begin(number)
        memory.pools.swap(number, pool)
        self._done()

    def _bound(self, service: VirtualService, servers: bytes, newcomers: Mapping[int, bytes] | None = None) -> Pool:
        """The pool of a service whose scheduler was just bound."""
        scheduler = schedulers.find(service.scheduler)
        row = Row(servers, self._instance.dests, service.family, newcomers)
        options = pack_options(service)
        bound = (self._instance.config.get(0, "generation") + 1) & 0xFFFFFFFF  # 0 is that of a cache that never was
        name = service.scheduler if ":" in service.scheduler else ""
        pool = Pool(scheduler.number, scheduler.start(row), bound, options, servers, name=name)
        return pool._replace(table=pools.pack_table(scheduler.table(row, pool.flags)))

    def delete(self, number: int) -> None:
        """Remove a service; its real servers go to the trash, its connections stay until their time is over."""
        self._begin(number)
        self._instance.service_index.delete(self._instance.services.get(number, "key"))
        self._tidy(number, self._member_dests(number))
        self._serve_families()
        self._done(gone=True)

    def flush(self) -> None:
        """Remove all services; for packets, all at once."""
        config, services = self._instance.config, self._instance.services
        config.put(0, "changing", _ALL)
        config.put(0, "families", 0)
        for number in list(self._used_numbers()):
            self._instance.service_index.delete(services.get(number, "key"))
            self._tidy(number, self._member_dests(number))
        self._done(gone=True)

    def add_server(self, number: int, server: RealServer, local: bool) -> None:
        """Add a real server at the list's head. One that waits in the trash comes back with its connections.

        Raises:
            TableFull, InvalidValue, NoSuchScheduler
        """
        instance, memory = self._instance, self._remembered()
        memory.free_dest = min([memory.free_dest, *memory.trash.empty()])
        key = instance.services.get(number, "key")
        made = instance.services.get(number, "made")
        record = _record(server, local, number, key, made)
        known = memory.trash.find(record)
        dest = numbers.free_dest(instance, memory.free_dest) if known is None else known
        index = self._member_index(number)
        member = _member(dest, server, server.weight)
        old = memory.pools.read(number)
        pool = self._changed(number, old, member.pack() + old.servers, lambda place: place + 1, {dest: record})
        egress.demand(instance, egress.of_server(instance, self._family(number), server, local))
        parties.invite_server(instance, server)
        self._begin(number)
        if known is None:
            memory.free_dest = dest + 1
            self._make_dest(dest, record)
        elif instance.dests.get(dest, "service_made") != made:
            self._come_back(dest, number, made)
        memory.trash.forget(record)
        limits.make_available(self._instance, dest, local)
        tunnels.prepare(instance, dest, server, local)
        memory.pools.swap(number, pool)
        limits.put(self._instance, member)
        index[endpoint(record)] = dest
        self._done()

    def _family(self, number: int) -> int:
        *_, family = SERVICE_KEY.unpack(self._instance.services.get(number, "key"))
        return int(family)

    def _make_dest(self, dest: int, record: bytes) -> None:
        """Write what a new real server is, where nobody has been."""
        instance = self._instance
        instance.dests.write(dest, record)
        instance.dest_loads.write(dest, bytes(instance.dest_loads.layout.size))
        self.statistics.clear(self.statistics.of_dest(dest))
        if dest >= instance.config.get(0, "dests_high"):
            instance.config.put(0, "dests_high", dest + 1)

    def _come_back(self, dest: int, number: int, made: int) -> None:
        """One from the trash comes back to its service, which was deleted and made anew."""
        self.statistics.clear(self.statistics.of_dest(dest))
        self._instance.dests.put(dest, "service", number)
        self._instance.dests.put(dest, "service_made", made)

    def edit_server(self, number: int, dest: int, server: RealServer, local: bool) -> None:
        """Change a real server's weight, method and thresholds. Connections keep the method that they were born with.

        Raises:
            TableFull, InvalidValue, NoSuchScheduler
        """
        memory, slot = self._remembered(), self._instance.services.get(number, "pool")
        egress.demand(self._instance, egress.of_server(self._instance, self._family(number), server, local))
        place = memory.pools.place(slot, dest)
        if place is None:
            raise NoSuchDestination("the service has no such real server")
        was = memory.pools.member(slot, place)
        member = _member(dest, server, server.weight or was.last_weight)
        parties.invite_server(self._instance, server)
        only_weight = member == was._replace(weight=member.weight, last_weight=member.last_weight)
        if only_weight and not memory.pools.scheduler(slot).weighs(was, member):
            self._begin(number)
            memory.pools.weigh(slot, place, member.weight)
        else:
            old = memory.pools.read(number)
            size = len(old.servers) // old.length
            servers = old.servers[: place * size] + member.pack() + old.servers[(place + 1) * size :]
            pool = self._changed(number, old, servers, lambda place: place)
            self._begin(number)
            tunnels.prepare(self._instance, dest, server, local)
            memory.pools.swap(number, pool)
        limits.make_available(self._instance, dest, local)
        limits.put(self._instance, member)
        self._done(gone=True)

    def delete_server(self, number: int, dest: int) -> None:
        """Take a real server out of its service, into the trash.

        Raises:
            NoSuchDestination, TableFull, InvalidValue, NoSuchScheduler
        """
        memory = self._remembered()
        gone = memory.pools.place(self._instance.services.get(number, "pool"), dest)
        if gone is None:
            raise NoSuchDestination("the service has no such real server")
        index, old = self._member_index(number), memory.pools.read(number)
        size = len(old.servers) // old.length
        servers = old.servers[: gone * size] + old.servers[(gone + 1) * size :]
        pool = self._changed(number, old, servers, lambda place: place - (place >= gone))
        self._begin(number)
        memory.pools.swap(number, pool)
        memory.trash.put(dest)
        del index[endpoint(self._instance.dests.read(dest))]
        self._done(gone=True)

    def _changed(
        self,
        number: int,
        old: Pool,
        servers: bytes,
        places: schedulers.Places,
        newcomers: Mapping[int, bytes] | None = None,
    ) -> int:
        """Write the pool that a service has after a change of its real servers. Returns its slot."""
        scheduler = schedulers.find(schedulers.name_of(old.scheduler, old.name))
        family = SERVICE_KEY.get(self._instance.services.get(number, "key"), 0, "family")
        row = Row(servers, self._instance.dests, family, newcomers)
        head = scheduler.changed(old.head, row, places)
        table = pools.pack_table(scheduler.table(row, old.flags))
        return self._remembered().pools.write(number, old._replace(head=head, servers=servers, table=table))

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
                self._agree(number, self.members(number), everybody)
        self._serve_families()
        self._done(gone=True)

    # ---- steps of a change ------------------------------------------------------------------------------------------

    def _begin(self, number: int) -> None:
        self._instance.config.put(0, "changing", number + 1)

    def _done(self, gone: bool = False) -> None:
        config = self._instance.config
        changing = config.get(0, "changing")
        speakers.agree(self._instance, None if changing in (0, _ALL) else changing - 1, self._used_numbers())
        orphans.agree(self._instance, self._used_numbers())
        if gone:
            egress.reconsider(self._instance, self._used_numbers())
        generation = config.get(0, "generation") + 1
        config.put(0, "generation", generation)
        config.put(0, "changing", 0)
        self._generation = generation

    def _serve_families(self) -> None:
        """Tell the packet path what there are services of."""
        config, services = self._instance.config, self._instance.services
        left = config.get(0, "families")
        found = left & LASTING
        for number in self.numbers():
            found |= serves(services.get(number, "key"))
            if found == left:
                return
        config.put(0, "families", found)

    def _tidy(self, number: int, dests: Iterable[int]) -> None:
        """What remains to be done for a service that packets no longer find, and for those of `dests` that are its."""
        self._agree(number, (), dests)
        memory = self._remembered()
        memory.pools.swap(number, 0)
        self._instance.services.write(number, bytes(SERVICE.size))
        memory.members.pop(number, None)
        memory.free_service = min(memory.free_service, number)

    def _agree(self, number: int, members: Iterable[Member], among: Iterable[int]) -> None:
        """Let those of `among` that are this service's be available if they are its members, and else in the trash."""
        dests, there = self._instance.dests, {member.dest: member for member in members}
        for dest in among:
            flags = dests.get(dest, "flags")
            if not flags & _layout.DEST_USED or dests.get(dest, "service") != number:
                continue
            if dest in there:
                if not flags & _layout.DEST_AVAILABLE:
                    dests.put(dest, "flags", flags | _layout.DEST_AVAILABLE)
                limits.put(self._instance, there[dest], again=True)
            elif flags & _layout.DEST_AVAILABLE:
                self._remembered().trash.put(dest)


def _record(server: RealServer, local: bool, number: int, key: bytes, made: int) -> bytes:
    """What a new real server of a service is; `local`: it is the director itself."""
    return DEST.pack(
        address=pack_address(server.address), port=htons(server.port), family=server.family,
        flags=_layout.DEST_USED | (_layout.DEST_LOCAL if local else 0), service=number, key=key, service_made=made,
        **tunnels.described(server, local),
    )  # fmt: skip


def _member(dest: int, server: RealServer, last_weight: int) -> Member:
    flags, tunnel = conn_flags(server.method), pack_tunnel(server)
    return Member(dest, server.weight, flags, last_weight, server.upper, server.lower, tunnel)
