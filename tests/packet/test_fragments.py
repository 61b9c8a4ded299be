"""Fragments follow their datagram's first one, which alone has the ports (facts 6.2, 6.3)."""

import io
import struct
from itertools import pairwise

import pytest

from pylvs.ipvsadm.commands import Shell
from support.fragments import PAYLOAD, Piece, cut, join, known, piece, serving, traffic
from support.harness import CLIENT, Harness
from support.harness import ip as ip_batch
from support.packets import (
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    SCTP,
    TCP,
    UDP,
    dissect,
    icmp_error,
    ip,
    tcp,
    udp,
    wrong_sums,
)
from support.talk import IPV4, IPV6, Family, Talk, at
from support.wires import Wires

SHORT = PAYLOAD[:1300]
METHODS = pytest.mark.parametrize("method", ["-m", "-g"], ids=["nat", "dr"])
PATIENCE = {4: 30, 6: 60}


@METHODS
@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_all_go_where_the_first_one_goes(lvs: Harness, family: Family, protocol: int, method: str) -> None:
    """And it is as if the datagram had gone whole, for whoever puts it together and for whoever counts."""
    talk = serving(lvs, family, protocol, method)
    talk.asks("S")
    before = traffic(lvs)
    whole = talk.question("P", SHORT)
    as_one = lvs.from_client(whole)
    one = traffic(lvs)
    came = [lvs.from_client(part) for part in cut(whole, 400)]
    assert [result.reason for result in came] == [as_one.reason] * 4
    joined = join(result.packet.raw for result in came)
    assert joined is not None and not wrong_sums(joined)
    after = dissect(joined)
    assert (after.src, after.dst, after.ttl) == (as_one.packet.src, as_one.packet.dst, as_one.packet.ttl)
    assert after.segment == as_one.packet.segment
    two = traffic(lvs)
    assert [b - a for a, b in zip(one, two, strict=True)] == [b - a for a, b in zip(before, one, strict=True)]
    assert len(lvs.entries()) == 1


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=["tcp", "udp"])
def test_replies(lvs: Harness, family: Family, protocol: int) -> None:
    talk = serving(lvs, family, protocol)
    talk.opens()
    before = traffic(lvs)
    whole = talk.answer("P", SHORT)
    as_one = lvs.from_server(whole)
    one = traffic(lvs)
    came = [lvs.from_server(part) for part in cut(whole, 600)]
    assert [result.reason for result in came] == ["forwarded_nat_reply"] * 3
    joined = join(result.packet.raw for result in came)
    assert joined is not None and not wrong_sums(joined)
    assert dissect(joined).source == (family.vip, 80)
    assert dissect(joined).segment == as_one.packet.segment
    two = traffic(lvs)
    assert [b - a for a, b in zip(one, two, strict=True)] == [b - a for a, b in zip(before, one, strict=True)]


def test_replies_that_pass_unchanged(lvs: Harness, family: Family) -> None:
    """Of LVS-DR: handed up, and counted."""
    talk = serving(lvs, family, method="-g")
    talk.asks()
    whole = ip(family.vip, family.client, UDP, udp(80, talk.sport, PAYLOAD))
    assert lvs.from_server(whole).reason == "up_reply_unchanged"
    before = traffic(lvs)
    reasons = [lvs.from_server(part).reason for part in cut(whole, 1000)]
    assert reasons == ["up_reply_unchanged"] * 4
    assert [b - a for a, b in zip(before, traffic(lvs), strict=True)] == [0, 0, 1, 0, len(whole)]


def test_nobodys(lvs: Harness, family: Family) -> None:
    """Where there can be nothing of ours, nothing waits and nothing is remembered."""
    serving(lvs, family)
    other, far = ("10.1.0.9", "192.0.2.1") if family is IPV4 else ("fd00:1::9", "2001:db8::1")
    parts = cut(ip(other, far, UDP, udp(1, 2, PAYLOAD)), 1000)
    assert lvs.from_client(parts[2]).reason == "up_fragment"
    assert [lvs.from_client(part).reason for part in parts] == ["up_no_service", *["up_fragment"] * 3]
    assert known(lvs) == 0


