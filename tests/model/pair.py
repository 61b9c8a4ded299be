"""The model and the real director side by side: both get the same commands and the same packets, and are compared.

Names are short, so that a counterexample can be read: c1 is a client, rs1 a real server, of whichever address family
the service is. What both know is written down as lines of text, and what is reported is the lines that differ.

The clock. The director's runs on by itself, the model's does not: what both have passed since the beginning differs
by the little time that the test takes. As everything happens at whole seconds of the model's clock and the difference
never shrinks, the director ends a connection at the very step at which the model does, as long as the difference stays
below a second. If it ever does not, the machine was busy: the rest of the example is played but says nothing. (It
cannot be broken off: what Hypothesis draws must not depend on such things.)
"""

import difflib
from collections.abc import Iterator
from socket import AF_INET, AF_INET6
from typing import Any

from model.connections import Connection, Outcome, Packet
from model.model import Model
from model.services import Key, Options, Refused
from pylvs.errors import DestinationExists, NoSuchDestination, NoSuchService, ServiceExists
from pylvs.model import (
    MASQ,
    METHOD_NAMES,
    ROUTE,
    RealServer,
    Stats,
    Timeouts,
    VirtualService,
    real_server,
    virtual_service,
)
from pylvs.selections import selection
from support import packets
from support.harness import Harness, Result
from support.packets import chunk, sctp_packet, tcp_packet, udp_packet, wrong_sums

LATE = 900_000_000  # ns
FOREVER = 100_000  # s
MAX_SERVICES, MAX_SERVERS = 16, 64
NEVER = 65535
"""The port of a template that is not found again."""

CHUNKS = {"DOWN_ACK": "SHUTDOWN_ACK", "COMPLETE": "SHUTDOWN_COMPLETE"}
"""Of chunks that the model calls otherwise, the names."""
METHODS = {"nat": MASQ, "route": ROUTE}
_METHOD_OF = {METHOD_NAMES[number]: name for name, number in METHODS.items()}
_REFUSALS = {
    ServiceExists: "exists", DestinationExists: "exists", NoSuchService: "no service", NoSuchDestination: "no server",
}  # fmt: skip
_PROTOCOLS = {0: "ip", packets.TCP: "tcp", packets.UDP: "udp", packets.SCTP: "sctp"}
_ANY = Options()
"""Where it is only said which service is meant."""
_BITS = {"FIN": packets.FIN, "SYN": packets.SYN, "RST": packets.RST, "PSH": packets.PSH, "ACK": packets.ACK,
         "URG": packets.URG}  # fmt: skip
_VERDICTS = {
    "forwarded_nat_request": "nat request",
    "forwarded_nat_reply": "nat reply",
    "forwarded_route": "route",
    "dropped_destination_gone": "dropped",
    "dropped_by_defence": "dropped",
    "dropped_conn_max": "dropped",
    "dropped_truncated": "dropped",
    "dropped_no_destination": "port unreachable",
    "dropped_ttl_exceeded": "time exceeded",
}
_ICMP = {
    ("port unreachable", 4): (3, 3, 0), ("port unreachable", 6): (1, 4, 0),
    ("time exceeded", 4): (11, 0, 0), ("time exceeded", 6): (3, 0, 0),
}  # fmt: skip


def key(name: str) -> Key:
    """The service of a name such as "tcp 10.99.0.1:80"."""
    protocol, endpoint = name.split()
    address, port = endpoint.rsplit(":", 1)
    return Key(protocol, address.strip("[]"), int(port))


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def host(name: str, beside: str) -> str:
    """The address of c1, c2, rs1, ... in the family of another address."""
    network, number = (1, name.removeprefix("c")) if name.startswith("c") else (2, name.removeprefix("rs"))
    return f"fd00:{network}::{number}" if ":" in beside else f"10.{network}.0.{number}"


def server(name: str, beside: str) -> tuple[str, int]:
    """The real server of a name such as "rs1:8080"."""
    who, port = name.split(":")
    return host(who, beside), int(port)


