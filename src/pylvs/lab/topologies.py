"""The topologies: nat, dr, tun, nat-router, bench. Each is a function from the number of real servers to a `Topology`.

The addresses are those of the HOWTO's examples where it has any: VIP 192.168.1.110, director 192.168.1.9.
"""

from collections.abc import Callable

from pylvs.lab.topology import Host, Interface, Network, Topology

REALSERVERS_MAX = 64
VIP, VIP6 = "192.168.1.110", "fd00:1::110"

OUTSIDE = Network("outside", "192.168.1.0/24", "fd00:1::/64")
INSIDE = Network("inside", "10.1.1.0/24", "fd00:10::/64")
WORLD = Network("world", "172.16.1.0/24", "fd00:172::/64")
RETURN = Network("return", "172.16.2.0/24", "fd00:173::/64")


def _on(network: Network, interface: str, number: int) -> Interface:
    """The interface with host number N on a network: 10.1.1.11 and fd00:10::11 for 11."""
    return Interface(
        interface,
        network.name,
        network.ipv4.rpartition(".")[0] + f".{number}",
        network.ipv6.partition("/")[0] + str(number),
    )


def _nat_realservers(count: int) -> tuple[Host, ...]:
    gateway = _on(INSIDE, "", 9)
    return tuple(
        Host(f"rs{n}", "realserver", (_on(INSIDE, "eth0", 10 + n),), gateway=gateway.ipv4, gateway6=gateway.ipv6)
        for n in range(1, count + 1)
    )


NAT = r"""
   client                  director                               real servers
 +--------+   outside   +------------------+    inside     +------+
 |   .2   |-------------| .9            .9 |-------+-------| rs1  | .11
 +--------+             | VIP .110         |       |       +------+
                        +------------------+       +-------| rs2  | .12
   outside  192.168.1.0/24  fd00:1::/64            |       +------+
   inside   10.1.1.0/24     fd00:10::/64           +-------| rs3  | .13 ...
                                                           +------+
   The real servers' default gateway is the director: replies pass it, and leave with the VIP's name on them.
"""


def nat(realservers: int = 3) -> Topology:
    """LVS-NAT on two networks."""
    gateway = _on(OUTSIDE, "", 9)
    return Topology(
        "nat",
        "LVS-NAT on two networks, the client next to the director",
        NAT,
        (OUTSIDE, INSIDE),
        (
            # The route through the director is for comparison: a RIP can be reached as through any router.
            Host("client", "client", (_on(OUTSIDE, "eth0", 2),), gateway=gateway.ipv4, gateway6=gateway.ipv6),
            Host("director", "director", (_on(OUTSIDE, "eth0", 9), _on(INSIDE, "eth1", 9)), vip_on="eth0"),
            *_nat_realservers(realservers),
        ),
        VIP,
        VIP6,
    )


NAT_ROUTER = r"""
   client              router                   director                        real servers
 +--------+  world  +-----------+  outside  +------------------+   inside   +------+
 |   .2   |---------| .1     .1 |-----------| .9            .9 |------+-----| rs1  | .11
 +--------+         +-----------+           | VIP .110         |      |     +------+
                                            +------------------+      +-----| rs2  | .12
   world    172.16.1.0/24   fd00:172::/64                             |     +------+
   outside  192.168.1.0/24  fd00:1::/64                               +-----| rs3  | .13 ...
   inside   10.1.1.0/24     fd00:10::/64                                    +------+

   As nat, with the client behind a router: the director answers through its own default route.
"""


