"""LVS-TUN from end to end: the director's packet path wraps, real servers in another network unwrap, and answer their
clients themselves. The topology is the lab's `tun`. And much through a way that is narrower than the client thinks, by
every forwarding method.

   client -- router -- director          the router: eth0 to the client, eth1 to the director, eth2 to the real servers
                 \\---- rs1 ... rs5
"""

import itertools
import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import pytest

from pylvs.lab import Lab
from pylvs.lab.lab import console_script
from support.upload import MEGABYTE, upload

from .conftest import BOTH_WAYS, forwarding

PORT = 9000
ETH_P_ALL = 3
PLACES = {4: (socket.AF_INET, slice(16, 20)), 6: (socket.AF_INET6, slice(24, 40))}  # of the destination
GUE = "--tun-type gue --tun-port 6080"
KINDS = {
    "ipip": "", "gre": "--tun-type gre", "gre-csum": "--tun-type gre --tun-csum", "gue": GUE,
    "gue-csum": f"{GUE} --tun-csum",
}  # fmt: skip
NARROW = 1300
EXAMPLE_3 = """
-A -t 207.175.44.110:80 -s rr
-a -t 207.175.44.110:80 -r 192.168.10.1:80 -i --tun-type gue --tun-port 6080 --tun-nocsum
-a -t 207.175.44.110:80 -r 192.168.10.2:80 -i --tun-type gue --tun-port 6080 --tun-csum
-a -t 207.175.44.110:80 -r 192.168.10.3:80 -i --tun-type gue --tun-port 6080 --tun-remcsum
-a -t 207.175.44.110:80 -r 192.168.10.4:80 -i --tun-type gue --tun-port 6078
-a -t 207.175.44.110:80 -r 192.168.10.5:80 -i --tun-type gue --tun-port 6079
"""
EXAMPLE_4 = """
-A -t 10.0.0.1:80 -s rr
-a -t 10.0.0.1:80 -r 192.168.11.1:80 -i --tun-type gre --tun-csum
"""


@pytest.fixture(scope="module")
def tun_lab() -> Iterator[Lab]:
    with Lab("tun", realservers=5) as lab:
        yield lab


@pytest.fixture
def tun(tun_lab: Lab, by_stack: bool) -> Iterator[Lab]:
    with forwarding(tun_lab, by_stack):
        yield tun_lab
    tun_lab.ipvsadm("-C")


def _sent(lab: Lab) -> int:
    """How many packets have left the director."""
    told = json.loads(lab.run("director", "ip -json -stats link show eth0").stdout)
    return int(told[0]["stats64"]["tx"]["packets"])


@contextmanager
def _segmenting(lab: Lab) -> Iterator[None]:
    """The director's device takes hardly any merged packets: the kernel cuts them, tunnels and all."""
    lab.run("director", "ip link set eth0 gso_max_size 2000")
    yield
    lab.run("director", "ip link set eth0 gso_max_size 65536")


def test_by_the_stack(tun: Lab) -> None:
    """With net.ipv4.vs.conntrack=1, the director's firewall sees requests to the real server, before their tunnel."""
    rs1, restore, services = tun.host("rs1"), [], []
    for port, ((vip, server), kind) in enumerate(
        itertools.product(itertools.product((tun.vip, tun.vip6), (rs1.ipv4, rs1.ipv6)), ("ipip", "gue-csum")), PORT
    ):
        service, target = (f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in (vip, server))
        services.append((vip, port))
        restore += [f"-A -t {service} -s rr", f"-a -t {service} -r {target} -i {KINDS[kind]}"]
    rules = f"""
        add table inet filter
        add chain inet filter forward {{ type filter hook forward priority filter; policy drop; }}
        add rule inet filter forward ip daddr {rs1.ipv4} tcp dport {PORT}-{PORT + 99} counter accept
        add rule inet filter forward ip6 daddr {rs1.ipv6} tcp dport {PORT}-{PORT + 99} counter accept
        add rule inet filter forward oifname "pylvs0" ip daddr 254.0.0.0/8 tcp dport {PORT}-{PORT + 99} counter accept
        add rule inet filter forward ip6 daddr 64:ff9b:1:fffe::/96 tcp dport {PORT}-{PORT + 99} counter accept
        add rule inet filter forward icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    """
    tun.run("director", ["nft", "-f", "-"], input=rules)
    tun.pylvs("sysctl -q conntrack=1")
    try:
        tun.ipvsadm("-R", input="\n".join(restore) + "\n")
        for vip, port in services:
            upload(tun, vip, port)
        assert "counter packets 0 " not in tun.run("director", "nft list ruleset").stdout
        assert "sent_failed" not in tun.pylvs("status --drops").stdout
    finally:
        tun.pylvs("sysctl -q conntrack=0")
        tun.run("director", "nft delete table inet filter")


@contextmanager
def _finishing(lab: Lab) -> Iterator[None]:
    """The client's machine leaves nothing to be done: no packet merged, no checksum unfinished."""
    if shutil.which("ethtool") is None:
        pytest.skip("there is no ethtool to switch offloading off")
    lab.run("client", "ethtool -K eth0 tx off")
    yield
    lab.run("client", "ethtool -K eth0 tx on")


