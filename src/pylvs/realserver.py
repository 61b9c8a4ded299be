"""What a host needs to be a real server of LVS-DR or LVS-TUN, as values: what is wanted, and what is missing.

Nothing here touches the kernel.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from pylvs.errors import InvalidValue

TUNNELS = ("ipip", "gre", "gue")
GUE_PORT = 6080
"""Where GUE goes if nothing is said; its number with IANA."""
OVERHEAD = {"ipip": 0, "gre": 8, "gue": 12}
"""What a tunnel takes beside its outer IP header at most; GRE with a checksum."""
IPV4_HEADER, IPV6_HEADER, TCP_HEADER = 20, 40, 20
MSS_LEAST, MSS_MOST = 88, 65495
"""Linux sends no shorter segments, whatever it is asked for; none is longer."""
STRICT = 1
"""rp_filter: a packet is dropped unless its answer would leave by the interface that it came by."""


class Decapsulation(NamedTuple):
    """Which tunnel packets have their outer headers taken off (facts 6.7).

    Attributes:
        types: of TUNNELS. ipip is all of IPv4 and IPv6 in IPv4 and IPv6 without anything between.
        ports: UDP ports that GUE comes to.
        vips: the inner destinations that are allowed; none: every address of the host.
        directors: the outer sources that are allowed; none: all.
        mss: the longest TCP segments that clients are told to send, over IPv4 and over IPv6; (0, 0): as long as they
            would be told anyway.
    """

    types: tuple[str, ...] = ("ipip",)
    ports: tuple[int, ...] = ()
    vips: tuple[str, ...] = ()
    directors: tuple[str, ...] = ()
    mss: tuple[int, int] = (0, 0)


def decapsulation(
    types: Iterable[str] = (),
    ports: Iterable[int] = (),
    vips: Iterable[str] = (),
    directors: Iterable[str] = (),
    mss: int | None = None,
    mtu: int = 0,
) -> Decapsulation:
    """What a person asked for, checked and completed: ipip if no type is named, gue if a port is.

    Args:
        mss: the longest TCP segment that clients are told to send, in bytes, whatever the family; None: no other
            than they would be told anyway.
        mtu: that of the way from the director, if the longest segment shall follow from it; 0: it does not.

    Raises:
        InvalidValue: a type, port, address or length makes no sense.
    """
    wanted, numbers = set(types), set(ports)
    for name in wanted - set(TUNNELS):
        raise InvalidValue(f"there is no tunnel type '{name}'; there are {', '.join(TUNNELS)}")
    for port in numbers:
        if not 1 <= port <= 65535:
            raise InvalidValue(f"port {port} is out of range; it may be 1 to 65535")
    if not wanted and not numbers:
        wanted = {"ipip"}
    if numbers:
        wanted.add("gue")
    elif "gue" in wanted:
        numbers = {GUE_PORT}
    if mss is not None and not MSS_LEAST <= mss <= MSS_MOST:
        raise InvalidValue(f"segments of {mss} bytes are out of range; they may be {MSS_LEAST} to {MSS_MOST}")
    asked = Decapsulation(
        tuple(name for name in TUNNELS if name in wanted),
        tuple(sorted(numbers)),
        _addresses(vips, "VIP"),
        _addresses(directors, "director"),
        (mss or 0, mss or 0),
    )
    return asked._replace(mss=fitting(asked, mtu)) if mtu else asked


def fitting(wanted: Decapsulation, mtu: int) -> tuple[int, int]:
    """The longest TCP segments, over IPv4 and IPv6, that fit into the tunnels on a way with this MTU.

    What the tunnels take is counted for the longest headers that may come: of the types that are unwrapped, and of
    IPv6, unless all the directors that were named have IPv4 addresses (facts 6.7).

    Raises:
        InvalidValue: hardly anything fits.
    """
    outer = IPV4_HEADER if wanted.directors and not any(":" in one for one in wanted.directors) else IPV6_HEADER
    room = mtu - outer - max(OVERHEAD[name] for name in wanted.types) - TCP_HEADER
    longest = room - IPV4_HEADER, room - IPV6_HEADER
    if min(longest) < MSS_LEAST:
        raise InvalidValue(f"an MTU of {mtu} is too small for a tunnel; name the longest segment in bytes")
    return longest


def _addresses(texts: Iterable[str], what: str) -> tuple[str, ...]:
    found = set()
    for text in texts:
        try:
            address = ip_address(text)
        except ValueError:
            raise InvalidValue(f"{what} '{text}' is no IPv4 or IPv6 address") from None
        if address.is_multicast or address.is_unspecified or address.is_loopback or "%" in text:
            raise InvalidValue(f"{what} {text} cannot be reached from another host; give an address that can")
        found.add(address)
    return tuple(str(address) for address in sorted(found, key=lambda one: (one.version, int(one))))


class Host(NamedTuple):
    """What there is to know of a host.

    Attributes:
        addresses: (interface, address) of all its addresses.
        ethernet: its interfaces with an Ethernet header, without lo.
        settings: net.ipv4.conf.INTERFACE.NAME -> value, by (INTERFACE, NAME); INTERFACE may be "all".
        ways: the interfaces that IPv4 default routes leave by.
        attached: the interfaces that tunnel packets are unwrapped on.
    """

    addresses: tuple[tuple[str, str], ...]
    ethernet: tuple[str, ...]
    settings: dict[tuple[str, str], int]
    ways: tuple[str, ...] = ()
    attached: tuple[str, ...] = ()

    def greater(self, interface: str, name: str) -> int:
        """What is in force where the kernel takes the greater of an interface's value and that of all."""
        return max(self.settings.get((interface, name), 0), self.settings.get(("all", name), 0))


