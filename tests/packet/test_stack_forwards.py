"""Where the stack has a part: net.ipv4.vs.conntrack, by which it forwards what is balanced; snat_reroute, the ways of
replies; nat_icmp_send, replies that belong to nothing.

    10.1.0.1 client -- d0 | director | d1 -- 10.2.0.1 real server
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pylvs.cli import status
from pylvs.datapath import _layout, resize
from support.books import audit
from support.forwarding import hop
from support.fragments import cut, join
from support.harness import CLIENT, MACS, SERVER, UP, Harness, Result, Sent, by_lo, ip
from support.packets import ICMP, TCP, UDP, dissect, wrong_sums
from support.talk import IPV4, Family, Talk, at
from support.tunnels import unwrap, wrong_tunnel_sums

REDIRECT = 7


def _stack(lvs: Harness, family: Family, method: str = "-m", protocol: int = TCP) -> Talk:
    lvs.director.set_sysctl("conntrack", 1)
    return replace(
        Talk(lvs, family, protocol, rport=8080 if method == "-m" else 80).serve(1, method), server=family.server
    )


def test_the_stack_forwards_requests_and_replies(lvs: Harness, family: Family, protocol: int) -> None:
    """It counts the hops, and sees both directions under the same addresses."""
    talk = _stack(lvs, family, protocol=protocol)
    asked = talk.asks("S", ttl=9)
    assert (asked.reason, asked.verdict) == ("forwarded_by_stack", UP)
    assert asked.packet.destination == (family.server, 8080)
    assert asked.packet.ttl == 9
    assert not wrong_sums(asked.packet.raw)
    assert lvs.leave_by(SERVER, asked.packet.raw, came_in=CLIENT).reason == "", "there is nothing to undo"
    up = talk.answers("SA", ttl=8)
    assert up.reason == "up_reply_for_stack"
    assert lvs.director.totals()[2] == 0, "the firewall may still drop it"
    sent = lvs.leave_by(CLIENT, up.frame[14:], came_in=SERVER)
    assert (sent.reason, sent.verdict) == ("sent_reply", UP)
    assert sent.packet.source == (family.vip, 80)
    assert sent.packet.ttl == 8
    assert not wrong_sums(sent.packet.raw)
    assert lvs.director.totals()[:3] == (1, 1, 1)
    if protocol == TCP:
        talk.asks("A")
        assert talk.entry.shown.state == "ESTABLISHED"


def test_direct_routing_by_the_stack(lvs: Harness, family: Family, protocol: int) -> None:
    """On its way the request is addressed to the real server; what leaves is as with LVS-DR always."""
    talk = _stack(lvs, family, "-g", protocol)
    asked = talk.asks("S", ttl=9)
    assert (asked.reason, asked.packet.destination, asked.packet.ttl) == ("forwarded_by_stack", (family.server, 80), 9)
    assert not wrong_sums(asked.packet.raw)
    sent = lvs.leave_by(SERVER, asked.packet.raw, came_in=CLIENT)
    assert sent.reason == "sent_request"
    assert sent.packet.raw == talk.question("S", ttl=9)
    assert audit(lvs.instance) == (1, 1, 0)
    direct = talk.answers("SA")
    assert direct.handed_up and lvs.director.totals()[2] == 0, "this is not from the VIP: no reply"
    lvs.advance(1000)
    assert audit(lvs.instance) == (0, 0, 0)


def test_direct_routing_of_two_services_to_one_place(lvs: Harness) -> None:
    """On their way the same client port's requests to both would look the same: the second one is not taken."""
    talk = _stack(lvs, IPV4, "-g")
    other = replace(talk, family=IPV4._replace(vip="10.99.0.2"))
    other.serve(1, "-g")
    assert talk.asks("S").reason == "forwarded_by_stack"
    assert other.asks("S").reason == "dropped_contended"
    assert other.from_port(2000).asks("S").reason == "forwarded_by_stack"
    assert audit(lvs.instance) == (2, 2, 0)


KINDS = {"ipip": "", "gre": "--tun-type gre --tun-csum", "gue": "--tun-type gue --tun-port 6080"}


def _tunnel(lvs: Harness, family: Family, kind: str = "ipip", protocol: int = TCP) -> Talk:
    lvs.director.set_sysctl("conntrack", 1)
    talk = Talk(lvs, family, protocol, rport=80)
    lvs.ipvsadm(f"-A {talk.key} -s rr", f"-a {talk.key} -r {at(family.server, 80)} -i {KINDS[kind]}")
    return talk


