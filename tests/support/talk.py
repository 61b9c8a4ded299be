"""A client and a real server that talk through the director, said in one line each.

talk = Talk(lvs, IPV4).serve()
talk.asks("S").packet.destination == ("10.2.0.1", 8080)
talk.answers("SA").packet.source == ("10.99.0.1", 80)
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from support.harness import Harness, Result
from support.packets import SCTP, TCP, UDP, ip, sctp, tcp, udp


class Family(NamedTuple):
    """Who is where in the harness's topology."""

    version: int
    client: str
    vip: str
    servers: tuple[str, ...]
    near: str
    """The director's own address towards the clients."""
    far: str
    """The director's own address towards the real servers."""
    hop: str
    """The router behind which the real servers are."""
    nowhere: str
    """An address to which there is no route."""
    head: int
    """Bytes of the plain IP header."""

    @property
    def server(self) -> str:
        return self.servers[0]


IPV4 = Family(
    4, "10.1.0.1", "10.99.0.1", tuple(f"10.2.0.{n}" for n in range(1, 10)), "10.0.1.1", "10.0.2.1", "10.0.2.2",
    "192.0.2.9", 20,
)  # fmt: skip
IPV6 = Family(
    6, "fd00:1::1", "fd00:99::1", tuple(f"fd00:2::{n}" for n in range(1, 10)), "fd00:a1::1", "fd00:a2::1",
    "fd00:a2::2", "2001:db8::9", 40,
)  # fmt: skip
FAMILIES = (IPV4, IPV6)


def at(address: str, port: int) -> str:
    """address:port as ipvsadm takes it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@dataclass(frozen=True)
class Talk:
    """One client port of one service, and the real server that it talks to.

    Attributes:
        rport: the real servers' port.
    """

    lvs: Harness
    family: Family
    protocol: int = TCP
    sport: int = 1025
    port: int = 80
    rport: int = 8080
    server: str = ""

    @property
    def key(self) -> str:
        """The service as ipvsadm's options name it."""
        option = {UDP: "-u", SCTP: "--sctp-service"}.get(self.protocol, "-t")
        return f"{option} {at(self.family.vip, self.port)}"

    def serve(self, count: int = 1, method: str = "-m", scheduler: str = "rr", weight: int = 1) -> "Talk":
        """Define the service, with so many real servers."""
        self.lvs.ipvsadm(f"-A {self.key} -s {scheduler}")
        for server in self.family.servers[:count]:
            self.add(server, method, weight)
        return self

    def add(self, server: str, method: str = "-m", weight: int = 1) -> None:
        self.lvs.ipvsadm(f"-a {self.key} -r {at(server, self.rport)} {method} -w {weight}")

    def delete(self, server: str = "") -> None:
        self.lvs.ipvsadm(f"-d {self.key} -r {at(server or self.rs, self.rport)}")

    def weigh(self, server: str, weight: int, method: str = "-m") -> None:
        self.lvs.ipvsadm(f"-e {self.key} -r {at(server, self.rport)} {method} -w {weight}")

    @property
    def rs(self) -> str:
        return self.server or self.family.server

    def from_port(self, sport: int) -> "Talk":
        """Another client port of the same service."""
        return replace(self, sport=sport)

    def _segment(self, sport: int, dport: int, flags: int | str, payload: bytes, options: bytes) -> bytes:
        if self.protocol == UDP:
            return udp(sport, dport, payload)
        if self.protocol == SCTP:  # flags: the name of the first chunk; payload: whole chunks behind it
            return sctp(sport, dport, str(flags), payload)
        return tcp(sport, dport, flags, payload=payload, options=options)

    def question(self, flags: int | str = "S", payload: bytes = b"", tcp_options: bytes = b"", **of_ip: Any) -> bytes:
        """A packet from the client to the VIP."""
        segment = self._segment(self.sport, self.port, flags, payload, tcp_options)
        return ip(self.family.client, self.family.vip, self.protocol, segment, **of_ip)

    def answer(self, flags: int | str = "SA", payload: bytes = b"", tcp_options: bytes = b"", **of_ip: Any) -> bytes:
        """A packet from the real server to the client."""
        segment = self._segment(self.rport, self.sport, flags, payload, tcp_options)
        return ip(self.rs, self.family.client, self.protocol, segment, **of_ip)

    def asks(self, flags: int | str = "S", payload: bytes = b"", **of_ip: Any) -> Result:
        """The client sends."""
        return self.lvs.from_client(self.question(flags, payload, **of_ip))

    def answers(self, flags: int | str = "SA", payload: bytes = b"", **of_ip: Any) -> Result:
        """The real server sends."""
        return self.lvs.from_server(self.answer(flags, payload, **of_ip))

    def opens(self) -> "Talk":
        """The handshake; of UDP a datagram each way. The real server is whoever was chosen."""
        first = self.asks("S")
        assert first.reason == "forwarded_nat_request", first
        opened = replace(self, server=first.packet.dst)
        assert opened.answers("SA").reason == "forwarded_nat_reply"
        if self.protocol == TCP:
            assert opened.asks("A").reason == "forwarded_nat_request"
        return opened

    @property
    def entry(self) -> Any:
        """The connection, or None."""
        return self.lvs.entries().get((self.family.client, self.sport))
