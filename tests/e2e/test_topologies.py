"""Networks that the HOWTO draws and other files do not have.

two ISPs:    client ==== director --+-- rs1..rs3      two wires, each with a VIP of its own: replies go back by the
                                                      one that belongs to their VIP
one NIC:     client -- router --+-- director          two networks on one wire, with a foot of the director in each,
                                +-- rs3               both on its only interface; LVS-NAT
ARP:         client -- router --+-- director          a real server that does not keep quiet about the VIP
                                +-- rs1..rs3
gateway:     client -- router --+-- director          LVS-DR, the director the real server's default gateway
                                +-- rs1
cascade:     client -- router --+-- director          LVS-DR to rs1, which is a director itself: LVS-NAT to rs2,
                                +-- rs1 -- rs2        whose default gateway it is
"""

import socket
import struct
from collections.abc import Iterator

import pytest

from pylvs.director import Director
from pylvs.lab import Lab, servers
from pylvs.lab.lab import console_script
from pylvs.model import MASQ, real_server, virtual_service

from .service import TIMEOUT, Service, endpoint

NOBODY = 28
ETH_ARP = 0x0806
WHO_HAS, IS_AT = 1, 2
SECOND = {False: ("172.16.9.2", "172.16.9.110", "10.77.0.2"), True: ("fd00:9::2", "fd00:9::110", "fd00:77::2")}
"""Of the second wire, by `ipv6`: the client's address there and the VIP; and an address that it has by both wires."""


# ---- two ISPs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def isps(nat_lab: Lab) -> Iterator[Lab]:
    lab = nat_lab
    lab.run("client", f"ip link add isp type veth peer name isp netns {lab.namespace('director')}")
    for host, words in (
        ("client", "address add 172.16.9.2/24 dev isp\naddress add fd00:9::2/64 dev isp nodad\n"
         "address add 10.77.0.2/32 dev lo\naddress add fd00:77::2/128 dev lo nodad\n"),
        ("director", "address add 172.16.9.1/24 dev isp\naddress add fd00:9::1/64 dev isp nodad\n"
         "address add 172.16.9.110/32 dev isp\naddress add fd00:9::110/128 dev isp nodad\n"),
    ):  # fmt: skip
        lab.run(host, ["ip", "-batch", "-"], input=words + "link set isp up\n")
    client = lab.host("client")
    for words in (
        f"ip route add 10.77.0.2 via {client.ipv4}",
        f"ip -6 route add fd00:77::2 via {client.ipv6}",
        "ip route add default via 172.16.9.2 table 9",
        "ip -6 route add default via fd00:9::2 table 9",
        "ip rule add from 172.16.9.110 lookup 9",
        "ip -6 rule add from fd00:9::110 lookup 9",
    ):
        lab.run("director", words)
    yield lab
    lab.run("client", "ip link del isp")
    lab.run("client", "ip address del 10.77.0.2/32 dev lo")
    lab.run("client", "ip -6 address del fd00:77::2/128 dev lo")
    for family in ("", "-6 "):
        lab.run("director", f"ip {family}rule del lookup 9")
        lab.run("director", f"ip {family}route del {'fd00:77::2' if family else '10.77.0.2'}")


def _received(lab: Lab, interface: str) -> int:
    with lab.enter("client"), open("/proc/thread-self/net/dev", encoding="ascii") as file:
        [counts] = [line.split(":")[1].split() for line in file if line.strip().startswith(f"{interface}:")]
    return int(counts[0])


def test_two_ways_to_the_world(isps: Lab, nat: Lab, ipv6: bool) -> None:
    """Policy routing by the VIP, with snat_reroute, as it is unless told otherwise; without, by the real server's."""
    _, vip, own = SECOND[ipv6]
    first, second = Service(nat, "-m", ipv6=ipv6).add("rs1"), Service(nat, "-m", ipv6=ipv6)
    second.vip, second.address = vip, second.address.replace(second.vip, vip)
    second.add("rs1")
    try:
        for service, reroute, interface in ((first, 1, "eth0"), (second, 1, "isp"), (second, 0, "eth0")):
            nat.pylvs(f"sysctl -q snat_reroute={reroute}")
            before, words = _received(nat, interface), ["curl", "-sS", "-m", TIMEOUT, "-o", "/dev/null"]
            nat.run("client", [*words, "--interface", own, service.url("/big")])
            assert _received(nat, interface) - before > servers.BIG_SIZE
    finally:
        nat.pylvs("sysctl -q snat_reroute=1")


