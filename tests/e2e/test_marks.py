"""One service for several addresses and ports, by firewall mark: EXAMPLE 2 of ipvsadm(8).

   client                   director                                real servers
 +--------+   outside   +-------------------+    inside     +------+
 |   .2   |-------------| .9             .9 |-------+-------| rs1  | .11
 +--------+             | 207.175.44.110/31 |       +-------| rs2  | .12
                        +-------------------+       +-------| rs3  | .13

   to 207.175.44.110 and .111 (2001:db8:44::110 and ::111), ports 80 and 8080  -->  mark 1  -->  -f 1 -s rr, -m

Who says the mark:
    rules      pylvs mark add: the director itself, when a packet comes in
    netfilter  nft in PREROUTING, where packets are after the director has seen them: pylvs mark route brings them back
    below      nft at the ingress of a bridge's port: when the packet comes to the bridge, it has its mark already

Where the addresses are: on the director (local), or nowhere (routed): the client's default route leads to the director.
"""

import socket
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pylvs.lab import Lab, wait_for

from .conftest import BOTH_WAYS, forwarding
from .service import TIMEOUT, endpoint

NFT = """
table inet example2 {
    chain prerouting {
        type filter hook prerouting priority mangle
        ip daddr 207.175.44.110/31 tcp dport { 80, 8080 } meta mark set 1
        ip6 daddr 2001:db8:44::110/127 tcp dport { 80, 8080 } meta mark set 1
    }
}
"""
NFT_BELOW = """
table netdev below {
    chain ingress {
        type filter hook ingress device "eth0" priority 0
        ip daddr 207.175.44.110/31 tcp dport { 80, 8080 } meta mark set 1
        ip6 daddr 2001:db8:44::110/127 tcp dport { 80, 8080 } meta mark set 1
    }
}
"""
PORTS = (80, 8080)


class Addresses(NamedTuple):
    """The example's addresses in one family."""

    ipv6: bool
    vips: tuple[str, str]
    network: str

    @property
    def service(self) -> str:
        return "-f 1 -6" if self.ipv6 else "-f 1"


FAMILIES = {
    "ipv4": Addresses(False, ("207.175.44.110", "207.175.44.111"), "207.175.44.110/31"),
    "ipv6": Addresses(True, ("2001:db8:44::110", "2001:db8:44::111"), "2001:db8:44::110/127"),
}


@pytest.fixture(params=FAMILIES)
def example(request: pytest.FixtureRequest) -> Addresses:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def whole_lab() -> Iterator[Lab]:
    with Lab("nat") as lab:
        for addresses in FAMILIES.values():  # what is routed must not come back from the director's default route
            lab.run("director", f"ip route add blackhole {addresses.network} metric 4000")
        yield lab


@pytest.fixture
def lab(whole_lab: Lab, by_stack: bool) -> Iterator[Lab]:
    with forwarding(whole_lab, by_stack, strict=True):
        yield whole_lab


def _local(lab: Lab, there: bool) -> None:
    for addresses in FAMILIES.values():
        for vip in addresses.vips:
            words = f"ip addr {'add' if there else 'del'} {vip}/{128 if addresses.ipv6 else 32} dev lo"
            lab.run("director", words + (" nodad" if addresses.ipv6 and there else ""))


