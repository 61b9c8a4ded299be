"""Many changes as one: what a Director does about transactions and rehearsals."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pylvs.datapath.instance import Instance
    from pylvs.datapath.journal import JournaledTable
    from pylvs.model import Connection, RealServer, Service, Timeouts, VirtualService
    from pylvs.plan import Checks, Plan


class Transactions:
    """A part of `Director`, whose way of changing things this uses."""

    _instance: "Instance | None"

    if TYPE_CHECKING:

        @property
        def table_size(self) -> int: ...
        def _changing(self) -> AbstractContextManager["JournaledTable"]: ...
        def services(self) -> Iterator["Service"]: ...
        def timeouts(self) -> "Timeouts": ...
        def connections(self) -> Iterator["Connection"]: ...

    def rehearsal(self) -> "Plan":
        """A copy of the table that takes this director's calls with the same checks. It changes nothing, loads nothing
        and holds no lock."""
        from pylvs.plan import Plan  # only now: a listing needs none

        return Plan(self.services(), self.timeouts(), self._checks(), self.table_size, self.connections)

    @contextmanager
    def transaction(self) -> Iterator["Plan"]:
        """Many changes, all or none of them.

            with director.transaction() as table:
                table.flush()
                table.add_service(web)
                table.add_destination(web, server)

        What is called on `table` is checked at once, against the calls before it; an exception leaves everything as it
        was. When the block ends, the difference to the table that was there comes into force: services and real
        servers that are in both keep their connections and counters, even if they were deleted and added again. No
        other command changes anything meanwhile, and none sees a part of it. For packets each service is old or new at
        every moment; services change one after the other. A process that is killed has changed nothing, or the next
        command that looks at the table or changes it brings the change to its end.

        A service that is new, or has another scheduler, begins as if the scheduler had been bound to the finished list.

        Raises:
            TableFull: old and new do not fit side by side.
            What the calls raise.
        """
        if self._instance is None:
            plan = self.rehearsal()
            yield plan
            if self._is_changed(plan, (), self.timeouts()):
                with self._changing() as table:
                    self._check_untouched(table)
                    self._switch(table, plan)
            return
        with self._changing() as table:
            plan = self.rehearsal()
            yield plan
            self._switch(table, plan)

    @staticmethod
    def _is_changed(plan: "Plan", services: tuple["Service", ...], timeouts: "Timeouts") -> bool:
        return tuple(plan.services()) != services or plan.timeouts() != timeouts

    @staticmethod
    def _check_untouched(table: "JournaledTable") -> None:
        from pylvs.errors import DatapathError

        if any(True for _ in table.numbers()):
            raise DatapathError("another command has just made services here; nothing was changed: try again")

    def _switch(self, table: "JournaledTable", plan: "Plan") -> None:
        from pylvs.datapath.journal import Goal, Wanted

        assert self._instance is not None
        services = [Wanted(entry.service, plan.locals(entry.service)) for entry in plan.services()]
        table.switch(Goal(services, self._with_timeouts(plan.timeouts()), plan.zeroed))

    def _with_timeouts(self, timeouts: "Timeouts") -> list[int] | None:
        from pylvs.tuning import SETTABLE

        assert self._instance is not None
        present = self._instance.timeouts()
        for place, seconds in zip(SETTABLE, timeouts, strict=True):
            if present[place] // 1000 != seconds:
                present[place] = seconds * 1000
        return present

    def _checks(self) -> "Checks":
        from pylvs import schedulers
        from pylvs.datapath import loading
        from pylvs.datapath.records import pack_options
        from pylvs.director import _check_server, _is_local
        from pylvs.plan import Checks

        def service(wanted: "VirtualService") -> None:
            schedulers.find(wanted.scheduler)
            pack_options(wanted)

        known: dict[tuple[str, int], bool] = {}

        def is_local(server: "RealServer") -> bool:
            key = server.address, server.method
            if key not in known:
                known[key] = _is_local(server)
            return known[key]

        room = loading.default_room()
        if self._instance is not None:
            room = self._instance.services.entries, self._instance.dests.entries
        return Checks(service, _check_server, is_local, *room)