def test_of_a_vip_without_such_a_service(lvs: Harness, family: Family) -> None:
    """All of the datagram is handed up, so that the stack can put it together."""
    talk = serving(lvs, family)
    parts = cut(ip(family.client, family.vip, UDP, udp(talk.sport, 81, PAYLOAD)), 1000)
    assert [lvs.from_client(part).reason for part in parts] == ["up_no_service", *["up_fragment"] * 3]


def test_what_was_dropped_is_dropped_whole(lvs: Harness, family: Family) -> None:
    """And is answered once."""
    Talk(lvs, family, UDP).serve(count=0)
    parts = cut(Talk(lvs, family, UDP).question(payload=PAYLOAD), 1000)
    first = lvs.from_client(parts[0])
    assert (first.reason, first.answers) == ("dropped_no_destination", ("answered_icmp",))
    for part in parts[1:]:
        result = lvs.from_client(part)
        assert (result.reason, result.answers) == ("dropped_fragment", ())


def test_the_last_hop(lvs: Harness, family: Family) -> None:
    talk = serving(lvs, family)
    talk.asks()
    parts = cut(talk.question(payload=PAYLOAD, ttl=1), 1000)
    assert lvs.from_client(parts[0]).answers == ("answered_icmp",)
    result = lvs.from_client(parts[1])
    assert (result.reason, result.answers) == ("dropped_fragment", ())
    # one alone that has come by a longer way
    parts = cut(talk.question(payload=PAYLOAD), 1000, ident=2)
    assert lvs.from_client(parts[0]).forwarded
    late = cut(talk.question(payload=PAYLOAD, ttl=1), 1000, ident=2)[1]
    result = lvs.from_client(late)
    assert (result.reason, result.answers) == ("dropped_ttl_exceeded", ())


def test_only_a_later_one_is_too_big(lvs: Harness, family: Family) -> None:
    """Of IPv6 that is said, as of any packet; of IPv4, which may be cut smaller still, about the first one at most."""
    talk = serving(lvs, family)
    ip_batch("link set d1 mtu 1400")
    try:
        first, second, _ = cut(talk.question(payload=PAYLOAD), [600, 1400])
        assert lvs.from_client(first).forwarded
        result = lvs.from_client(second)
    finally:
        ip_batch("link set d1 mtu 1500")
    if family is IPV6:
        assert (result.reason, result.answers) == ("dropped_too_big", ("answered_icmp",))
        assert result.packet.icmp == (2, 0, 1400) and result.packet.quoted[8:] == second[8 : 1280 - 48]
    else:
        assert not result.answers


def test_fragments_are_cut_again(lvs: Harness) -> None:
    """Where the way on is narrower: what was at the datagram's end still is, and what was not is not."""
    talk = serving(lvs, IPV4)
    whole = talk.question(payload=PAYLOAD)
    ip_batch("link set d1 mtu 1400")
    try:
        with Wires(lvs) as wires:
            assert wires.send(CLIENT, cut(whole, 1448)) == {"forwarded_nat_request": 3}
            came = [one.packet for one in wires.came(5)]
    finally:
        ip_batch("link set d1 mtu 1500")
    assert len(came) == 5 and max(map(len, came)) <= 1400
    joined = join(came)
    assert joined is not None and not wrong_sums(joined)
    assert dissect(joined).destination == (talk.rs, 8080) and dissect(joined).payload == PAYLOAD


def test_tunnels(lvs: Harness, family: Family) -> None:
    """Each fragment goes in a packet of its own."""
    talk = Talk(lvs, family, UDP, rport=80).serve(method="-i")
    whole = talk.question(payload=PAYLOAD)
    came = [lvs.from_client(part) for part in cut(whole, 1000)]
    assert [result.reason for result in came] == ["forwarded_tunnel"] * 4
    assert {result.packet.dst for result in came} == {talk.rs}
    joined = join(result.packet.segment for result in came)
    assert joined is not None and not wrong_sums(joined)
    assert (dissect(joined).destination, dissect(joined).ttl) == ((family.vip, 80), 63)
    assert lvs.director.totals()[1:4:2] == (1, len(whole))


