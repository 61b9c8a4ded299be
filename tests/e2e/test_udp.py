"""UDP through the director: dig, dnsmasq. The topologies are those of test_tcp.py."""

from collections import Counter

from pylvs.lab import Lab

from .service import Service


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
