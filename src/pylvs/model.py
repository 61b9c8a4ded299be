"""The nouns of LVS as frozen values: no I/O, no kernel.

A value that exists is well formed: the constructors `virtual_service()` and
`real_server()` check everything that can be checked without knowing what is
configured, and raise `InvalidValue` with a text that says what would be right.
What depends on the running director (duplicates, unknown services) is
`pylvs.director`'s.

Only cheap imports here: `ipvsadm` starts through this module.
"""

import errno
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton  # `socket` itself costs 8 ms
from collections.abc import Sequence
from typing import NamedTuple

from pylvs.errors import InvalidValue

TCP, UDP, SCTP = 6, 17, 132
PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
PROTOCOL_NAMES = {0: "IP", TCP: "TCP", UDP: "UDP", SCTP: "SCTP", 1: "ICMP", 58: "ICMPv6"}

# Forwarding methods: the numbers are kernel IPVS's (facts section 0).
MASQ, LOCALNODE, TUNNEL, ROUTE, BYPASS = range(5)
METHOD_NAMES = {MASQ: "Masq", LOCALNODE: "Local", TUNNEL: "Tunnel", ROUTE: "Route", BYPASS: "Bypass"}

# Tunnel types and flags (facts section 0).
TUN_IPIP, TUN_GUE, TUN_GRE = range(3)
TUN_NOCSUM, TUN_CSUM, TUN_REMCSUM = range(3)

SCHEDULER_FLAGS = {"sh": ("sh-fallback", "sh-port"), "mh": ("mh-fallback", "mh-port")}
GENERIC_FLAGS = ("flag-1", "flag-2", "flag-3")  # the kernel keeps three bits for every scheduler, named or not
DEFAULT_SCHEDULER = "wlc"
NETMASK_ALL = 0xFFFFFFFF
WEIGHT_MAX = 0x7FFFFFFF
THRESHOLD_MAX = 0x7FFFFFFF


class VirtualService(NamedTuple):
    """What clients connect to. Make one with `virtual_service()`.

    Attributes:
        address: the VIP in canonical text; "" for a firewall-mark service.
        port: 0..65535; 0 for "all ports" (needs persistence) and firewall marks.
        protocol: TCP, UDP or SCTP (IP protocol numbers).
        family: AF_INET or AF_INET6.
        fwmark: the firewall mark, or 0.
        scheduler: name of the scheduler.
        scheduler_flags: of scheduler_flag_names(scheduler), in that order.
        persistent: timeout of persistence templates in seconds; 0: not persistent.
        netmask: granularity of persistence: an IPv4 mask as an integer in host order, or an IPv6 prefix length.
        persistence_engine: "" or "sip".
        one_packet: schedule each UDP packet by itself.
    """

    address: str
    port: int
    protocol: int = TCP
    family: int = AF_INET
    fwmark: int = 0
    scheduler: str = DEFAULT_SCHEDULER
    scheduler_flags: tuple[str, ...] = ()
    persistent: int = 0
    netmask: int = NETMASK_ALL
    persistence_engine: str = ""
    one_packet: bool = False

    @property
    def key(self) -> tuple[int, int, str, int, int]:
        """What identifies a service (facts 1.2): (family, protocol, address, port, fwmark)."""
        if self.fwmark:
            return (self.family, TCP, "", 0, self.fwmark)
        return (self.family, self.protocol, self.address, self.port, 0)

    def __str__(self) -> str:
        if self.fwmark:
            return f"firewall mark {self.fwmark}" + (" (IPv6)" if self.family == AF_INET6 else "")
        return f"{protocol_name(self.protocol)} {endpoint(self.address, self.port)}"


class RealServer(NamedTuple):
    """A destination of a virtual service. Make one with `real_server()`.

    Attributes:
        address: the RIP in canonical text.
        port: 0..65535; 0 keeps the port that the client asked for.
        method: MASQ, ROUTE or TUNNEL.
        weight: 0..2**31-1; 0 means no new connections.
        upper, lower: connection thresholds; 0 means none.
        tun_type, tun_port, tun_flags: of a TUNNEL (TUN_IPIP, TUN_GUE, TUN_GRE; TUN_NOCSUM, ...).
    """

    address: str
    port: int
    method: int = ROUTE
    weight: int = 1
    upper: int = 0
    lower: int = 0
    tun_type: int = TUN_IPIP
    tun_port: int = 0
    tun_flags: int = TUN_NOCSUM

    @property
    def family(self) -> int:
        return family_of(self.address)

    def __str__(self) -> str:
        return endpoint(self.address, self.port)