@pytest.fixture(params=["local", "routed"])
def place(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    if request.param == "local":
        _local(lab, True)
    try:
        yield request.param
    finally:
        if request.param == "local":
            _local(lab, False)


def _nft(lab: Lab, text: str) -> None:
    lab.run("director", ["nft", "-f", "-"], input=text)


@pytest.fixture(params=["rules", "netfilter"])
def marked(request: pytest.FixtureRequest, lab: Lab, place: str) -> Iterator[str]:
    """Somebody gives the mark."""
    if request.param == "rules":
        for addresses in FAMILIES.values():
            lab.pylvs(f"mark add --dst {addresses.network} --proto tcp --dport 80,8080 --mark 1")
    else:
        _nft(lab, NFT)
        lab.pylvs("mark route 1")
    try:
        yield request.param
    finally:
        if request.param == "rules":
            lab.pylvs("mark flush")
        else:
            lab.run("director", "nft delete table inet example2")
            lab.pylvs("mark route del 1")
        lab.ipvsadm("-C")


def _serve(lab: Lab, example: Addresses, method: str = "-m", options: str = "") -> None:
    lab.ipvsadm(f"-A {example.service} -s rr {options}")
    for host in lab.realservers:
        lab.ipvsadm(f"-a {example.service} -r {endpoint(host.ipv6 if example.ipv6 else host.ipv4, 0)} {method}")


def _get(lab: Lab, vip: str, port: int = 80, path: str = "/") -> str:
    return lab.run("client", ["curl", "-sS", "-m", TIMEOUT, f"http://{endpoint(vip, port)}{path}"]).stdout.strip()


def _conns(lab: Lab, example: Addresses) -> int:
    rows = lab.ipvsadm(f"-Ln --stats --exact {example.service}").stdout.splitlines()
    return sum(int(row.split()[2]) for row in rows if row.startswith("  ->") and "Remote" not in row)


@BOTH_WAYS
def test_example_2(lab: Lab, marked: str, example: Addresses) -> None:
    """All addresses and ports take their turns together, each on the port that was asked for."""
    _serve(lab, example)
    answers = [_get(lab, vip, port, "/who").split() for vip in example.vips for port in PORTS for _ in range(3)]
    assert Counter(words[0] for words in answers) == {"rs1": 4, "rs2": 4, "rs3": 4}
    assert [words[4] for words in answers] == ["80"] * 3 + ["8080"] * 3 + ["80"] * 3 + ["8080"] * 3
    client = lab.host("client")
    assert {words[1] for words in answers} == {client.ipv6 if example.ipv6 else client.ipv4}
    assert _conns(lab, example) == 12


def test_example_2_persistent(lab: Lab, marked: str, example: Addresses) -> None:
    """With -p a client has one real server for all that has the mark: both ports of a shop, and its other address."""
    _serve(lab, example, options="-p 60")
    answers = [_get(lab, vip, port, "/who").split() for vip in example.vips for port in PORTS for _ in range(2)]
    assert len({words[0] for words in answers}) == 1
    assert [words[4] for words in answers] == ["80", "80", "8080", "8080"] * 2


def test_what_has_no_mark_is_the_directors_own(lab: Lab, marked: str, place: str, example: Addresses) -> None:
    _serve(lab, example)
    assert not lab.can_connect("client", example.vips[0], 81)
    assert _conns(lab, example) == 0


def test_nobody_to_serve_is_said_at_once(lab: Lab, marked: str, example: Addresses) -> None:
    """ICMP port unreachable finds its way, also from the end of the detour."""
    lab.ipvsadm(f"-A {example.service} -s rr")
    assert lab.connect("client", example.vips[0], 80, timeout=5) == 111


def test_a_large_answer_and_a_connection_that_stays(lab: Lab, marked: str, example: Addresses) -> None:
    """Later packets go with their connection, whatever becomes of the mark."""
    _serve(lab, example)
    with lab.socket("client", socket.AF_INET6 if example.ipv6 else socket.AF_INET) as open_one:
        open_one.settimeout(5)
        open_one.connect((example.vips[1], 80))
        if marked == "rules":
            lab.pylvs("mark flush")
        else:
            lab.pylvs("mark route del 1")
        open_one.sendall(b"GET /big HTTP/1.0\r\n\r\n")
        received = 0
        while piece := open_one.recv(1 << 16):
            received += len(piece)
        assert received > 4 << 20
    if marked == "netfilter":
        lab.pylvs("mark route 1")  # for whoever takes it away


def test_the_hop_is_counted_once(lab: Lab, marked: str, example: Addresses) -> None:
    """The real server sees the TTL that kernel IPVS would have left: one less, the detour or not."""
    _serve(lab, example)
    family, header = (socket.AF_INET6, socket.IPPROTO_IPV6) if example.ipv6 else (socket.AF_INET, socket.IPPROTO_IP)
    option = socket.IPV6_UNICAST_HOPS if example.ipv6 else socket.IP_TTL
    sniffers = []
    for host in lab.realservers:
        with lab.enter(host.name):
            sniffers.append(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)))
    try:
        with lab.socket("client", family) as probe:
            probe.settimeout(5)
            probe.setsockopt(header, option, 40)
            probe.connect((example.vips[0], 80))
            port = probe.getsockname()[1]
        hops = [hop for sniffer in sniffers for hop in _hops(sniffer, port, example.ipv6)]
    finally:
        for sniffer in sniffers:
            sniffer.close()
    assert len(hops) >= 3
    assert set(hops) == {39}


def _hops(sniffer: socket.socket, port: int, ipv6: bool) -> Iterator[int]:
    """The TTLs of the packets from this client port that a real server has received."""
    sniffer.setblocking(False)
    version, head, hops = (6, 40, 7) if ipv6 else (4, 20, 8)
    while True:
        try:
            packet = sniffer.recv(2048)
        except BlockingIOError:
            return
        if packet[0] >> 4 == version and packet[head : head + 2] == port.to_bytes(2, "big"):
            yield packet[hops]


