"""A table of services as it would be: it takes the calls of a Director, checks them as one does, and changes nothing.

What only the running director can judge (routes, room) is asked through `Checks`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pylvs.errors import DestinationExists, NoSuchDestination, NoSuchService, ServiceExists, TableFull
from pylvs.model import Connection, Destination, RealServer, Service, Timeouts, VirtualService

ServiceKey = tuple[int, int, str, int, int]
ServerKey = tuple[str, int]


class Checks(NamedTuple):
    """What a director refuses.

    Attributes:
        service: raises what is wrong with a service's scheduler or engine.
        server: raises what is wrong with a real server of this service, whatever else there is.
        is_local: is it the director itself? Raises what is wrong with its address.
        max_services, max_dests: how many fit.
    """

    service: Callable[[VirtualService], None]
    server: Callable[[VirtualService, RealServer], None]
    is_local: Callable[[RealServer], bool]
    max_services: int
    max_dests: int


class _Entry:
    """One service; its real servers in the order in which they came."""

    def __init__(self, service: VirtualService) -> None:
        self.service = service
        self.servers: dict[ServerKey, RealServer] = {}
        self.local: dict[ServerKey, bool] = {}  # of those that were asked about
        self.shown: dict[ServerKey, Destination] = {}  # of those that were there before


class Plan:
    """See the file's head.

    Args:
        services: what is there.
        timeouts: those in force.
        connections: where to look for connections: a plan has none of its own.
    """

    def __init__(
        self,
        services: Iterable[Service],
        timeouts: Timeouts,
        checks: Checks,
        table_size: int = 0,
        connections: Callable[[], Iterator[Connection]] = lambda: iter(()),
    ):
        self._checks = checks
        self._before: dict[ServiceKey, Service] = {}
        self._entries: dict[ServiceKey, _Entry] = {}
        self._count = 0
        for found in services:
            self._before[found.service.key] = found
            entry = self._entries[found.service.key] = _Entry(found.service)
            for dest in reversed(found.destinations):
                key = _server_key(dest.server)
                entry.servers[key], entry.shown[key] = dest.server, dest
            self._count += len(entry.servers)
        self._timeouts = timeouts
        self.zeroed: list[VirtualService | None] = []
        self.table_size = table_size
        self.connections = connections

    # ---- looking ----------------------------------------------------------------------------------------------------

    def services(self) -> Iterator[Service]:
        """Every service as it would be, with the counters that it has now."""
        yield from map(self._describe, list(self._entries.values()))

    def service(self, key: VirtualService) -> Service:
        """One service.

        Raises:
            NoSuchService
        """
        return self._describe(self._find(key))

    def _describe(self, entry: _Entry) -> Service:
        servers = [
            entry.shown[key]._replace(server=server) if key in entry.shown else Destination(server)
            for key, server in reversed(entry.servers.items())
        ]
        before = self._before.get(entry.service.key)
        return Service(entry.service, servers, before.stats) if before else Service(entry.service, servers)

    def locals(self, key: VirtualService) -> list[tuple[RealServer, bool | None]]:
        """A service's real servers, newest first, and whether each is the director itself; None: it was not asked."""
        entry = self._find(key)
        return [(server, entry.local.get(place)) for place, server in reversed(entry.servers.items())]

    def timeouts(self) -> Timeouts:
        return self._timeouts

    # ---- services ---------------------------------------------------------------------------------------------------

    def add_service(self, service: VirtualService) -> None:
        """As `Director.add_service`."""
        if service.key in self._entries:
            raise ServiceExists(f"{service} is defined already")
        self._checks.service(service)
        if len(self._entries) >= self._checks.max_services:
            raise _full(self._checks.max_services, "services", "--max-services")
        self._entries[service.key] = _Entry(service)

    def edit_service(self, service: VirtualService) -> None:
        """As `Director.edit_service`."""
        entry = self._find(service)
        self._checks.service(service)
        entry.service = service

    def delete_service(self, key: VirtualService) -> None:
        """As `Director.delete_service`."""
        self._count -= len(self._find(key).servers)
        del self._entries[key.key]

    def flush(self) -> None:
        """As `Director.flush`."""
        self._entries.clear()
        self._count = 0

    def _find(self, key: VirtualService) -> _Entry:
        entry = self._entries.get(key.key)
        if entry is None:
            raise NoSuchService(f"{key} is not defined")
        return entry

    # ---- real servers -----------------------------------------------------------------------------------------------

    def add_destination(self, key: VirtualService, server: RealServer) -> None:
        """As `Director.add_destination`."""
        entry = self._find(key)
        self._checks.server(key, server)
        if _server_key(server) in entry.servers:
            raise DestinationExists(f"{key} has the real server {server} already")
        local = self._checks.is_local(server)
        if self._count >= self._checks.max_dests:
            raise _full(self._checks.max_dests, "real servers", "--max-dests")
        entry.servers[_server_key(server)], entry.local[_server_key(server)] = server, local
        self._count += 1

    def edit_destination(self, key: VirtualService, server: RealServer) -> None:
        """As `Director.edit_destination`."""
        entry = self._find(key)
        self._checks.server(key, server)
        if _server_key(server) not in entry.servers:
            raise NoSuchDestination(f"{key} has no real server {server}")
        local = self._checks.is_local(server)
        entry.servers[_server_key(server)], entry.local[_server_key(server)] = server, local

    def delete_destination(self, key: VirtualService, server: RealServer) -> None:
        """As `Director.delete_destination`."""
        entry = self._find(key)
        if _server_key(server) not in entry.servers:
            raise NoSuchDestination(f"{key} has no real server {server}")
        del entry.servers[_server_key(server)]
        self._count -= 1

    # ---- the whole --------------------------------------------------------------------------------------------------

    def zero(self, key: VirtualService | None = None) -> None:
        """As `Director.zero`: `zeroed` gathers whose counters would begin at 0; None: all."""
        self.zeroed.append(None if key is None else self._find(key).service)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """As `Director.set_timeouts`."""
        self._timeouts = Timeouts(*(new or old for new, old in zip(timeouts, self._timeouts, strict=True)))

    def close(self) -> None:
        """Nothing is held."""


def _server_key(server: RealServer) -> ServerKey:
    return server.address, server.port


def _full(room: int, what: str, option: str) -> TableFull:
    return TableFull(f"there is room for {room} {what}; load with more: pylvs unload; pylvs load {option} N")