def nat_router(realservers: int = 3) -> Topology:
    """LVS-NAT with the client behind a router."""
    world, outside, director = _on(WORLD, "", 1), _on(OUTSIDE, "", 1), _on(OUTSIDE, "", 9)
    return Topology(
        "nat-router",
        "LVS-NAT on two networks, the client behind a router",
        NAT_ROUTER,
        (WORLD, OUTSIDE, INSIDE),
        (
            Host("client", "client", (_on(WORLD, "eth0", 2),), gateway=world.ipv4, gateway6=world.ipv6),
            Host(
                "router",
                "router",
                (_on(WORLD, "eth0", 1), _on(OUTSIDE, "eth1", 1)),
                routing=(f"route add {INSIDE.ipv4} via {director.ipv4}",),
                routing6=(f"route add {INSIDE.ipv6} via {director.ipv6}",),
            ),
            Host(
                "director",
                "director",
                (_on(OUTSIDE, "eth0", 9), _on(INSIDE, "eth1", 9)),
                vip_on="eth0",
                gateway=outside.ipv4,
                gateway6=outside.ipv6,
            ),
            *_nat_realservers(realservers),
        ),
        VIP,
        VIP6,
    )


DR = r"""
   client              router               one network     director
 +--------+  world  +-----------+  outside            +------------------+
 |   .2   |---------| .1     .1 |-------+-------------| .9               |  VIP .110 on eth0: answers ARP
 +--------+         +-----------+       |             +------------------+
                          ^             |             +------+
                          |             +-------------| rs1  | .11          VIP .110 on lo: silent
                          |             |             +------+              (arp_ignore=1, arp_announce=2)
                          |             +-------------| rs2  | .12
                          |             |             +------+
                          |             +-------------| rs3  | .13 ...
                          |                           +------+
                          +---- replies: real server, router, client; the director never sees them

   world    172.16.1.0/24   fd00:172::/64
   outside  192.168.1.0/24  fd00:1::/64
"""


def dr(realservers: int = 3) -> Topology:
    """LVS-DR: director and real servers on one network, the ARP problem solved on the real servers."""
    world, outside = _on(WORLD, "", 1), _on(OUTSIDE, "", 1)
    return Topology(
        "dr",
        "LVS-DR on one network, the client behind a router",
        DR,
        (WORLD, OUTSIDE),
        (
            Host("client", "client", (_on(WORLD, "eth0", 2),), gateway=world.ipv4, gateway6=world.ipv6),
            Host("router", "router", (_on(WORLD, "eth0", 1), _on(OUTSIDE, "eth1", 1))),
            _one_armed(outside),
            *(
                Host(
                    f"rs{n}",
                    "realserver",
                    (_on(OUTSIDE, "eth0", 10 + n),),
                    vip_on="lo",
                    gateway=outside.ipv4,
                    gateway6=outside.ipv6,
                )
                for n in range(1, realservers + 1)
            ),
        ),
        VIP,
        VIP6,
    )


def _one_armed(router: Interface) -> Host:
    """A director with one interface, outside, behind this router's there."""
    there = (_on(OUTSIDE, "eth0", 9),)
    return Host("director", "director", there, vip_on="eth0", gateway=router.ipv4, gateway6=router.ipv6)


TUN = r"""
   client              router                    director
 +--------+  world  +-----------+   outside   +--------------+
 |   .2   |---------| .1     .1 |-------------| .9           |  VIP .110 on eth0
 +--------+         |           |             +--------------+
                    |           |                                +------+
                    |        .1 |-------------------------+------| rs1  | .11     VIP .110 on lo, and
                    +-----------+   inside                |      +------+         pylvs realserver decap:
                          ^                               +------| rs2  | .12     IPIP, GRE, GUE (port 6080)
                          |                               |      +------+
                          |                               +------| rs3  | .13 ...
                          |                                      +------+
                          +---- replies: real server, router, client; the director never sees them

   world    172.16.1.0/24   fd00:172::/64
   outside  192.168.1.0/24  fd00:1::/64
   inside   10.1.1.0/24     fd00:10::/64
"""


