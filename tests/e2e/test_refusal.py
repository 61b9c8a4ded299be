"""What a client sees when there is nobody to serve it. Topologies as in test_tcp.py."""

import errno
import socket

import pytest

from pylvs.lab import Lab, wait_for

from .service import Service

AT_ONCE = 0.5
COULD_NOT_CONNECT = 7


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
    before = unreachables(any_lab, ipv6)
    with any_lab.socket("client", socket.AF_INET6 if ipv6 else socket.AF_INET) as first:
        first.setblocking(False)
        first.connect_ex((service.vip, service.port))
        wait_for(lambda: unreachables(any_lab, ipv6) == before + 1, "the answer to the first SYN", seconds=AT_ONCE)
    # On a wire without delay the answer is there before connect() has let go of the socket. Linux then makes an
    # IPv6 client wait for the answer to its second SYN (it does so with the kernel's own refusals as well).
    assert any_lab.connect("client", service.vip, service.port, timeout=5) == errno.ECONNREFUSED
    assert service.try_get().returncode == COULD_NOT_CONNECT


def test_udp_without_a_real_server_is_refused_too(any_lab: Lab, method: str, ipv6: bool) -> None:
    service = Service(any_lab, method, ipv6=ipv6, port=53, kind="-u")
    any_lab.ipvsadm(["-A", "-u", service.address, "-s", "rr"])
    before = unreachables(any_lab, ipv6)
    any_lab.run("client", f"dig +short +tries=1 +time=1 @{service.vip} whoami.lab TXT", check=False)
    assert unreachables(any_lab, ipv6) > before


def test_other_ports_of_the_vip_are_the_directors_own(any_lab: Lab, method: str, ipv6: bool) -> None:
    """No service, no LVS: the director's own stack answers, here with a reset."""
    Service(any_lab, method, ipv6=ipv6).add()
    other = Service(any_lab, method, ipv6=ipv6, port=81)
    before = unreachables(any_lab, ipv6)
    assert any_lab.connect("client", other.vip, other.port, timeout=5) == errno.ECONNREFUSED
    assert unreachables(any_lab, ipv6) == before
