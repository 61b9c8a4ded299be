"""LVS-DR: a request goes to the real server's link-layer address, unchanged but for its TTL. Replies go elsewhere, and
if they pass the director after all they are counted and left alone."""

import socket
from collections.abc import Iterator

import pytest

from pylvs.datapath import netlink
from pylvs.lab.waiting import wait_for
from support.harness import MACS, Harness, ip
from support.packets import DESTINATION, TCP, dissect, tcp_packet, wrong_sums
from support.talk import IPV4, IPV6, Family, Talk


def _dr(lvs: Harness, family: Family, protocol: int = TCP) -> Talk:
    return Talk(lvs, family, protocol, rport=80).serve(method="-g")


def test_only_the_ttl_changes(lvs: Harness, family: Family, protocol: int) -> None:
    talk = _dr(lvs, family, protocol)
    question = talk.question("S", b"some payload", tos=0x10, ttl=33)
    result = lvs.from_client(question)
    assert result.reason == "forwarded_route"
    before, after = dissect(question), result.packet
    assert after.ttl == 32
    assert after.segment == before.segment
    assert not wrong_sums(after.raw)
    free = (8, 10, 11) if family is IPV4 else (7,)  # TTL and header checksum
    assert [n for n in range(family.head) if after.raw[n] != before.raw[n] and n not in free] == []


def test_options_and_extensions_stay(lvs: Harness, family: Family, protocol: int) -> None:
    talk = _dr(lvs, family, protocol)
    extensions = [(DESTINATION, b"\1\4" + bytes(4))]
    question = talk.question("S", b"x", options=b"\x07\x07\x04" + bytes(5), extensions=extensions)
    after = lvs.from_client(question).packet
    assert after.raw[family.head :] == question[family.head :]
    assert not wrong_sums(after.raw)


def test_next_hop(lvs: Harness, family: Family) -> None:
    talk = _dr(lvs, family)
    hops = [talk.asks("S").frame[:12] for _ in range(20)]
    assert hops.count(MACS["r0"] + MACS["d1"]) >= 15  # the others are left to the neighbour code


def test_unknown_next_hop_is_left_to_the_neighbour_code(lvs: Harness, family: Family) -> None:
    """A real server on the wire whose link-layer address is not known: the kernel asks for it, packet by packet."""
    talk = Talk(lvs, family, rport=80)
    lvs.ipvsadm(f"-A {talk.key} -s rr")
    talk.add(family.hop[:-1] + "77", "-g")
    for flags in ("S", "A", "A"):
        result = talk.asks(flags)
        assert result.reason == "forwarded_route"
        assert result.frame[:12] == MACS["d0"] + MACS["c0"]


def test_states_without_replies(lvs: Harness, family: Family) -> None:
    """The director sees one direction only, and judges by that."""
    talk = _dr(lvs, family)
    seen = []
    for flags in ("S", "A", "F", "A"):
        talk.asks(flags)
        seen.append(talk.entry.shown.state)
    assert seen == ["SYN_RECV", "ESTABLISHED", "FIN_WAIT", "FIN_WAIT"]


def test_a_reply_that_passes_is_counted_and_marked(lvs: Harness, family: Family) -> None:
    """From then on the director judges by both directions: a client's FIN is CLOSE_WAIT, not FIN_WAIT (facts 3)."""
    talk = _dr(lvs, family)
    talk.asks("S")
    reply = tcp_packet(family.vip, 80, family.client, talk.sport, "SA")
    result = lvs.from_server(reply)
    assert result.reason == "up_reply_unchanged"
    stats = lvs.director.totals()
    assert (stats.outpkts, stats.outbytes) == (1, len(reply))
    talk.asks("A")
    talk.asks("F")
    assert talk.entry.shown.state == "CLOSE_WAIT"


def test_weight_and_method_of_new_connections_only(lvs: Harness, family: Family) -> None:
    """A connection keeps the method that it was born with (facts 1.8)."""
    talk = Talk(lvs, family, rport=80).serve(method="-g")
    talk.asks("S")
    talk.weigh(family.server, 1, "-m")
    assert talk.asks("A").reason == "forwarded_route"
    assert talk.from_port(1026).asks("S").reason == "forwarded_nat_request"


@pytest.fixture
def local_server(lvs: Harness) -> Iterator[Harness]:
    ip("addr add 10.0.2.55/32 dev d1\naddr add fd00:a2::55/128 dev d1 nodad")
    wait_for(lambda: netlink.kind_of(socket.AF_INET6, "fd00:a2::55") == netlink.LOCAL, "the address to be in use")
    yield lvs
    ip("addr del 10.0.2.55/32 dev d1\naddr del fd00:a2::55/128 dev d1")


def test_the_director_as_real_server(local_server: Harness, family: Family) -> None:
    """Its own stack answers: the packet goes up as it came, and is counted as the connection's."""
    talk = Talk(local_server, family, rport=80)
    local_server.ipvsadm(f"-A {talk.key} -s rr")
    talk.add("fd00:a2::55" if family is IPV6 else "10.0.2.55", "-g")
    result = talk.asks("S", ttl=1)
    assert result.reason == "up_local_real_server"
    assert local_server.director.totals().conns == 1
    assert talk.entry.shown.state == "SYN_RECV"