def tun(realservers: int = 3) -> Topology:
    """LVS-TUN: real servers in another network than the director, wherever routing leads."""
    world, outside, inside = _on(WORLD, "", 1), _on(OUTSIDE, "", 1), _on(INSIDE, "", 1)
    return Topology(
        "tun",
        "LVS-TUN, the real servers in a network of their own behind a router",
        TUN,
        (WORLD, OUTSIDE, INSIDE),
        (
            Host("client", "client", (_on(WORLD, "eth0", 2),), gateway=world.ipv4, gateway6=world.ipv6),
            Host("router", "router", (_on(WORLD, "eth0", 1), _on(OUTSIDE, "eth1", 1), _on(INSIDE, "eth2", 1))),
            _one_armed(outside),
            *(
                Host(
                    f"rs{n}",
                    "realserver",
                    (_on(INSIDE, "eth0", 10 + n),),
                    vip_on="lo",
                    gateway=inside.ipv4,
                    gateway6=inside.ipv6,
                    tunnels=("ipip", "gre", "gue"),
                )
                for n in range(1, realservers + 1)
            ),
        ),
        VIP,
        VIP6,
    )


BENCH = r"""
   client                  director                    real server
 +--------+   outside   +------------------+   inside   +------+
 |   .2   |-------------| .9            .9 |------------| rs1  | .11   VIP .110 on lo
 +--------+             | VIP .110         |            +------+
     | .2               +------------------+                | .11
     +------------------------- return ---------------------+
                 replies in the VIP's name (DR) go this way, all others through the director

   outside  192.168.1.0/24  fd00:1::/64
   inside   10.1.1.0/24     fd00:10::/64
   return   172.16.2.0/24   fd00:173::/64
"""


def bench(realservers: int = 1) -> Topology:
    """Wires only, no bridge and no router to measure along; NAT, DR, proxies and plain routing without rebuilding."""
    director, inner = _on(OUTSIDE, "", 9), _on(INSIDE, "", 9)
    back = _on(RETURN, "eth1", 2)
    # Thousands of short connections per second: all ports, and ports in TIME_WAIT again.
    many = (("ipv4/ip_local_port_range", "1024 65535"), ("ipv4/tcp_tw_reuse", "1"))
    return Topology(
        "bench",
        "for measurements: one way in, one way back for DR",
        BENCH,
        (OUTSIDE, INSIDE, RETURN),
        (
            Host(
                "client",
                "client",
                (_on(OUTSIDE, "eth0", 2), back),
                gateway=director.ipv4,
                gateway6=director.ipv6,
                sysctls=many,
            ),
            Host(
                "director",
                "director",
                (_on(OUTSIDE, "eth0", 9), _on(INSIDE, "eth1", 9)),
                vip_on="eth0",
                sysctls=many,
            ),
            *(
                Host(
                    f"rs{n}",
                    "realserver",
                    (_on(INSIDE, "eth0", 10 + n), _on(RETURN, "eth1", 10 + n)),
                    vip_on="lo",
                    gateway=inner.ipv4,
                    gateway6=inner.ipv6,
                    routing=(f"route add default via {back.ipv4} table 100", f"rule add from {VIP} lookup 100"),
                    routing6=(f"route add default via {back.ipv6} table 100", f"rule add from {VIP6} lookup 100"),
                )
                for n in range(1, realservers + 1)
            ),
        ),
        VIP,
        VIP6,
    )


TOPOLOGIES: dict[str, Callable[[int], Topology]] = {
    "nat": nat,
    "dr": dr,
    "tun": tun,
    "nat-router": nat_router,
    "bench": bench,
}
DEFAULT_REALSERVERS = {"bench": 1}


def topology(name: str, realservers: int | None = None) -> Topology:
    """The topology of that name, with so many real servers (default 3; bench: 1)."""
    if name not in TOPOLOGIES:
        raise ValueError(f"no topology '{name}'; there are: {', '.join(TOPOLOGIES)}")
    count = DEFAULT_REALSERVERS.get(name, 3) if realservers is None else realservers
    if not 1 <= count <= REALSERVERS_MAX:
        raise ValueError(f"{count} real servers: give 1 to {REALSERVERS_MAX}")
    return TOPOLOGIES[name](count)
