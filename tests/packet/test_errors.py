"""What the director refuses, and what it says about it: ICMP errors as the kernel makes them (facts 6.8, 6.9)."""

from collections.abc import Iterator

import pytest

from support.harness import MACS, Harness, Result, frame, ip
from support.packets import ICMP, ICMP6, TCP, UDP, resum_ipv4, tcp_packet, udp_packet, wrong_sums
from support.talk import FAMILIES, IPV4, IPV6, Family, Talk

# (type, code) by IP version
PORT, HOST = {4: (3, 3), 6: (1, 4)}, {4: (3, 1), 6: (1, 3)}
TTL, TOO_BIG = {4: (11, 0), 6: (3, 0)}, {4: (3, 4), 6: (2, 0)}
QUOTED = {4: 576 - 28, 6: 1280 - 48}


def _refused(result: Result, family: Family, kind: dict[int, tuple[int, int]], quoted: bytes, word: int = 0) -> None:
    """Assert that this is the right ICMP error about a packet: to whom, from whom, sums, length, quotation."""
    assert result.answers == ("answered_icmp",)
    error = result.packet
    assert error.protocol == (ICMP if family is IPV4 else ICMP6)
    assert error.icmp == (*kind[family.version], word)
    assert error.dst == family.client
    # kernel IPVS answers from the VIP; over IPv6 from an address of the interface, unless the VIP is one
    assert error.src == (family.vip if family is IPV4 else family.near)
    assert error.ttl == 64
    assert not wrong_sums(error.raw)
    assert error.quoted == quoted[: QUOTED[family.version]]
    assert len(result.frame) == 14 + len(error.raw), "nothing may follow"
    assert result.frame[:12] == MACS["c0"] + MACS["d0"]
    assert result.frame[12:14] == (b"\x08\x00" if family is IPV4 else b"\x86\xdd")


@pytest.mark.parametrize("quiesced", [False, True], ids=["no real server", "all of weight 0"])
def test_no_destination(lvs: Harness, family: Family, protocol: int, quiesced: bool) -> None:
    talk = Talk(lvs, family, protocol).serve(2 if quiesced else 0, weight=0)
    question = talk.question("S", b"hello")
    result = lvs.from_client(question)
    assert result.reason == "dropped_no_destination"
    _refused(result, family, PORT, question)
    assert talk.entry is None
    assert lvs.director.totals().conns == 0


def test_quotation(lvs: Harness, family: Family) -> None:
    """As much as an error of 576 or 1280 bytes holds, at every length."""
    talk = Talk(lvs, family, UDP).serve(0)
    for size in range(1500 - family.head - 8 + 1):
        lvs.shift(1)
        question = talk.question(payload=bytes(n * 13 & 0xFF for n in range(size)))
        _refused(lvs.from_client(question), family, PORT, question)


@pytest.mark.parametrize("tos", [0, 0x10, 0xB8, 0xFF, 0x01])
def test_type_of_service(lvs: Harness, tos: int) -> None:
    result = Talk(lvs, IPV4).serve(0).asks("S", tos=tos)
    assert result.packet.tos == tos & 0x1E | 0xC0


def test_with_ip_options(lvs: Harness) -> None:
    """They are part of what is quoted, not of the error."""
    talk = Talk(lvs, IPV4).serve(0)
    question = talk.question("S", options=b"\x07\x0b\x04" + bytes(9))
    result = lvs.from_client(question)
    _refused(result, IPV4, PORT, question)
    assert result.packet.head == 20


@pytest.fixture
def vip_on_interface(lvs: Harness) -> Iterator[Harness]:
    ip("addr add fd00:99::1/128 dev d0 nodad")
    lvs.instance.learn_addresses()
    yield lvs
    ip("addr del fd00:99::1/128 dev d0")


def test_ipv6_error_from_a_vip_of_the_interface(vip_on_interface: Harness) -> None:
    assert Talk(vip_on_interface, IPV6).serve(0).asks("S").packet.src == IPV6.vip


