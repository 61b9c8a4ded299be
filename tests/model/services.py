"""Virtual services and real servers for the model, and what commands do to them; packets are model.py's.

There are lists where others have hashes, and everything that can be counted is counted when somebody asks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from model.schedulers import SCHEDULERS, Hashing, Lblc, Lblcr, overloaded_after

if TYPE_CHECKING:
    from model.connections import Connection, Template

TRASH_SECONDS = (120, 300)
"""A real server in the trash is kept for the first, and is gone after the second, of being without connections: the
kernel looks every 60 s, and frees one that it has seen idle for 120 s; and what lblc remembered of a service that is
gone is forgotten within 60 s."""


class Refused(Exception):
    """A command that changes nothing; its text is one of "exists", "no service", "no server"."""


class Key(NamedTuple):
    """What identifies a virtual service. One by firewall mark has the protocol "mark", the address 0.0.0.0 or ::, and
    the mark in the port's place."""

    protocol: str
    address: str
    port: int


class Options(NamedTuple):
    """What can be edited of a service.

    Attributes:
        flags: of the scheduler: "fallback", "port".
        persistent: seconds; 0: not persistent.
        spread: how many of a client address's last bits do not count for persistence.
        one_packet: each datagram is scheduled by itself.
    """

    scheduler: str = "rr"
    flags: frozenset[str] = frozenset()
    persistent: int = 0
    spread: int = 0
    one_packet: bool = False


@dataclass
class Counters:
    """Of a real server, a service, or the whole."""

    conns: int = 0
    inpkts: int = 0
    outpkts: int = 0
    inbytes: int = 0
    outbytes: int = 0

    def zero(self) -> None:
        self.__init__()  # type: ignore[misc]


@dataclass(eq=False)
class RealServer:
    """A destination: in a service's list, or in the trash."""

    bound: Callable[["RealServer"], list["Connection"]]
    believers: Callable[["RealServer"], list["Template"]]
    service: "Service"
    address: str
    port: int
    method: str
    weight: int
    upper: int = 0
    lower: int = 0
    last_weight: int = 0
    available: bool = True
    overloaded: bool = False
    idle_since: int = 0
    """In the trash: since when it has been there without connections."""
    counters: Counters = field(default_factory=Counters)

    @property
    def active(self) -> int:
        return sum(conn.active for conn in self.bound(self))

    @property
    def inactive(self) -> int:
        return len(self.bound(self)) - self.active

    @property
    def persistent(self) -> int:
        """Templates count neither as connections nor for the thresholds."""
        return len(self.believers(self))

    @property
    def busy(self) -> bool:
        return bool(self.bound(self) or self.believers(self))

    def configure(self, method: str, weight: int, upper: int, lower: int) -> None:
        self.method, self.weight, self.last_weight = method, weight, weight or self.last_weight
        changed = (self.upper, self.lower) != (upper, lower)
        self.upper, self.lower = upper, lower
        if changed:
            self.judge("edited")

    def judge(self, change: str) -> None:
        self.overloaded = overloaded_after(change, self.overloaded, len(self.bound(self)), self.upper, self.lower)


@dataclass(eq=False)
class Service:
    key: Key
    options: Options
    servers: list[RealServer] = field(default_factory=list)
    """Newest first."""
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self.scheduler = SCHEDULERS[self.options.scheduler](self.servers)
        self._set_flags()

    @property
    def marked(self) -> bool:
        return self.key.protocol == "mark"

    @property
    def port(self) -> int:
        return 0 if self.marked else self.key.port

    def edit(self, options: Options) -> None:
        """Another scheduler begins anew; the same one goes on, with other flags perhaps."""
        if options.scheduler != self.options.scheduler:
            self.scheduler = SCHEDULERS[options.scheduler](self.servers)
        self.options = options
        self._set_flags()

    def _set_flags(self) -> None:
        if isinstance(self.scheduler, Hashing):
            self.scheduler.fallback, self.scheduler.port = (flag in self.options.flags for flag in ("fallback", "port"))

    def remembers(self, server: "RealServer") -> bool:
        """Does its scheduler know it from some connection's destination?"""
        return isinstance(self.scheduler, (Lblc, Lblcr)) and self.scheduler.names(server)


