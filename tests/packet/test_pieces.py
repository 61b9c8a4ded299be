"""What is too big for its way and may be fragmented leaves in pieces, whatever the forwarding method (facts 6.8)."""

import fcntl
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.harness import CLIENT, MACS, SERVER, Harness, frame, ip
from support.packets import ICMP6, SCTP, UDP, chunk, dissect, sctp_packet, wrong_sums
from support.packets import ip as build
from support.talk import IPV4, IPV6, Talk
from support.tunnels import pending, reassemble, unwrap, wrong_tunnel_sums

_SIOCSIFMTU = 0x8922
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


# options, and what kernel IPVS puts into the second fragment and those behind it
OPTIONS = {
    "none for all": ("0707040000000001", "0101010101010101"),
    "one for all": ("880401020707040000000001", "880401020101010101010101"),
    "for all behind the others": ("440805000000000094040000", "010101010101010194040000"),
    "nothing between": ("0101820b00000000000000000001010107030400", "0101820b00000000000000000001010101010100"),
    "the end, and something behind it": ("0703040007030400", "0101010007030400"),
    "too long for its place": ("94040000440905000000000001010101", "94040000010101010101010101010101"),
}
NONSENSE = {
    "no length": "0700000094040000",
    "longer than the header": "070d040000000000",
    "cut off": "0101010101010107",
}


@pytest.mark.parametrize("which", OPTIONS)
@pytest.mark.parametrize("method", ["-m", "-g"])
def test_ip_options(lvs: Harness, mtu: int, method: str, which: str) -> None:
    """Which belong into every fragment they say themselves; the others turn to nothing."""
    first, later = map(bytes.fromhex, OPTIONS[which])
    talk = Talk(lvs, IPV4, UDP, rport=80).serve(method=method)
    question = talk.question("A", _payload(1401), options=first)
    step = (mtu - 20 - len(first)) // 8 * 8
    _, pieces = _sent(lvs, question, -(-(len(question) - 20 - len(first)) // step))
    assert all(len(piece) <= mtu for piece in pieces)
    assert pieces[0][20 : 20 + len(first)] == first
    assert {piece[20 : 20 + len(first)] for piece in pieces[1:]} == {later}
    whole = reassemble(pieces)
    assert not wrong_sums(whole)
    assert dissect(whole).payload == dissect(question).payload


@pytest.mark.parametrize("which", NONSENSE)
def test_ip_options_without_sense(narrow: Harness, which: str) -> None:
    options = bytes.fromhex(NONSENSE[which])
    talk = Talk(narrow, IPV4, UDP, rport=80).serve(method="-g")
    _, pieces = _sent(narrow, talk.question("A", _payload(1450), options=options), 2)
    assert [piece[20:28] for piece in pieces] == [options, options]


def test_ip_options_of_a_fragment_that_is_cut_again(narrow: Harness) -> None:
    """One that is not the first has its own options, whatever they say."""
    options = bytes.fromhex("0707040000000001")
    talk = Talk(narrow, IPV4, UDP, rport=80).serve(method="-g")
    ports = dissect(talk.question("A", _payload(72))).segment
    first, later = (
        build(IPV4.client, IPV4.vip, UDP, data, more=True, fragment=at, ident=9, options=options, check=False)
        for at, data in ((0, ports), (80, _payload(1440)))
    )
    assert narrow.from_client(first).reason == "forwarded_route"
    _, pieces = _sent(narrow, later, 2)
    assert [piece[20:28] for piece in pieces] == [options, options]


def test_ip_options_in_a_tunnel(lvs: Harness) -> None:
    """The outer header, which is the one that is cut, has none."""
    talk = Talk(lvs, IPV4, UDP, rport=80).serve(method="-i")
    question = talk.question("A", _payload(1460), options=bytes.fromhex("880401020707040000000001"))
    _, pieces = _sent(lvs, question, 2)
    inner = dissect(unwrap(reassemble(pieces)).inner)
    assert (inner.raw[20:32], inner.payload) == (question[20:32], dissect(question).payload)


def test_extension_headers(lvs: Harness) -> None:
    """IPv6's routers cut nothing, whatever there is between the headers: the sender is told."""
    talk = Talk(lvs, IPV6, UDP, rport=80).serve(method="-i")
    for extensions in ([(0, bytes(6))], [(60, bytes(14)), (43, bytes(6))]):
        result = lvs.from_client(talk.question("A", _payload(1416), extensions=extensions))
        assert result.reason == "dropped_too_big"
        assert (result.packet.protocol, result.packet.icmp[:2]) == (ICMP6, (2, 0))


@pytest.mark.parametrize("method", ["-m", "-g"])
def test_merged_datagrams(narrow: Harness, method: str) -> None:
    """They are not taken apart: those that fit go on as they are, others nowhere, under a name."""
    talk = Talk(narrow, IPV4, UDP, rport=80).serve(method=method)
    for size, fits in ((1400 - 28, True), (1400 - 27, False)):
        result = narrow.from_client(talk.question(payload=_payload(2 * size)), gso_size=size, gso_segs=2)
        assert result.forwarded if fits else result.reason == "dropped_needs_fragments"


@pytest.mark.parametrize("server", ["10.2.0.1", "[fd00:2::1]"], ids=["4in4", "4in6"])
def test_merged_sctp_gets_into_no_tunnel(lvs: Harness, server: str) -> None:
    talk = Talk(lvs, IPV4, SCTP, rport=80)
    lvs.ipvsadm(f"-A {talk.key} -s rr", f"-a {talk.key} -r {server}:80 -i")
    assert lvs.from_client(talk.question("INIT")).reason == "forwarded_tunnel"
    data = [chunk("DATA", bytes(12) + _payload(500)) for _ in range(2)]
    merged = sctp_packet(IPV4.client, talk.sport, IPV4.vip, talk.port, *data)
    result = lvs.from_client(merged, gso_size=65535, gso_segs=2)
    assert result.reason == "dropped_rewrite_failed"


@pytest.mark.parametrize("method", ["-m", "-g"])
@pytest.mark.parametrize("mtu", [1500, 20000])
def test_long_packets(movable: Harness, method: str, mtu: int) -> None:
    """As long as a packet can be, from a network that carries such; BPF_PROG_TEST_RUN takes none of them."""
    talk = Talk(movable, IPV4, UDP, rport=80).serve(method=method)
    with movable.cable(CLIENT) as near, movable.cable(SERVER) as far:
        for cable, inside, name in ((near, "d0", "c0"), (far, "d1", "r0")):
            _widen(cable, name, 65535)
            ip(f"link set {inside} mtu 65535")
        ip(_WAYS.format(f" mtu lock {mtu}"))
        for size in (mtu + 5000, 40000, 65535 - 28):
            question = talk.question("A", _payload(size), ident=size)
            with movable.beyond() as arrived:
                near.send(frame(question))
                pieces = [piece[14:] for piece in arrived(-(-(size + 8) // min((mtu - 20) // 8 * 8, 15360)))]
            assert all(len(piece) <= mtu for piece in pieces)
            whole = reassemble(pieces)
            assert not wrong_sums(whole)
            assert dissect(whole).payload == dissect(question).payload


def _widen(cable: socket.socket, name: str, mtu: int) -> None:
    """An interface of the namespace that a socket is in."""
    fcntl.ioctl(cable, _SIOCSIFMTU, struct.pack("16si12x", name.encode(), mtu))


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
