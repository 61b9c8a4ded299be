"""The Linux Virtual Server once more, plain and slow: what the packet path is compared with.

Written from what kernel IPVS does, not from `src/pylvs`, of which nothing is used here. There are lists where others
have hashes, and everything that can be counted is counted when somebody asks.

    model = Model()
    web = Key("tcp", "10.99.0.1", 80)
    model.add_service(web, "rr")
    model.add_server(web, "10.2.0.1", 8080, "nat", weight=1)
    outcome = model.packet(Packet("tcp", "10.1.0.1", 1025, "10.99.0.1", 80, flags=frozenset({"SYN"}), length=40))
    assert outcome == Outcome("nat request", ("10.1.0.1", 1025), ("10.2.0.1", 8080), ttl=63)

Time is in whole seconds and moves only when told to.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from model import sctp, tcp
from model.schedulers import SCHEDULERS, Asked, Hashing, Lblc, Lblcr, overloaded_after

BIRTH_SECONDS = 3
TRASH_SECONDS = (120, 300)
"""A real server in the trash is kept for the first, and is gone after the second, of being without connections: the
kernel looks every 60 s, and frees one that it has seen idle for 120 s; and what lblc remembered of a service that is
gone is forgotten within 60 s."""

FTP_DATA = 20


class Refused(Exception):
    """A command that changes nothing; its text is one of "exists", "no service", "no server"."""


class Key(NamedTuple):
    """What identifies a virtual service."""

    protocol: str
    address: str
    port: int


Endpoint = tuple[str, int]


class Packet(NamedTuple):
    """A packet as it arrives. `length` is from the IP header on; `flags`: TCP's, or the kind of SCTP's first chunk."""

    protocol: str
    src: str
    sport: int
    dst: str
    dport: int
    flags: frozenset[str] = frozenset()
    length: int = 40
    ttl: int = 64


class Outcome(NamedTuple):
    """What becomes of a packet: "nat request", "nat reply" and "route" go on their way as said; "up" goes to the
    stack as it came; "dropped", "port unreachable" and "time exceeded" end here, the latter two with an ICMP error."""

    verdict: str
    source: Endpoint = ("", 0)
    destination: Endpoint = ("", 0)
    ttl: int = 0


UP, DROPPED = Outcome("up"), Outcome("dropped")
PORT_UNREACHABLE, TIME_EXCEEDED = Outcome("port unreachable"), Outcome("time exceeded")


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

    model: "Model"
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
    def _bound(self) -> list["Connection"]:
        return [conn for conn in self.model.connections if conn.server is self]

    @property
    def active(self) -> int:
        return sum(conn.active for conn in self._bound)

    @property
    def inactive(self) -> int:
        return len(self._bound) - self.active

    def configure(self, method: str, weight: int, upper: int, lower: int) -> None:
        self.method, self.weight, self.last_weight = method, weight, weight or self.last_weight
        changed = (self.upper, self.lower) != (upper, lower)
        self.upper, self.lower = upper, lower
        if changed:
            self.judge("edited")

    def judge(self, change: str) -> None:
        self.overloaded = overloaded_after(change, self.overloaded, len(self._bound), self.upper, self.lower)


@dataclass(eq=False)
class Service:
    key: Key
    name: str
    flags: frozenset[str] = frozenset()
    servers: list[RealServer] = field(default_factory=list)
    """Newest first."""
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        self.bind(self.name, self.flags)

    def bind(self, name: str, flags: frozenset[str]) -> None:
        """Have another scheduler, which begins anew, or the same one with other flags."""
        if name != self.name or not hasattr(self, "scheduler"):
            self.name, self.scheduler = name, SCHEDULERS[name](self.servers)
        self.flags = flags
        if isinstance(self.scheduler, Hashing):
            self.scheduler.fallback, self.scheduler.port = "fallback" in flags, "port" in flags

    def remembers(self, server: "RealServer") -> bool:
        """Does its scheduler know it from some connection's destination?"""
        return isinstance(self.scheduler, (Lblc, Lblcr)) and self.scheduler.names(server)


@dataclass(eq=False)
class Connection:
    protocol: str
    client: Endpoint
    virtual: Endpoint
    real: Endpoint
    method: str
    server: RealServer
    one_sided: bool
    """No reply has been seen yet, and none is expected to be."""
    state: str
    expires: int
    timeout: int = BIRTH_SECONDS
    active: bool = False
    packets: int = 0

    @property
    def replies_from(self) -> Endpoint:
        return self.real if self.method == "nat" else self.virtual


