"""What is too big for its way and may be fragmented leaves in pieces, whatever the forwarding method (facts 6.8)."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.harness import CLIENT, MACS, SERVER, Harness, ip
from support.packets import UDP, dissect, wrong_sums
from support.talk import IPV4, Talk
from support.tunnels import pending, reassemble, unwrap, wrong_tunnel_sums

_WAYS = "route replace 10.2.0.0/16 via 10.0.2.2{0}\nroute replace 10.1.0.0/16 via 10.0.1.2{0}"


@contextmanager
def _narrow(mtu: int) -> Iterator[None]:
    """The ways to the real servers and to the clients carry no more. (An interface of less would be none of IPv6's.)"""
    ip(_WAYS.format(f" mtu lock {mtu}"))
    try:
        yield
    finally:
        ip(_WAYS.format(""))


@pytest.fixture(params=[1400, 576, 68])
def mtu(lvs: Harness, request: pytest.FixtureRequest) -> Iterator[int]:
    with _narrow(request.param):
        yield request.param


@pytest.fixture
def narrow(lvs: Harness) -> Iterator[Harness]:
    with _narrow(1400):
        yield lvs


def _payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _sent(lvs: Harness, packet: bytes, count: int, reply: bool = False, **context: int) -> tuple[str, list[bytes]]:
    """Why, and the pieces in their order."""
    with lvs.beyond(CLIENT if reply else SERVER) as arrived:
        result = lvs.from_server(packet, **context) if reply else lvs.from_client(packet, **context)
        pieces = [*arrived(count - 1), result.frame]
    mine, theirs = (MACS["d0"], MACS["c0"]) if reply else (MACS["d1"], MACS["r0"])
    assert all(piece[:14] == theirs + mine + b"\x08\x00" for piece in pieces)
    return result.reason, [piece[14:] for piece in pieces]


def _count(length: int, mtu: int) -> int:
    """How many pieces a packet of this length makes."""
    step = (mtu - 20) // 8 * 8
    return -(-(length - 20) // step)


@pytest.mark.parametrize("method", ["-m", "-g"])
def test_requests(lvs: Harness, mtu: int, method: str, protocol: int) -> None:
    talk = Talk(lvs, IPV4, protocol, rport=80).serve(method=method)
    talk.asks("S")
    for size in (mtu - 20 - 8 + 1, 1400, 1452):
        question = talk.question("A", _payload(size), ident=0x1234, tos=0x10, ttl=33)
        reason, pieces = _sent(lvs, question, _count(len(question), mtu))
        assert reason == ("forwarded_nat_request" if method == "-m" else "forwarded_route")
        assert all(len(piece) <= mtu for piece in pieces)
        assert len(pieces[0]) > mtu - 8, "as few as can be"
        whole = reassemble(pieces)
        assert not wrong_sums(whole)
        after, before = dissect(whole), dissect(question)
        assert (after.dst, after.ttl, after.tos) == ("10.2.0.1" if method == "-m" else before.dst, 32, 0x10)
        assert (after.ident, after.payload) == (0x1234, before.payload)


def test_replies(narrow: Harness, protocol: int) -> None:
    talk = Talk(narrow, IPV4, protocol).serve().opens()
    answer = talk.answer("A", _payload(1400))
    reason, pieces = _sent(narrow, answer, 2, reply=True)
    assert reason == "forwarded_nat_reply"
    after = dissect(reassemble(pieces))
    assert not wrong_sums(after.raw)
    assert (after.src, after.payload) == (IPV4.vip, dissect(answer).payload)


@pytest.mark.parametrize("method", ["-g", "-i"])
def test_a_checksum_that_a_device_would_have_finished(narrow: Harness, method: str, protocol: int) -> None:
    """A sender on the same machine leaves it to the device: but no device can, once the packet is in pieces."""
    talk = Talk(narrow, IPV4, protocol, rport=80).serve(method=method)
    talk.asks("S")
    question = pending(talk.question("A", _payload(1401)))
    assert wrong_sums(question)
    _, pieces = _sent(narrow, question, 2)
    whole = reassemble(pieces)
    assert not wrong_sums(unwrap(whole).inner if method == "-i" else whole)


def test_an_unknown_next_hop(narrow: Harness) -> None:
    """Only one packet can wait until the neighbour has answered: the last piece, which asks."""
    talk = Talk(narrow, IPV4, UDP, rport=80)
    narrow.ipvsadm(f"-A {talk.key} -s rr")
    talk.add("10.0.2.77", "-g")
    question = talk.question("A", _payload(1452))
    ip("route add 10.0.2.77 dev d1 mtu lock 1400")
    try:
        result = narrow.from_client(question)
    finally:
        ip("route del 10.0.2.77 dev d1")
    assert result.reason == "forwarded_route"
    assert len(result.frame) == 14 + 20 + len(question) - 20 - (1400 - 20) // 8 * 8


def test_ip_options_are_not_cut(narrow: Harness) -> None:
    """Some belong into the first piece alone; such packets are dropped under a name of their own."""
    talk = Talk(narrow, IPV4).serve()
    talk.asks("S")
    question = talk.question("A", _payload(1401), options=b"\x07\x07\x04" + bytes(5))
    assert narrow.from_client(question).reason == "dropped_needs_fragments"


@pytest.mark.parametrize("server", ["10.2.0.1", "[fd00:2::1]"], ids=["4in4", "4in6"])
@pytest.mark.parametrize(
    "kind", ["", "--tun-type gre", "--tun-type gre --tun-csum", "--tun-type gue --tun-port 6080 --tun-csum"]
)
def test_tunnels(lvs: Harness, server: str, kind: str) -> None:
    """It is the outer packet that is cut; the real server gets the inner one whole."""
    talk = Talk(lvs, IPV4, rport=80)
    lvs.ipvsadm(f"-A {talk.key} -s rr", f"-a {talk.key} -r {server}:80 -i {kind}")
    talk.asks("S")
    for size in (1460, 1449):
        question = talk.question("A", _payload(size), ttl=33)
        with lvs.beyond() as arrived:
            result = lvs.from_client(question)
            pieces = [*arrived(1), result.frame]
        assert result.reason == "forwarded_tunnel"
        assert all(len(piece) <= 1514 for piece in pieces)
        whole = reassemble([piece[14:] for piece in pieces])
        assert not wrong_tunnel_sums(whole)
        inner = dissect(unwrap(whole).inner)
        assert (inner.ttl, inner.payload) == (32, dissect(question).payload)