# ---- LVS-NAT with one interface --------------------------------------------------------------------------------------


def test_two_networks_on_one_interface(dr: Lab, ipv6: bool) -> None:
    foot, rip, bits = ("fd00:10::9", "fd00:10::13", 64) if ipv6 else ("10.1.1.9", "10.1.1.13", 24)
    router = dr.host("router").interface("eth1")
    prefix, nodad, world = ("-6 ", " nodad", router.ipv6) if ipv6 else ("", "", router.ipv4)
    for host, address in (("director", foot), ("rs3", rip)):
        dr.run(host, f"ip {prefix}address add {address}/{bits} dev eth0{nodad}")
    dr.run("rs3", f"ip {prefix}route replace default via {foot}")
    try:
        service = Service(dr, "-m", ipv6=ipv6)
        dr.ipvsadm(["-A", "-t", service.address, "-s", "rr"])
        dr.ipvsadm(["-a", "-t", service.address, "-r", endpoint(rip, 8080), "-m"])
        name, _, _, asked, port = service.get("/who").split()
        assert (name, asked, port) == ("rs3", rip, "8080")
        words = ["curl", "-sS", "-m", TIMEOUT, "-o", "/dev/null", "-w", "%{size_download}", service.url("/big")]
        assert dr.run("client", words).stdout == str(servers.BIG_SIZE)
    finally:
        dr.run("rs3", f"ip {prefix}route replace default via {world}")
        for host, address in (("director", foot), ("rs3", rip)):
            dr.run(host, f"ip {prefix}address del {address}/{bits} dev eth0")


# ---- the ARP problem -------------------------------------------------------------------------------------------------


def _answers(lab: Lab, address: str, *last: str) -> set[str]:
    """Who says that he has an IPv4 address, asked from the router, until the owners of others have spoken."""
    with lab.enter("router"):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ARP))
    with wire:
        wire.bind(("eth1", ETH_ARP))
        wire.settimeout(3)
        own, sender = wire.getsockname()[4], socket.inet_aton(lab.host("router").interface("eth1").ipv4)
        for target in (address, *last):
            asked = struct.pack(
                "!HHBBH6s4s6s4s", 1, 0x800, 6, 4, WHO_HAS, own, sender, bytes(6), socket.inet_aton(target)
            )
            wire.send(b"\xff" * 6 + own + struct.pack("!H", ETH_ARP) + asked)
        found, waited_for = set(), {socket.inet_aton(one) for one in last}
        while waited_for:
            said = wire.recv(100)[14:]
            _, _, _, _, kind, hardware, who = struct.unpack_from("!HHBBH6s4s", said)
            if kind == IS_AT and who == socket.inet_aton(address):
                found.add(hardware.hex(":"))
            elif kind == IS_AT:
                waited_for.discard(who)
        return found


def _hardware(lab: Lab, host: str) -> str:
    return lab.run(host, "ip -br link show dev eth0").stdout.split()[2]


@pytest.mark.parametrize(
    ("ignore", "announce", "vip_on", "quiet"),
    [
        (1, 2, "lo", True),
        (2, 2, "lo", True),
        (8, 2, "lo", True),
        (0, 2, "lo", False),
        (0, 0, "lo", False),
        (1, 2, "eth0", False),
    ],
)
def test_who_answers_for_the_vip(dr: Lab, ignore: int, announce: int, vip_on: str, quiet: bool) -> None:
    """The director alone, where the real server keeps quiet; else both, and the router takes whom it likes."""

    def set_(ignore: int, announce: int, old: str, new: str) -> None:
        for scope in ("all", "eth0"):
            dr.run("rs1", f"sysctl -qw net.ipv4.conf.{scope}.arp_ignore={ignore}")
            dr.run("rs1", f"sysctl -qw net.ipv4.conf.{scope}.arp_announce={announce}")
        if old != new:
            dr.run("rs1", f"ip address del {dr.vip}/32 dev {old}")
            dr.run("rs1", f"ip address add {dr.vip}/32 dev {new}")

    set_(ignore, announce, "lo", vip_on)
    try:
        wanted = {_hardware(dr, "director")} | (set() if quiet else {_hardware(dr, "rs1")})
        mute = ignore == 8  # not even for its own address
        last = [dr.host(name).ipv4 for name in ("director", "rs2" if mute else "rs1")]
        assert _answers(dr, dr.vip, *last) == wanted
    finally:
        set_(1, 2, vip_on, "lo")
        dr.run("router", f"ip neighbour flush {dr.vip}")  # it may have believed what it should not have