class Model:
    """One director.

    Attributes:
        now: seconds.
        reuse_mode: the sysctl conn_reuse_mode.
        modes: the sysctls sloppy_tcp and sloppy_sctp, and whether secure_tcp is in force.
        connections: newest first.
    """

    def __init__(self) -> None:
        self.now = 0
        self.reuse_mode = 1
        self.modes = {"sloppy_tcp": 0, "sloppy_sctp": 0, "secure_tcp": 0}
        self.seconds = {**tcp.SECONDS, "UDP": 300}
        self.services: dict[Key, Service] = {}
        self.connections: list[Connection] = []
        self.trash: list[RealServer] = []
        self.counters = Counters()

    # ---- commands ----

    def add_service(self, key: Key, scheduler: str, flags: frozenset[str] = frozenset()) -> None:
        if key in self.services:
            raise Refused("exists")
        self.services[key] = Service(key, scheduler, flags)

    def edit_service(self, key: Key, scheduler: str, flags: frozenset[str] = frozenset()) -> None:
        service = self._service(key)
        remembered = [server for server in self.trash if service.remembers(server)]
        service.bind(scheduler, flags)
        self._let_go(remembered)

    def delete_service(self, key: Key) -> None:
        service = self._service(key)
        for server in service.servers:
            self._throw_away(server)
        del self.services[key]
        self._let_go([server for server in self.trash if service.remembers(server)])

    def flush(self) -> None:
        for key in list(self.services):
            self.delete_service(key)

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
            server = RealServer(self, service, address, port, method, weight)
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

    def zero(self, key: Key | None) -> None:
        chosen = [self._service(key)] if key else self.services.values()
        for service in chosen:
            for counters in (service.counters, *(server.counters for server in service.servers)):
                counters.zero()
        if not key:
            self.counters.zero()

    def set_timeouts(self, established: int, fin_wait: int, udp: int) -> None:
        for state, seconds in (("ESTABLISHED", established), ("FIN_WAIT", fin_wait), ("UDP", udp)):
            self.seconds[state] = seconds or self.seconds[state]

    def set_reuse_mode(self, mode: int) -> None:
        self.reuse_mode = mode

    def set_mode(self, name: str, on: int) -> None:
        self.modes[name] = on

    def _service(self, key: Key) -> Service:
        if key not in self.services:
            raise Refused("no service")
        return self.services[key]

    @staticmethod
    def _find_server(service: Service, address: str, port: int) -> RealServer | None:
        return next((s for s in service.servers if (s.address, s.port) == (address, port)), None)

    # ---- the trash ----

    def _throw_away(self, server: RealServer) -> None:
        server.available = False
        server.idle_since = self.now
        self.trash.append(server)

    def _let_go(self, servers: list[RealServer]) -> None:
        """Nobody remembers them any more."""
        for server in servers:
            server.idle_since = self.now

    def trashed(self, key: Key, address: str, port: int) -> RealServer | None:
        """The real server that would come back, if it is still there."""
        identity = key, address, port
        return next((s for s in self.trash if (s.service.key, s.address, s.port) == identity), None)

    def fate(self, server: RealServer) -> str:
        """Of a real server in the trash: "kept", "freed", or "open" when it depends on when the kernel looks."""
        busy = server.active + server.inactive or any(one.remembers(server) for one in self.services.values())
        idle = 0 if busy else self.now - server.idle_since
        least, most = TRASH_SECONDS
        if idle > most:
            return "freed"
        return "kept" if idle < least else "open"

    # ---- time ----

    def moments(self, seconds: int) -> Iterator[int]:
        """Let time go by, from one connection's end to the next; gives how long each stretch is."""
        end = self.now + seconds
        while self.now < end:
            before = self.now
            self.now = min([end, *(conn.expires for conn in self.connections)])
            self._expire()
            yield self.now - before

    def _expire(self) -> None:
        ended = [conn for conn in self.connections if conn.expires <= self.now]
        for conn in ended:
            self.connections.remove(conn)
            conn.server.judge("left")
            if not conn.server.available and not conn.server.active + conn.server.inactive:
                conn.server.idle_since = self.now

    # ---- packets ----

    def hooked(self, family_of: str) -> bool:
        """Does it look at packets of an address's family? Only while there is a service of that family."""
        return any((":" in key.address) == (":" in family_of) for key in self.services)

    def packet(self, packet: Packet) -> Outcome:
        """A packet arrives."""
        if not self.hooked(packet.dst):
            return UP
        conn = self.replied(packet)
        outcome = self._reply(conn, packet) if conn else self._request(packet)
        self._expire()
        return outcome

    def replied(self, packet: Packet) -> Connection | None:
        """The connection whose reply a packet is."""
        source, destination = (packet.src, packet.sport), (packet.dst, packet.dport)
        for conn in self.connections:
            if (conn.protocol, conn.client, conn.replies_from) == (packet.protocol, destination, source):
                return conn
        return None

    def _reply(self, conn: Connection, packet: Packet) -> Outcome:
        if packet.ttl <= 1:
            return UP  # what forwards replies is the stack, and it looks at the TTL before
        if packet.protocol != "sctp" or packet.flags:
            conn.one_sided = False
        for counters in self._counters(conn):
            counters.outpkts += 1
            counters.outbytes += packet.length
        self._move(conn, packet, "OUTPUT")
        if conn.method != "nat":
            return UP
        return Outcome("nat reply", conn.virtual, conn.client, packet.ttl - 1)

    def _request(self, packet: Packet) -> Outcome:
        source, destination = (packet.src, packet.sport), (packet.dst, packet.dport)
        known: Connection | None = None
        for conn in self.connections:
            if (conn.protocol, conn.client, conn.virtual) == (packet.protocol, source, destination):
                known = conn
                break
        if known and self._begins_anew(known, packet):
            # Its timer is set to now and fires after the packet: while a real server is chosen it still counts. (In the
            # kernel until the new one counts, too; here its place is needed for that.)
            known.expires = self.now
            known = None
        if known and not known.server.available:
            return DROPPED
        if not known:
            known_or_why = self._schedule(packet)
            if isinstance(known_or_why, Outcome):
                return known_or_why
            known = known_or_why
        for counters in self._counters(known):
            counters.inpkts += 1
            counters.inbytes += packet.length
        self._move(known, packet, "INPUT_ONLY" if known.one_sided else "INPUT")
        known.packets += 1
        if packet.ttl <= 1:
            return TIME_EXCEEDED
        if known.method == "nat":
            return Outcome("nat request", source, known.real, packet.ttl - 1)
        return Outcome("route", source, destination, packet.ttl - 1)

    def _begins_anew(self, conn: Connection, packet: Packet) -> bool:
        """Does the packet open a new connection in the old one's place?"""
        if not packet.flags & {"SYN", "INIT"} or not self.reuse_mode:
            return False
        if packet.protocol == "sctp":
            return conn.state == "CLOSED"
        one_sided_end = self.reuse_mode & 2 and conn.state == "FIN_WAIT" and conn.one_sided
        return bool(conn.state in ("TIME_WAIT", "CLOSE") or one_sided_end)

    def _schedule(self, packet: Packet) -> Connection | Outcome:
        """A new connection, or what happens without one."""
        service = self.services.get(Key(packet.protocol, packet.dst, packet.dport))
        if service and packet.protocol == "sctp" and not packet.flags:
            return DROPPED  # nobody can say whether it may open
        if not self._may_open(packet):
            return UP
        if not service or packet.sport == FTP_DATA:
            return UP
        server = service.scheduler.chosen(service.servers, Asked(packet.src, packet.sport, packet.dst))
        if not server:
            return PORT_UNREACHABLE
        self._expire()
        conn = Connection(
            packet.protocol, (packet.src, packet.sport), (packet.dst, packet.dport),
            (server.address, server.port or packet.dport), server.method, server,
            one_sided=server.method != "nat",
            state="UDP" if packet.protocol == "udp" else "NONE",
            expires=self.now + BIRTH_SECONDS,
        )  # fmt: skip
        self.connections.insert(0, conn)
        server.judge("bound")
        for counters in self._counters(conn):
            counters.conns += 1
        return conn

    def _may_open(self, packet: Packet) -> bool:
        if packet.protocol == "tcp":
            return "RST" not in packet.flags and ("SYN" in packet.flags or bool(self.modes["sloppy_tcp"]))
        if packet.protocol == "sctp":
            return "ABORT" not in packet.flags and ("INIT" in packet.flags or bool(self.modes["sloppy_sctp"]))
        return True

    def _move(self, conn: Connection, packet: Packet, direction: str) -> None:
        """The packet's effect on the connection: state, load, and time."""
        if conn.protocol == "tcp":
            conn.state = tcp.next_state(direction, conn.state, packet.flags, bool(self.modes["secure_tcp"]))
            conn.active = conn.state in tcp.ACTIVE
        if conn.protocol == "sctp" and packet.flags:
            (event,) = packet.flags
            conn.state = sctp.next_state(direction, conn.state, event)
            conn.active = conn.state in sctp.ACTIVE
            conn.timeout = sctp.SECONDS[conn.state]
        elif conn.protocol != "sctp":
            conn.timeout = self.seconds[conn.state]
        conn.expires = self.now + conn.timeout

    def _counters(self, conn: Connection) -> list[Counters]:
        """Who counts a connection's packets: nobody while its real server is in the trash."""
        if not conn.server.available:
            return []
        return [conn.server.counters, conn.server.service.counters, self.counters]