class Finding(NamedTuple):
    """Something that was looked at: what it is, and, if it is not as it should be, the command that mends it."""

    text: str
    remedy: str = ""
    amiss: bool = False


def strict(host: Host, interfaces: Iterable[str]) -> list[Finding]:
    """The interfaces on which rp_filter drops what comes out of the tunnels: clients' packets, whose answers leave by
    another one."""
    found = []
    for name in interfaces:
        if host.greater(name, "rp_filter") == STRICT and name not in host.ways:
            found.append(
                Finding(
                    f"rp_filter is strict on {name}, and no default route leaves there: clients' packets are dropped",
                    f"sysctl -w net.ipv4.conf.{name}.rp_filter=2",
                    True,
                )
            )
    return found


def findings(host: Host, vips: Sequence[str], tunnel: bool) -> list[Finding]:
    """What a real server with these VIPs needs, and whether this host has it.

    Args:
        tunnel: it is one of LVS-TUN, whose packets must be unwrapped.
    """
    found = []
    where = {address: interface for interface, address in host.addresses}
    for vip in vips:
        if vip not in where:
            found.append(
                Finding(f"{vip} is no address of this host", f"ip address add {vip}/{_bits(vip)} dev lo", True)
            )
        elif where[vip] in host.ethernet:
            found.append(
                Finding(
                    f"{vip} is on {where[vip]}, where the host answers ARP for it, and takes it from the director",
                    f"ip address del {vip} dev {where[vip]}; ip address add {vip}/{_bits(vip)} dev lo",
                    True,
                )
            )
        else:
            found.append(Finding(f"{vip} is on {where[vip]}"))
    if not vips:
        found.append(Finding("no VIP was named, and none is known", "pylvs realserver check --vip ADDRESS", True))
    if any(":" not in vip for vip in vips):
        found += _arp(host)
    if tunnel:
        if host.attached:
            found.append(Finding(f"tunnel packets are unwrapped on {', '.join(host.attached)}"))
            found += strict(host, host.attached)
        else:
            found.append(Finding("tunnel packets are not unwrapped by pylvs", "pylvs realserver decap", True))
    return found


def _arp(host: Host) -> list[Finding]:
    """IPv6 needs nothing of the kind: it looks for a neighbour's address on the receiving interface only."""
    found = []
    for setting, least, what in (
        ("arp_ignore", 1, "the host answers ARP for the VIP"),
        ("arp_announce", 2, "the host asks for others in the VIP's name"),
    ):
        less = [name for name in host.ethernet if host.greater(name, setting) < least]
        if less:
            text = f"{setting} is below {least} on {', '.join(less)}: {what}"
            found.append(Finding(text, f"sysctl -w net.ipv4.conf.all.{setting}={least}", True))
        else:
            found.append(Finding(f"{setting} is {least} or more everywhere"))
    return found


def _bits(address: str) -> int:
    return 128 if ":" in address else 32