@pytest.mark.parametrize("kind", KINDS)
def test_tunnels_by_the_stack(lvs: Harness, family: Family, protocol: int, kind: str) -> None:
    """The request is addressed to the real server as with LVS-DR, and leaves in its tunnel."""
    talk = _tunnel(lvs, family, kind, protocol)
    asked = talk.asks("S", ttl=9)
    assert (asked.reason, asked.packet.destination, asked.packet.ttl) == ("forwarded_by_stack", (family.server, 80), 9)
    forwarded = talk.question("S", ttl=8)
    between = dissect(asked.packet.raw)
    for _ in range(2):  # the way is asked for, and remembered
        sent = lvs.leave_by(SERVER, hop(between.raw), came_in=CLIENT)
        assert (sent.reason, sent.verdict) == ("sent_request", REDIRECT)
        assert not wrong_tunnel_sums(sent.frame[14:])
        tunnelled = unwrap(sent.frame[14:])
        assert (tunnelled.kind, tunnelled.inner) == (kind, forwarded)
        assert (tunnelled.outer.src, tunnelled.outer.dst, tunnelled.outer.ttl) == (family.far, family.server, 8)
    assert lvs.leave_by(SERVER, sent.frame[14:], came_in=CLIENT).reason == "", "it leaves once more, as it is"
    assert audit(lvs.instance) == (1, 1, 0)
    assert lvs.director.totals()[:3] == (1, 1, 0)


def test_what_does_not_fit_into_the_tunnel(lvs: Harness, family: Family) -> None:
    """The client hears of it before the stack; what may be cut is cut when it leaves."""
    talk = _tunnel(lvs, family)
    talk.asks("S")
    most = 1500 - family.head - family.head - 20
    fits, over = talk.asks("A", bytes(most), df=True), talk.asks("A", bytes(most + 1), df=True)
    assert (fits.reason, over.reason) == ("forwarded_by_stack", "dropped_too_big")
    assert over.answers == ("answered_icmp",)
    assert lvs.leave_by(SERVER, fits.packet.raw, came_in=CLIENT).verdict == REDIRECT
    if family is IPV4:
        long = talk.asks("A", bytes(most + 8))
        assert long.reason == "forwarded_by_stack"
        with lvs.beyond() as seen:
            last = lvs.leave_by(SERVER, long.packet.raw, came_in=CLIENT)
            first = [frame for frame in seen(1) if frame[14 + 9] == 4]
        whole = join([first[0][14:], last.frame[14:]])
        assert whole is not None and unwrap(whole).inner[20:] == talk.question("A", bytes(most + 8))[20:]
    assert talk.asks("A", ttl=1).reason == "dropped_ttl_exceeded"


def test_fragments_in_tunnels_by_the_stack(lvs: Harness, family: Family) -> None:
    talk = _tunnel(lvs, family, "gue", UDP)
    whole = talk.question(payload=bytes(range(200)) * 6)
    came = [lvs.from_client(part) for part in cut(whole, 600)]
    assert [one.reason for one in came] == ["forwarded_by_stack"] * 3
    left = [lvs.leave_by(SERVER, one.packet.raw, came_in=CLIENT) for one in came]
    assert [(one.reason, one.verdict) for one in left] == [("sent_request", REDIRECT)] * 3
    joined = join(unwrap(one.frame[14:]).inner for one in left)
    assert joined is not None and dissect(joined).segment == dissect(whole).segment


def test_connections_keep_their_way(lvs: Harness, family: Family) -> None:
    """What was begun before a switch goes on as it was begun: conntrack would not know it, or miss it."""
    talk = Talk(lvs, family).serve()
    fast = talk.opens()
    lvs.director.set_sysctl("conntrack", 1)
    slow = replace(fast, sport=2000)
    assert slow.asks("S").reason == "forwarded_by_stack"
    assert fast.asks("A").reason == "forwarded_nat_request"
    assert fast.answers("A").reason == "forwarded_nat_reply"
    lvs.director.set_sysctl("conntrack", 0)
    assert slow.asks("A").reason == "forwarded_by_stack"
    assert slow.answers("A").reason == "up_reply_for_stack"
    assert lvs.instance.config.get(0, "egress") == _layout.EGRESS_STACK
    assert fast.from_port(3000).asks("S").reason == "forwarded_nat_request"


def test_errors_come_before_the_stack(lvs: Harness) -> None:
    """The client hears of its own packet's troubles from the VIP, as always."""
    talk = _stack(lvs, IPV4)
    talk.asks("S")
    over = talk.asks("A", ttl=1)
    assert (over.reason, over.packet.src, over.packet.protocol) == ("dropped_ttl_exceeded", IPV4.vip, ICMP)
    assert talk.asks("A", bytes(1600), df=True).reason == "dropped_too_big"


def test_connections_of_the_stack_are_moved_with_the_table(movable: Harness) -> None:
    lvs = movable
    talks = [_stack(lvs, IPV4), _stack(lvs, IPV4._replace(vip="10.99.0.2"), "-g")]
    asked = [talk.asks("S").packet.raw for talk in talks]
    with lvs.instance.locked():
        resize.resize(lvs.instance, 13)
    lvs.reopen()
    assert audit(lvs.instance) == (2, 2, 0)
    assert talks[0].answers("SA").reason == "up_reply_for_stack"
    assert lvs.leave_by(CLIENT, talks[0].answer("SA"), came_in=SERVER).packet.source == (IPV4.vip, 80)
    assert lvs.leave_by(SERVER, asked[1], came_in=CLIENT).packet.destination == ("10.99.0.2", 80)


