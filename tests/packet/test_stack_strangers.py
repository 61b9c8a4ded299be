"""Tunnels to real servers of the other address family where the stack forwards (conntrack): it knows these by addresses
that stand for them, and forwards to a cable of the director's own, where the request goes into its tunnel.

    10.1.0.1 client -- d0 | director | d1 -- fd00:2::1 real server
                              pylvs0
"""

import socket
import subprocess
from pathlib import Path

import pytest

from pylvs.datapath import _layout, egress, interfaces, resize
from pylvs.errors import NotSupported
from pylvs.model import MarkRoute
from support.books import audit
from support.forwarding import hop
from support.fragments import cut, join, traffic
from support.harness import CLIENT, SERVER, UP, Harness, Result
from support.harness import ip as ip_command
from support.packets import UDP, dissect, icmp_error, wrong_sums
from support.talk import IPV4, IPV6, Family, Talk, at
from support.tunnels import unwrap

REDIRECT = 7
MARKED = MarkRoute(7, 0xFFFFFFFF, socket.AF_INET)
OTHER = {IPV4: IPV6, IPV6: IPV4}
pytestmark = pytest.mark.usefixtures("movable")


def _words(command: str) -> str:
    return subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout


def _routes() -> list[str]:
    shown = (_words(f"ip {family} route show dev pylvs0 proto 197") for family in ("-4", "-6"))
    return [line.split()[0] for lines in shown for line in lines.splitlines()]


def _way(lvs: Harness) -> bool:
    """Is the way there? All of it, or nothing."""
    there = "pylvs0" in Path("/proc/thread-self/net/dev").read_text()
    needs = lvs.instance.config.get(0, "egress")
    assert bool(needs & egress.OTHER) == there
    if there:
        assert _routes() == ["254.0.0.0/8", "64:ff9b:1:fffe::/96"]
        assert socket.if_nametoindex("pylvs0") in interfaces.attached(egress.directory(lvs.instance))
    return there


def _stand_in(lvs: Harness, family: Family) -> str:
    number = next(
        dest for dest in range(lvs.instance.config.get(0, "dests_high"))
        if lvs.instance.dests.get(dest, "family") != (socket.AF_INET if family is IPV4 else socket.AF_INET6)
    )  # fmt: skip
    return f"254.0.0.{number}" if family is IPV4 else "64:ff9b:1:fffe::" + (f"{number:x}" if number else "")


def _serve(lvs: Harness, family: Family, options: str = "", protocol: int = 6, service: str = "-s rr") -> Talk:
    talk = Talk(lvs, family, protocol, rport=80)
    lvs.ipvsadm(f"-A {talk.key} {service}", f"-a {talk.key} -r {at(OTHER[family].server, 80)} -i {options}")
    return talk


def _leave(lvs: Harness, packet: bytes) -> Result:
    """It leaves by the cable, where the same program is as elsewhere."""
    left = lvs.leave_by(SERVER, hop(packet), came_in=CLIENT)
    return Result(left.verdict, left.frame, left.reason, ())


@pytest.mark.parametrize("options", ["", "--tun-type gre --tun-csum", "--tun-type gue --tun-port 6080"],
                         ids=["ipip", "gre", "gue"])  # fmt: skip
@pytest.mark.parametrize("service", ["-s rr", "-s rr -o"], ids=["connection", "one packet"])
def test_requests(movable: Harness, family: Family, options: str, service: str) -> None:
    lvs = movable
    lvs.director.set_sysctl("conntrack", 1)
    assert not _way(lvs)
    talk = _serve(lvs, family, options, UDP, service)
    assert _way(lvs)
    for _ in range(2):
        asked = talk.asks(ttl=9)
        assert (asked.reason, asked.verdict, asked.packet.ttl) == ("forwarded_by_stack", UP, 9)
        assert asked.packet.destination == (_stand_in(lvs, family), 80)
        assert not wrong_sums(asked.packet.raw)
        sent = _leave(lvs, asked.packet.raw)
        assert (sent.reason, sent.verdict) == ("sent_request", REDIRECT)
        tunnelled = unwrap(sent.frame[14:])
        assert tunnelled.inner == talk.question(ttl=8)
        assert tunnelled.outer.dst == OTHER[family].server
    assert audit(lvs.instance)[:2] == ((0, 0) if service.endswith("-o") else (1, 1))


def test_the_switch(movable: Harness, family: Family) -> None:
    """The way is there when the switch is turned on, and goes with the last connection that needs it."""
    lvs = movable
    talk = _serve(lvs, family)
    assert talk.asks("S").reason == "forwarded_tunnel"
    assert not _way(lvs)
    lvs.director.set_sysctl("conntrack", 1)
    assert _way(lvs)
    assert talk.asks("A").reason == "forwarded_tunnel", "it goes on as it was begun"
    assert talk.from_port(2000).asks("S").reason == "forwarded_by_stack"
    lvs.director.set_sysctl("conntrack", 0)
    assert _way(lvs)
    assert talk.from_port(2000).asks("A").reason == "forwarded_by_stack"
    assert talk.from_port(3000).asks("S").reason == "forwarded_tunnel"
    lvs.advance(2000)
    lvs.ipvsadm("-C")
    assert not _way(lvs)
    assert audit(lvs.instance) == (0, 0, 0)


