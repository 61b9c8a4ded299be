"""Fragments where the stack has a part: what it forwards (conntrack), what it sends for a real server on the director,
and for a client there. Egress undoes, or does, with all of them what it does with the first one.

    10.1.0.1 client -- d0 | director | d1 -- 10.2.0.1 real server
"""

import os
from dataclasses import replace

import pytest

from support.fragments import PAYLOAD, cut, join, traffic
from support.harness import CLIENT, SERVER, UP, Harness, by_lo
from support.packets import UDP, dissect, udp, wrong_sums
from support.packets import ip as packet_ip
from support.talk import IPV4, Family, Talk, at

SHORT = PAYLOAD[:1300]
REDIRECT = 7


def _stack(lvs: Harness, family: Family, method: str) -> Talk:
    lvs.director.set_sysctl("conntrack", 1)
    return Talk(lvs, family, UDP, rport=8080 if method == "-m" else 80, server=family.server).serve(1, method)


@pytest.mark.parametrize("method", ["-m", "-g"], ids=["nat", "dr"])
def test_requests_by_the_stack(lvs: Harness, family: Family, method: str) -> None:
    """Whether it puts them together and cuts them again, or takes them as they come."""
    talk = _stack(lvs, family, method)
    whole = talk.question(payload=SHORT, ttl=9)
    came = [lvs.from_client(part) for part in cut(whole, 400)]
    assert [(one.reason, one.verdict) for one in came] == [("forwarded_by_stack", UP)] * 4
    assert traffic(lvs)[:4] == (1, 1, 0, len(whole))
    joined = join(one.packet.raw for one in came)
    assert joined is not None and not wrong_sums(joined)
    between = dissect(joined)
    assert (between.destination, between.ttl) == ((family.server, talk.rport), 9)
    left = [lvs.leave_by(SERVER, part, came_in=CLIENT) for part in cut(between.raw, 1000, ident=7)]
    assert [one.reason for one in left] == ["sent_request" if method == "-g" else ""] * 2
    assert {one.verdict for one in left} == {UP}
    assert join(one.packet.raw for one in left) == (
        join(cut(whole, 1000, ident=7)) if method == "-g" else join(cut(between.raw, 1000, ident=7))
    )


def test_another_connections_way_is_its_own(lvs: Harness, family: Family) -> None:
    """By the stack or not: whatever fragments this CPU had in hand before."""
    talk = _stack(lvs, family, "-m")
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        for known in (False, True):
            for sport, conntrack in enumerate((1, 0, 1, 0), 3000):
                lvs.set(conntrack=conntrack)
                whole = talk.from_port(sport).question(payload=SHORT)
                came = [lvs.from_client(part).reason for part in cut(whole, 400, ident=sport + 100 * known)]
                assert came == ["forwarded_by_stack" if conntrack else "forwarded_nat_request"] * 4, known
    finally:
        os.sched_setaffinity(0, cpus)


def test_requests_of_which_the_stack_does_not_say_that_they_came(lvs: Harness, family: Family) -> None:
    """Of the pieces that it makes of a datagram itself."""
    talk = _stack(lvs, family, "-g")
    between = talk.asks(payload=SHORT).packet.raw
    left = [lvs.leave_by(SERVER, part) for part in cut(between, 1000)]
    assert [one.reason for one in left] == ["sent_request"] * 2
    assert {one.packet.dst for one in left} == {family.vip}


@pytest.mark.parametrize("came_in", [SERVER, ""], ids=["forwarded", "made by the stack"])
def test_replies_by_the_stack(lvs: Harness, family: Family, came_in: str) -> None:
    talk = _stack(lvs, family, "-m")
    talk.asks()
    before = traffic(lvs)
    whole = talk.answer(payload=SHORT)
    up = [lvs.from_server(part) for part in cut(whole, 600)]
    assert [one.reason for one in up] == ["up_reply_for_stack", "up_fragment", "up_fragment"]
    sent = [lvs.leave_by(CLIENT, one.frame[14:], came_in=came_in) for one in up]
    assert [(one.reason, one.verdict) for one in sent] == [("sent_reply", UP)] * 3
    joined = join(one.packet.raw for one in sent)
    assert joined is not None and not wrong_sums(joined)
    assert (dissect(joined).source, dissect(joined).payload) == ((family.vip, 80), SHORT)
    assert [b - a for a, b in zip(before, traffic(lvs), strict=True)] == [0, 0, 1, 0, len(whole)]


def test_a_real_server_on_the_director(lvs: Harness, family: Family) -> None:
    """Its stack cuts its answers; what is asked in fragments is put together there."""
    talk = Talk(lvs, family, UDP, rport=8080, server=family.far)
    lvs.ipvsadm(f"-A {talk.key} -s rr")
    talk.add(family.far)
    question, answer = talk.question(payload=SHORT), talk.answer(payload=SHORT)
    came = [lvs.from_client(part) for part in cut(question, 1000)]
    assert [(one.reason, one.verdict) for one in came] == [("forwarded_local", UP)] * 2
    joined = join(one.packet.raw for one in came)
    assert joined is not None and not wrong_sums(joined)
    assert dissect(joined).destination == (family.far, 8080)
    sent = [lvs.leave_by(CLIENT, part) for part in cut(answer, 600)]
    assert [one.reason for one in sent] == ["sent_reply"] * 3
    joined = join(one.packet.raw for one in sent)
    assert joined is not None and not wrong_sums(joined)
    assert dissect(joined).source == (family.vip, 80)
    assert traffic(lvs) == (1, 1, 1, len(question), len(answer))


def test_a_client_on_the_director(lvs: Harness, family: Family) -> None:
    """What it asks an address elsewhere goes by lo; what it is answered comes home."""
    lvs.ipvsadm(f"-A -u {at(family.client, 80)} -s rr", f"-a -u {at(family.client, 80)} -r {at(family.server, 80)} -m")
    question = packet_ip(family.near, family.client, UDP, udp(1025, 80, SHORT))
    left = [lvs.leave_by(CLIENT, part) for part in cut(question, 1000)]
    assert [(one.reason, one.verdict) for one in left] == [("sent_to_lo", REDIRECT)] * 2
    asked = [by_lo(lvs, one.packet.raw) for one in left]
    assert [one.reason for one in asked] == ["forwarded_nat_request"] * 2
    answer = packet_ip(family.server, family.near, UDP, udp(80, 1025, SHORT))
    came = [lvs.from_server(part) for part in cut(answer, 1000)]
    assert [one.reason for one in came] == ["forwarded_local"] * 2
    joined = join(one.packet.raw for one in came)
    assert joined is not None and not wrong_sums(joined)
    assert dissect(joined).source == (family.client, 80)
    assert traffic(lvs) == (1, 1, 1, len(question), len(answer))


def test_an_identification_that_comes_again(lvs: Harness) -> None:
    """Nobody's first fragment is nobody's whole datagram, whatever went under its number before."""
    talk = _stack(lvs, IPV4, "-m")
    talk.asks()
    ours, other = talk.answer(payload=SHORT), replace(talk, rport=9999).answer(payload=SHORT)
    assert lvs.leave_by(CLIENT, cut(ours, 1000)[0], came_in=SERVER).reason == "sent_reply"
    for part in cut(other, 1000):
        sent = lvs.leave_by(CLIENT, part, came_in=SERVER)
        assert (sent.reason, sent.packet.raw) == ("", part)
    lvs.leave_by(CLIENT, cut(ours, 1000)[0], came_in=SERVER)
    lvs.advance(31)
    assert lvs.leave_by(CLIENT, cut(ours, 1000)[1], came_in=SERVER).reason == ""