def test_the_directors_own_requests_do_not_need_the_stack(lvs: Harness, family: Family) -> None:
    own = family._replace(client=family.near)
    talk = _stack(lvs, own)
    assert by_lo(lvs, talk.question("S")).reason == "forwarded_nat_request"
    assert talk.answers("SA").reason == "forwarded_local"


# ---- replies' ways ---------------------------------------------------------------------------------------------------


def _two_ways(lvs: Harness) -> Iterator[None]:
    """To the client: by its own network, or, from the VIP, back through the real servers'."""
    ip("rule add from 10.99.0.1 lookup 99\nroute add 10.1.0.0/16 via 10.0.2.2 table 99")
    try:
        yield
    finally:
        ip("rule del from 10.99.0.1 lookup 99\nroute flush table 99")


two_ways = pytest.fixture(_two_ways)


def _sent_by(result: Result | Sent) -> bytes:
    """The link-layer addresses, of which the neighbour code is left some."""
    return result.frame[:12]


TO_CLIENT, BACK = MACS["c0"] + MACS["d0"], MACS["r0"] + MACS["d1"]


@pytest.mark.parametrize(("reroute", "way"), [(1, BACK), (0, TO_CLIENT)], ids=["as the VIP's", "as forwarded"])
def test_snat_reroute(lvs: Harness, two_ways: None, reroute: int, way: bytes) -> None:
    """Facts 6.5: by the VIP's rules, or by those of whatever the real server sends."""
    lvs.director.set_sysctl("snat_reroute", reroute)
    talk = Talk(lvs, IPV4).serve().opens()
    answers = [talk.answers("A") for _ in range(20)]
    assert {answer.packet.source for answer in answers} == {(IPV4.vip, 80)}
    assert {_sent_by(answer) for answer in answers} - {MACS["d1"] + MACS["r0"]} == {way}


@pytest.mark.parametrize("reroute", [1, 0])
def test_snat_reroute_of_what_the_stack_has_forwarded(lvs: Harness, two_ways: None, reroute: int) -> None:
    talk = _stack(lvs, IPV4)
    talk.asks("S")
    lvs.director.set_sysctl("snat_reroute", reroute)
    sent = [lvs.leave_by(CLIENT, talk.answer("SA"), came_in=SERVER) for _ in range(20)]
    assert {one.packet.source for one in sent} == {(IPV4.vip, 80)}
    assert {one.verdict for one in sent} == {REDIRECT if reroute else UP}


def test_orphans(lvs: Harness, family: Family, protocol: int) -> None:
    """nat_icmp_send: what a LVS-NAT real server sends without a connection (facts 6.3)."""
    talk = replace(Talk(lvs, family, protocol).serve(2), server=family.servers[1])
    assert talk.answers().reason == "up_no_service", "it gets to the client, under a name that is not the service's"
    lvs.director.set_sysctl("nat_icmp_send", 1)
    told = talk.answers(ttl=9)
    assert (told.reason, told.answers) == ("dropped_orphan", ("answered_icmp",))
    assert (told.packet.src, told.packet.dst) == (family.far, family.servers[1])
    assert told.packet.icmp[:2] == ((3, 3) if family is IPV4 else (1, 4))
    assert not wrong_sums(told.packet.raw)
    if protocol == TCP:
        assert talk.answers("R").reason == "up_no_service", "a reset says that it knows"
    assert replace(talk, rport=81).answers().reason == "up_no_service", "not its port of the service"
    assert talk.answers(ttl=1).reason == "up_no_service", "the stack says why"
    talk.delete(family.servers[1])
    assert talk.answers().reason == "up_no_service"
    assert replace(talk, server=family.servers[0], sport=77).answers().reason == "dropped_orphan"
    lvs.director.set_sysctl("nat_icmp_send", 0)
    assert replace(talk, server=family.servers[0]).answers().reason == "up_no_service"
    assert not lvs.instance.nat_servers.keys()


def test_orphans_of_a_service_by_mark(lvs: Harness) -> None:
    lvs.director.set_sysctl("nat_icmp_send", 1)
    lvs.ipvsadm("-A -f 7 -s rr", "-a -f 7 -r 10.2.0.1:53 -m")
    talk = Talk(lvs, IPV4, UDP, rport=53, server="10.2.0.1")
    assert talk.answers().reason == "dropped_orphan"


def test_status_tells_of_it(lvs: Harness, capsys: pytest.CaptureFixture[str]) -> None:
    lvs.ipvsadm("-A -t 10.99.0.1:80 -s rr")
    lvs.director.set_sysctl("conntrack", 1)
    assert status.main([]) == 0
    said = capsys.readouterr().out
    assert "egress        a program there, too, for conntrack\n" in said and "WARNING" not in said
    forward = Path("/proc/sys/net/ipv4/ip_forward")
    forward.write_text("0")
    try:
        assert status.main([]) == 0
    finally:
        forward.write_text("1")
        for name in ("lo", "d0", "d1"):  # what was set for all of them was set for each
            Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding").write_text("1")
    assert "conntrack is on, and balanced packets need net.ipv4.ip_forward = 1" in capsys.readouterr().out