def test_one_packet_scheduling(lvs: Harness, family: Family) -> None:
    """There is no connection, and yet the datagram goes to one real server."""
    vip = family.vip if family is IPV4 else f"[{family.vip}]"
    servers = [s if family is IPV4 else f"[{s}]" for s in family.servers[:3]]
    lvs.ipvsadm(f"-A -u {vip}:80 -s rr -o", *(f"-a -u {vip}:80 -r {server}:8080 -m" for server in servers))
    talk, went = Talk(lvs, family, UDP), []
    for ident in range(6):
        whole = talk.question(payload=PAYLOAD)
        came = [lvs.from_client(part) for part in cut(whole, 1000, ident)]
        [server] = {result.packet.dst for result in came}
        joined = join(result.packet.raw for result in came)
        assert joined is not None and not wrong_sums(joined)
        went.append(server)
    assert len(set(went)) == 3 and all(a != b for a, b in pairwise(went))
    assert lvs.entries() == {}
    assert lvs.director.totals().inbytes == 6 * len(whole)


def test_a_service_by_mark(lvs: Harness) -> None:
    """It may have any address. Only the first one need have the mark."""
    lvs.ipvsadm("-A -f 7 -s rr", "-a -f 7 -r 10.2.0.1 -g")
    whole = ip(IPV4.client, "10.98.0.1", UDP, udp(1, 2, PAYLOAD))
    first, *others = cut(whole, 1000)
    assert lvs.from_client(first, mark=7).reason == "forwarded_route"
    assert [lvs.from_client(part).reason for part in others] == ["forwarded_route"] * 3


@pytest.mark.parametrize("how", ["-a", "-e", "-R --atomic"])
def test_replies_wait_wherever_the_server_comes_from(lvs: Harness, family: Family, how: str) -> None:
    talk = Talk(lvs, family, UDP, rport=80)
    server = f"-r {at(talk.rs, 80)}"
    if how == "-R --atomic":
        rules = io.StringIO(f"-A {talk.key} -s rr\n-a {talk.key} {server} -m\n")
        assert Shell(rules, io.StringIO(), io.StringIO()).run(["-R", "--atomic"], replacing=True) == 0
    else:
        talk.serve(0)
        lvs.ipvsadm(f"-a {talk.key} {server} {'-m' if how == '-a' else '-g'}")
        if how == "-e":
            lvs.ipvsadm(f"-e {talk.key} {server} -m")
    assert lvs.from_server(cut(talk.answer(payload=PAYLOAD), 1000)[1]).reason == "held_fragment"
    assert lvs.from_client(cut(talk.question(payload=PAYLOAD), 1000)[1]).reason == "held_fragment"


def test_the_server_is_deleted_meanwhile(lvs: Harness, family: Family) -> None:
    """What is under way arrives, and is counted no more."""
    talk = serving(lvs, family)
    parts = cut(talk.question(payload=PAYLOAD), 1000)
    assert lvs.from_client(parts[0]).forwarded
    before = traffic(lvs)
    talk.delete()
    assert lvs.from_client(parts[1]).packet.dst == talk.rs
    assert traffic(lvs) == before


# ---- who is first, and which datagram it is --------------------------------------------------------------------------


def test_another_first_one(lvs: Harness, family: Family) -> None:
    """With other ports: it goes nowhere. The same once more: where it went before."""
    talk = serving(lvs, family)
    parts = cut(talk.question(payload=PAYLOAD), 1000)
    evil = cut(talk.from_port(1026).question(payload=PAYLOAD), 1000)
    assert lvs.from_client(parts[0]).forwarded
    assert lvs.from_client(evil[0]).reason == "dropped_fragment"
    assert len(lvs.entries()) == 1
    again = lvs.from_client(parts[0]).packet
    assert (again.dst, Piece(again.raw).part[2:4]) == (talk.rs, (8080).to_bytes(2, "big"))
    assert len(lvs.entries()) == 1
    for part in parts[1:]:
        assert lvs.from_client(part).forwarded
    # the datagram is whole: its number may be given to another one
    assert lvs.from_client(evil[0]).forwarded
    assert len(lvs.entries()) == 2


