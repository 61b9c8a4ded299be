"""What has no connection, or no real server, where the stack forwards (conntrack): one-packet scheduling, and what goes
past the real servers (cache_bypass).

    10.1.0.1 client -- d0 | director | d1 -- 10.2.0.1 real server
"""

from dataclasses import replace

import pytest

from support.books import books
from support.fragments import cut, join, traffic
from support.harness import CLIENT, SERVER, UP, Harness
from support.packets import TCP, UDP, dissect, icmp_error, ip, tcp, udp, wrong_sums
from support.persistent import SIP, say, serve
from support.talk import IPV6, Family, Talk, at
from support.tunnels import unwrap

REDIRECT = 7
PAYLOAD = bytes(range(200)) * 6


def _once(lvs: Harness, family: Family, method: str, servers: int = 1) -> Talk:
    lvs.director.set_sysctl("conntrack", 1)
    talk = Talk(lvs, family, UDP, rport=8080 if method == "-m" else 80, server=family.server)
    lvs.ipvsadm(f"-A {talk.key} -s rr -o")
    for server in family.servers[:servers]:
        talk.add(server, method)
    return talk


@pytest.mark.parametrize("method", ["-m", "-g"], ids=["nat", "dr"])
def test_each_packet_by_itself(lvs: Harness, family: Family, method: str) -> None:
    talk = _once(lvs, family, method, 2)
    chosen = []
    for number in range(4):
        packet = talk.question(payload=b"x" * number, ttl=9)
        came = lvs.from_client(packet)
        assert (came.reason, came.verdict, came.packet.ttl) == ("forwarded_by_stack", UP, 9)
        assert came.packet.dport == talk.rport and not wrong_sums(came.packet.raw)
        chosen.append(came.packet.dst)
        sent = lvs.leave_by(SERVER, came.packet.raw, came_in=CLIENT)
        if method == "-m":
            assert sent.reason == ""
        else:
            assert (sent.reason, sent.verdict, sent.packet.raw) == ("sent_request", UP, packet)
    assert chosen == [*family.servers[1::-1]] * 2
    assert not lvs.connections() and lvs.director.totals()[:3] == (4, 4, 0)
    assert lvs.loads() == dict.fromkeys(lvs.loads(), (0, 0))


@pytest.mark.parametrize("options", ["", "--tun-type gre --tun-csum"], ids=["ipip", "gre"])
def test_tunnels(lvs: Harness, family: Family, options: str) -> None:
    talk = _once(lvs, family, "-i " + options)
    came = talk.asks(ttl=9)
    assert (came.reason, came.packet.dst) == ("forwarded_by_stack", family.server)
    assert lvs.director.totals().inpkts == 1
    sent = lvs.leave_by(SERVER, talk_hop(came.packet.raw, talk), came_in=CLIENT)
    assert (sent.reason, sent.verdict) == ("sent_request", REDIRECT)
    assert unwrap(sent.frame[14:]).inner == talk.question(ttl=8)
    assert talk.asks(ttl=1).reason == "dropped_ttl_exceeded"
    assert talk.asks(payload=bytes(1480), df=True).reason == "dropped_too_big"


def talk_hop(between: bytes, talk: Talk) -> bytes:
    """The packet in the stack, a hop further."""
    return replace(talk, family=talk.family._replace(vip=dissect(between).dst)).question(ttl=dissect(between).ttl - 1)


@pytest.mark.parametrize("method", ["-m", "-g"], ids=["nat", "dr"])
def test_fragments(lvs: Harness, family: Family, method: str) -> None:
    """One datagram is one packet, cut or not."""
    talk = _once(lvs, family, method, 2)
    whole = talk.question(payload=PAYLOAD)
    came = [lvs.from_client(part) for part in cut(whole, 600)]
    assert [one.reason for one in came] == ["forwarded_by_stack"] * 3
    assert len({one.packet.dst for one in came}) == 1
    assert traffic(lvs)[:4] == (1, 1, 0, len(whole))
    left = [lvs.leave_by(SERVER, one.packet.raw, came_in=CLIENT) for one in came]
    assert [one.reason for one in left] == ["sent_request" if method == "-g" else ""] * 3
    joined = join(one.packet.raw for one in left)
    assert joined is not None and not wrong_sums(joined)
    assert dissect(joined).dst == (family.vip if method == "-g" else came[0].packet.dst)


