"""The one way to change a running LVS.

    with Director() as director:
        web = virtual_service("192.0.2.1", 80, scheduler="wlc")
        director.add_service(web)
        director.add_destination(web, real_server("10.0.0.1", 8080, method=MASQ))

Each call is all or nothing: it is checked first, then packets see it in one step; a refusal is an error of
`pylvs.errors` and leaves everything as it was. The checks and their order are the kernel's (facts 1.4 to 1.11).
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from pylvs import schedulers
from pylvs.datapath import connections, egress, loading, netlink, resize
from pylvs.datapath import instance as datapath
from pylvs.datapath.instance import Instance
from pylvs.datapath.journal import JournaledTable
from pylvs.datapath.markrules import MarkTable
from pylvs.datapath.statistics import TOTAL
from pylvs.errors import (
    DestinationExists,
    InvalidValue,
    NoSuchDestination,
    NoSuchService,
    ServiceExists,
)
from pylvs.marking import Marking
from pylvs.model import (
    TUNNEL,
    Connection,
    Destination,
    RealServer,
    Service,
    Stats,
    VirtualService,
)
from pylvs.selections import Selection
from pylvs.transactions import Transactions
from pylvs.tuning import Tuning


class Director(Marking, Transactions, Tuning):
    """The director of the network namespace that this process is in.

    Looking does not start one: before the first change there is nothing to see. The first change loads the packet
    path and attaches it to every interface.
    """

    def __init__(self) -> None:
        """Find the director, if it runs.

        Raises:
            NotPermitted: not root.
            DatapathError: the kernel lacks something, or another version of pylvs runs the director.
        """
        self._instance: Instance | None = datapath.find()
        self._table: JournaledTable | None = None
        self._looked_around = False

    def __enter__(self) -> "Director":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the maps; the director goes on without us."""
        if self._instance:
            self._instance.close()
        self._instance = self._table = None

    @property
    def instance(self) -> Instance | None:
        """The packet path, or None while none is loaded."""
        return self._instance

    @property
    def _services(self) -> JournaledTable | None:
        if self._table is None and self._instance is not None:
            self._table = JournaledTable(self._instance)
        return self._table

    @contextmanager
    def _changing(self) -> Iterator[JournaledTable]:
        if self._instance is None:
            self._instance = loading.load()
        table = self._services
        assert table is not None
        with self._instance.locked():
            resize.finish(self._instance)
            table.repair()
            if not self._looked_around:
                # interfaces and addresses may have come since the last command; a restore need not ask for every line
                self._instance.attach_newcomers()
                egress.agree(self._instance)
                self._instance.learn_addresses()
                self._instance.learn_ports()
                MarkTable(self._instance).look_around()
                self._looked_around = True
            yield table

    # ---- looking ----------------------------------------------------------------------------------------------------

    @property
    def table_size(self) -> int:
        """How many slots the connection table has."""
        if self._instance is None:
            return 1 << loading.default_conn_bits()
        return int(self._instance.config.get(0, "conn_slots"))

    def services(self) -> Iterator[Service]:
        """Every virtual service with its real servers, newest first, their connections and counters."""
        table = self._services
        if table is not None:
            with table.settled():
                found = [self._describe(table, number) for number in table.numbers()]
            yield from (service for service in found if service is not None)

    def service(self, key: VirtualService) -> Service:
        """One service; of `key` only what identifies it counts.

        Raises:
            NoSuchService
        """
        table = self._services
        if table is None:
            raise NoSuchService(f"{key} is not defined")
        with table.settled():
            found = self._describe(table, table.number(key))
        if found is None:
            raise NoSuchService(f"{key} is not defined")
        return found

    @staticmethod
    def _describe(table: JournaledTable, number: int) -> Service | None:
        looked = table.look(number)
        if looked is None:
            return None  # deleted while we looked
        service, members = looked
        stats = table.statistics.read
        destinations = [
            Destination(
                table.real_server(member), *table.load(member.dest), stats=stats(table.statistics.of_dest(member.dest))
            )
            for member in members
        ]
        return Service(service, destinations, stats(table.statistics.of_service(number)))

    def totals(self) -> Stats:
        """The whole director's counters."""
        table = self._services
        return table.statistics.read(TOTAL) if table is not None else Stats()

    def connections(self, which: Selection | None = None) -> Iterator[Connection]:
        """Every connection, or those that `selection()` has chosen, in no particular order; entries may come and go
        while one reads."""
        if self._instance is not None:
            yield from connections.connections(self._instance, which)

    def count_connections(self, which: Selection | None = None) -> int:
        """How many there are, or of those that `selection()` has chosen; a million are counted in a quarter second."""
        return 0 if self._instance is None else connections.count(self._instance, which)

    def count_connections_by(self, by: str, which: Selection | None = None) -> dict[str, int]:
        """How many each group has, those with most first.

        Args:
            by: "service", "rip", "state" or "client".
        """
        return {} if self._instance is None else connections.count_by(self._instance, by, which)

    def flush_connections(self, which: Selection) -> int:
        """End the chosen connections at once; `Selection()` chooses all. Services and real servers stay.

        Returns:
            How many were ended.

        Raises:
            DatapathError: the programs that run are of an older version.
        """
        if self._instance is None:
            return 0
        with self._instance.locked():
            resize.finish(self._instance)
            return connections.flush(self._instance, connections.chosen(self._instance, which))

    # ---- services ---------------------------------------------------------------------------------------------------

    def add_service(self, service: VirtualService) -> None:
        """Define a virtual service (facts 1.4).

        Raises:
            ServiceExists, NoSuchScheduler, NoSuchEngine
            NotSupported: it needs something that this version of pylvs cannot do yet.
            TableFull, NotPermitted, DatapathError
        """
        table = self._services
        if table is not None:
            with table.settled():
                if table.find(service) is not None:
                    raise ServiceExists(f"{service} is defined already")
        schedulers.find(service.scheduler)
        with self._changing() as table:
            if table.find(service) is not None:
                raise ServiceExists(f"{service} is defined already")
            table.add(service)

    def edit_service(self, service: VirtualService) -> None:
        """Replace a service's scheduler and options; its real servers and connections stay (facts 1.5).

        Raises:
            NoSuchService, NoSuchScheduler, NoSuchEngine
        """
        if self._services is None:
            raise NoSuchService(f"{service} is not defined")
        with self._changing() as table:
            number = table.number(service)
            schedulers.find(service.scheduler)
            table.edit(number, service)

    def delete_service(self, key: VirtualService) -> None:
        """Remove a service and its real servers; connections stay until their time is over (facts 1.6).

        Raises:
            NoSuchService
        """
        if self._services is None:
            raise NoSuchService(f"{key} is not defined")
        with self._changing() as table:
            table.delete(table.number(key))
            self._end_left_behind()

    def flush(self) -> None:
        """Remove every service. Timeouts, totals and connections stay."""
        if self._services is None:
            return
        with self._changing() as table:
            table.flush()
            self._end_left_behind()

    # ---- real servers -----------------------------------------------------------------------------------------------

    def add_destination(self, key: VirtualService, server: RealServer) -> None:
        """Give a service another real server (facts 1.7).

        Raises:
            NoSuchService, DestinationExists
            InvalidValue: the address cannot be a real server's.
            NotSupported, TableFull
        """
        if self._services is None:
            raise NoSuchService(f"{key} is not defined")
        with self._changing() as table:
            number = table.number(key)
            _check_server(key, server)
            if table.find_dest(number, server) is not None:
                raise DestinationExists(f"{key} has the real server {server} already")
            table.add_server(number, server, _is_local(server))

    def edit_destination(self, key: VirtualService, server: RealServer) -> None:
        """Replace a real server's weight and forwarding method (facts 1.8).

        Raises:
            NoSuchService, NoSuchDestination, NotSupported
        """
        if self._services is None:
            raise NoSuchService(f"{key} is not defined")
        with self._changing() as table:
            number = table.number(key)
            _check_server(key, server)
            dest = table.find_dest(number, server)
            if dest is None:
                raise NoSuchDestination(f"{key} has no real server {server}")
            table.edit_server(number, dest, server, _is_local(server))

    def delete_destination(self, key: VirtualService, server: RealServer) -> None:
        """Take a real server out of a service. Its connections wait for it to come back (facts 1.11).

        Raises:
            NoSuchService, NoSuchDestination
        """
        if self._services is None:
            raise NoSuchService(f"{key} is not defined")
        with self._changing() as table:
            number = table.number(key)
            dest = table.find_dest(number, server)
            if dest is None:
                raise NoSuchDestination(f"{key} has no real server {server}")
            table.delete_server(number, dest)
            self._end_left_behind()

    def _end_left_behind(self) -> None:
        """Where expire_nodest_conn says so, connections end with their real server (facts 1.11)."""
        assert self._instance is not None
        if self._instance.sysctls.get(0, "expire_nodest_conn"):
            self._instance.run("purge")

    # ---- the whole --------------------------------------------------------------------------------------------------

    def zero(self, key: VirtualService | None = None) -> None:
        """Let the counters of a service and its real servers, or all of them and the totals, begin at 0 (facts 8.4).

        Raises:
            NoSuchService
        """
        if self._services is None:
            if key is not None:
                raise NoSuchService(f"{key} is not defined")
            return
        with self._changing() as table:
            if key is not None:
                table.statistics.zero(table.counters(table.number(key)))
            else:
                counters = [counter for number in table.numbers() for counter in table.counters(number)]
                table.statistics.zero([TOTAL, *counters])


def _check_server(key: VirtualService, server: RealServer) -> None:
    if server.family != key.family and server.method != TUNNEL:
        raise InvalidValue(f"{server} and {key} are of different address families; only a tunnel can join them")


def _is_local(server: RealServer) -> bool:
    """Is the real server the director itself?

    Raises:
        InvalidValue: the address is nobody's: multicast, broadcast or unspecified.
    """
    kind = netlink.kind_of(server.family, server.address)
    link_local = server.address.lower().startswith(("fe8", "fe9", "fea", "feb")) and server.family != 2
    if kind == netlink.LOCAL:
        return True
    mapped = server.address.startswith("::ffff:") and "." in server.address
    if kind != netlink.UNICAST or link_local or mapped or server.address == "::":
        raise InvalidValue(f"{server.address} cannot be a real server: it is no single host's address", errno.EINVAL)
    return False
