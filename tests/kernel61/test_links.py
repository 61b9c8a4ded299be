"""Balancing through links of every kind: towards the client and towards the real server, by every method. Runs where
the kernel has them (test_guest.py). The lab is `bench`, whose two wires get devices above their interfaces:

   client -- up0 [link] up0 -- director -- up1 [link] up1 -- rs1
      +------------------ return -----------------------------+
"""

import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from pylvs.lab import Lab
from pylvs.lab.lab import console_script
from pylvs.lab.topology import addressing
from support import wireguard
from support.upload import datagram, upload

PORT, SIZE, SECONDS = 9000, 60_001, 10
METHODS = {"nat": "-m", "dr": "-g", "tun": "-i"}


class End(NamedTuple):
    """One end of a link.

    Attributes:
        lower: the interface of the wire.
        here, there: addresses on that wire, which link is below the lab's.
    """

    host: str
    lower: str
    upper: str
    here: str
    there: str


def _wire(number: int, upper: str, *ends: tuple[str, str]) -> tuple[End, End]:
    first, second = f"10.200.{number}.1", f"10.200.{number}.2"
    return End(*ends[0], upper, first, second), End(*ends[1], upper, second, first)


WIRES = (
    _wire(0, "up0", ("client", "eth0"), ("director", "eth0")),
    _wire(1, "up1", ("director", "eth1"), ("rs1", "eth0")),
)


def _v6(address: str) -> str:
    return "fd00:200::" + ":".join(address.split(".")[2:])


def _vlan(end: End, *, lower: str = "", proto: str = "802.1Q") -> list[str]:
    return [f"link add {end.upper} link {lower or end.lower} type vlan proto {proto} id 7"]


def _qinq(end: End) -> list[str]:
    """A tag within a tag: the inner one is in the packet."""
    outer = f"out{end.upper}"
    return [
        f"link add {outer} link {end.lower} type vlan proto 802.1ad id 8", f"link set {outer} up",
        *_vlan(end, lower=outer),
    ]  # fmt: skip


def _bridge(end: End, self_tagged: bool) -> list[str]:
    """A bridge that knows VLANs: the wire's frames are of VLAN 7, and the host's untagged, or tagged, too."""
    bridge = f"br{end.upper}" if self_tagged else end.upper
    untagged = "" if self_tagged else " pvid untagged"
    return [
        f"link add {bridge} type bridge vlan_filtering 1 vlan_default_pvid 0 forward_delay 0 mcast_snooping 0",
        f"link set {end.lower} master {bridge}",
        f"!bridge vlan add dev {end.lower} vid 7 pvid untagged",
        f"!bridge vlan add dev {bridge} vid 7 self{untagged}",
        f"link set {bridge} up",
        *(_vlan(end, lower=bridge) if self_tagged else ()),
    ]


def _bond(end: End, vlan: bool) -> list[str]:
    bond = f"bond{end.upper}" if vlan else end.upper
    return [
        f"link add {bond} type bond mode active-backup miimon 100",
        f"link set {end.lower} down",
        f"link set {end.lower} master {bond}",
        f"link set {bond} up",
        *(_vlan(end, lower=bond) if vlan else ()),
    ]


def _above(end: End, kind: str) -> list[str]:
    return [f"link add {end.upper} link {end.lower} type {kind}"]


def _between(end: End, kind: str, ipv6: bool = False) -> list[str]:
    """A tunnel over the wire, which has addresses of its own."""
    here, there = (_v6(one) if ipv6 else one for one in (end.here, end.there))
    words = kind.format(here=here, there=there, number=end.here[-3])
    return [
        f"address add {end.here}/30 dev {end.lower}", f"address add {_v6(end.here)}/120 dev {end.lower} nodad",
        f"link add {end.upper} type {words}",
    ]  # fmt: skip


ETHERNET = {
    "vlan": _vlan,
    "vlan-in-packet": _vlan,
    "qinq": _qinq,
    "bridge-untagged": lambda end: _bridge(end, False),
    "bridge-vlan": lambda end: _bridge(end, True),
    "bond": lambda end: _bond(end, False),
    "bond-vlan": lambda end: _bond(end, True),
    "macvlan": lambda end: _above(end, "macvlan mode bridge"),
    "ipvlan": lambda end: _above(end, "ipvlan mode l2"),
    "vxlan": lambda end: _between(end, "vxlan id {number} local {here} remote {there} dstport 4789"),
    "geneve": lambda end: _between(end, "geneve id {number} remote {there}"),
    "gretap": lambda end: _between(end, "gretap local {here} remote {there}"),
    "ip6gretap": lambda end: _between(end, "ip6gretap local {here} remote {there}", True),
}
LINKLESS = {
    "sit": lambda end: _between(end, "sit mode any local {here} remote {there}"),
    "ip6tnl": lambda end: _between(end, "ip6tnl mode any local {here} remote {there} encaplimit none", True),
    "gre": lambda end: _between(end, "gre local {here} remote {there}"),
    "gre-csum": lambda end: _between(end, "gre local {here} remote {there} csum"),
    "ip6gre": lambda end: _between(end, "ip6gre local {here} remote {there}", True),
    "wireguard": lambda end: _between(end, "wireguard"),
}
KINDS = ETHERNET | LINKLESS
MODULES = "8021q bonding bridge macvlan ipvlan vxlan geneve ip_gre ip6_gre sit ip6_tunnel wireguard"


def _has(modules: str) -> bool:
    try:
        return all(not subprocess.run(["modprobe", one], capture_output=True).returncode for one in modules.split())
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not _has(MODULES), reason="this kernel has not all of these links")