# ---- LVS-DR, the director the real servers' default gateway ----------------------------------------------------------


@pytest.fixture
def gateway(dr: Lab) -> Iterator[Lab]:
    director, router = dr.host("director"), dr.host("router").interface("eth1")
    dr.run("rs1", f"ip route replace default via {director.ipv4}")
    dr.run("rs1", f"ip -6 route replace default via {director.ipv6}")
    yield dr
    dr.run("rs1", f"ip route replace default via {router.ipv4}")
    dr.run("rs1", f"ip -6 route replace default via {router.ipv6}")


def test_the_director_as_default_gateway(gateway: Lab, ipv6: bool) -> None:
    """Replies come to the director from its own address, the VIP: Linux takes that for a lie over IPv4, unless told
    that it may be true (accept_local). The router's way is the one to recommend."""
    service = Service(gateway, "-g", ipv6=ipv6).add("rs1")
    if not ipv6:
        words = ["curl", "-sS", "-m", "0.4", service.url()]
        assert gateway.run("client", words, check=False).returncode == NOBODY
        gateway.run("director", "sysctl -qw net.ipv4.conf.eth0.accept_local=1")
    try:
        assert service.get() == "rs1"
        traffic = service.traffic()["rs1"]
        assert traffic.conns >= 1 and traffic.outpkts >= 3, "for once the director sees replies, and counts them"
    finally:
        gateway.run("director", "sysctl -qw net.ipv4.conf.eth0.accept_local=0")


# ---- a director behind a director ------------------------------------------------------------------------------------


@pytest.fixture
def cascade(dr: Lab) -> Iterator[Lab]:
    """rs1 is a director as well: by LVS-NAT it balances, over rs2, what LVS-DR sends to it."""
    rs1, rs2, router = dr.host("rs1"), dr.host("rs2"), dr.host("router").interface("eth1")
    dr.run("rs1", "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    dr.run("rs2", f"ip route replace default via {rs1.ipv4}")
    dr.run("rs2", f"ip -6 route replace default via {rs1.ipv6}")
    with dr.enter("rs1"), Director() as second:
        for vip, address in ((dr.vip, rs2.ipv4), (dr.vip6, rs2.ipv6)):
            key = virtual_service(vip, 80, scheduler="rr")
            second.add_service(key)
            second.add_destination(key, real_server(address, 8080, method=MASQ))
    yield dr
    dr.run("rs1", [*console_script("pylvs"), "unload"])
    dr.run("rs1", "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
    for prefix, gateway in (("", router.ipv4), ("-6 ", router.ipv6)):
        for name in ("rs1", "rs2"):
            dr.run(name, f"ip {prefix}route replace default via {gateway}")


def test_a_director_behind_a_director(cascade: Lab, ipv6: bool) -> None:
    service = Service(cascade, "-g", ipv6=ipv6).add("rs1")
    name, client, _, asked, port = service.get("/who").split()
    rs2, who = cascade.host("rs2"), cascade.host("client")
    assert (name, client) == ("rs2", who.ipv6 if ipv6 else who.ipv4), "two directors on, it still sees its client"
    assert (asked, port) == (rs2.ipv6 if ipv6 else rs2.ipv4, "8080")
    words = ["curl", "-sS", "-m", TIMEOUT, "-o", "/dev/null", "-w", "%{size_download}", service.url("/big")]
    assert cascade.run("client", words).stdout == str(servers.BIG_SIZE)
    assert service.traffic()["rs1"].outpkts == 0
    with cascade.enter("rs1"), Director() as second:
        totals = second.totals()
        assert totals.conns == 2 and totals.outpkts > 3, "the second one sees both directions"