class MarkRule(NamedTuple):
    """Which packets get which firewall mark. Make one with `pylvs.marks.mark_rule()`. What is empty or 0 is any.

    Attributes:
        mark: the firewall mark; 0 exempts packets from the rules behind this one.
        destination, source: networks in canonical text: 10.0.0.0/8, 10.0.0.1, 2001:db8::/32.
        interface: name of the interface by which they come.
        protocol: TCP, UDP or SCTP.
        destination_ports, source_ports: ranges (first, last), lowest first, that neither meet nor overlap.
        family: AF_INET or AF_INET6.
    """

    mark: int
    destination: str = ""
    source: str = ""
    interface: str = ""
    protocol: int = 0
    destination_ports: tuple[tuple[int, int], ...] = ()
    source_ports: tuple[tuple[int, int], ...] = ()
    family: int = 0

    def __str__(self) -> str:
        """In the words of `pylvs mark add`."""
        words = [("--dst", self.destination), ("--src", self.source), ("--in", self.interface)]
        if self.family and not self.destination and not self.source:
            words.append(("--family", "ipv6" if self.family == AF_INET6 else "ipv4"))
        words.append(("--proto", PROTOCOL_NAMES[self.protocol].lower() if self.protocol else ""))
        for option, ranges in (("--dport", self.destination_ports), ("--sport", self.source_ports)):
            words.append((option, ",".join(str(a) if a == b else f"{a}:{b}" for a, b in ranges)))
        return " ".join(f"{option} {value}" for option, value in (*words, ("--mark", str(self.mark))) if value)


class MarkRoute(NamedTuple):
    """Packets to which netfilter has given this mark are routed to the director.

    Attributes:
        mark, mask: a packet is meant if the bits of its mark that the mask has are these.
        family: AF_INET or AF_INET6.
    """

    mark: int
    mask: int = NETMASK_ALL
    family: int = AF_INET

    def __str__(self) -> str:
        mask = "" if self.mask == NETMASK_ALL else f"/{self.mask:#x}"
        return f"{self.mark:#x}{mask} {'ipv6' if self.family == AF_INET6 else 'ipv4'}"


class Timeouts(NamedTuple):
    """Seconds of idleness after which a connection is forgotten (`ipvsadm --set`); setting 0 keeps the present one."""

    tcp: int
    tcp_fin: int
    udp: int


class Stats(NamedTuple):
    """Counters of a service, a real server or the whole director, and their rates per second (facts section 8)."""

    conns: int = 0
    inpkts: int = 0
    outpkts: int = 0
    inbytes: int = 0
    outbytes: int = 0
    cps: int = 0
    inpps: int = 0
    outpps: int = 0
    inbps: int = 0
    outbps: int = 0


class Destination(NamedTuple):
    """A real server as it stands in a running director."""

    server: RealServer
    active: int = 0
    inactive: int = 0
    persistent: int = 0
    stats: Stats = Stats()


class Service(NamedTuple):
    """A virtual service as it stands in a running director; destinations newest first, as schedulers see them."""

    service: VirtualService
    destinations: Sequence[Destination] = ()
    stats: Stats = Stats()


class Connection(NamedTuple):
    """One entry of the connection table.

    Attributes:
        state: the state's name as `ipvsadm -Lc` shows it.
        expires: milliseconds until the entry is forgotten.
        method: forwarding method, as of the connection's birth.
        packets: client packets seen.
        fwmark: the packet mark at creation.
    """

    family: int
    protocol: int
    caddr: str
    cport: int
    vaddr: str
    vport: int
    daddr: str
    dport: int
    state: str
    expires: int
    method: int = MASQ
    template: bool = False
    packets: int = 0
    fwmark: int = 0
    pe_name: str = ""
    pe_data: bytes = b""


def family_of(address: str) -> int:
    """AF_INET6 if the text is an IPv6 address, else AF_INET."""
    return AF_INET6 if ":" in address else AF_INET


def canonical_address(address: str) -> str:
    """The one text of an IPv4 or IPv6 address.

    Raises:
        InvalidValue: it is neither.
    """
    family = family_of(address)
    try:
        return inet_ntop(family, inet_pton(family, address))
    except (OSError, ValueError):
        raise InvalidValue(f"'{address}' is not an IPv4 or IPv6 address; write 10.0.0.1 or 2001:db8::1") from None


