"""ICMP errors where the stack has a part: those about connections that it forwards (conntrack), which to its connection
tracking are related; its own, and the resets of a firewall that rejects; those of, and for, the director itself.

    10.1.0.1 client -- d0 | director | d1 -- 10.2.0.1 real server
"""

from dataclasses import replace

import pytest

from pylvs.datapath import resize
from support.harness import CLIENT, SERVER, UP, Harness, by_lo
from support.packets import TCP, UDP, dissect, icmp_error, ip, resum_ipv4, tcp, udp, wrong_sums
from support.talk import IPV4, Family, Talk, at
from support.tunnels import unwrap

REDIRECT = 7
UNREACHABLE = {4: (3, 1), 6: (1, 3)}
METHODS = pytest.mark.parametrize("method", ["-m", "-g"], ids=["nat", "dr"])


def _stack(lvs: Harness, family: Family, method: str = "-m", protocol: int = TCP) -> Talk:
    lvs.director.set_sysctl("conntrack", 1)
    talk = Talk(lvs, family, protocol, rport=8080 if method == "-m" else 80, server=family.server)
    talk.serve(1, method)
    assert talk.asks("S").reason == "forwarded_by_stack"
    return talk


def _about_reply(talk: Talk, sender: str = "", wrong: int = 0) -> bytes:
    """What a client, or a router on the way to it, says about what came from the VIP."""
    saw = replace(talk, rport=talk.port, server=talk.family.vip).answer("A")
    return _error(talk, sender or talk.family.client, talk.family.vip, saw, wrong)


def _about_request(talk: Talk, sender: str = "", wrong: int = 0) -> bytes:
    """What a real server, or a router on the way to it, says about what came from the client."""
    saw = replace(talk, port=talk.rport, family=talk.family._replace(vip=talk.rs)).question("A")
    return _error(talk, sender or talk.rs, talk.family.client, saw, wrong)


def _error(talk: Talk, sender: str, to: str, saw: bytes, wrong: int = 0) -> bytes:
    return icmp_error(sender, to, UNREACHABLE[talk.family.version], saw, 0, wrong)


def _sides(packet: bytes) -> tuple[str, tuple[str, int], tuple[str, int]]:
    """To whom an error goes, and between whom is what it quotes."""
    assert not wrong_sums(packet)
    said = dissect(packet)
    quoted = dissect(said.quoted)
    assert said.version == 6 or not [name for name in wrong_sums(said.quoted) if name.startswith("IPv4")]
    return said.dst, quoted.source, quoted.destination


@METHODS
def test_about_a_reply(lvs: Harness, family: Family, protocol: int, method: str) -> None:
    """It is about what the stack has seen, and the real server hears of what it has sent."""
    talk = _stack(lvs, family, method, protocol)
    before = lvs.director.totals()
    for sender in (family.client, "10.1.200.200" if family is IPV4 else "fd00:1::77"):
        error = _about_reply(talk, sender)
        came = lvs.from_client(error)
        assert (came.reason, came.verdict, came.packet.ttl) == ("forwarded_by_stack", UP, 64)
        assert _sides(came.packet.raw) == (family.server, (family.server, talk.rport), (family.client, talk.sport))
        sent = lvs.leave_by(SERVER, came.packet.raw, came_in=CLIENT)
        if method == "-m":
            assert sent.reason == ""
        else:
            assert (sent.reason, sent.verdict, sent.packet.raw) == ("sent_request", UP, error)
    assert lvs.director.totals().inpkts - before.inpkts == 2
    assert lvs.director.totals().outpkts == before.outpkts


def test_about_a_request(lvs: Harness, family: Family, protocol: int) -> None:
    """As with replies: the stack sees it as it came, and may drop it; what leaves is in the VIP's name, and counted."""
    talk = _stack(lvs, family, protocol=protocol)
    before = lvs.director.totals().outpkts
    for sender in (talk.rs, family.hop):
        error = _about_request(talk, sender)
        came = lvs.from_server(error)
        assert (came.reason, came.frame[14:]) == ("up_reply_for_stack", error)
        assert lvs.director.totals().outpkts == before
        sent = lvs.leave_by(CLIENT, error, came_in=SERVER)
        before += 1
        assert (sent.reason, sent.verdict, sent.packet.src) == ("sent_reply", UP, family.vip)
        assert _sides(sent.packet.raw) == (family.client, (family.client, talk.sport), (family.vip, 80))
        assert lvs.director.totals().outpkts == before