class Configuration:
    """What is configured, and the commands that change it.

    Attributes:
        now: seconds.
        connections, templates: newest first.
    """

    def __init__(self) -> None:
        self.now = 0
        self.services: dict[Key, Service] = {}
        self.connections: list[Connection] = []
        self.templates: list[Template] = []
        self.trash: list[RealServer] = []
        self.counters = Counters()

    # ---- services ----

    def add_service(self, key: Key, options: Options) -> None:
        if key in self.services:
            raise Refused("exists")
        self.services[key] = Service(key, options)

    def edit_service(self, key: Key, options: Options) -> None:
        service = self._service(key)
        remembered = [server for server in self.trash if service.remembers(server)]
        service.edit(options)
        self._let_go(remembered)

    def delete_service(self, key: Key) -> None:
        service = self._service(key)
        for server in service.servers:
            self._throw_away(server)
        del self.services[key]
        self._let_go([server for server in self.trash if service.remembers(server)])
        self.end_left_behind()

    def flush(self) -> None:
        for key in list(self.services):
            self.delete_service(key)

    def _service(self, key: Key) -> Service:
        if key not in self.services:
            raise Refused("no service")
        return self.services[key]

    # ---- real servers ----

    def add_server(
        self, key: Key, address: str, port: int, method: str, weight: int, upper: int = 0, lower: int = 0
    ) -> None:
        service = self._service(key)
        if self._find_server(service, address, port):
            raise Refused("exists")
        server = self.trashed(key, address, port)
        if server:
            self.trash.remove(server)
        if server and self.fate(server) == "kept":
            if server.service is not service:  # which was deleted and made anew
                server.counters.zero()
            server.service, server.available, server.last_weight = service, True, weight
        else:
            server = RealServer(self._bound, self._believers, service, address, port, method, weight)
        server.configure(method, weight, upper, lower)
        service.servers.insert(0, server)
        service.scheduler.added(service.servers)

    def edit_server(
        self, key: Key, address: str, port: int, method: str, weight: int, upper: int = 0, lower: int = 0
    ) -> None:
        service = self._service(key)
        server = self._find_server(service, address, port)
        if not server:
            raise Refused("no server")
        server.configure(method, weight, upper, lower)
        service.scheduler.edited(service.servers)

    def delete_server(self, key: Key, address: str, port: int) -> None:
        service = self._service(key)
        server = self._find_server(service, address, port)
        if not server:
            raise Refused("no server")
        place = service.servers.index(server)
        before = service.servers[place - 1] if place else None
        service.servers.remove(server)
        service.scheduler.removed(service.servers, server, before)
        self._throw_away(server)
        self.end_left_behind()

    def zero(self, key: Key | None) -> None:
        chosen = [self._service(key)] if key else self.services.values()
        for service in chosen:
            for counters in (service.counters, *(server.counters for server in service.servers)):
                counters.zero()
        if not key:
            self.counters.zero()

    @staticmethod
    def _find_server(service: Service, address: str, port: int) -> RealServer | None:
        return next((s for s in service.servers if (s.address, s.port) == (address, port)), None)

    def _bound(self, server: RealServer) -> list["Connection"]:
        return [conn for conn in self.connections if conn.server is server]

    def _believers(self, server: RealServer) -> list["Template"]:
        return [template for template in self.templates if template.server is server]

    # ---- the trash ----

    def _throw_away(self, server: RealServer) -> None:
        server.available = False
        server.idle_since = self.now
        self.trash.append(server)

    def _let_go(self, servers: list[RealServer]) -> None:
        """Nobody remembers them any more."""
        for server in servers:
            server.idle_since = self.now

    def end_left_behind(self) -> None:
        """Real servers have gone, and with them perhaps their connections."""
        raise NotImplementedError

    def trashed(self, key: Key, address: str, port: int) -> RealServer | None:
        """The real server that would come back, if it is still there."""
        identity = key, address, port
        return next((s for s in self.trash if (s.service.key, s.address, s.port) == identity), None)

    def fate(self, server: RealServer) -> str:
        """Of a real server in the trash: "kept", "freed", or "open" when it depends on when the kernel looks."""
        busy = server.busy or any(one.remembers(server) for one in self.services.values())
        idle = 0 if busy else self.now - server.idle_since
        least, most = TRASH_SECONDS
        if idle > most:
            return "freed"
        return "kept" if idle < least else "open"
