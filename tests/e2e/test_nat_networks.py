"""LVS-NAT on other networks than two.

one:   client -- router --+-- director .9 (VIP)        one network: the real servers' only way, to everybody there,
                          +-- rs1, rs2  .11 .12        is the director; rs3 is a client on their network
                          +-- rs3       .13

nat:   client -- director --+-- rs1..rs3               two daemons on one host; a real server asked by its own address
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from pylvs.lab import Lab

from .service import TIMEOUT, Service, endpoint

NOBODY = 28
SERVICES, SERVERS = 256, 32


def _one_network(lab: Lab, name: str) -> None:
    """A real server that answers everybody by way of the director, its neighbours, too."""
    outside, director = lab.topology.network("outside"), lab.host("director")
    for words in (
        f"ip addr del {lab.vip}/32 dev lo",
        f"ip -6 addr del {lab.vip6}/128 dev lo",
        f"ip route replace default via {director.ipv4}",
        f"ip -6 route replace default via {director.ipv6}",
        f"ip route add {director.ipv4}/32 dev eth0",
        f"ip -6 route add {director.ipv6}/128 dev eth0",
        f"ip route del {outside.ipv4} dev eth0",
        f"ip -6 route del {outside.ipv6} dev eth0",
    ):
        lab.run(name, words)


@pytest.fixture(scope="module")
def one_lab() -> Iterator[Lab]:
    with Lab("dr") as lab:
        for name in ("rs1", "rs2"):
            _one_network(lab, name)
        for words in (f"ip addr del {lab.vip}/32 dev lo", f"ip -6 addr del {lab.vip6}/128 dev lo"):
            lab.run("rs3", words)
        yield lab


@pytest.fixture(params=[0, 1], ids=["", "conntrack"])
def one(request: pytest.FixtureRequest, one_lab: Lab) -> Iterator[Lab]:
    one_lab.pylvs(f"sysctl -q conntrack={request.param}")
    yield one_lab
    one_lab.ipvsadm("-C")


def _get(service: Service, host: str) -> str:
    return service.lab.run(host, ["curl", "-sS", "-m", TIMEOUT, service.url()]).stdout.strip()


def test_one_network(one: Lab, ipv6: bool) -> None:
    """For clients elsewhere, and for those on the real servers' network."""
    service = Service(one, "-m", ipv6=ipv6, rport=8080).add("rs1", "rs2")
    for host in ("client", "rs3"):
        assert Counter(_get(service, host) for _ in range(2)) == {"rs1": 1, "rs2": 1}


def test_a_real_server_that_answers_its_neighbour_directly(one: Lab, ipv6: bool) -> None:
    """Then the client hears from somebody whom it did not ask, as with kernel IPVS; those elsewhere are served."""
    service = Service(one, "-m", ipv6=ipv6, rport=8080).add("rs2")
    network = one.topology.network("outside")
    prefix, outside = ("-6 ", network.ipv6) if ipv6 else ("", network.ipv4)
    one.run("rs2", f"ip {prefix}route add {outside} dev eth0")
    try:
        words = ["curl", "-sS", "-m", "0.4", service.url()]
        assert one.run("rs3", words, check=False).returncode == NOBODY
        assert _get(service, "client") == "rs2"
    finally:
        one.run("rs2", f"ip {prefix}route del {outside} dev eth0")


MASQUERADE = """
table inet hairpin {
    chain postrouting {
        type nat hook postrouting priority srcnat
        ip saddr 192.168.1.0/24 ip daddr 192.168.1.0/24 masquerade
        ip6 saddr fd00:1::/64 ip6 daddr fd00:1::/64 masquerade
    }
}
"""


def test_a_real_server_asks_its_own_service(one_lab: Lab, ipv6: bool) -> None:
    """With conntrack netfilter can put the director in the place of clients among the real servers, which kernel IPVS
    has no way of: then it does not matter how those answer their neighbours."""
    one_lab.pylvs("sysctl -q conntrack=1")
    one_lab.run("director", ["nft", "-f", "-"], input=MASQUERADE)
    try:
        service = Service(one_lab, "-m", ipv6=ipv6, rport=8080).add("rs3")
        director = one_lab.host("director")
        for host in ("rs3", "rs1"):
            words = ["curl", "-sS", "-m", TIMEOUT, service.url("/who")]
            name, seen, *_ = one_lab.run(host, words).stdout.split()
            assert name == "rs3"
            assert seen == (director.ipv6 if ipv6 else director.ipv4), "in the place of its neighbours"
        traffic = service.traffic()["rs3"]
        assert traffic.conns == 2 and traffic.outpkts >= 6
    finally:
        one_lab.run("director", "nft delete table inet hairpin")
        one_lab.ipvsadm("-C")
        one_lab.pylvs("sysctl -q conntrack=0")


def test_two_daemons_on_one_host(nat: Lab, ipv6: bool) -> None:
    """One address, two ports: two real servers of one service."""
    service = Service(nat, "-m", ipv6=ipv6).add("rs1")
    other = endpoint(service.rip("rs1"), 8080)
    nat.ipvsadm(["-a", "-t", service.address, "-r", other, "-m"])
    ports = Counter(service.get("/who").split()[4] for _ in range(4))
    assert ports == {"80": 2, "8080": 2}


def test_a_real_server_asked_by_its_own_address(nat: Lab, ipv6: bool) -> None:
    """The director is a router to it, balanced ports or not; unless nat_icmp_send tells the real server otherwise."""
    service = Service(nat, "-m", ipv6=ipv6, rport=8080).add("rs1")
    direct = f"http://{service.server('rs1')}/"
    words = ["curl", "-sS", "-m", TIMEOUT, direct]
    assert service.get() == nat.run("client", words).stdout.strip() == "rs1"
    nat.pylvs("sysctl -q nat_icmp_send=1")
    try:
        assert service.get() == "rs1"
        assert nat.run("client", [*words[:3], "0.4", direct], check=False).returncode == NOBODY
    finally:
        nat.pylvs("sysctl -q nat_icmp_send=0")


def test_many_services_of_many_real_servers(nat: Lab) -> None:
    nat.run("director", "ip route add local 192.168.77.0/24 dev lo")
    nat.run("client", f"ip route replace 192.168.77.0/24 via {nat.host('director').ipv4}")
    vips = [f"192.168.77.{n}" for n in range(SERVICES)]
    lines = []
    for vip in vips:
        lines.append(f"-A -t {vip}:80 -s rr")
        for n in range(SERVERS):
            host = nat.realservers[n % 3].ipv4
            lines.append(f"-a -t {vip}:80 -r {host}:{8080 if n < 3 else 10000 + n} -m -w {int(n < 3)}")
    nat.ipvsadm("-R", input="\n".join(lines), timeout=120)
    words = ["curl", "-sS", "-m", "25", *(f"http://{vip}/" for vip in vips)]
    answers = Counter(nat.run("client", words, timeout=60).stdout.split())
    assert answers == {"rs3": SERVICES}, "each service begins with its newest real server of a weight"
