"""The way between client and real server, hop by hop, and where it is narrow or wide.

nat-router:  client -- router -- director -- rs1          both directions pass the director
dr:          client -- router --+-- director              replies pass the router only
                                +-- rs1..rs3
tun:         client -- router -- director                 requests pass the router twice
                          \\---- rs1..rs3
"""

import errno
import json
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from pylvs.lab import Lab, servers
from pylvs.lab.topology import Host
from support.upload import upload

from .conftest import BOTH_WAYS, forwarding
from .service import TIMEOUT, Service

METHODS = {"nat-router": "-m", "dr": "-g", "tun": "-i"}
NOBODY_LISTENS, ECHO = 33434, 9001
IP_RECVERR, IPV6_RECVERR, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, DO = 11, 25, 10, 23, 2
_EXTENDED_ERROR = 16


@pytest.fixture(scope="module")
def tun_lab() -> Iterator[Lab]:
    with Lab("tun", realservers=1) as lab:
        yield lab


@pytest.fixture(params=METHODS)
def lab(request: pytest.FixtureRequest, by_stack: bool) -> Iterator[Lab]:
    found: Lab = request.getfixturevalue(request.param.replace("-", "_") + "_lab")
    with forwarding(found, by_stack, strict=request.param == "nat-router"):
        yield found
    found.ipvsadm("-C")


def _method(lab: Lab) -> str:
    return METHODS[lab.topology.name]


def _address(host: Host, interface: str, ipv6: bool) -> str:
    found = host.interface(interface)
    return found.ipv6 if ipv6 else found.ipv4


def _probe(probe: socket.socket, hops: int) -> tuple[str, int]:
    """Who answers a datagram that may make so many hops, and with which error."""
    ipv6 = probe.family == socket.AF_INET6
    level, option = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS) if ipv6 else (socket.IPPROTO_IP, socket.IP_TTL)
    probe.setsockopt(level, option, hops)
    probe.send(b"where are you?")
    waiting = select.poll()
    waiting.register(probe, 0)  # an error, nothing else
    assert waiting.poll(3000), f"nobody answered after {hops} hops"
    _, said, _, _ = probe.recvmsg(100, 200, socket.MSG_ERRQUEUE)
    [error] = [data for kind, _, data in said if kind == level]
    (number,) = struct.unpack_from("=I", error)
    family, at, size = (socket.AF_INET6, 8, 16) if ipv6 else (socket.AF_INET, 4, 4)
    return socket.inet_ntop(family, error[_EXTENDED_ERROR + at :][:size]), number


@BOTH_WAYS
def test_a_traced_route(lab: Lab, ipv6: bool) -> None:
    """The router; the director, which speaks as the VIP, an address of its own, as any Linux does; and the real server,
    whose word has the VIP's name on it, too."""
    service = Service(lab, _method(lab), ipv6=ipv6, port=NOBODY_LISTENS, kind="-u").add("rs1")
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    found = []
    with lab.socket("client", family, socket.SOCK_DGRAM) as probe:
        level, option = (socket.IPPROTO_IPV6, IPV6_RECVERR) if ipv6 else (socket.IPPROTO_IP, IP_RECVERR)
        probe.setsockopt(level, option, 1)
        probe.connect((service.vip, service.port))
        for hops in (1, 2, 8):
            found.append(_probe(probe, hops))
    assert found == [
        (_address(lab.host("router"), "eth0", ipv6), errno.EHOSTUNREACH),
        (service.vip, errno.EHOSTUNREACH),
        (service.vip, errno.ECONNREFUSED),
    ]


@pytest.fixture
def narrow(lab: Lab) -> Iterator[Lab]:
    """On its last hop to the client only packets of 1300 bytes have room."""
    lab.run("router", "ip link set eth0 mtu 1300")
    yield lab
    lab.run("router", "ip link set eth0 mtu 1500")
    for host in ("client", "rs1"):
        lab.run(host, "ip route flush cache")
        lab.run(host, "ip -6 route flush cache")


@BOTH_WAYS
def test_a_narrow_way_back(narrow: Lab, ipv6: bool) -> None:
    """The router complains to the VIP, the director passes it on to the real server, who sends less at a time."""
    service = Service(narrow, _method(narrow), ipv6=ipv6).add("rs1")
    words = ["curl", "-sS", "-m", TIMEOUT, "-o", "/dev/null", "-w", "%{size_download}", service.url("/big")]
    assert narrow.run("client", words).stdout == str(servers.BIG_SIZE)
    route = narrow.run("rs1", ["ip", "route", "get", _address(narrow.host("client"), "eth0", ipv6)]).stdout
    assert "mtu 1300" in route, "the real server has learned it"