def test_a_number_is_used_again(lvs: Harness, family: Family) -> None:
    """After the time in which the rest could have come."""
    talk = serving(lvs, family)
    parts, others = (cut(talk.from_port(port).question(payload=PAYLOAD), 1000) for port in (1, 2))
    assert lvs.from_client(parts[0]).forwarded
    lvs.shift(PATIENCE[family.version] - 5)
    assert lvs.from_client(parts[1]).forwarded
    assert lvs.from_client(others[0]).reason == "dropped_fragment"
    lvs.shift(6)
    assert lvs.from_client(parts[2]).reason == "held_fragment"
    lvs.shift(2)
    lvs.sweep()
    assert lvs.from_client(others[0]).forwarded
    assert lvs.from_client(others[1]).forwarded


def test_duplicates(lvs: Harness, family: Family) -> None:
    talk = serving(lvs, family)
    for part in (p for p in cut(talk.question(payload=PAYLOAD), 1000) for _ in range(3)):
        result = lvs.from_client(part)
        assert result.forwarded and result.packet.dst == talk.rs


@pytest.mark.parametrize("key", ["ident", "client", "protocol"])
def test_datagrams_are_told_apart(lvs: Harness, family: Family, key: str) -> None:
    talk = serving(lvs, family)
    assert lvs.from_client(cut(talk.question(payload=PAYLOAD), 1000, ident=7)[0]).forwarded
    whole, ident = talk.question(payload=PAYLOAD), 7
    if key == "ident":
        ident = 0x10007 if family is IPV6 else 8
    elif key == "client":
        whole = ip("10.1.0.2" if family is IPV4 else "fd00:1::2", family.vip, UDP, udp(talk.sport, 80, PAYLOAD))
    else:
        whole = ip(family.client, family.vip, TCP, tcp(talk.sport, 80, "A", payload=PAYLOAD))
    later = lvs.from_client(cut(whole, 1000, ident)[1])
    # IPv6 tells them apart without the protocol, which need not be the same in all fragments (RFC 8200)
    assert later.reason == ("forwarded_nat_request" if key == "protocol" and family is IPV6 else "held_fragment")


# ---- what makes little sense -----------------------------------------------------------------------------------------


def test_a_tiny_first_one(lvs: Harness, family: Family) -> None:
    """Of TCP, with the ports and without the flags (RFC 1858): nothing of it goes on."""
    talk = serving(lvs, family, TCP)
    tiny, *others = cut(talk.question("S", SHORT), [8])
    assert lvs.from_client(tiny).reason == "dropped_truncated"
    assert [lvs.from_client(part).reason for part in others] == ["dropped_fragment"]
    assert lvs.entries() == {}
    # UDP's whole header is in eight bytes
    talk = serving(lvs, family, UDP)
    assert [lvs.from_client(part).forwarded for part in cut(talk.question(payload=SHORT), [8], ident=2)] == [True] * 2


def test_beyond_the_end(lvs: Harness, family: Family) -> None:
    """Longer than any datagram can be."""
    talk = serving(lvs, family)
    parts = cut(talk.question(payload=PAYLOAD), 1000)
    assert lvs.from_client(parts[0]).forwarded
    beyond = piece(talk.question(), 65528, bytes(16), more=False)
    assert lvs.from_client(beyond).reason == "up_malformed"


def test_only_in_name(lvs: Harness) -> None:
    """IPv6: a fragment header, and nothing missing."""
    talk = serving(lvs, IPV6)
    result = talk.asks(payload=PAYLOAD[:500], extensions=[(FRAGMENT, struct.pack("!HI", 0, 9))])
    assert result.forwarded and known(lvs) == 0
    assert lvs.director.totals().inbytes == len(result.packet.raw)