@pytest.fixture(scope="module")
def bench() -> Iterator[Lab]:
    with Lab("bench", serve=False) as lab:
        lab.ipvsadm("-L")
        back = lab.host("client").interface("eth1").ipv6  # for answers in the name of an IPv6 VIP, as for IPv4
        lab.run("rs1", f"ip -6 route replace default via {back} table 100")
        lab.run("rs1", f"ip -6 rule add from {lab.vip6} lookup 100")
        yield lab


def _addresses(lab: Lab, host: str, names: dict[str, str]) -> list[str]:
    """All that a host is told of addresses and routes, with its interfaces under other names."""
    was = lab.host(host)
    interfaces = tuple(one._replace(name=names.get(one.name, one.name)) for one in was.interfaces)
    return addressing(lab.topology, was._replace(interfaces=interfaces, vip_on=names.get(was.vip_on, was.vip_on)))


def _tell(lab: Lab, host: str, lines: list[str], force: bool = False) -> None:
    """Lines for ip(8); what begins with a ! is another command."""
    batch = [line for line in lines if not line.startswith("!")]
    if len(batch) == len(lines):
        words = ["ip", *(["-force"] if force else []), "-batch", "-"]
        lab.run(host, words, input="\n".join(lines) + "\n", check=not force)
        return
    for line in lines:
        lab.run(host, line[1:] if line.startswith("!") else f"ip {line}", check=not force)


@contextmanager
def _linked(lab: Lab, kind: str) -> Iterator[None]:
    """Both wires carry links of a kind, with the lab's addresses on them."""
    before = {host: _links(lab, host) for host in ("client", "director", "rs1")}
    names: dict[str, dict[str, str]] = {host: {} for host in before}
    try:
        for end in itertools.chain(*WIRES):
            names[end.host][end.lower] = end.upper
            lab.run(end.host, "ip -6 route flush exact default", check=False)  # not gone with the address, as IPv4's is
            _tell(lab, end.host, [f"address flush dev {end.lower}", *KINDS[kind](end)])
            if kind == "vlan-in-packet":
                lab.run(end.host, f"ethtool -K {end.lower} txvlan off")
        if kind == "wireguard":
            for wire in WIRES:
                _keys(lab, *wire)
        for host, those in names.items():
            _tell(lab, host, [f"link set {name} up" for name in those.values()], True)
            _tell(lab, host, _addresses(lab, host, those), True)
        yield
    finally:
        for host, those in names.items():
            _tell(lab, host, [f"link set {lower} nomaster" for lower in those], True)
            new = [name for name in _links(lab, host) if name not in before[host]]
            _tell(lab, host, [f"link del {name}" for name in reversed(new)], True)
            _tell(lab, host, [f"address flush dev {lower}" for lower in those], True)
            lab.run(host, "ip -6 route flush exact default", check=False)
            if kind == "vlan-in-packet":
                for lower in those:
                    lab.run(host, f"ethtool -K {lower} txvlan on")
            _tell(lab, host, _addresses(lab, host, {}), True)


def _keys(lab: Lab, *ends: End) -> None:
    port, keys = 51820 + int(ends[0].here[-3]), {}
    for end in ends:
        with lab.enter(end.host):
            keys[end] = wireguard.key(end.upper, port)
    for end, peer in zip(ends, reversed(ends), strict=True):
        with lab.enter(end.host):
            wireguard.peer(end.upper, keys[peer], end.there, port)


def _links(lab: Lab, host: str) -> list[str]:
    return [link["ifname"] for link in json.loads(lab.run(host, "ip -json link show").stdout)]


def _unwraps(lab: Lab, kind: str) -> None:
    """rs1 takes packets out of their tunnels: by our program where there are Ethernet frames, else by the kernel."""
    if kind in ETHERNET:
        lab.run("rs1", [*console_script("pylvs"), "realserver", "decap"])
        return
    rs1 = lab.host("rs1")
    lines = [f"link add four type ipip local {rs1.ipv4} remote any dev up1", "link set four up"]
    lines += [f"link add six type ip6tnl mode any local {rs1.ipv6} remote any dev up1", "link set six up"]
    _tell(lab, "rs1", lines)


@pytest.mark.parametrize("kind", KINDS)
def test_every_method(bench: Lab, kind: str) -> None:
    rs1, ways, restore = bench.host("rs1"), [], []
    for port, ((vip, rip), method) in enumerate(
        itertools.product(((bench.vip, rs1.ipv4), (bench.vip6, rs1.ipv6)), METHODS), PORT
    ):
        service, server = (f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in (vip, rip))
        ways.append((vip, port, rip if method == "nat" else vip, service, method))
        for protocol in ("-t", "-u"):
            restore += [f"-A {protocol} {service} -s rr", f"-a {protocol} {service} -r {server} {METHODS[method]}"]
    with _linked(bench, kind):
        _unwraps(bench, kind)
        try:
            bench.ipvsadm("-R", input="\n".join(restore) + "\n")
            for vip, port, at, *_ in ways:
                datagram(bench, vip, port, b"odd" * 301, at, SECONDS)
                upload(bench, vip, port, SIZE, at, SECONDS)
            rows = [line.split() for line in bench.ipvsadm("-Ln --stats --exact").stdout.splitlines()]
            counted = {row[1]: [int(word) for word in row[2:5]] for row in rows if row[0] == "UDP"}
            assert counted == {service: [1, 1, method == "nat"] for *_, service, method in ways}, "twice, or not at all"
        finally:
            bench.ipvsadm("-C")
            bench.run("rs1", [*console_script("pylvs"), "realserver", "stop"])