def nickname(address: str) -> str:
    """The other way: c1 for a client's address."""
    return "c" + address.replace(":", ".").rsplit(".", 1)[1]


def connection_name(conn: Connection) -> str:
    (client, port), virtual = conn.client, conn.virtual
    return f"{conn.protocol} {nickname(client)}:{port} {endpoint(*virtual)}"


def flags_of(name: str) -> frozenset[str]:
    return frozenset(name.split("+")) if name else frozenset()


def use_all_numbers(lvs: Harness) -> None:
    """Fill the director's tables once: from then on each example finds them alike, and every service and real server
    gets a number that had another owner."""
    service = virtual_service("10.99.9.9", 1)
    for number in range(MAX_SERVICES):
        lvs.director.add_service(service._replace(port=number + 1))
    for number in range(MAX_SERVERS):
        lvs.director.add_destination(service, real_server("10.2.9.9", number + 1))


class Pair:
    """See the file's head.

    Attributes:
        model, lvs: the two.
        remarks: on the present step, for whoever reads a counterexample.
        sound: the last step came to its end, and they were alike.
    """

    def __init__(self, lvs: Harness):
        """Both as if nothing had ever been."""
        self.lvs, self.model = lvs, Model()
        self.remarks: list[str] = []
        self.sound = True
        self._shadowed: set[Connection] = set()
        self._forget()
        self._began = lvs.instance.now()
        self.compare()

    def _forget(self) -> None:
        """The director is not loaded anew, which would take a tenth of a second: its services go, and time passes
        until everything else is forgotten."""
        seconds = self.model.seconds
        self.lvs.director.flush()
        self.lvs.director.set_timeouts(Timeouts(seconds["ESTABLISHED"], seconds["FIN_WAIT"], seconds["UDP"]))
        for name, value in self.model.sysctls.items():
            self._set_sysctl(name, value)
        self.lvs.instance.runtime.put(0, "drop_counter", 0)
        for _ in range(2):  # the last connections end, then the real servers that had them
            self.lvs.advance(FOREVER)
        self.lvs.director.zero()

    def end(self) -> None:
        """Everything ends, and nothing may be left. After a failure the next example begins with a new director."""
        if self.sound:
            self.advance(FOREVER)
            self.command("flush")
            self.advance(FOREVER)
        else:
            self.lvs.reload()
            use_all_numbers(self.lvs)

    # ---- commands ----

    def command(self, name: str, *words: Any) -> None:
        """The same command for both: the model's method of this name, and what it is called here."""
        self.sound = False
        refused = []
        for perform in (getattr(self.model, name), getattr(self, f"_{name}")):
            try:
                perform(*words)
                refused.append("done")
            except Refused as refusal:
                refused.append(str(refusal))
            except tuple(_REFUSALS) as error:
                refused.append(_REFUSALS[type(error)])
        assert refused[0] == refused[1], f"the model says {refused[0]}, the director says {refused[1]}"
        if refused[0] != "done":
            self.remarks.append(f"refused: {refused[0]}")
        self.compare()

    @staticmethod
    def _service(key: Key, options: Options = _ANY) -> VirtualService:
        names = [f"{options.scheduler}-{flag}" for flag in options.flags if options.scheduler in ("sh", "mh")]
        family = AF_INET6 if ":" in key.address else AF_INET
        if key.protocol == "mark":
            to: dict[str, Any] = {"fwmark": key.port, "family": family}
        else:
            to = {"address": key.address, "port": key.port, "protocol": key.protocol}
        return virtual_service(
            **to, scheduler=options.scheduler, scheduler_flags=names, persistent=options.persistent,
            netmask=128 - options.spread if family == AF_INET6 else 0xFFFFFFFF >> options.spread << options.spread,
            one_packet=options.one_packet,
        )  # fmt: skip

    def _add_service(self, key: Key, options: Options) -> None:
        self.lvs.director.add_service(self._service(key, options))

    def _edit_service(self, key: Key, options: Options) -> None:
        self.lvs.director.edit_service(self._service(key, options))

    def _delete_service(self, key: Key) -> None:
        self.lvs.director.delete_service(self._service(key))

    def _flush(self) -> None:
        self.lvs.director.flush()

    def _add_server(self, key: Key, *server: Any) -> None:
        new = self._server(*server)
        self.lvs.director.add_destination(self._service(key), new)

    @staticmethod
    def _server(address: str, port: int, method: str, weight: int, upper: int = 0, lower: int = 0) -> RealServer:
        return real_server(address, port, method=METHODS[method], weight=weight, upper=upper, lower=lower)

    def _edit_server(self, key: Key, *server: Any) -> None:
        new = self._server(*server)
        self.lvs.director.edit_destination(self._service(key), new)

    def _delete_server(self, key: Key, address: str, port: int) -> None:
        self.lvs.director.delete_destination(self._service(key), real_server(address, port))

    def _zero(self, key: Key | None) -> None:
        self.lvs.director.zero(self._service(key) if key else None)

    def _set_timeouts(self, established: int, fin_wait: int, udp: int) -> None:
        self.lvs.director.set_timeouts(Timeouts(established, fin_wait, udp))

    def _set_sysctl(self, name: str, value: int) -> None:
        if name == "drop_packet":
            self.lvs.set(am_droprate=value)
        always = 3 if value else 0
        self.lvs.set(**{name: always if name in ("drop_packet", "secure_tcp") else value})

    def _end_connection(self, conn: Connection) -> None:
        which = selection(f"{conn.protocol}/{endpoint(*conn.virtual)}", client=endpoint(*conn.client))
        assert self.lvs.director.flush_connections(which) == 1, f"the director has no {connection_name(conn)}"

    # ---- time ----

    def advance(self, seconds: int) -> None:
        """Let time go by for both; the director's sweep gets to see each moment at which something ends."""
        self.sound = False
        for stretch in self._stretches(seconds):
            self.lvs.advance(stretch)
        self.compare()

    def advance_unswept(self, seconds: int) -> None:
        """The same, but at the last moment a packet comes before the sweep: send it next."""
        before = 0
        for stretch in self._stretches(seconds):
            if before:
                self.lvs.advance(before)
            before = stretch
        self.lvs.shift(before)

    def _stretches(self, seconds: int) -> Iterator[int]:
        """Let the model's time go by, from one end of something to the next; how long each stretch is."""
        model = self.model
        end = model.now + seconds
        while model.now < end:
            before, moment = model.now, model.next_moment(end)
            for conn in model.undecided(moment):
                self.remarks.append(f"ended by command: {connection_name(conn)}")
                model.end_connection(conn)
                self._end_connection(conn)
            model.pass_until(moment)
            yield moment - before

    # ---- packets ----

    def send(
        self, protocol: str, src: str, sport: int, dst: str, dport: int, flags: str = "", ttl: int = 64, size: int = 0,
        *, mark: int = 0,
    ) -> None:  # fmt: skip
        """A packet for both, from the side that its source lives on."""
        payload = bytes(range(size))
        if protocol == "tcp":
            bits = sum(_BITS[flag] for flag in flags_of(flags))
            raw = tcp_packet(src, sport, dst, dport, bits, payload, ttl=ttl)
        elif protocol == "sctp":
            payload = chunk(CHUNKS.get(flags, flags), payload) if flags else b""
            raw = sctp_packet(src, sport, dst, dport, payload, ttl=ttl)
        else:
            raw = udp_packet(src, sport, dst, dport, payload, ttl=ttl)
        packet = Packet(protocol, src, sport, dst, dport, flags_of(flags), len(raw), ttl, mark)
        if not self._comparable(packet):
            self.remarks.append("not sent: a known difference")
            self.lvs.sweep()
            return
        self.sound = False
        before = list(self.model.connections)
        expected = self.model.packet(packet)
        asked = f"{endpoint(src, sport)} > {endpoint(dst, dport)} {flags or protocol}{f' mark {mark}' if mark else ''}"
        self.remarks.append(f"{asked}: {self._say(expected)}")
        arrive = self.lvs.from_client if src.startswith(("10.1.", "fd00:1:")) else self.lvs.from_server
        result = arrive(raw, mark=mark)
        self.lvs.sweep()
        self._note_shadows(before)
        outcome = self._outcome(packet, result, payload)
        same = outcome == expected or not self.in_time()
        assert same, f"the model says {self._say(expected)}, the director says {self._say(outcome)}"
        self.compare()

    def _comparable(self, packet: Packet) -> bool:
        """What is known to be otherwise in the director, by design, is not sent."""
        # Two connections of one client port, to two services, by NAT to the same real server: replies belong to the
        # newest. When it ends the kernel finds the older one, here that one has no replies any more.
        return self.model.replied(packet) not in self._shadowed

    def _note_shadows(self, before: list[Connection]) -> None:
        for new in self.model.connections:
            if new in before:
                break  # newest first
            reply = new.protocol, new.client, new.replies_from
            self._shadowed |= {
                old for old in before if (old.protocol, old.client, old.replies_from) == reply and old.method == "nat"
            }

    @staticmethod
    def _say(outcome: Outcome) -> str:
        if not outcome.ttl:
            return outcome.verdict
        to = f"{endpoint(*outcome.source)} > {endpoint(*outcome.destination)}"
        return f"{outcome.verdict}, {to} ttl {outcome.ttl}"

    @staticmethod
    def _outcome(packet: Packet, result: Result, payload: bytes) -> Outcome:
        """What the director did, in the model's words. Nothing that leaves may have a wrong checksum."""
        verdict = "up" if result.handed_up else _VERDICTS.get(result.reason, result.reason)
        if result.answers == ("answered_icmp",):
            answer = result.packet
            assert answer.icmp == _ICMP[verdict, answer.version], f"{verdict} is answered with ICMP {answer.icmp}"
            assert answer.dst == packet.src, f"the answer goes to {answer.dst}"
            quoted = packets.dissect(answer.quoted)
            ports = quoted.source, quoted.destination
            assert ports == ((packet.src, packet.sport), (packet.dst, packet.dport)), f"the answer is about {ports}"
            assert not wrong_sums(answer.raw), f"wrong checksums: {wrong_sums(answer.raw)}"
        elif verdict in ("port unreachable", "time exceeded"):
            assert result.answers, f"nobody is told of {verdict}"  # told, or told too often
        if not result.forwarded:
            return Outcome(verdict)
        left = result.packet
        assert not wrong_sums(left.raw), f"wrong checksums: {wrong_sums(left.raw)}"
        assert left.payload == payload and len(left.raw) == packet.length, "the payload is another"
        return Outcome(verdict, left.source, left.destination, left.ttl)

    # ---- comparison ----

    def compare(self) -> None:
        """Both know the same."""
        model, director = self._model_lines(), self._director_lines()
        if model != director and self.in_time():
            difference = difflib.unified_diff(model, director, "the model", "the director", lineterm="", n=100)
            raise AssertionError("\n".join(["they differ", *difference]))
        self.sound = True

    def in_time(self) -> bool:
        """Can the two still be compared?"""
        return bool(self.lvs.instance.now() - self._began - self.model.now * 1_000_000_000 < LATE)

    @staticmethod
    def _counted(c: Any) -> str:
        return f"{c.conns} conns, in {c.inpkts} packets {c.inbytes} bytes, out {c.outpkts} packets {c.outbytes} bytes"

    def _model_lines(self) -> list[str]:
        model, lines = self.model, []
        for key, service in sorted(model.services.items()):
            lines.append(f"{key.protocol} {endpoint(key.address, key.port)} {self._options(service.options)}")
            lines.append("      " + self._counted(service.counters))
            for place in service.servers:
                load = f"{place.active} active {place.inactive} inactive {place.persistent} persistent"
                lines.append(f"  -> {endpoint(place.address, place.port)} {place.method} weight {place.weight}, {load}")
                lines.append(f"      {place.upper} to {place.lower}, {'overloaded' * place.overloaded}")
                lines.append("      " + self._counted(place.counters))
        entries = []
        for conn in model.connections:
            entries.append(
                f"{conn.protocol} {endpoint(*conn.client)} {endpoint(*conn.virtual)} -> {endpoint(*conn.real)} "
                f"{conn.method} {conn.state}, {conn.expires - model.now} s, {conn.packets} packets, mark {conn.mark}"
            )
        for one in model.templates:
            virtual, real = one.key.virtual, one.real
            if not one.valid:
                virtual, real = (virtual[0], NEVER), (real[0], NEVER)
            entries.append(
                f"template {one.key.protocol} {endpoint(*one.key.client)} {endpoint(*virtual)} -> {endpoint(*real)} "
                f"{one.method} {'ASSURED' if one.proven else 'NONE'}, {one.expires - model.now} s, "
                f"{one.packets} packets, mark {one.mark}"
            )
        timeouts = tuple(model.seconds[state] for state in ("ESTABLISHED", "FIN_WAIT", "UDP"))
        return [*lines, *sorted(entries), f"total: {self._counted(model.counters)}", f"timeouts: {timeouts}"]

    @staticmethod
    def _options(options: Options) -> str:
        """As far as the director keeps them: flags are some schedulers', and nobody asks for them otherwise."""
        once = " one packet" * options.one_packet
        return f"{options.scheduler} persistent {options.persistent} spread {options.spread}{once}"

    @staticmethod
    def _key_of(service: VirtualService) -> Key:
        if service.fwmark:
            return Key("mark", "::" if service.family == AF_INET6 else "0.0.0.0", service.fwmark)
        return Key(_PROTOCOLS[service.protocol], service.address, service.port)

    @staticmethod
    def _options_of(service: VirtualService) -> Options:
        mask = service.netmask
        spread = 128 - mask if service.family == AF_INET6 else 32 - mask.bit_count()
        return Options(service.scheduler, frozenset(), service.persistent, spread, service.one_packet)

    def _director_lines(self) -> list[str]:
        director, lines = self.lvs.director, []
        services = {self._key_of(one.service): one for one in director.services()}
        for (protocol, address, port), one in sorted(services.items()):
            lines.append(f"{protocol} {endpoint(address, port)} {self._options(self._options_of(one.service))}")
            lines.append("      " + self._counted(one.stats))
            for place in one.destinations:
                load = f"{place.active} active {place.inactive} inactive {place.persistent} persistent"
                method = _METHOD_OF[METHOD_NAMES[place.server.method]]
                lines.append(f"  -> {place.server} {method} weight {place.server.weight}, {load}")
                number = self.lvs.number_of(one.service, place.server.address, place.server.port)
                overload = self.lvs.instance.dest_loads.get(number, "overload")
                lines.append(f"      {place.server.upper} to {place.server.lower}, {'overloaded' * overload}")
                lines.append("      " + self._counted(place.stats))
        entries = []
        for c in director.connections():
            entries.append(
                f"{'template ' * c.template}{_PROTOCOLS[c.protocol]} {endpoint(c.caddr, c.cport)} "
                f"{endpoint(c.vaddr, c.vport)} -> {endpoint(c.daddr, c.dport)} "
                f"{_METHOD_OF[METHOD_NAMES[c.method]]} {c.state}, {-(-c.expires // 1000)} s, {c.packets} packets, "
                f"mark {c.fwmark}"
            )
        totals: Stats = director.totals()
        timeouts = tuple(director.timeouts())
        return [*lines, *sorted(entries), f"total: {self._counted(totals)}", f"timeouts: {timeouts}"]