def test_a_client_without_hops_left(lab: Lab, marked: str, example: Addresses) -> None:
    """ICMP time exceeded, from the director or its stack."""
    _serve(lab, example)
    family, header = (socket.AF_INET6, socket.IPPROTO_IPV6) if example.ipv6 else (socket.AF_INET, socket.IPPROTO_IP)
    before = _exceeded(lab, example)
    with lab.socket("client", family) as probe:
        probe.setblocking(False)
        probe.setsockopt(header, socket.IPV6_UNICAST_HOPS if example.ipv6 else socket.IP_TTL, 1)
        probe.connect_ex((example.vips[0], 80))
        wait_for(lambda: _exceeded(lab, example) > before, "ICMP time exceeded")


def _exceeded(lab: Lab, example: Addresses) -> int:
    """How many "time exceeded" the client has received."""
    if example.ipv6:
        rows = (line.split() for line in lab.run("client", "cat /proc/net/snmp6").stdout.splitlines())
        return next(int(row[1]) for row in rows if row[0] == "Icmp6InTimeExcds")
    names, values = (
        line.split() for line in lab.run("client", "cat /proc/net/snmp").stdout.splitlines() if line.startswith("Icmp:")
    )
    return int(values[names.index("InTimeExcds")])


@pytest.mark.parametrize("strict", ["0", "1"])
def test_marked_packets_that_are_no_services_reach_the_stack(lab: Lab, example: Addresses, strict: str) -> None:
    """They have been to the detour and come back: the director's own answer comes, and nothing goes round; however
    strictly the stack looks at sources (rp_filter)."""
    lab.run("director", f"sysctl -qw net.ipv4.conf.all.rp_filter={strict}")
    _local(lab, True)
    _nft(lab, NFT)
    lab.pylvs("mark route 1")
    try:
        lab.ipvsadm(f"-A {'-t [2001:db8:44::1]:1' if example.ipv6 else '-t 10.9.9.9:1'} -s rr")
        before = _received(lab)
        assert lab.connect("client", example.vips[0], 80, timeout=5) == 111
        assert _received(lab) - before < 100
    finally:
        lab.run("director", "nft delete table inet example2")
        lab.pylvs("mark route del 1")
        lab.ipvsadm("-C")
        lab.run("director", "sysctl -qw net.ipv4.conf.all.rp_filter=0")
        _local(lab, False)


def _received(lab: Lab) -> int:
    """Packets that came in by the detour's end."""
    rows = lab.run("director", "cat /proc/net/dev").stdout.splitlines()
    return next(int(row.split()[2]) for row in rows if row.split()[0] == "pylvs1:")


def test_a_mark_from_below(example: Addresses) -> None:
    """A mark that a packet has when it comes in counts: here it was given to it on the port of a bridge."""
    with Lab("nat") as lab:
        _local(lab, True)
        host = lab.host("director")
        lab.run(
            "director",
            ["ip", "-batch", "-"],
            input=f"""link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0
link set br0 up
link set eth0 master br0
addr flush dev eth0
addr add {host.ipv4}/24 dev br0
addr add {host.ipv6}/64 dev br0 nodad
""",
        )
        _nft(lab, NFT_BELOW)
        _serve(lab, example)
        wait_for(lambda: lab.can_connect("client", example.vips[0], 80), "the bridge to be usable")
        assert Counter(_get(lab, example.vips[1], 8080) for _ in range(6)) == {"rs1": 2, "rs2": 2, "rs3": 2}


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_direct_routing_by_the_detour(ipv6: bool) -> None:
    """One wire for clients, director and real servers, the VIP on all of them; datagrams, too.

    client ------ router --+-- director          nft: vip, ports 80 and 53 --> mark 1
                           +-- rs1..rs3
    """
    with Lab("dr") as lab:
        vip, family = (lab.vip6, "ip6") if ipv6 else (lab.vip, "ip")
        marked = f"{family} daddr {vip} {{}} meta mark set 0x12\n"
        chain = "type filter hook prerouting priority mangle\n" + marked.format("tcp dport 80")
        _nft(lab, f"table inet dr {{\nchain prerouting {{\n{chain}{marked.format('udp dport 53')}}}\n}}\n")
        lab.pylvs("mark route 0x2/0xf")
        service = "-f 18 -6" if ipv6 else "-f 18"
        lab.ipvsadm(f"-A {service} -s rr")
        for host in lab.realservers:
            lab.ipvsadm(f"-a {service} -r {endpoint(host.ipv6 if ipv6 else host.ipv4, 0)} -g")
        assert Counter(_get(lab, vip) for _ in range(6)) == {"rs1": 2, "rs2": 2, "rs3": 2}
        words = ["dig", "+short", "+tries=1", "+time=3", f"@{vip}", "whoami.lab", "TXT"]
        answers = [lab.run("client", words).stdout.strip().strip('"') for _ in range(3)]
        assert sorted(answers) == ["rs1", "rs2", "rs3"]
