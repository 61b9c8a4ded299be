"""UDP through the director: dig, dnsmasq; and datagrams that no interface can take in one piece. The topologies are
those of test_tcp.py."""

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pylvs.lab import Lab
from support.fragments import cut
from support.packets import UDP, ip, udp

from .conftest import EVERYWHERE
from .service import Service

PORT, RPORT, SPORT = 5300, 5301, 40000
SIZES = (3000, 60_000, 65_507)

_ECHO = """
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((address, port))
print("ready", flush=True)
while True:
    s.sendto(*s.recvfrom(1 << 16))
"""

_ASK = """
import os, socket, sys
address, port, sport, *sizes = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(5)
s.bind(("", int(sport)))
if sizes:
    asked = [os.urandom(int(size)) for size in sizes]
    for one in asked:
        s.sendto(one, (address, int(port)))
        answer, sender = s.recvfrom(1 << 16)
        print(len(answer), answer == one, sender[0])
else:
    raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    for line in sys.stdin:
        raw.sendto(bytes.fromhex(line), (address, 0))
    answer, sender = s.recvfrom(1 << 16)
    print(len(answer), sum(answer), sender[0])
"""


@EVERYWHERE
def test_queries_are_spread_and_answered_from_the_vip(any_lab: Lab, method: str, ipv6: bool) -> None:
    service = Service(any_lab, method, ipv6=ipv6, port=53, kind="-u").add()
    assert Counter(service.dig() for _ in range(6)) == {"rs1": 2, "rs2": 2, "rs3": 2}
    assert sum(traffic.conns for traffic in service.traffic().values()) == 6


def test_udp_is_never_active(any_lab: Lab, method: str, ipv6: bool) -> None:
    service = Service(any_lab, method, ipv6=ipv6, port=53, kind="-u").add("rs1")
    before = service.counts()["rs1"].inactive
    assert service.dig("AAAA") == any_lab.host("rs1").ipv6
    counts = service.counts()["rs1"]
    assert (counts.active, counts.inactive) == (0, before + 1)


def test_tcp_and_udp_services_on_one_port_are_two(nat: Lab) -> None:
    """dnsmasq answers TCP as well: the real server that has only one of the services is never asked for the other."""
    udp, tcp = Service(nat, "-m", port=53, kind="-u").add("rs1"), Service(nat, "-m", port=53).add("rs2")
    assert udp.dig() == "rs1"
    words = f"dig +tcp +short +tries=1 +time=3 @{tcp.vip} whoami.lab TXT"
    assert nat.run("client", words).stdout.strip() == '"rs2"'


# ---- fragments -------------------------------------------------------------------------------------------------------


@contextmanager
def echo(lab: Lab, service: Service, server: str) -> Iterator[None]:
    """A UDP server that sends back what it gets, on a real server; with LVS-DR from the VIP."""
    address = service.vip if service.method == "-g" else service.rip(server)
    argv = [sys.executable, "-c", _ECHO, address, str(service.rport)]
    process = lab.popen(server, argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def ask(lab: Lab, service: Service, *more: str, lines: str = "") -> list[list[str]]:
    words = [sys.executable, "-c", _ASK, service.vip, str(service.port), str(SPORT), *more]
    process = lab.popen("client", words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return [line.split() for line in process.communicate(lines, timeout=30)[0].splitlines()]


@pytest.fixture
def service(any_lab: Lab, method: str, ipv6: bool) -> Service:
    rport = RPORT if method == "-m" else PORT
    return Service(any_lab, method, ipv6=ipv6, port=PORT, rport=rport, kind="-u").add("rs1")


@EVERYWHERE
def test_large_datagrams_and_their_answers(any_lab: Lab, service: Service) -> None:
    with echo(any_lab, service, "rs1"):
        answers = ask(any_lab, service, *map(str, SIZES))
    assert answers == [[str(size), "True", service.vip] for size in SIZES]
    head = 48 if service.ipv6 else 28
    traffic = service.traffic()["rs1"]
    assert (traffic.inpkts, traffic.inbytes) == (len(SIZES), sum(SIZES) + head * len(SIZES))
    if service.method == "-m":
        assert (traffic.outpkts, traffic.outbytes) == (traffic.inpkts, traffic.inbytes)


@EVERYWHERE
def test_the_last_piece_first(any_lab: Lab, service: Service) -> None:
    client = any_lab.host("client")
    payload = bytes(range(256)) * 234
    whole = ip(client.ipv6 if service.ipv6 else client.ipv4, service.vip, UDP, udp(SPORT, PORT, payload))
    pieces = cut(whole, 1448, ident=random.randrange(1, 1 << 16))  # a datagram of before is remembered for a second
    assert len(pieces) == 42
    with echo(any_lab, service, "rs1"):
        lines = "".join(one.hex() + "\n" for one in reversed(pieces))
        [answer] = ask(any_lab, service, lines=lines)
    assert answer == [str(len(payload)), str(sum(payload)), service.vip]