def test_captures_show_what_leaves(tun: Lab) -> None:
    """The tunnel's packets, to whoever asks the kernel where their IP header begins (`tcpdump -i any`), too."""
    rs1, told = tun.host("rs1"), set()
    ends = {tun.vip: rs1.ipv4, tun.vip6: rs1.ipv6}
    for (vip, server), kind in itertools.product(ends.items(), KINDS):
        service, target = (f"[{one}]:{PORT}" if ":" in one else f"{one}:{PORT}" for one in (vip, server))
        tun.ipvsadm("-R", input=f"-A -t {service} -s rr\n-a -t {service} -r {target} -i {KINDS[kind]}\n")
        with tun.enter("director"):
            capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        with capture, _finishing(tun):
            capture.bind(("eth0", ETH_P_ALL))
            capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            upload(tun, vip, PORT, 50_000)
            capture.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    packet, (_, _, direction, *_) = capture.recvfrom(1 << 16)
                    if direction == socket.PACKET_OUTGOING and packet[0] >> 4 in PLACES:
                        family, place = PLACES[packet[0] >> 4]
                        told.add(socket.inet_ntop(family, packet[place]))
        assert server in told
        assert vip not in told, f"{kind}: the client's packet was taken for the tunnel's"
        tun.ipvsadm("-C")


@BOTH_WAYS
@pytest.mark.parametrize("how", ["merged", "cut", "finished"])
def test_every_byte_arrives(tun: Lab, how: str) -> None:
    """Of each type and mixture of families, at full speed: the client's machine leaves packets merged and checksums to
    be finished; and they stay so to the real server, or are cut where the tunnel begins. Or it leaves nothing to do."""
    rs1, services, restore = tun.host("rs1"), [], []
    ways = itertools.product((tun.vip, tun.vip6), (rs1.ipv4, rs1.ipv6), KINDS.values())
    for port, (vip, server, kind) in enumerate(ways, PORT):
        service, target = (f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in (vip, server))
        services.append((vip, port))
        restore.append(f"-A -t {service} -s rr\n-a -t {service} -r {target} -i {kind}\n")
    tun.ipvsadm("-R", input="".join(restore))
    before = _sent(tun)
    with {"merged": nullcontext(), "cut": _segmenting(tun), "finished": _finishing(tun)}[how]:
        for vip, port in services:
            upload(tun, vip, port)
    segments = len(services) * len(MEGABYTE) // 1400
    sent = _sent(tun) - before
    assert sent < segments // 2 if how == "merged" else sent > segments, f"{sent} packets left the director"


def _example(lab: Lab, text: str) -> list[str]:
    """Follow an example of ipvsadm(8) with the lab's addresses; who answers one request after the other."""
    vip = text.split()[2].partition(":")[0]
    text = text.replace(vip, lab.vip)
    for number in range(1, 6):
        for network in ("192.168.10", "192.168.11"):
            text = text.replace(f"{network}.{number}:", f"{lab.host(f'rs{number}').ipv4}:")
    lab.ipvsadm("-R", input=text)
    words = " ".join([f"http://{lab.vip}/who"] * text.count("-a "))
    said = lab.run("client", f"curl -sS --max-time 10 -H Connection:close {words}").stdout
    return [line.split()[0] for line in said.splitlines() if line]


def test_example_3_of_the_manual(tun: Lab) -> None:
    for server in tun.realservers:
        decap = "realserver decap --type ipip --type gre --port 6078 --port 6079 --port 6080"
        tun.run(server.name, [*console_script("pylvs"), *decap.split()])
    assert sorted(_example(tun, EXAMPLE_3)) == ["rs1", "rs2", "rs3", "rs4", "rs5"]


def test_example_4_of_the_manual(tun: Lab) -> None:
    assert _example(tun, EXAMPLE_4) == ["rs1"]


@contextmanager
def _narrow(lab: Lab, address: str) -> Iterator[None]:
    """What the director sends to this address has to fit a smaller MTU."""
    way = lab.run("director", f"ip route get {address}").stdout.split()
    hop = [word for name in ("via", "dev") if name in way for word in (name, way[way.index(name) + 1])]
    lab.run("director", f"ip route add {address} {' '.join(hop)} mtu lock {NARROW}")
    yield
    lab.run("director", f"ip route del {address}")


@pytest.mark.parametrize("method", ["-m", "-g", "-i", "-i --tun-type gre --tun-csum", f"-i {GUE}"])
def test_100_megabytes_along_a_narrower_way(request: pytest.FixtureRequest, method: str) -> None:
    """The client, whose own network takes 1500 bytes, is told what fits, and goes on with that."""
    lab: Lab = request.getfixturevalue({"-m": "nat", "-g": "dr"}.get(method, "tun"))
    rip = lab.host("rs1").ipv4
    lab.ipvsadm("-R", input=f"-A -t {lab.vip}:{PORT} -s rr\n-a -t {lab.vip}:{PORT} -r {rip}:{PORT} {method}\n")
    with _narrow(lab, rip):
        upload(lab, lab.vip, PORT, 100 * len(MEGABYTE), rip if method == "-m" else "")
    assert "dropped_too_big" in lab.pylvs("status --drops").stdout