# ---- jumbo frames ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jumbo() -> Iterator[Lab]:
    """Frames of 9000 bytes on both networks."""
    with Lab("nat", realservers=1) as lab:
        for host, interface in (("client", "eth0"), ("director", "eth0"), ("director", "eth1"), ("rs1", "eth0")):
            lab.run(host, f"ip link set {interface} mtu 9000")
        yield lab


def _uncut(lab: Lab, host: str, ipv6: bool) -> socket.socket:
    """A datagram socket of a host's that lets nothing be cut on its way."""
    level, option = (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) if ipv6 else (socket.IPPROTO_IP, IP_MTU_DISCOVER)
    found = lab.socket(host, socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    found.settimeout(3)
    found.setsockopt(level, option, DO)
    return found


def _echo(lab: Lab, ipv6: bool, size: int) -> int:
    """How much of a datagram comes back to the client."""
    rs1 = lab.host("rs1")
    with _uncut(lab, "rs1", ipv6) as server, _uncut(lab, "client", ipv6) as client:
        server.bind((rs1.ipv6 if ipv6 else rs1.ipv4, ECHO))
        client.connect((lab.vip6 if ipv6 else lab.vip, ECHO))
        client.send(bytes(size))
        server.sendto(*server.recvfrom(10000))
        return len(client.recv(10000))


def test_jumbo_frames(jumbo: Lab, ipv6: bool) -> None:
    service = Service(jumbo, "-m", ipv6=ipv6, port=ECHO, kind="-u").add("rs1")
    web = Service(jumbo, "-m", ipv6=ipv6).add("rs1")
    try:
        assert _echo(jumbo, ipv6, 8750) == 8750
        traffic = service.traffic()["rs1"]
        assert (traffic.inpkts, traffic.outpkts) == (1, 1), "in one piece"
        words = ["curl", "-sS", "-m", TIMEOUT, "-o", "/dev/null", "-w", "%{size_download}", web.url("/big")]
        assert jumbo.run("client", words).stdout == str(servers.BIG_SIZE)
    finally:
        jumbo.ipvsadm("-C")


def test_jumbo_frames_to_a_network_without(jumbo: Lab, ipv6: bool) -> None:
    """The client is told, and sends less at a time."""
    Service(jumbo, "-m", ipv6=ipv6, port=ECHO, kind="-u").add("rs1")
    for host, interface in (("director", "eth1"), ("rs1", "eth0")):
        jumbo.run(host, f"ip link set {interface} mtu 1500")
    try:
        with _uncut(jumbo, "client", ipv6) as client:
            client.connect((jumbo.vip6 if ipv6 else jumbo.vip, ECHO))
            client.send(bytes(8750))
            with pytest.raises(OSError) as said:
                client.recv(1)
        assert said.value.errno == errno.EMSGSIZE
        route = jumbo.run("client", ["ip", "route", "get", jumbo.vip6 if ipv6 else jumbo.vip]).stdout
        assert "mtu 1500" in route
        assert _echo(jumbo, ipv6, 1250) == 1250
    finally:
        jumbo.ipvsadm("-C")
        for host, interface in (("director", "eth1"), ("rs1", "eth0")):
            jumbo.run(host, f"ip link set {interface} mtu 9000")


def test_jumbo_segments_that_may_be_cut(jumbo: Lab) -> None:
    """A client that lets routers cut what it sends is told nothing: merged packets get shorter segments, and others
    leave in pieces."""
    rs1 = jumbo.host("rs1")
    jumbo.ipvsadm("-R", input=f"-A -t {jumbo.vip}:{ECHO} -s rr\n-a -t {jumbo.vip}:{ECHO} -r {rs1.ipv4}:{ECHO} -m\n")
    jumbo.run("director", "ip link set eth1 mtu 1500")
    jumbo.run("client", "sysctl -qw net.ipv4.ip_no_pmtu_disc=1")
    jumbo.run("client", "ip route flush cache")
    try:
        before = json.loads(jumbo.pylvs("status --json").stdout)["packets"]
        upload(jumbo, jumbo.vip, ECHO, 20 << 20, rs1.ipv4)
        after = json.loads(jumbo.pylvs("status --json").stdout)["packets"]
        for reason in ("dropped_too_big", "dropped_needs_fragments"):
            assert after[reason] == before[reason]
        assert "mtu 1500" not in jumbo.run("client", ["ip", "route", "get", jumbo.vip]).stdout
        assert after["received"] - before["received"] < 2 * (20 << 20) // 1460, "they came longer"
    finally:
        jumbo.ipvsadm("-C")
        jumbo.run("client", "sysctl -qw net.ipv4.ip_no_pmtu_disc=0")
        jumbo.run("director", "ip link set eth1 mtu 9000")
