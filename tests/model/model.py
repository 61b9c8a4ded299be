"""The Linux Virtual Server once more, plain and slow: what the packet path is compared with.

Written from what kernel IPVS does, not from `src/pylvs`, of which nothing is used here. What is configured is
services.py's, what a connection and a template are connections.py's; here is what packets and time do.

    model = Model()
    web = Key("tcp", "10.99.0.1", 80)
    model.add_service(web, Options("rr"))
    model.add_server(web, "10.2.0.1", 8080, "nat", weight=1)
    outcome = model.packet(Packet("tcp", "10.1.0.1", 1025, "10.99.0.1", 80, flags=frozenset({"SYN"}), length=40))
    assert outcome == Outcome("nat request", ("10.1.0.1", 1025), ("10.2.0.1", 8080), ttl=63)

Time is in whole seconds and moves only when told to.
"""

from collections import Counter

from model import sctp, tcp
from model.connections import (
    DROPPED,
    PORT_UNREACHABLE,
    POSTPONED_SECONDS,
    TIME_EXCEEDED,
    UP,
    Connection,
    Outcome,
    Packet,
    Template,
    template_key,
)
from model.schedulers import Asked
from model.services import Configuration, Counters, Key, RealServer, Service

BIRTH_SECONDS = 3
FTP, FTP_DATA, UNPRIVILEGED = 21, 20, 1024