def test_padding_of_short_frames_is_not_quoted(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4, UDP).serve(0)
    question = talk.question(payload=b"a")
    result = lvs.send((MACS["d0"] + MACS["c0"] + b"\x08\x00" + question).ljust(60, b"\xee"))
    _refused(result, IPV4, PORT, question)


# TTL


def test_ttl_of_one(lvs: Harness, family: Family, protocol: int) -> None:
    """The error quotes the packet as it came."""
    for method, sport in (("-m", 1025), ("-g", 1026)):
        talk = Talk(lvs, family, protocol, sport=sport, port=80 + sport, rport=80 + sport).serve(method=method)
        question = talk.question("S", ttl=1)
        result = lvs.from_client(question)
        assert result.reason == "dropped_ttl_exceeded"
        _refused(result, family, TTL, question)
        assert talk.entry is not None, "the connection exists before its packet fails (facts 2.10)"


def test_ttl_of_zero(lvs: Harness, family: Family) -> None:
    assert Talk(lvs, family).serve().asks("S", ttl=0).reason == "dropped_ttl_exceeded"


def test_ttl_of_two(lvs: Harness, family: Family, protocol: int) -> None:
    result = Talk(lvs, family, protocol).serve().asks("S", ttl=2)
    assert result.reason == "forwarded_nat_request"
    assert result.packet.ttl == 1


def test_reply_with_ttl_of_one(lvs: Harness, family: Family) -> None:
    """Forwarding is the stack's, and so is what is said to the real server; IPVS never sees the packet."""
    talk = Talk(lvs, family).serve().opens()
    before = lvs.director.totals().outpkts
    assert talk.answers("A", ttl=1).reason == "up_reply_ttl"
    assert lvs.director.totals().outpkts == before


# MTU


@pytest.fixture
def narrow(lvs: Harness) -> Iterator[Harness]:
    """The wire to the real servers carries 1400 bytes."""
    ip("link set d1 mtu 1400")
    yield lvs
    ip("link set d1 mtu 1500")


def _of_length(talk: Talk, length: int, **of_ip: object) -> bytes:
    head = talk.family.head + (20 if talk.protocol == TCP else 8)
    question = talk.question("A", bytes(length - head), **of_ip)
    assert len(question) == length
    return question


def test_too_big(narrow: Harness, family: Family, protocol: int) -> None:
    """The quotation shows the TTL already counted down (facts 6.8)."""
    for method, port in (("-m", 81), ("-g", 82)):
        talk = Talk(narrow, family, protocol, port=port, rport=port).serve(method=method)
        talk.asks("S")
        assert narrow.from_client(_of_length(talk, 1400, df=True)).forwarded
        question = _of_length(talk, 1401, df=True)
        result = narrow.from_client(question)
        assert result.reason == "dropped_too_big"
        hop = bytearray(question)
        hop[8 if family is IPV4 else 7] -= 1
        quoted = resum_ipv4(bytes(hop)) if family is IPV4 else bytes(hop)
        _refused(result, family, TOO_BIG, quoted, 1400)


def test_merged_packet_is_judged_by_its_segments(narrow: Harness, family: Family) -> None:
    talk = Talk(narrow, family).serve()
    talk.asks("S")
    for options in (b"", b"\x01" * 12):
        fits = 1400 - family.head - 20 - len(options)
        question = talk.question("A", bytes(2 * fits), tcp_options=options, df=True)
        assert narrow.from_client(question, gso_size=fits, gso_segs=2).reason == "forwarded_nat_request"
        result = narrow.from_client(question, gso_size=fits + 1, gso_segs=2)
        assert result.reason == "dropped_too_big"
        assert result.packet.icmp == (*TOO_BIG[family.version], 1400)