def endpoint(address: str, port: int) -> str:
    """address:port as people write it, IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def protocol_name(protocol: int) -> str:
    """The name kernel IPVS shows for a protocol number (facts 3.4)."""
    return PROTOCOL_NAMES.get(protocol) or f"IP_{protocol}"


def scheduler_flag_names(scheduler: str) -> tuple[str, ...]:
    """The names of a scheduler's three flag bits, lowest bit first: its own names, then the generic ones."""
    own = SCHEDULER_FLAGS.get(scheduler, ())
    return own + GENERIC_FLAGS[len(own) :]


def virtual_service(
    address: str = "",
    port: int = 0,
    *,
    protocol: int | str = TCP,
    fwmark: int = 0,
    family: int | None = None,
    scheduler: str = DEFAULT_SCHEDULER,
    scheduler_flags: Sequence[str] = (),
    persistent: int = 0,
    netmask: int | None = None,
    persistence_engine: str = "",
    one_packet: bool = False,
) -> VirtualService:
    """A checked `VirtualService`; the arguments are its attributes.

    Args:
        protocol: a number, or "tcp", "udp", "sctp".
        family: only needed for an IPv6 firewall mark; an address tells its own.
        netmask: None for a single client address.

    Raises:
        InvalidValue: with a text that names the argument and what it may be.
    """
    if isinstance(protocol, str):
        if protocol.lower() not in PROTOCOLS:
            raise InvalidValue(f"protocol '{protocol}' is unknown; use tcp, udp or sctp")
        protocol = PROTOCOLS[protocol.lower()]
    if protocol not in (TCP, UDP, SCTP):
        raise InvalidValue(f"protocol {protocol} cannot be balanced; use 6 (TCP), 17 (UDP) or 132 (SCTP)")
    _in_range("firewall mark", fwmark, 0, 0xFFFFFFFF)
    if fwmark:
        if address or port:
            raise InvalidValue("a service has either a firewall mark or an address and port, not both")
        protocol = TCP
        family = AF_INET if family is None else family
    else:
        address = canonical_address(address)
        family = family_of(address)
    _in_range("port", port, 0, 65535)
    _in_range("persistence timeout (seconds)", persistent, 0, 0xFFFFFFFF)
    allowed = scheduler_flag_names(scheduler)
    for flag in scheduler_flags:
        if flag not in allowed:
            raise InvalidValue(f"scheduler {scheduler} has no flag '{flag}'; it has {', '.join(allowed)}")
    if netmask is None:
        netmask = 128 if family == AF_INET6 else NETMASK_ALL
    elif family == AF_INET6:
        _in_range("IPv6 prefix length", netmask, 1, 128)
    else:
        _in_range("netmask", netmask, 0, NETMASK_ALL)
    flags = tuple(flag for flag in allowed if flag in scheduler_flags)
    return VirtualService(
        address, port, protocol, family, fwmark, scheduler, flags, persistent, netmask, persistence_engine, one_packet
    )


def real_server(
    address: str,
    port: int = 0,
    *,
    method: int = ROUTE,
    weight: int = 1,
    upper: int = 0,
    lower: int = 0,
    tun_type: int = TUN_IPIP,
    tun_port: int = 0,
    tun_flags: int = TUN_NOCSUM,
) -> RealServer:
    """A checked `RealServer`; the arguments are its attributes (facts 1.7).

    Raises:
        InvalidValue: with a text that names the argument and what it may be; errno ERANGE for weights and
            thresholds, else EINVAL.
    """
    address = canonical_address(address)
    _in_range("port", port, 0, 65535)
    if method not in (MASQ, ROUTE, TUNNEL):
        raise InvalidValue(f"forwarding method {method} is unknown; use MASQ, ROUTE or TUNNEL")
    _in_range("weight", weight, 0, WEIGHT_MAX, errno.ERANGE)
    _in_range("upper threshold", upper, 0, THRESHOLD_MAX)
    _in_range("lower threshold", lower, 0, THRESHOLD_MAX, errno.ERANGE)
    if lower > upper:
        raise InvalidValue(f"the lower threshold {lower} is above the upper threshold {upper}", errno.ERANGE)
    if method == TUNNEL and tun_type == TUN_GUE and not tun_port:
        raise InvalidValue("a GUE tunnel needs the real server's port")
    return RealServer(address, port, method, weight, upper, lower, tun_type, tun_port, tun_flags)


def _in_range(what: str, value: int, low: int, high: int, number: int = errno.EINVAL) -> None:
    if not low <= value <= high:
        raise InvalidValue(f"{what} {value} is out of range; it may be {low} to {high}", number)
