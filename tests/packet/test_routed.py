"""VIPs that are nobody's: the director has services on addresses that it does not hold and that are only routed to it.

Kernel IPVS would never see such a packet, which its host forwards past LOCAL_IN; the packet path meets it before any
routing. What differs is who says that something is wrong: an ICMP error's source must be an address of the director.
"""

import ipaddress

import pytest

from pylvs.cli.mark import main
from support.books import books
from support.harness import MACS, Harness, Result, frame, ip
from support.packets import TCP, UDP, tcp, tcp_packet, udp
from support.packets import ip as packet
from support.talk import IPV4, IPV6, Family

METHODS = {"-m": "forwarded_nat_request", "-g": "forwarded_route", "-i": "forwarded_tunnel"}


def _vip(family: Family) -> str:
    """An address that the director's own routing has on the other side, with the real servers."""
    return family.server[:-1] + "200"


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _ask(lvs: Harness, family: Family, flags: str = "S", **more: int) -> Result:
    return lvs.from_client(tcp_packet(family.client, 1025, _vip(family), 80, flags, **more))


@pytest.mark.parametrize("method", METHODS)
def test_every_method(lvs: Harness, family: Family, method: str) -> None:
    vip = _at(_vip(family), 80)
    assert _ask(lvs, family).reason == "up_no_service"
    lvs.ipvsadm(f"-A -t {vip} -s rr", f"-a -t {vip} -r {_at(family.server, 80)} {method}")
    for flags in ("S", "A"):
        assert _ask(lvs, family, flags).reason == METHODS[method]
    if method == "-m":
        answer = lvs.from_server(tcp_packet(family.server, 80, family.client, 1025, "SA"))
        assert (answer.reason, answer.packet.source) == ("forwarded_nat_reply", (_vip(family), 80))
    lvs.ipvsadm(f"-D -t {vip}", "-A -t 10.99.0.9:9" if family is IPV4 else "-A -t [fd00:99::9]:9")
    assert _ask(lvs, family, "A").reason == "dropped_destination_gone"


def test_errors_come_from_the_director(lvs: Harness, family: Family) -> None:
    """From the address that the director has towards the client, since the VIP is not its own; and from the VIP where
    it is."""
    for vip, source in ((_vip(family), family.near), (family.vip, family.vip if family is IPV4 else family.near)):
        lvs.ipvsadm(f"-A -t {_at(vip, 80)} -s rr")
        result = lvs.from_client(tcp_packet(family.client, 1025, vip, 80, "S"))
        assert (result.reason, result.answers) == ("dropped_no_destination", ("answered_icmp",))
        assert (result.packet.src, result.packet.dst) == (source, family.client)
    lvs.ipvsadm(f"-a -t {_at(_vip(family), 80)} -r {_at(family.server, 80)} -m")
    lvs.shift(2)
    result = _ask(lvs, family, ttl=1)
    assert (result.reason, result.packet.src) == ("dropped_ttl_exceeded", family.near)


def test_errors_of_a_director_whose_interface_has_no_address(lvs: Harness) -> None:
    """Then another one that it has."""
    lvs.ipvsadm(f"-A -t {_at(_vip(IPV4), 80)} -s rr")
    ip("addr del 10.0.1.1/24 dev d0\nroute add 10.1.0.0/16 dev d0 src 10.0.2.1\n")
    try:
        lvs.instance.learn_addresses()
        assert _ask(lvs, IPV4).packet.src == IPV4.far
    finally:
        # as it was: with its last address, an interface forgets its neighbours
        ip(f"""route del 10.1.0.0/16 dev d0
addr add 10.0.1.1/24 dev d0
route add 10.1.0.0/16 via 10.0.1.2
neigh replace 10.0.1.2 lladdr {MACS["c0"].hex(":")} dev d0
""")
        lvs.instance.learn_addresses()


def test_a_network_as_one_service(lvs: Harness, family: Family) -> None:
    """By port range, by source, and whatever is left; and an ordinary service in the midst of it: the mark counts."""
    network = "10.2.7.0/24" if family is IPV4 else "fd00:2::700/120"
    first, *_, last = ipaddress.ip_network(network)
    rules = [f"--dst {network} --proto tcp --dport 8000:8999 --mark 1",
             f"--dst {network} --src {family.client} --mark 2", f"--dst {network} --mark 3"]  # fmt: skip
    for rule in rules:
        assert main(["add", *rule.split()]) == 0
    for mark, server in zip((1, 2, 3), family.servers, strict=False):
        service = f"-f {mark}" + (" -6" if family is IPV6 else "")
        lvs.ipvsadm(f"-A {service} -s rr", f"-a {service} -r {_at(server, 0)} -m")
    other = family.client[:-1] + "2"
    chosen = {
        (address, client, port, protocol): lvs.from_client(packet(client, str(address), protocol, segment)).packet.dst
        for address in (first, last)
        for client in (family.client, other)
        for port, protocol, segment in (
            (8000, TCP, tcp(1025, 8000)), (8999, TCP, tcp(1025, 8999)), (7999, TCP, tcp(1025, 7999)),
            (9000, TCP, tcp(1025, 9000)), (8000, UDP, udp(1025, 8000)),
        )
    }  # fmt: skip
    for (_, client, port, protocol), server in chosen.items():
        mark = 1 if protocol == TCP and 8000 <= port < 9000 else 2 if client == family.client else 3
        assert server == family.servers[mark - 1], (client, port, protocol)
    for outside in (first - 1, last + 1):
        assert lvs.from_client(tcp_packet(family.client, 1025, str(outside), 8000, "S")).reason == "up_no_service"
    inside = _at(str(first + 5), 8080)
    lvs.ipvsadm(f"-A -t {inside} -s rr", f"-a -t {inside} -r {_at(family.servers[5], 80)} -m")
    assert lvs.from_client(tcp_packet(other, 1030, str(first + 5), 8080, "S")).packet.dst == family.server
    assert main(["del", "1"]) == 0
    assert main(["del", "1"]) == 0
    assert lvs.from_client(tcp_packet(other, 1031, str(first + 5), 8080, "S")).packet.dst == family.servers[2]
    assert main(["flush"]) == 0
    assert lvs.from_client(tcp_packet(other, 1032, str(first + 5), 8080, "S")).packet.dst == family.servers[5]


def test_three_thousand_vips_by_one_mark(lvs: Harness) -> None:
    assert main(["add", "--dst", "10.2.16.0/20", "--mark", "7"]) == 0
    lvs.ipvsadm("-A -f 7 -s rr", *(f"-a -f 7 -r {server} -g" for server in IPV4.servers[:3]))
    base = ipaddress.ip_address("10.2.16.0")
    vips = [str(base + n) for n in range(3000)]
    lvs.pour(frame(tcp_packet(IPV4.client, 1025, vip, 80, "S")) for vip in vips)
    found = {connection.vaddr: connection.daddr for connection in lvs.director.connections()}
    assert found.keys() == set(vips)
    assert lvs.loads() == {f"{server}:0": (1000, 0) for server in IPV4.servers[:3]}
    books(lvs.instance)