def test_extension_headers(lvs: Harness) -> None:
    """Before the fragment header, which all fragments have, and behind it, which the first one has."""
    talk, more = serving(lvs, IPV6), struct.pack("!HI", 1, 9)
    segment = dissect(talk.question(payload=SHORT)).segment
    options = (HOP_BY_HOP, b"\1\4" + bytes(4))
    first = ip(
        IPV6.client, IPV6.vip, UDP, segment[:400],
        extensions=[options, (FRAGMENT, more), (DESTINATION, b"\1\4" + bytes(4))], check=False,
    )  # fmt: skip
    assert lvs.from_client(first).packet.dst == talk.rs
    later = ip(
        IPV6.client, IPV6.vip, DESTINATION, segment[400:],
        extensions=[options, (FRAGMENT, struct.pack("!HI", 408, 9))], check=False,
    )  # fmt: skip
    result = lvs.from_client(later)
    assert result.forwarded
    assert lvs.director.totals().inbytes == 40 + 8 + 8 + len(segment)


def test_ipv4_options(lvs: Harness) -> None:
    talk = serving(lvs, IPV4)
    segment = dissect(talk.question(payload=SHORT)).segment
    first = ip(IPV4.client, IPV4.vip, UDP, segment[:400], more=True, options=b"\1" * 8, check=False)
    later = ip(IPV4.client, IPV4.vip, UDP, segment[400:], fragment=400, options=b"\1" * 8, check=False)
    assert [lvs.from_client(part).packet.dst for part in (first, later)] == [talk.rs] * 2
    assert lvs.director.totals().inbytes == 28 + len(segment)


def test_without_a_checksum(lvs: Harness) -> None:
    """A UDP datagram's whole sum nobody can tell from its fragments: it stays without one."""
    talk = serving(lvs, IPV4)
    parts = cut(ip(IPV4.client, IPV4.vip, UDP, udp(talk.sport, 80, PAYLOAD), check=False), 1000)
    joined = join(lvs.from_client(part).packet.raw for part in parts)
    assert joined is not None
    assert dissect(joined).segment[6:8] == b"\0\0" and dissect(joined).destination == (talk.rs, 8080)


def test_sctp(lvs: Harness, family: Family) -> None:
    """Its checksum is over ports and all that follows, so another port needs the whole: that is dropped. Without, all
    goes its way."""
    same = Talk(lvs, family, SCTP, port=81, rport=81).serve()
    whole = same.question("INIT", PAYLOAD)
    joined = join(lvs.from_client(part).packet.raw for part in cut(whole, 1000))
    assert joined is not None and not wrong_sums(joined) and dissect(joined).destination == (same.rs, 81)
    other = Talk(lvs, family, SCTP).serve()
    first, *rest = cut(other.question("INIT", PAYLOAD), 1000, ident=2)
    assert lvs.from_client(first).reason == "dropped_rewrite_failed"
    assert {lvs.from_client(part).reason for part in rest} == {"dropped_fragment"}


def test_icmp(lvs: Harness, family: Family) -> None:
    """A ping in pieces is the stack's. So is an error: none is as long as that."""
    talk = serving(lvs, family)
    talk.asks()
    protocol = ICMP if family is IPV4 else ICMP6
    parts = cut(ip(family.client, family.vip, protocol, b"\x08\0\0\0\0\1\0\1" + PAYLOAD), 1000)
    assert lvs.from_client(parts[2]).handed_up
    assert all(lvs.from_client(part).handed_up for part in parts)
    quoted = ip(family.vip, family.client, UDP, udp(80, talk.sport, PAYLOAD))
    kind = (3, 4) if family is IPV4 else (2, 0)
    assert all(lvs.from_client(p).handed_up for p in cut(icmp_error(family.client, family.vip, kind, quoted), 1000))
    assert known(lvs) == 0


def test_what_an_error_quotes(lvs: Harness, family: Family) -> None:
    """Of a fragmented reply: the first one can be translated, another cannot."""
    talk = serving(lvs, family)
    talk.asks()
    parts = [lvs.from_server(p).packet.raw for p in cut(talk.answer(payload=PAYLOAD), 1000)]
    kind = (11, 1) if family is IPV4 else (3, 1)
    about = [lvs.from_client(icmp_error(family.client, family.vip, kind, part[:500])) for part in parts]
    assert [result.reason for result in about] == ["forwarded_related", *["up_related_unknown"] * 3]
    assert about[0].packet.dst == talk.rs and not wrong_sums(about[0].packet.raw)
