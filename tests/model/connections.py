"""Packets, connections and persistence templates, as the model knows them."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from model.services import RealServer, Service

Endpoint = tuple[str, int]
POSTPONED_SECONDS = 60
"""So much longer lives a template that has connections when its time is over, and from then on at each use."""


class Packet(NamedTuple):
    """A packet as it arrives. `length` is from the IP header on; `flags`: TCP's, or the kind of SCTP's first chunk;
    `mark`: what the firewall has given it."""

    protocol: str
    src: str
    sport: int
    dst: str
    dport: int
    flags: frozenset[str] = frozenset()
    length: int = 40
    ttl: int = 64
    mark: int = 0


class Outcome(NamedTuple):
    """What becomes of a packet: "nat request", "nat reply" and "route" go on their way as said; "up" goes to the
    stack as it came; "dropped", "port unreachable" and "time exceeded" end here, the latter two with an ICMP error."""

    verdict: str
    source: Endpoint = ("", 0)
    destination: Endpoint = ("", 0)
    ttl: int = 0


UP, DROPPED = Outcome("up"), Outcome("dropped")
PORT_UNREACHABLE, TIME_EXCEEDED = Outcome("port unreachable"), Outcome("time exceeded")


class TemplateKey(NamedTuple):
    """Under what a client's template is kept."""

    protocol: str
    client: Endpoint
    virtual: Endpoint


def network(address: str, spread: int) -> str:
    """An address without its last bits."""
    whole = ip_address(address)
    return str(type(whole)(int(whole) >> spread << spread))


def template_key(service: Service, packet: Packet) -> TemplateKey:
    """All that comes to a service by mark shares a template, whatever the address and the protocol; else all ports of
    an address that are not its service's own; and FTP's port with those of its data."""
    client = network(packet.src, service.options.spread), 0
    if service.marked:
        mark = service.key.port
        as_address = str(ip_address(mark << 96 if ":" in packet.src else mark))
        return TemplateKey("ip", client, (as_address, 0))
    own = packet.dport == service.port and packet.dport != 21
    return TemplateKey(packet.protocol, client, (packet.dst, packet.dport if own else 0))


@dataclass(eq=False)
class Template:
    """Leads its client's connections to one real server.

    Attributes:
        proven: one of its connections has come to data.
        valid: it may be found.
    """

    key: TemplateKey
    method: str
    server: RealServer
    mark: int
    timeout: int
    expires: int
    proven: bool = False
    valid: bool = True
    packets: int = 0

    @property
    def real(self) -> Endpoint:
        return self.server.address, self.server.port if self.key.virtual[1] else 0


@dataclass(eq=False)
class Connection:
    """`one_sided`: no reply has been seen yet, and none is expected to be. `once`: it is for one packet, and found by
    none."""

    protocol: str
    client: Endpoint
    virtual: Endpoint
    real: Endpoint
    method: str
    server: RealServer
    mark: int
    template: Template | None
    once: bool
    one_sided: bool
    state: str
    expires: int
    timeout: int = 0
    active: bool = False
    packets: int = 0

    @property
    def replies_from(self) -> Endpoint:
        return self.real if self.method == "nat" else self.virtual