def test_reply_too_big(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve().opens()
    ip("link set d0 mtu 1400")
    try:
        answer = talk.answer("A", bytes(1401 - family.head - 20), df=True)
        assert lvs.from_server(answer).reason == "up_reply_too_big"
    finally:
        ip("link set d0 mtu 1500")


# No route


def test_no_route(lvs: Harness, family: Family, protocol: int) -> None:
    talk = Talk(lvs, family, protocol)
    lvs.ipvsadm(f"-A {talk.key} -s rr")
    ip(f"route add {family.nowhere} dev d1")  # it is there when the real server is added
    talk.add(family.nowhere)
    ip(f"route del {family.nowhere} dev d1")
    question = talk.question("S", b"data")
    result = lvs.from_client(question)
    assert result.reason == "dropped_no_route"
    _refused(result, family, HOST, question)


def test_no_route_comes_before_ttl(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family)
    lvs.ipvsadm(f"-A {talk.key} -s rr")
    ip(f"route add {family.nowhere} dev d1")
    talk.add(family.nowhere)
    ip(f"route del {family.nowhere} dev d1")
    assert talk.asks("S", ttl=1).reason == "dropped_no_route"


def test_reply_without_a_route_to_the_client(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve().opens()
    route = f"{'10.1.0.0/16 via 10.0.1.2' if family is IPV4 else 'fd00:1::/64 via fd00:a1::2'}"
    ip(f"route del {route}")
    try:
        assert talk.answers("A").reason == "up_reply_not_routed"
    finally:
        ip(f"route add {route}")


# How many errors


def _answered(lvs: Harness, packets: list[bytes]) -> list[bool]:
    results = [lvs.from_client(packet) for packet in packets]
    assert all(result.dropped for result in results)
    assert all(result.answers in (("answered_icmp",), ("answered_icmp_limited",)) for result in results)
    return [result.answers == ("answered_icmp",) for result in results]


def test_six_errors_to_a_client_at_once_then_one_a_second(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve(0)
    question = talk.question("S")
    assert _answered(lvs, [question] * 8) == [True] * 6 + [False] * 2
    for _ in range(3):
        lvs.shift(1)
        assert _answered(lvs, [question] * 2) == [True, False]
    lvs.shift(20)
    assert _answered(lvs, [question] * 8) == [True] * 6 + [False] * 2


def test_fifty_errors_at_once_in_all(lvs: Harness, family: Family) -> None:
    """From then on a thousand a second."""
    Talk(lvs, family, UDP).serve(0)
    clients = [f"10.1.{n >> 8}.{n & 255}" if family is IPV4 else f"fd00:1::1:{n:x}" for n in range(1, 1001)]
    frames = [frame(udp_packet(client, 1025, family.vip, 80)) for client in clients]
    lvs.shift(10)
    before, began = lvs.reasons(), lvs.instance.now()
    lvs.pour(frames)
    passed, now = lvs.instance.now() - began, lvs.reasons()
    answered, limited = (now[name] - before[name] for name in ("answered_icmp", "answered_icmp_limited"))
    assert answered + limited == 1000
    assert 50 <= answered <= 50 + passed // 1_000_000 + 20  # the clock's tick may be as coarse as 20 ms


def test_too_big_is_never_held_back(narrow: Harness, family: Family) -> None:
    """A client that does not learn the path's MTU stalls: these errors are exempt from every limit."""
    talk = Talk(narrow, family).serve()
    talk.asks("S")
    question = _of_length(talk, 1450, df=True)
    before = narrow.reasons()
    narrow.pour([frame(question)] * 1000)
    now = narrow.reasons()
    assert now["answered_icmp"] - before["answered_icmp"] == 1000
    assert now["answered_icmp_limited"] == before["answered_icmp_limited"]


def test_limit_is_each_clients_own(lvs: Harness) -> None:
    for family in FAMILIES:
        Talk(lvs, family).serve(0)
    assert _answered(lvs, [Talk(lvs, IPV4).question("S")] * 7)[-1] is False
    assert _answered(lvs, [Talk(lvs, IPV6).question("S")]) == [True]
    assert _answered(lvs, [tcp_packet("10.1.0.2", 1025, IPV4.vip, 80, "S")]) == [True]