def test_two_services_to_one_place(lvs: Harness, family: Family) -> None:
    """In the stack they look the same: the second one is not taken as long as the first one may be there."""
    talk = _once(lvs, family, "-g")
    other = replace(talk, family=family._replace(vip=family.vip[:-1] + "2"))
    lvs.ipvsadm(f"-A {other.key} -s rr -o")
    other.add(family.server, "-g")
    first = talk.asks()
    assert other.asks().reason == "dropped_contended"
    assert other.from_port(2000).asks().reason == "forwarded_by_stack"
    assert lvs.leave_by(SERVER, first.packet.raw, came_in=CLIENT).packet.dst == family.vip
    lvs.shift(5)
    second = other.asks()
    assert second.reason == "forwarded_by_stack"
    assert lvs.leave_by(SERVER, second.packet.raw, came_in=CLIENT).packet.dst == other.family.vip
    books(lvs.instance)


def test_what_left_long_ago_is_forgotten(lvs: Harness, family: Family) -> None:
    talk = _once(lvs, family, "-g")
    between = talk.asks().packet.raw
    lvs.shift(5)
    sent = lvs.leave_by(SERVER, between, came_in=CLIENT)
    assert (sent.reason, sent.packet.raw) == ("", between)


def test_calls_of_real_servers(lvs: Harness, family: Family) -> None:
    """A SIP service's real server speaks as the service, once the stack has let it (facts 5.5)."""
    lvs.director.set_sysctl("conntrack", 1)
    phone = serve(Talk(lvs, family, UDP, port=5060, rport=5070), options="-p 300 --pe sip -o")
    server = family.servers[1]
    packet = ip(server, family.client, UDP, udp(5070, 5060, SIP % b"one"))
    came = lvs.from_server(packet)
    assert (came.reason, came.verdict, lvs.director.totals().outpkts) == ("up_reply_for_stack", UP, 0)
    sent = lvs.leave_by(CLIENT, packet, came_in=SERVER)
    assert (sent.reason, sent.packet.source) == ("sent_reply", (family.vip, 5060))
    assert not wrong_sums(sent.packet.raw)
    assert lvs.director.totals().outpkts == 1
    assert say(phone, b"one") == server
    books(lvs.instance)


def test_an_error_about_one_of_them(lvs: Harness, family: Family) -> None:
    """schedule_icmp chooses a real server, for this error alone."""
    talk = _once(lvs, family, "-m")
    lvs.set(schedule_icmp=1)
    saw = replace(talk, rport=80, server=family.vip).answer()
    came = lvs.from_client(icmp_error(family.client, family.vip, (3, 3) if family.version == 4 else (1, 4), saw))
    assert (came.reason, came.packet.dst) == ("forwarded_by_stack", family.server)
    assert dissect(came.packet.quoted).source == (family.server, 8080)


@pytest.mark.parametrize("options", ["-s rr", "-s rr -o"], ids=["connection", "one packet"])
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_past_the_real_servers(lvs: Harness, family: Family, protocol: int, options: str) -> None:
    """It is forwarded by the stack as it came."""
    lvs.director.set_sysctl("conntrack", 1)
    lvs.set(cache_bypass=1)
    six = " -6" if family is IPV6 else ""
    lvs.ipvsadm(f"-A -f 5{six} {options}")
    origin = family.server[:-1] + "77"
    segment = tcp(1025, 80, "S") if protocol == TCP else udp(1025, 80)
    packet = ip(family.client, origin, protocol, segment)
    for _ in range(2):
        came = lvs.from_client(packet, mark=5)
        assert (came.reason, came.verdict, came.packet.raw) == ("forwarded_by_stack", UP, packet)
        assert lvs.leave_by(SERVER, packet, came_in=CLIENT).reason == ""
    assert len(lvs.connections()) == (0 if protocol == UDP and options.endswith("-o") else 1)
    lvs.advance(1000)
    assert not lvs.connections()
    lvs.ipvsadm(f"-a -f 5{six} -r {at(family.server, 0) if family is IPV6 else family.server} -g")
    assert lvs.from_client(packet, mark=5).packet.dst == family.server
    books(lvs.instance)
