"""The director's firewall where balanced packets pass it (net.ipv4.vs.conntrack=1): errors about them, what it rejects,
one-packet services, and what the director itself asks.

nat:   client -- director --+-- rs1..rs3      -m
dr:    client -- router --+-- director        -g
                          +-- rs1..rs3
"""

import errno
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pylvs.lab import Lab

from .service import TIMEOUT, Service
from .test_udp import PORT, RPORT, ask, echo

RULES = """
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy drop
        meta l4proto { icmp, icmpv6 } ct state related counter %s
        ct state established accept
        tcp dport 80 accept
        udp dport { 5300, 5301 } accept
        tcp dport 8080 reject with tcp reset
        udp dport { 8080, 8081 } reject
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
"""
OWN = """
table inet filter {
    chain output {
        type filter hook output priority filter; policy drop
        ct state established,related accept
        ct state new tcp dport 80 accept
        ct state new udp dport 5300 accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
    chain input {
        type filter hook input priority filter; policy drop
        meta l4proto { icmp, icmpv6 } ct state related counter accept
        ct state established,related accept
        iif lo ct state new accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
"""


@contextmanager
def _firewall(lab: Lab, rules: str) -> Iterator[None]:
    lab.run("director", ["nft", "-f", "-"], input=rules)
    lab.pylvs("sysctl -q conntrack=1")
    try:
        yield
    finally:
        lab.pylvs("sysctl -q conntrack=0")
        lab.run("director", "nft delete table inet filter")


@pytest.fixture(params=["nat", "dr"])
def lab(request: pytest.FixtureRequest) -> Lab:
    found: Lab = request.getfixturevalue(request.param)
    return found


def _service(lab: Lab, ipv6: bool, port: int = PORT, kind: str = "-u") -> Service:
    direct = lab.topology.name == "dr"
    return Service(lab, "-g" if direct else "-m", ipv6=ipv6, port=port, rport=port if direct else port + 1, kind=kind)


def _dial(service: Service, host: str = "client") -> socket.socket:
    """A socket for datagrams to the VIP."""
    dialled = service.lab.socket(host, socket.AF_INET6 if service.ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    dialled.settimeout(2)
    dialled.connect((service.vip, service.port))
    return dialled


def _related(lab: Lab) -> int:
    """How many errors the firewall has found to be related."""
    rules = lab.run("director", "nft list table inet filter").stdout
    [count] = re.findall(r"counter packets (\d+)", rules)
    return int(count)


def test_a_client_that_has_hung_up(lab: Lab, ipv6: bool) -> None:
    """The real server is told, if the firewall lets it: the error is about the connection that it knows."""
    service = _service(lab, ipv6).add("rs1")
    for verdict in ("accept", "drop"):
        with _firewall(lab, RULES % verdict), _dial(service) as client:
            family = socket.AF_INET6 if ipv6 else socket.AF_INET
            with lab.socket("rs1", family, socket.SOCK_DGRAM) as server:
                server.settimeout(2 if verdict == "accept" else 0.3)
                server.bind((service.vip, PORT) if lab.topology.name == "dr" else (service.rip("rs1"), RPORT))
                client.send(b"ask")
                server.connect(server.recvfrom(9)[1])
                client.close()
                server.send(b"answer")
                with pytest.raises(ConnectionRefusedError if verdict == "accept" else TimeoutError):
                    server.recv(9)
            assert _related(lab) == 1


def test_a_real_server_where_nobody_listens(nat: Lab, ipv6: bool) -> None:
    service = _service(nat, ipv6).add("rs1")
    for verdict in ("accept", "drop"):
        with _firewall(nat, RULES % verdict), _dial(service) as client:
            client.send(b"ask")
            if verdict == "drop":
                client.settimeout(0.3)
            with pytest.raises(ConnectionRefusedError if verdict == "accept" else TimeoutError):
                client.recv(9)
            assert _related(nat) == 1


def test_what_is_rejected_hears_of_it(lab: Lab, ipv6: bool) -> None:
    """From the VIP: of the real server the client knows nothing."""
    stream = Service(lab, "-g" if lab.topology.name == "dr" else "-m", ipv6=ipv6, port=8080).add("rs1")
    service = _service(lab, ipv6, 8080).add("rs1")
    with _firewall(lab, RULES % "accept"), _dial(service) as client:
        assert lab.connect("client", stream.vip, stream.port, timeout=2) == errno.ECONNREFUSED
        client.send(b"ask")
        with pytest.raises(ConnectionRefusedError):
            client.recv(9)


@pytest.mark.parametrize("options", ["-s rr", "-s rr -o"], ids=["connection", "one packet"])
def test_each_datagram_is_seen(dr: Lab, ipv6: bool, options: str) -> None:
    """Long ones are put together for the firewall and cut again; the real server gets them for the VIP."""
    service = _service(dr, ipv6).add("rs1")
    dr.ipvsadm(["-E", "-u", service.address, *options.split()])
    dr.pylvs("conns flush --all")  # the client's port is the same as before
    with _firewall(dr, RULES % "accept"), echo(dr, service, "rs1"):
        assert ask(dr, service, "8", "3000", "60000") == [[str(size), "True", service.vip] for size in (8, 3000, 60000)]
        assert service.traffic()["rs1"].conns == (3 if options.endswith("-o") else 1)
        dr.run("director", f"nft insert rule inet filter forward udp dport {PORT} drop")
        with _dial(service) as client:
            client.settimeout(0.3)
            client.send(b"ask")
            with pytest.raises(TimeoutError):
                client.recv(9)


def test_what_the_director_itself_asks(nat: Lab, ipv6: bool) -> None:
    """Its own requests pass OUTPUT, the replies to them, and errors, INPUT: as between its own address and the VIP."""
    service = Service(nat, "-m", ipv6=ipv6, rport=8080).add("rs1")
    refused = Service(nat, "-m", ipv6=ipv6, port=81, rport=8080).add("rs1")
    silent = _service(nat, ipv6).add("rs1")
    with _firewall(nat, OWN):
        words = ["curl", "-sS", "-m", TIMEOUT, service.url()]
        assert nat.run("director", words).stdout.strip() == "rs1"
        words = ["curl", "-sS", "-m", "0.4", refused.url()]
        assert nat.run("director", words, check=False).returncode == 28, "could not connect in time"
        with _dial(silent, "director") as client:
            client.send(b"ask")
            with pytest.raises(ConnectionRefusedError):
                client.recv(9)
        assert _related(nat) == 1