class Model(Configuration):
    """One director.

    Attributes:
        sysctls: `drop_packet` is every so manieth packet that would make a connection; 0: none.
        seconds: how long a connection lives in each state.
        happened: how often what is rare has happened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sysctls = {
            "conn_reuse_mode": 1, "sloppy_tcp": 0, "sloppy_sctp": 0, "secure_tcp": 0, "expire_nodest_conn": 0,
            "expire_quiescent_template": 0, "drop_packet": 0, "conn_max": 1 << 30,
        }  # fmt: skip
        self.seconds = {**tcp.SECONDS, "UDP": 300}
        self.to_drop = 0
        self.happened: Counter[str] = Counter()

    def set_timeouts(self, established: int, fin_wait: int, udp: int) -> None:
        for state, seconds in (("ESTABLISHED", established), ("FIN_WAIT", fin_wait), ("UDP", udp)):
            self.seconds[state] = seconds or self.seconds[state]

    def set_sysctl(self, name: str, value: int) -> None:
        self.sysctls[name] = value

    # ---- time ----

    def next_moment(self, end: int) -> int:
        """When something ends next; `end` if that is earlier."""
        return min([end, *(one.expires for one in (*self.connections, *self.templates))])

    def pass_until(self, moment: int) -> None:
        """Let time go by; nothing may end before that."""
        self.now = moment
        self._expire()

    def undecided(self, moment: int) -> list[Connection]:
        """Connections that end at a moment at which their template's time is over, too: if the template is looked at
        first it lives on, else it ends with the last of them. The kernel's timers know no order."""
        both = [conn for conn in self.connections if conn.template and conn.expires == conn.template.expires == moment]
        return [conn for conn in both if all(one in both for one in self._controlled_by(conn.template))]

    def end_connection(self, conn: Connection) -> None:
        """By command."""
        conn.expires = self.now
        self._expire()

    def end_left_behind(self) -> None:
        if self.sysctls["expire_nodest_conn"]:
            for one in (*self.connections, *self.templates):
                if not one.server.available:
                    one.expires = self.now
                    self.happened["ended with its real server"] += 1
            self._expire()

    def _controlled_by(self, template: Template | None) -> list[Connection]:
        return [conn for conn in self.connections if conn.template is template]

    def _expire(self) -> None:
        for conn in [conn for conn in self.connections if conn.expires <= self.now]:
            self.connections.remove(conn)
            conn.server.judge("left")
            self._left(conn.server)
        for template in [template for template in self.templates if template.expires <= self.now]:
            if self._controlled_by(template):
                template.timeout = POSTPONED_SECONDS
                template.expires = self.now + POSTPONED_SECONDS
                self.happened["template lives on"] += 1
            else:
                self.templates.remove(template)
                self._left(template.server)

    def _left(self, server: RealServer) -> None:
        if not server.available and not server.busy:
            server.idle_since = self.now

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
            if not self.sysctls["expire_nodest_conn"]:
                return DROPPED
            self.happened["without a real server"] += 1
            self.end_connection(known)
            known = None
        if not known:
            known_or_why = self._schedule(packet)
            if isinstance(known_or_why, Outcome):
                return known_or_why
            known = known_or_why
        for counters in self._counters(known):
            counters.inpkts += 1
            counters.inbytes += packet.length
        self._move(known, packet, "INPUT_ONLY" if known.one_sided else "INPUT")
        if known.once:
            known.expires = self.now
        counting = known.template if known.once else known
        if counting:
            counting.packets += 1
        if packet.ttl <= 1:
            return TIME_EXCEEDED
        if known.method == "nat":
            return Outcome("nat request", source, known.real, packet.ttl - 1)
        return Outcome("route", source, destination, packet.ttl - 1)

    def _begins_anew(self, conn: Connection, packet: Packet) -> bool:
        """Does the packet open a new connection in the old one's place?"""
        if not packet.flags & {"SYN", "INIT"}:
            return False
        if self.sysctls["expire_nodest_conn"] and not conn.server.weight:
            self.happened["leaves a quiescent real server"] += 1
            return True
        mode = self.sysctls["conn_reuse_mode"]
        if packet.protocol == "sctp":
            over = conn.state == "CLOSED"
        else:
            one_sided_end = mode & 2 and conn.state == "FIN_WAIT" and conn.one_sided
            over = bool(conn.state in ("TIME_WAIT", "CLOSE") or one_sided_end)
        if mode and over and conn.template:
            self.happened["goes on for its template"] += 1
        return bool(mode) and over and not conn.template

    # ---- scheduling ----

    def service_of(self, packet: Packet) -> Service | None:
        """The mark comes first, then the very port, then FTP for its data, then all ports."""
        any_address = "::" if ":" in packet.dst else "0.0.0.0"
        keys = [Key(packet.protocol, packet.dst, packet.dport)]
        if packet.mark:
            keys.insert(0, Key("mark", any_address, packet.mark))
        if packet.protocol == "tcp" and (packet.dport == FTP_DATA or packet.dport >= UNPRIVILEGED):
            keys.append(Key("tcp", packet.dst, FTP))
        keys.append(Key(packet.protocol, packet.dst, 0))
        found = [self.services[key] for key in keys if key in self.services]
        self.happened["one service before another"] += len(found) > 1
        return found[0] if found else None

    def _schedule(self, packet: Packet) -> Connection | Outcome:
        """A new connection, or what happens without one."""
        service = self.service_of(packet)
        if service and packet.protocol == "sctp" and not packet.flags:
            return DROPPED  # nobody can say whether it may open
        if not service or not self._may_open(packet):
            return UP
        if self._unlucky():
            self.happened["dropped in defence"] += 1
            return DROPPED
        if packet.sport == FTP_DATA:
            return UP
        template, server = None, None
        if service.options.persistent:
            template = self._template(service, packet) or self._new_template(service, packet)
            server = template.server if template else None
        elif packet.dport == service.port or service.marked:
            server = self._chosen(service, packet)
        if not server:
            if service.port == FTP and packet.dport != FTP:
                self.happened["FTP's data without a connection"] += 1
                return UP
            return PORT_UNREACHABLE
        self._expire()
        if self._full() or (template and template not in self.templates):
            self.happened["too many"] += 1
            return DROPPED
        own_port = packet.dport == service.port or not template
        conn = Connection(
            packet.protocol, (packet.src, packet.sport), (packet.dst, packet.dport),
            (server.address, server.port if server.port and own_port else packet.dport), server.method, server,
            packet.mark, template,
            once=service.options.one_packet and packet.protocol == "udp",
            one_sided=server.method != "nat",
            state="UDP" if packet.protocol == "udp" else "NONE",
            expires=self.now + BIRTH_SECONDS,
            timeout=BIRTH_SECONDS,
        )  # fmt: skip
        self.connections.insert(0, conn)
        if template:
            template.expires = self.now + template.timeout
        server.judge("bound")
        for counters in self._counters(conn):
            counters.conns += 1
        self.happened["by mark"] += service.marked
        self.happened["for one packet"] += conn.once
        return conn

    def _chosen(self, service: Service, packet: Packet) -> RealServer | None:
        return service.scheduler.chosen(service.servers, Asked(packet.src, packet.sport, packet.dst))

    def _full(self) -> bool:
        return len(self.connections) + len(self.templates) >= self.sysctls["conn_max"]

    def _template(self, service: Service, packet: Packet) -> Template | None:
        """The template of the packet's client. One that must not be used any more is never found again."""
        key = template_key(service, packet)
        found = next((template for template in self.templates if template.valid and template.key == key), None)
        if not found:
            return None
        quiescent = self.sysctls["expire_quiescent_template"] and not found.server.weight
        if quiescent or not found.server.available:
            found.valid = False
            self.happened["template invalid"] += 1
            return None
        self.happened["template met again"] += 1
        self.happened["template of a mark met again"] += service.marked
        self.happened["template of a network met again"] += service.options.spread > 0
        self.happened["template of many ports met again"] += not key.virtual[1]
        edited = found.timeout not in (service.options.persistent, POSTPONED_SECONDS)
        self.happened["template from before an edit"] += edited
        self.happened["template after its first end"] += found.timeout == POSTPONED_SECONDS
        self.happened["template of an overloaded one"] += found.server.overloaded
        self.happened["template of a quiescent one"] += not found.server.weight
        return found

    def _new_template(self, service: Service, packet: Packet) -> Template | None:
        server = self._chosen(service, packet)
        if not server:
            return None
        timeout = service.options.persistent
        template = Template(
            template_key(service, packet), server.method, server, packet.mark, timeout, self.now + timeout
        )
        if not self._full():
            self.templates.insert(0, template)
        return template

    def _may_open(self, packet: Packet) -> bool:
        if packet.protocol == "tcp":
            return "RST" not in packet.flags and ("SYN" in packet.flags or bool(self.sysctls["sloppy_tcp"]))
        if packet.protocol == "sctp":
            return "ABORT" not in packet.flags and ("INIT" in packet.flags or bool(self.sysctls["sloppy_sctp"]))
        return True

    def _unlucky(self) -> bool:
        """Is it the packet that is dropped in defence? Who begins to count drops the first."""
        rate = self.sysctls["drop_packet"]
        if not rate:
            return False
        self.to_drop -= 1
        if self.to_drop > 0:
            return False
        self.to_drop = rate
        return True

    # ---- what packets do to connections ----

    def _move(self, conn: Connection, packet: Packet, direction: str) -> None:
        """The packet's effect on the connection: state, load, and time."""
        if conn.protocol == "tcp":
            conn.state = tcp.next_state(direction, conn.state, packet.flags, bool(self.sysctls["secure_tcp"]))
            conn.active = conn.state in tcp.ACTIVE
        if conn.protocol == "sctp" and packet.flags:
            (event,) = packet.flags
            conn.state = sctp.next_state(direction, conn.state, event)
            conn.active = conn.state in sctp.ACTIVE
            conn.timeout = sctp.SECONDS[conn.state]
        elif conn.protocol != "sctp":
            conn.timeout = self.seconds[conn.state]
        conn.expires = self.now + conn.timeout
        if conn.template and (conn.state == "ESTABLISHED" or (conn.protocol == "udp" and direction == "OUTPUT")):
            conn.template.proven = True

    def _counters(self, conn: Connection) -> list[Counters]:
        """Who counts a connection's packets: nobody while its real server is in the trash."""
        if not conn.server.available:
            return []
        return [conn.server.counters, conn.server.service.counters, self.counters]