@pytest.mark.parametrize("options", ["", "--tun-type gue --tun-port 6080"], ids=["ipip", "gue"])
def test_by_a_tunnel(lvs: Harness, family: Family, options: str) -> None:
    lvs.director.set_sysctl("conntrack", 1)
    talk = Talk(lvs, family, rport=80, server=family.server)
    lvs.ipvsadm(f"-A {talk.key} -s rr", f"-a {talk.key} -r {at(family.server, 80)} -i {options}")
    talk.asks("S")
    error = _about_reply(talk)
    came = lvs.from_client(error)
    assert (came.reason, came.packet.dst) == ("forwarded_by_stack", family.server)
    hop = bytearray(came.packet.raw)
    hop[7 if family is not IPV4 else 8] -= 1
    sent = lvs.leave_by(SERVER, resum_ipv4(bytes(hop)) if family is IPV4 else bytes(hop), came_in=CLIENT)
    assert (sent.reason, sent.verdict) == ("sent_request", REDIRECT)
    inner = unwrap(sent.frame[14:]).inner
    assert _sides(inner) == (family.vip, (family.vip, 80), (family.client, talk.sport))
    assert (dissect(inner).ttl, dissect(inner).icmp) == (63, dissect(error).icmp)


def test_wrong_checksums(lvs: Harness, family: Family) -> None:
    """By LVS-NAT they go no further, as without the stack; else they stay what they are."""
    talk = _stack(lvs, family)
    assert lvs.from_client(_about_reply(talk, wrong=1)).reason == "dropped_wrong_checksum"
    assert lvs.from_server(_about_request(talk, wrong=1)).reason == "dropped_wrong_checksum"
    direct = _stack(lvs, family._replace(vip=family.vip[:-1] + "2"), "-g", UDP)
    came = lvs.from_client(_about_reply(direct, wrong=1))
    assert wrong_sums(came.packet.raw)
    assert lvs.leave_by(SERVER, came.packet.raw, came_in=CLIENT).packet.raw == _about_reply(direct, wrong=1)


def test_what_began_past_the_stack_stays_there(lvs: Harness, family: Family) -> None:
    talk = replace(Talk(lvs, family).serve().opens())
    lvs.director.set_sysctl("conntrack", 1)
    assert lvs.from_client(_about_reply(talk)).reason == "forwarded_related"
    assert lvs.from_server(_about_request(talk)).reason == "forwarded_related"
    assert lvs.leave_by(CLIENT, _about_request(talk), came_in=SERVER).reason == ""


def test_the_last_hop(lvs: Harness, family: Family) -> None:
    talk = _stack(lvs, family)
    error = icmp_error(family.client, family.vip, UNREACHABLE[family.version], _quoted(_about_reply(talk)), ttl=1)
    came = lvs.from_client(error)
    assert (came.reason, came.answers) == ("dropped_ttl_exceeded", ())


def _quoted(error: bytes) -> bytes:
    return dissect(error).quoted


def test_nobodys_errors_leave_as_they_are(lvs: Harness, family: Family) -> None:
    """Of no connection, no errors, and cut off anywhere."""
    talk = _stack(lvs, family)
    others = [_about_request(replace(talk, sport=9)), _about_request(replace(talk, rport=81))]
    others.append(icmp_error(talk.rs, family.client, (0 if family is IPV4 else 128, 0), _quoted(_about_request(talk))))
    ours = _quoted(_about_request(talk))
    others += [_error(talk, talk.rs, family.client, ours[:size]) for size in range(family.head + 4)]
    for error in others:
        for came_in in ("", SERVER):
            sent = lvs.leave_by(CLIENT, error, came_in=came_in)
            assert (sent.reason, sent.verdict, sent.packet.raw) == ("", UP, error)
    assert lvs.leave_by(CLIENT, _error(talk, talk.rs, family.client, ours[: family.head + 4])).reason == "sent_reply"


# ---- what the stack itself has to say --------------------------------------------------------------------------------


@METHODS
def test_a_firewall_that_rejects(lvs: Harness, family: Family, protocol: int, method: str) -> None:
    """To the client it is the VIP that does: it has heard of no other address."""
    talk = _stack(lvs, family, method, protocol)
    sent = lvs.leave_by(CLIENT, _about_request(talk, family.near))
    assert (sent.reason, sent.packet.src) == ("sent_reply", family.vip)
    assert _sides(sent.packet.raw) == (family.client, (family.client, talk.sport), (family.vip, 80))
    if protocol == TCP:
        reset = lvs.leave_by(CLIENT, talk.answer("RA"))
        assert (reset.reason, reset.packet.source, reset.packet.ttl) == ("sent_reply", (family.vip, 80), 64)
        assert not wrong_sums(reset.packet.raw)


def test_resets_of_others_leave_as_they_are(lvs: Harness, family: Family) -> None:
    talk = _stack(lvs, family, "-g")
    for packet in (replace(talk, sport=9).answer("RA"), talk.answer("A")):
        assert lvs.leave_by(CLIENT, packet).packet.raw == packet
    forwarded = talk.answer("RA")
    assert lvs.leave_by(CLIENT, forwarded, came_in=SERVER).packet.raw == forwarded


