"""The whole table of services changed at once: prepared, written down, put in force.

Rules of this file:
 - Whatever can fail is done while preparing: numbers are chosen, pools written where no packet looks. Who fails or is
   killed until then has changed nothing.
 - Then the journal, a pinned map, says what is to be stored where. `config.changing` = _JOURNAL is the one store by
   which it is decided: whoever is killed after it leaves the rest to the next command (`repair`), which stores it again
   from the beginning. Every step may be done twice.
 - Packets see each service change in one store, as always: its pool. New services come first, those that go go last,
   so that at no moment there are fewer than the old table and the new one have in common.
 - Whoever reads the table holds the directory `programs` meanwhile (`settled`): nobody sees it half changed.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

from pylvs import schedulers
from pylvs.datapath import _layout, bpffs, egress, limits, orphans, parties, pools, speakers, syscall
from pylvs.datapath.layout import SERVICE
from pylvs.datapath.pools import Member, Pool
from pylvs.datapath.records import endpoint_of, serves, service_key
from pylvs.datapath.services import _NUMBER, LASTING, ServiceTable, _member, _record
from pylvs.datapath.statistics import TOTAL
from pylvs.errors import DatapathError, TableFull
from pylvs.model import TUNNEL, RealServer, VirtualService

_JOURNAL = 0xFFFFFFFE  # config.changing: what the journal says is being done
_PAGE = 4096
_unlink = os.unlink


class Wanted(NamedTuple):
    """A service as it shall be.

    Attributes:
        servers: its real servers, newest first, and whether each is the director itself; None: as it was.
    """

    service: VirtualService
    servers: Sequence[tuple[RealServer, bool | None]]


class Goal(NamedTuple):
    """What shall be in force.

    Attributes:
        services: all of them.
        timeouts: those of all states, in milliseconds; None leaves them.
        zero: services whose counters shall begin at 0; None among them: the totals.
    """

    services: Sequence[Wanted]
    timeouts: list[int] | None = None
    zero: Sequence[VirtualService | None] = ()


class JournaledTable(ServiceTable):
    """All services of one director; they can be changed together."""

    # ---- reading ----------------------------------------------------------------------------------------------------

    @contextmanager
    def settled(self) -> Iterator[None]:
        """While the table is read: nobody changes it as a whole, and what a killed command left is done first."""
        instance = self._instance
        if not os.path.isdir(f"{instance.path}/programs"):  # unloaded by another command: what we have open stays
            yield
            return
        while True:
            with bpffs.shared(f"{instance.path}/programs"):
                if instance.config.get(0, "changing") != _JOURNAL:
                    yield
                    return
            with instance.locked():
                self.repair()

    # ---- preparing --------------------------------------------------------------------------------------------------

    def switch(self, goal: Goal) -> bool:
        """Put another table in force. Services and real servers that are in both stay as they are, with counters and
        connections. The caller holds the lock.

        Returns:
            Whether anything was different.

        Raises:
            TableFull: there is no room for the old table and the new one side by side.
            InvalidValue, NoSuchScheduler, NoSuchEngine: a scheduler refuses its real servers. Nothing is changed.
        """
        try:
            journal = self._prepare(goal)
            if any(journal.values()):
                self._demand(goal)
        except BaseException:
            self._memory = None  # it has reserved what is not needed any more
            raise
        if not any(journal.values()):
            return False
        instance = self._instance
        with bpffs.alone(f"{instance.path}/programs"):
            self._write_down(journal)
            instance.config.put(0, "changing", _JOURNAL)
            self._store(journal)
        return True

    def _demand(self, goal: Goal) -> None:
        """What is to come may need the egress program."""
        instance = self._instance
        for wanted in goal.services:
            egress.demand(instance, egress.of_service(wanted.service))
            for server, local in wanted.servers:
                egress.demand(instance, egress.of_server(instance, wanted.service.family, server, bool(local)))

    def _prepare(self, goal: Goal) -> dict[str, Any]:
        self._remembered().trash.empty()
        free_services = self._free("services", _layout.SERVICE_USED, "services", "--max-services")
        free_dests = self._free("dests", _layout.DEST_USED, "real servers", "--max-dests")
        steps, kept = [], set()
        for wanted in goal.services:
            number = self.find(wanted.service)
            if number is None:
                steps.append(self._new(wanted, next(free_services), free_dests))
                continue
            kept.add(number)
            step = self._other(wanted, number, free_dests)
            if step:
                steps.append(step)
        gone = [
            {"number": number, "key": self._instance.services.get(number, "key").hex(),
             "dests": sorted(self._member_dests(number))}
            for number in self._used_numbers() if number not in kept
        ]  # fmt: skip
        timeouts = goal.timeouts if goal.timeouts != self._instance.timeouts() else None
        zero = [service and service_key(service).hex() for service in goal.zero]
        return {"services": steps, "gone": gone, "timeouts": timeouts, "zero": zero}

    def _free(self, table: str, used: int, what: str, option: str) -> Iterator[int]:
        """Numbers that nobody has, each once."""
        records, high = getattr(self._instance, table), int(self._instance.config.get(0, f"{table}_high"))
        for number in chain(range(high, records.entries), range(high)):
            if not records.get(number, "flags") & used:
                yield number
        raise TableFull(
            f"there is room for {records.entries} {what}, and while the table is replaced for both the old and the "
            f"new ones; load with more: pylvs unload; pylvs load {option} N"
        )

    def _new(self, wanted: Wanted, number: int, free_dests: Iterator[int]) -> dict[str, Any]:
        """How a service comes into being."""
        key, made = service_key(wanted.service), self._instance.config.get(0, "generation")
        parties.invite_service(self._instance, key)
        members, newcomers, back = self._members_of(wanted, number, key, made, {}, free_dests)
        servers = b"".join(member.pack() for member, _ in members)
        pool = self._bound(wanted.service, servers, newcomers)
        return self._step(number, key, made, pool, members, newcomers, back, True)

    def _other(self, wanted: Wanted, number: int, free_dests: Iterator[int]) -> dict[str, Any] | None:
        """How a service that is there changes; None if it does not."""
        services = self._instance.services
        key, made = services.get(number, "key"), services.get(number, "made")
        old = self._remembered().pools.read(number)
        before = {member.dest: member for member in old.members()}
        members, newcomers, back = self._members_of(wanted, number, key, made, before, free_dests)
        looked = self.look(number)
        same_options = looked is not None and looked[0] == wanted.service
        if same_options and list(before.values()) == [member for member, _ in members]:
            flags = [self._instance.dests.get(member.dest, "flags") for member, _ in members]
            if all(bool(was & _layout.DEST_LOCAL) == local for was, (_, local) in zip(flags, members, strict=True)):
                return None
        servers = b"".join(member.pack() for member, _ in members)
        pool = self._bound(wanted.service, servers, newcomers)
        if (pool.scheduler, pool.name) == (old.scheduler, old.name):  # it goes on where it is
            scheduler = schedulers.find(wanted.service.scheduler)
            places = _places(list(before), [member.dest for member, _ in members])
            row = pools.Row(servers, self._instance.dests, wanted.service.family, newcomers)
            pool = pool._replace(head=scheduler.changed(old.head, row, places.__getitem__), bound=old.bound)
        return self._step(number, key, made, pool, members, newcomers, back, False)

    def _members_of(
        self,
        wanted: Wanted,
        number: int,
        key: bytes,
        made: int,
        before: dict[int, Member],
        free_dests: Iterator[int],
    ) -> tuple[list[tuple[Member, bool]], dict[int, bytes], list[int]]:
        """The real servers of a service with whether they are local, the records of those that are new, and the numbers
        of those that come back from the trash."""
        index = self._member_index(number) if before else {}
        trash, members, newcomers, back = self._remembered().trash, [], {}, []
        for server, is_local in wanted.servers:
            dest = index.get(endpoint_of(server))
            if dest is None:
                local = bool(is_local)
                record = _record(server, local, number, key, made)
                dest = trash.find(record)
                if dest is None:
                    dest = next(free_dests)
                    newcomers[dest] = record
                else:
                    back.append(dest)
            elif is_local is None:
                local = bool(self._instance.dests.get(dest, "flags") & _layout.DEST_LOCAL)
            else:
                local = is_local
            last = server.weight or (before[dest].last_weight if dest in before else 0)
            members.append((_member(dest, server, last), local))
            parties.invite_server(self._instance, server)
        return members, newcomers, back

    def _step(
        self,
        number: int,
        key: bytes,
        made: int,
        pool: Pool,
        members: list[tuple[Member, bool]],
        newcomers: dict[int, bytes],
        back: list[int],
        fresh: bool,
    ) -> dict[str, Any]:
        return {
            "number": number, "key": key.hex(), "made": made, "fresh": fresh,
            "pool": self._remembered().pools.reserve(number, pool),
            "local": [local for _, local in members], "back": back,
            "newcomers": [(dest, record.hex()) for dest, record in newcomers.items()],
            "gone": [] if fresh else sorted(self._member_dests(number) - {member.dest for member, _ in members}),
        }  # fmt: skip

    # ---- the journal ------------------------------------------------------------------------------------------------

    @property
    def _path(self) -> str:
        return f"{self._instance.path}/journal"

    def _write_down(self, journal: dict[str, Any]) -> None:
        import json  # only now: a listing needs none

        text = json.dumps(journal, separators=(",", ":")).encode()
        self._forget()  # of one who was killed when all was done
        fd = syscall.map_create(_PAGE, -(-(len(text) + 1) // _PAGE))
        try:
            with mmap.mmap(fd, -(-(len(text) + 1) // _PAGE) * _PAGE) as memory:
                memory[: len(text)] = text
            syscall.pin(fd, self._path)
        finally:
            os.close(fd)

    def _read(self) -> dict[str, Any]:
        import json

        try:
            fd = syscall.get(self._path)
            try:
                _, size, entries = syscall.map_size(fd)
                with mmap.mmap(fd, size * entries) as memory:
                    journal: dict[str, Any] = json.loads(memory[:].rstrip(b"\0"))
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            raise DatapathError(
                f"a command was killed while it replaced the table, and what it wrote down cannot be read ({error}); "
                "start afresh: pylvs unload"
            ) from None
        return journal

    def _forget(self) -> None:
        try:
            _unlink(self._path)
        except FileNotFoundError:
            pass

    def repair(self) -> None:
        """Finish what a killed command began (the lock is held, so nobody else is at it)."""
        if self._instance.config.get(0, "changing") != _JOURNAL:
            super().repair()
            return
        self._memory = None
        with bpffs.alone(f"{self._instance.path}/programs"):
            self._store(self._read())

    # ---- putting it in force ----------------------------------------------------------------------------------------

    def _store(self, journal: dict[str, Any]) -> None:
        """Do what the journal says, whether or not some of it is done already."""
        config = self._instance.config
        gone = journal["gone"]
        for step in journal["services"]:
            self._put_in_force(step)
        if gone and not any(True for number in self._used_numbers() if number not in {g["number"] for g in gone}):
            config.put(0, "families", config.get(0, "families") & LASTING)  # all gone in one store
        for one in gone:
            self._remove(one["number"], bytes.fromhex(one["key"]), one["dests"])
        if journal["timeouts"]:
            self._instance.set_timeouts(journal["timeouts"])
        self._zero(journal["zero"])
        self._serve_families()
        speakers.agree(self._instance, None, self._used_numbers())
        orphans.agree(self._instance, self._used_numbers())
        egress.reconsider(self._instance, self._used_numbers())
        if (gone or any(step["gone"] for step in journal["services"])) and self._instance.sysctls.get(
            0, "expire_nodest_conn"
        ):
            self._instance.run("purge")
        self._memory = None
        config.put(0, "generation", config.get(0, "generation") + 1)
        config.put(0, "changing", 0)
        self._forget()

    def _put_in_force(self, step: dict[str, Any]) -> None:
        instance, memory = self._instance, self._remembered()
        number, key, made, services = step["number"], bytes.fromhex(step["key"]), step["made"], instance.services
        members = [
            memory.pools.member(step["pool"], place) for place in range(instance.pools.get(step["pool"], "count"))
        ]
        if services.get(number, "pool") != step["pool"] or (step["fresh"] and self.find_key(key) != number):
            if step["fresh"]:
                services.write(number, SERVICE.pack(key=key, flags=_layout.SERVICE_USED, made=made))
                self.statistics.clear(self.statistics.of_service(number))
                if number >= instance.config.get(0, "services_high"):
                    instance.config.put(0, "services_high", number + 1)
                instance.config.put(0, "families", instance.config.get(0, "families") | serves(key))
            for dest, record in step["newcomers"]:
                self._make_dest(dest, bytes.fromhex(record))
            for dest in step["back"]:
                if instance.dests.get(dest, "service_made") != made:
                    self._come_back(dest, number, made)
            for member, local in zip(members, step["local"], strict=True):
                limits.make_available(instance, member.dest, local)
                if member.flags & _layout.CONN_METHOD == TUNNEL:
                    instance.dests.put(member.dest, "tunnel", member.tunnel)  # before packets go there
            memory.pools.swap(number, step["pool"])
            if step["fresh"]:
                for member in members:
                    limits.put(instance, member, again=True)
                instance.service_index.put(key, _NUMBER.pack(number))
        if not step["fresh"]:
            self._agree(number, members, (*(member.dest for member in members), *step["gone"]))

    def _remove(self, number: int, key: bytes, dests: Sequence[int]) -> None:
        services = self._instance.services
        if not services.get(number, "flags") & _layout.SERVICE_USED or services.get(number, "key") != key:
            return
        self._instance.service_index.delete(key)
        self._tidy(number, dests)

    def _zero(self, keys: Sequence[str | None]) -> None:
        if None in keys:
            numbers = list(self._used_numbers())
            self.statistics.zero([TOTAL, *(counter for number in numbers for counter in self.counters(number))])
            return
        for key in keys:
            number = self.find_key(bytes.fromhex(key or ""))
            if number is not None:
                self.statistics.zero(self.counters(number))


def _places(before: list[int], after: list[int]) -> dict[int, int]:
    """Where each former place is now; that of one who is gone is where the one before it is."""
    now = {dest: place for place, dest in enumerate(after)}
    places, last = {-1: -1}, -1
    for place, dest in enumerate(before):
        last = places[place] = now.get(dest, last)
    return places
