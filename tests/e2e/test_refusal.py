"""What a client sees when there is nobody to serve it. Topologies as in test_tcp.py."""

import time

import pytest

from pylvs.lab import Lab

from .service import Service

AT_ONCE = 1.0


def unreachables(lab: Lab, ipv6: bool) -> int:
    """How many ICMP destination unreachables the client has received."""
    if ipv6:
        rows = (line.split() for line in lab.run("client", "cat /proc/net/snmp6").stdout.splitlines())
        return next(int(row[1]) for row in rows if row[0] == "Icmp6InDestUnreachs")
    names, values = (
        line.split() for line in lab.run("client", "cat /proc/net/snmp").stdout.splitlines() if line.startswith("Icmp:")
    )
    return int(values[names.index("InDestUnreachs")])


@pytest.mark.parametrize("servers", ["none", "only weight 0"])
def test_no_real_server_is_said_at_once(any_lab: Lab, method: str, ipv6: bool, servers: str) -> None:
    """ICMP port unreachable, not silence: the client need not wait for its timeout."""
    service = Service(any_lab, method, ipv6=ipv6, port=8080)
    if servers == "none":
        any_lab.ipvsadm(["-A", "-t", service.address, "-s", "rr"])
    else:
        service.add("rs1")
        service.set_weight("rs1", 0)
    before, begin = unreachables(any_lab, ipv6), time.monotonic()
    refused = service.try_get()
    assert time.monotonic() - begin < AT_ONCE
    assert refused.returncode == 7 and "refused" in refused.stderr.lower(), refused.stderr
    assert unreachables(any_lab, ipv6) > before


def test_udp_without_a_real_server_is_refused_too(any_lab: Lab, method: str, ipv6: bool) -> None:
    service = Service(any_lab, method, ipv6=ipv6, port=53, kind="-u")
    any_lab.ipvsadm(["-A", "-u", service.address, "-s", "rr"])
    before = unreachables(any_lab, ipv6)
    any_lab.run("client", f"dig +short +tries=1 +time=1 @{service.vip} whoami.lab TXT", check=False)
    assert unreachables(any_lab, ipv6) > before


def test_other_ports_of_the_vip_are_the_directors_own(any_lab: Lab, method: str, ipv6: bool) -> None:
    """No service, no LVS: the director's own stack answers, here with a reset."""
    Service(any_lab, method, ipv6=ipv6).add()
    refused = Service(any_lab, method, ipv6=ipv6, port=81).try_get()
    assert refused.returncode == 7 and "refused" in refused.stderr.lower()