# ---- the director at one end -----------------------------------------------------------------------------------------


def _local(lvs: Harness, family: Family) -> Talk:
    talk = Talk(lvs, family, UDP, rport=8080, server=family.far)
    lvs.ipvsadm(f"-A {talk.key} -s rr")
    talk.add(family.far)
    assert talk.asks().reason == "forwarded_local"
    return talk


def test_a_real_server_on_the_director(lvs: Harness, family: Family) -> None:
    """Nobody listens there; or the client does not any more (facts 6.10, 6.11)."""
    talk = _local(lvs, family)
    before = lvs.director.totals()
    sent = lvs.leave_by(CLIENT, _about_request(talk))
    assert (sent.reason, sent.packet.src) == ("sent_reply", family.vip)
    assert _sides(sent.packet.raw) == (family.client, (family.client, talk.sport), (family.vip, 80))
    came = lvs.from_client(_about_reply(talk))
    assert (came.reason, came.verdict) == ("forwarded_local", UP)
    assert _sides(came.packet.raw) == (family.far, (family.far, 8080), (family.client, talk.sport))
    now = lvs.director.totals()
    assert (now.inpkts - before.inpkts, now.outpkts - before.outpkts) == (1, 1)


@pytest.mark.parametrize("conntrack", [0, 1])
def test_a_client_on_the_director(lvs: Harness, family: Family, conntrack: int) -> None:
    lvs.director.set_sysctl("conntrack", conntrack)
    talk = Talk(lvs, family._replace(client=family.near), UDP, server=family.server).serve()
    assert by_lo(lvs, talk.question()).reason == "forwarded_nat_request"
    home = lvs.from_server(_about_request(talk))
    assert (home.reason, home.verdict) == ("forwarded_local", REDIRECT if family is IPV4 else UP)
    assert _sides(home.packet.raw) == (family.near, (family.near, talk.sport), (family.vip, 80))
    by = by_lo(lvs, home.packet.raw)
    assert by.verdict == UP and by.frame[14:] == home.packet.raw
    gone = by_lo(lvs, _about_reply(talk))
    assert gone.reason == "forwarded_related"
    assert _sides(gone.packet.raw) == (family.server, (family.server, 8080), (family.near, talk.sport))


def test_a_client_on_the_director_whose_service_is_elsewhere(lvs: Harness, family: Family) -> None:
    """What it says about replies goes by lo, as its requests do."""
    far = family.client
    lvs.ipvsadm(f"-A -u {at(far, 80)} -s rr", f"-a -u {at(far, 80)} -r {at(family.server, 80)} -m")
    assert by_lo(lvs, ip(family.near, far, UDP, udp(1025, 80, b""))).reason == "forwarded_nat_request"
    saw = ip(far, family.near, UDP, udp(80, 1025, b""))
    error = icmp_error(family.near, far, UNREACHABLE[family.version], saw)
    left = lvs.leave_by(CLIENT, error)
    assert (left.reason, left.verdict) == ("sent_to_lo", REDIRECT)
    assert by_lo(lvs, left.packet.raw).packet.dst == family.server
    other = icmp_error(family.near, far, UNREACHABLE[family.version], ip(far, family.near, UDP, udp(81, 1025, b"")))
    assert lvs.leave_by(CLIENT, other).verdict == UP


def test_after_the_table_was_moved(movable: Harness) -> None:
    lvs = movable
    talks = [_stack(lvs, IPV4), _stack(lvs, IPV4._replace(vip="10.99.0.2"), "-g")]
    with lvs.instance.locked():
        resize.resize(lvs.instance, 13)
    lvs.reopen()
    for talk in talks:
        came = lvs.from_client(_about_reply(talk))
        assert (came.reason, came.packet.dst) == ("forwarded_by_stack", talk.rs)
        assert lvs.leave_by(CLIENT, _about_request(talk, IPV4.near)).packet.src == talk.family.vip
    back = lvs.leave_by(SERVER, lvs.from_client(_about_reply(talks[1])).packet.raw, came_in=CLIENT)
    assert back.packet.dst == "10.99.0.2"


def test_an_error_may_make_a_connection(lvs: Harness, family: Family) -> None:
    """schedule_icmp: as new connections are, the stack's."""
    lvs.director.set_sysctl("conntrack", 1)
    lvs.set(schedule_icmp=1)
    talk = Talk(lvs, family, server=family.server).serve()
    saw = ip(family.vip, family.client, TCP, tcp(80, talk.sport, "A"))
    came = lvs.from_client(_error(talk, family.client, family.vip, saw))
    assert (came.reason, came.packet.dst) == ("forwarded_by_stack", family.server)
