"""The words a topology is written in: networks, interfaces, hosts, as frozen values. No kernel here.

Rules:
- a network with two hosts on it is a wire (one veth pair); with more it is a switch (a bridge in its own namespace);
- every address is private (RFC 1918, fd00::/8): nothing in a lab can be mistaken for a machine outside it;
- a VIP is /32 or /128 and never an interface's first address: the director would ask for its real servers' hardware
  addresses in the VIP's name, and they own the VIP too. (IPv6 selects by preference: there the VIP is deprecated.)
"""

from typing import NamedTuple

ROLES = ("client", "router", "director", "realserver")


class Network(NamedTuple):
    """One broadcast domain, with its prefix lengths' worth of addresses in both families."""

    name: str
    ipv4: str
    ipv6: str

    @property
    def bits4(self) -> int:
        return int(self.ipv4.rpartition("/")[2])

    @property
    def bits6(self) -> int:
        return int(self.ipv6.rpartition("/")[2])


class Interface(NamedTuple):
    """A host's foot on a network; addresses without prefix length."""

    name: str
    network: str
    ipv4: str
    ipv6: str


class Host(NamedTuple):
    """A machine of the lab: a network namespace.

    Attributes:
        vip_on: the interface that holds the VIPs: client side on a director, "lo" on a DR real server, "" for none.
        gateway, gateway6: default routes, or "".
        sysctls: what this host sets beside what its role implies; names below /proc/sys/net, in writing order.
        routing, routing6: further lines for `ip -batch` and `ip -6 -batch`.
        tunnels: of pylvs.realserver.TUNNELS, what the host unwraps.
    """

    name: str
    role: str
    interfaces: tuple[Interface, ...]
    vip_on: str = ""
    gateway: str = ""
    gateway6: str = ""
    sysctls: tuple[tuple[str, str], ...] = ()
    routing: tuple[str, ...] = ()
    routing6: tuple[str, ...] = ()
    tunnels: tuple[str, ...] = ()

    @property
    def ipv4(self) -> str:
        """The first address: CIP of a client, DIP of a director, RIP of a real server."""
        return self.interfaces[0].ipv4

    @property
    def ipv6(self) -> str:
        return self.interfaces[0].ipv6

    def interface(self, name: str) -> Interface:
        for interface in self.interfaces:
            if interface.name == name:
                return interface
        raise KeyError(f"{self.name} has no interface {name}")


class Topology(NamedTuple):
    """Who is wired to whom."""

    name: str
    summary: str
    drawing: str
    networks: tuple[Network, ...]
    hosts: tuple[Host, ...]
    vip: str
    vip6: str

    def network(self, name: str) -> Network:
        for network in self.networks:
            if network.name == name:
                return network
        raise KeyError(f"{self.name} has no network {name}")

    def host(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(f"{self.name} has no host {name}; it has: " + ", ".join(h.name for h in self.hosts))

    def by_role(self, role: str) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if host.role == role)

    def members(self, network: str) -> tuple[tuple[Host, Interface], ...]:
        """Who is on a network, in the order of the hosts."""
        return tuple((h, i) for h in self.hosts for i in h.interfaces if i.network == network)

    @property
    def switches(self) -> tuple[str, ...]:
        """The networks that need a bridge."""
        return tuple(n.name for n in self.networks if len(self.members(n.name)) > 2)


def sysctls(host: Host) -> list[tuple[str, str]]:
    """What a host's role sets, in writing order, before any link of it comes up.

    A new namespace copies some values from the machine's own and some not, so everything that a lab relies on is said.
    """
    scopes = ["all", "default", *(i.name for i in host.interfaces)]
    forwarding = "1" if host.role in ("director", "router") else "0"
    settings = [("ipv4/ip_forward", forwarding), ("ipv6/conf/all/forwarding", forwarding)]
    for scope in scopes:
        settings += [
            (f"ipv4/conf/{scope}/rp_filter", "0"),
            # A redirect would teach a real server a way around its director.
            (f"ipv4/conf/{scope}/send_redirects", "0"),
            (f"ipv4/conf/{scope}/accept_redirects", "0"),
            (f"ipv6/conf/{scope}/disable_ipv6", "0"),
            (f"ipv6/conf/{scope}/accept_dad", "0"),
            (f"ipv6/conf/{scope}/accept_ra", "0"),
            (f"ipv6/conf/{scope}/router_solicitations", "0"),
        ]
    if host.role == "realserver" and host.vip_on == "lo":
        # The ARP problem: a real server owns the VIP but must neither answer for it (arp_ignore) nor ask in its name
        # (arp_announce); both are needed, on the interface that does ARP, not on lo. IPv6 looks for the target of a
        # neighbour solicitation on the receiving interface only, so a VIP on lo stays silent by itself.
        for scope in scopes:
            settings += [(f"ipv4/conf/{scope}/arp_ignore", "1"), (f"ipv4/conf/{scope}/arp_announce", "2")]
    return settings + list(host.sysctls)


def addressing(topology: Topology, host: Host) -> list[str]:
    """Lines for `ip -batch` in the host's namespace: addresses, VIPs, links up, routes."""
    lines = ["link set lo up"]
    for interface in host.interfaces:
        network = topology.network(interface.network)
        lines += [
            f"address add {interface.ipv4}/{network.bits4} dev {interface.name}",
            f"address add {interface.ipv6}/{network.bits6} dev {interface.name} nodad",
        ]
    if host.vip_on:
        lines += [
            f"address add {topology.vip}/32 dev {host.vip_on}",
            f"address add {topology.vip6}/128 dev {host.vip_on} nodad preferred_lft 0",
        ]
    lines += [f"link set {interface.name} up" for interface in host.interfaces]
    if host.gateway:
        lines.append(f"route add default via {host.gateway}")
    if host.gateway6:
        lines.append(f"route add default via {host.gateway6}")
    return lines + list(host.routing)