def test_what_is_missing_is_put_back(movable: Harness) -> None:
    lvs = movable
    lvs.director.set_sysctl("conntrack", 1)
    talk = _serve(lvs, IPV4)
    ip_command("link del pylvs0")
    lvs.reopen()
    lvs.ipvsadm(f"-e {talk.key} -r {at(IPV6.server, 80)} -i -w 2")
    assert _way(lvs)


def test_somebody_elses_interface(movable: Harness) -> None:
    """It is refused: past the firewall is where nobody wants it."""
    lvs = movable
    ip_command("link add pylvs0 type veth peer name other0")
    try:
        lvs.director.set_sysctl("conntrack", 1)
        talk = Talk(lvs, IPV4)
        lvs.ipvsadm(f"-A {talk.key} -s rr")
        with pytest.raises(AssertionError, match="interface pylvs0 that is not ours"):
            lvs.ipvsadm(f"-a {talk.key} -r {at(IPV6.server, 80)} -i")
        assert not lvs.service("10.99.0.1:80").destinations
        lvs.director.set_sysctl("conntrack", 0)
        lvs.ipvsadm(f"-a {talk.key} -r {at(IPV6.server, 80)} -i")
        with pytest.raises(NotSupported):
            lvs.director.set_sysctl("conntrack", 1)
        assert lvs.instance.sysctls.get(0, "conntrack") == 0
    finally:
        ip_command("link del pylvs0")


def test_marked_packets_have_the_same_cable(movable: Harness) -> None:
    lvs = movable
    lvs.director.set_sysctl("conntrack", 1)
    talk = _serve(lvs, IPV4)
    lvs.director.add_mark_route(MARKED)
    lvs.director.delete_mark_route(MARKED)
    assert _way(lvs)
    lvs.director.add_mark_route(MARKED)
    lvs.ipvsadm(f"-D {talk.key}")
    lvs.director.set_sysctl("conntrack", 0)
    assert "pylvs0" in _words("ip link") and _routes() == []
    lvs.director.delete_mark_route(MARKED)
    assert not _way(lvs)


def test_fragments(movable: Harness, family: Family) -> None:
    lvs = movable
    lvs.director.set_sysctl("conntrack", 1)
    talk = _serve(lvs, family, protocol=UDP)
    whole = talk.question(payload=bytes(range(200)) * 6)
    came = [lvs.from_client(part) for part in cut(whole, 600)]
    assert [one.reason for one in came] == ["forwarded_by_stack"] * 3
    assert traffic(lvs)[:4] == (1, 1, 0, len(whole))
    left = [_leave(lvs, one.packet.raw) for one in came]
    assert [(one.reason, one.verdict) for one in left] == [("sent_request", REDIRECT)] * 3
    joined = join(unwrap(one.frame[14:]).inner for one in left)
    assert joined is not None and dissect(joined).segment == dissect(whole).segment


def test_errors(movable: Harness, family: Family) -> None:
    """Of a client about a reply, and of the stack about a request."""
    lvs = movable
    lvs.director.set_sysctl("conntrack", 1)
    talk = _serve(lvs, family)
    talk.asks("S")
    kind = (3, 1) if family is IPV4 else (1, 3)
    saw = Talk(lvs, family, rport=80, server=family.vip).answer("A")
    came = lvs.from_client(icmp_error(family.client, family.vip, kind, saw))
    stand_in = _stand_in(lvs, family)
    assert (came.reason, came.packet.dst) == ("forwarded_by_stack", stand_in)
    assert dissect(came.packet.quoted).src == stand_in and not wrong_sums(came.packet.raw)
    inner = unwrap(_leave(lvs, came.packet.raw).frame[14:]).inner
    assert dissect(inner).dst == family.vip and dissect(dissect(inner).quoted).src == family.vip
    asked = Talk(lvs, family._replace(vip=stand_in), rport=80).question("S")
    said = lvs.leave_by(CLIENT, icmp_error(family.near, family.client, kind, asked))
    assert (said.reason, said.packet.src) == ("sent_reply", family.vip)
    assert dissect(said.packet.quoted).dst == family.vip and not wrong_sums(said.packet.raw)


def test_what_is_for_nobody_goes_nowhere(movable: Harness, family: Family) -> None:
    lvs = movable
    lvs.director.set_sysctl("conntrack", 1)
    _serve(lvs, family)
    for number in (0, 9):
        stand_in = f"254.0.0.{number}" if family is IPV4 else f"64:ff9b:1:fffe::{number or ''}"
        lost = _leave(lvs, Talk(lvs, family._replace(vip=stand_in)).question("S"))
        assert (lost.reason, lost.verdict) == ("sent_failed", 2)


def test_after_the_table_was_moved(movable: Harness) -> None:
    lvs = movable
    lvs.director.set_sysctl("conntrack", 1)
    talk = _serve(lvs, IPV4)
    between = talk.asks("S").packet.raw
    with lvs.instance.locked():
        resize.resize(lvs.instance, 13)
    lvs.reopen()
    assert audit(lvs.instance) == (1, 1, 0)
    assert unwrap(_leave(lvs, between).frame[14:]).inner == talk.question("S", ttl=63)
    assert lvs.instance.config.get(0, "egress") == _layout.EGRESS_STACK | _layout.EGRESS_OTHER
    lvs.advance(2000)
    assert audit(lvs.instance) == (0, 0, 0)
