"""ICMP errors about connections reach that side whose packet they quote, in its own addresses (facts 6.10, 6.11)."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.harness import Harness, Result
from support.packets import DESTINATION, SCTP, TCP, UDP, dissect, icmp_error, ip, tcp, wrong_sums
from support.talk import FAMILIES, IPV4, IPV6, Family, Talk

KINDS = {4: [(3, 1), (3, 4), (4, 0), (11, 0)], 6: [(1, 4), (2, 0), (3, 0), (4, 1), (127, 0)]}
TOO_BIG = {4: (3, 4), 6: (2, 0)}
PROTOCOLS = pytest.mark.parametrize("protocol", [TCP, UDP, SCTP], ids=["tcp", "udp", "sctp"])
QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def opened(lvs: Harness, family: Family, protocol: int = TCP, method: str = "-m") -> Talk:
    talk = Talk(lvs, family, protocol, rport=8080 if method == "-m" else 80).serve(method=method)
    first = "INIT" if protocol == SCTP else "S"
    assert talk.asks(first).forwarded
    if method == "-m":
        assert talk.answers("INIT_ACK" if protocol == SCTP else "SA").forwarded
    return talk


def as_client_saw(talk: Talk, payload: bytes = b"reply", **of_ip: object) -> bytes:
    """The reply as the client got it: from the VIP."""
    if talk.protocol == TCP:
        return ip(talk.family.vip, talk.family.client, TCP, tcp(80, talk.sport, "A", payload=payload), **of_ip)  # type: ignore[arg-type]
    reply = talk.lvs.from_server(talk.answer("DATA" if talk.protocol == SCTP else "A"))
    return reply.packet.raw


def as_server_saw(talk: Talk, flags: str = "A") -> bytes:
    """The request as the real server got it."""
    asked = talk.asks("DATA" if talk.protocol == SCTP else flags)
    return asked.packet.raw


def check_translated(result: Result, sent: bytes, source: tuple[str, int], destination: tuple[str, int]) -> None:
    """One more hop, the rest of the error as it was, sums right, and a quote of a packet with these addresses."""
    assert result.reason == "forwarded_related"
    before, after = dissect(sent), result.packet
    assert after.ttl == before.ttl - 1
    assert after.icmp == before.icmp
    assert len(after.raw) == len(before.raw)
    assert not wrong_sums(after.raw)
    said = dissect(after.quoted)
    assert (said.source, said.destination) == (source, destination)
    # the quoted transport checksum is not touched, and nothing behind the ports is
    assert said.segment[4:] == dissect(before.quoted).segment[4:]
    assert said.version == 6 or not [sum for sum in wrong_sums(after.quoted) if sum.startswith("IPv4")]


@PROTOCOLS
def test_about_a_reply(lvs: Harness, family: Family, protocol: int) -> None:
    """A client, or a router on the way to it, complains about what came from the VIP."""
    talk = opened(lvs, family, protocol)
    saw = as_client_saw(talk)
    key, before = (family.client, talk.sport), lvs.director.totals()
    lvs.shift(1)
    shown = lvs.connections()[key]
    for kind in KINDS[family.version]:
        for sender in (family.client, "10.1.200.200" if family is IPV4 else "fd00:1::77"):
            error = icmp_error(sender, family.vip, kind, saw, 1300)
            result = lvs.from_client(error)
            said = dissect(saw)
            check_translated(result, error, (talk.rs, 8080), (family.client, said.dport))
            assert (result.packet.src, result.packet.dst) == (sender, talk.rs)
    # it is counted, but it is none of the connection's packets: its state and its timer go on
    assert lvs.director.totals().inpkts - before.inpkts == 2 * len(KINDS[family.version])
    assert lvs.connections()[key].state == shown.state
    assert lvs.connections()[key].expires <= shown.expires


def _ports(sport: int, dport: int) -> bytes:
    return sport.to_bytes(2, "big") + dport.to_bytes(2, "big")


@PROTOCOLS
def test_about_a_request(lvs: Harness, family: Family, protocol: int) -> None:
    """A real server, or a router on the way to it, complains about what came from the director."""
    talk = opened(lvs, family, protocol)
    saw = as_server_saw(talk)
    before = lvs.director.totals()
    for kind in KINDS[family.version]:
        for sender in (talk.rs, family.hop):
            error = icmp_error(sender, family.client, kind, saw, 1300)
            result = lvs.from_server(error)
            check_translated(result, error, (family.client, talk.sport), (family.vip, 80))
            # whoever complained, to the client it is the VIP that does
            assert (result.packet.src, result.packet.dst) == (family.vip, family.client)
    assert lvs.director.totals().outpkts - before.outpkts == 2 * len(KINDS[family.version])


def test_direct_routing(lvs: Harness, family: Family) -> None:
    """To a LVS-DR real server it goes as it came; what one says about a request passes as it is."""
    talk = opened(lvs, family, method="-g")
    error = icmp_error(family.client, family.vip, TOO_BIG[family.version], as_client_saw(talk), 1300)
    result = lvs.from_client(error)
    assert result.reason == "forwarded_related"
    assert (result.packet.dst, result.packet.ttl) == (family.vip, 63)
    assert result.packet.segment == dissect(error).segment
    error = icmp_error(talk.rs, family.client, TOO_BIG[family.version], talk.question("A"), 1300)
    before = lvs.director.totals().outpkts
    result = lvs.from_server(error)
    assert (result.reason, result.frame[14:]) == ("up_reply_unchanged", error)
    assert lvs.director.totals().outpkts == before + 1


def test_a_wrong_checksum(lvs: Harness, family: Family) -> None:
    """It would be made right on the way: so it goes no further. Where nothing is changed it stays wrong."""
    talk = opened(lvs, family)
    before = lvs.director.totals()
    for error in (
        icmp_error(family.client, family.vip, TOO_BIG[family.version], as_client_saw(talk), 1300, wrong=1),
        icmp_error(talk.rs, family.client, TOO_BIG[family.version], talk.question("A"), 1300, wrong=1),
    ):
        result = lvs.from_client(error)
        assert result.reason in ("dropped_wrong_checksum", "up_related_unknown")
    assert lvs.director.totals()[:5] == before[:5]  # the rest are rates, which move by themselves
    direct = Talk(lvs, family, UDP, rport=80).serve(method="-g")
    assert direct.asks().forwarded
    saw = ip(family.vip, family.client, UDP, _ports(80, 1025) + bytes(8), check=False)
    error = icmp_error(family.client, family.vip, TOO_BIG[family.version], saw, wrong=1)
    assert wrong_sums(lvs.from_client(error).packet.raw)


def test_about_nobodys_packet(lvs: Harness, family: Family) -> None:
    talk = opened(lvs, family)
    quotes = [
        ip(family.vip, family.client, TCP, tcp(80, 1026, "A")),
        ip(family.vip, family.client, TCP, tcp(81, 1025, "A")),
        ip(family.vip, family.client, UDP, tcp(80, 1025, "A")),
        ip(family.client, family.vip, TCP, tcp(80, 1025, "A")),
        ip(family.vip, family.client, 89, tcp(80, 1025, "A"), check=False),
    ]
    for quoted in quotes:
        error = icmp_error(family.client, family.vip, TOO_BIG[family.version], quoted)
        result = lvs.from_client(error)
        assert (result.reason, result.frame[14:]) == ("up_related_unknown", error)
    assert len(lvs.entries()) == 1
    assert talk.entry


def test_what_is_no_error_is_the_stacks(lvs: Harness, family: Family) -> None:
    talk = opened(lvs, family)
    for kind in (0, 5, 8, 13) if family is IPV4 else (128, 129, 133, 135, 255):
        asked = icmp_error(family.client, family.vip, (kind, 0), as_client_saw(talk))
        assert lvs.from_client(asked).reason == "up_protocol"


def test_the_last_hop(lvs: Harness, family: Family) -> None:
    """About an error nobody sends another one."""
    talk = opened(lvs, family)
    error = icmp_error(family.client, family.vip, TOO_BIG[family.version], as_client_saw(talk), ttl=1)
    result = lvs.from_client(error)
    assert (result.reason, result.answers) == ("dropped_ttl_exceeded", ())
    error = icmp_error(talk.rs, family.client, TOO_BIG[family.version], as_server_saw(talk), ttl=1)
    assert lvs.from_server(error).reason == "up_reply_ttl"


def test_quoted_fragments(lvs: Harness) -> None:
    """Of a first fragment there are the ports."""
    talk = opened(lvs, IPV4)
    first = icmp_error(IPV4.client, IPV4.vip, (11, 1), as_client_saw(talk, more=True))
    assert lvs.from_client(first).reason == "forwarded_related"
    later = icmp_error(IPV4.client, IPV4.vip, (11, 1), as_client_saw(talk, fragment=64))
    assert lvs.from_client(later).reason == "up_related_unknown"


def test_quoted_headers(lvs: Harness) -> None:
    """IPv4 options and IPv6 extension headers, of the error and of what it quotes."""
    talk = opened(lvs, IPV4)
    error = icmp_error(IPV4.client, IPV4.vip, (3, 4), as_client_saw(talk, options=b"\1" * 12), options=b"\1" * 8)
    assert lvs.from_client(error).packet.dst == talk.rs
    talk = opened(lvs, IPV6)
    more = [(DESTINATION, b"\1\4" + bytes(4))] * 2
    error = icmp_error(IPV6.client, IPV6.vip, (2, 0), as_client_saw(talk, extensions=more), extensions=more)
    result = lvs.from_client(error)
    assert result.packet.dst == talk.rs
    assert not wrong_sums(result.packet.raw)


def test_every_length(lvs: Harness, family: Family) -> None:
    """Cut off anywhere, it is translated whole or not at all."""
    talk = opened(lvs, family)
    saw = as_client_saw(talk)
    for length in range(len(saw) + 1):
        error = icmp_error(family.client, family.vip, TOO_BIG[family.version], saw[:length], 1300)
        result = lvs.from_client(error)
        if length < family.head + 4:
            assert (result.reason, result.frame[14:]) == ("up_malformed", error)
        else:
            assert result.reason == "forwarded_related"
            assert not wrong_sums(result.packet.raw)
            assert result.packet.quoted[family.head :][:2] == (8080).to_bytes(2, "big")
    for length in range(8):
        error = icmp_error(family.client, family.vip, TOO_BIG[family.version], b"")[: family.head + length]
        assert not lvs.from_client(error).forwarded


@QUICK
@given(st.sampled_from(FAMILIES), st.binary(max_size=90), st.sampled_from([1, 2, 3, 4, 11]))
def test_whatever_is_quoted(lvs: Harness, family: Family, noise: bytes, kind: int) -> None:
    lvs.reset()
    opened(lvs, family)
    error = icmp_error(family.client, family.vip, (kind, 0), noise)
    result = lvs.from_client(error)
    assert result.handed_up
    assert result.frame[14:] == error


@QUICK
@given(st.sampled_from(FAMILIES), st.binary(max_size=1200), st.integers(0, 0xFFFFFFFF), st.integers(2, 255))
def test_sums_stay_right(lvs: Harness, family: Family, payload: bytes, word: int, ttl: int) -> None:
    lvs.reset()
    talk = opened(lvs, family)
    kind = TOO_BIG[family.version]
    for error in (
        icmp_error(family.client, family.vip, kind, as_client_saw(talk, payload), word, ttl=ttl),
        icmp_error(talk.rs, family.client, kind, as_server_saw(talk) + payload, word, ttl=ttl),
    ):
        result = lvs.from_client(error)
        assert result.reason == "forwarded_related"
        assert not wrong_sums(result.packet.raw)


# schedule_icmp


@PROTOCOLS
def test_an_error_may_make_a_connection(lvs: Harness, family: Family, protocol: int) -> None:
    talk = Talk(lvs, family, protocol).serve()
    saw = ip(family.vip, family.client, protocol, _ports(80, talk.sport) + bytes(16), check=False)
    error = icmp_error(family.client, family.vip, TOO_BIG[family.version], saw, 1300)
    assert lvs.from_client(error).reason == "up_related_unknown"
    lvs.set(schedule_icmp=1)
    result = lvs.from_client(error)
    assert (result.reason, result.packet.dst) == ("forwarded_related", talk.rs)
    assert dissect(result.packet.quoted).source[0] == talk.rs
    assert lvs.connections()[family.client, talk.sport].state == ("UDP" if protocol == UDP else "NONE")
    assert lvs.director.totals().conns == 1
    # the next one finds it
    assert lvs.from_client(error).reason == "forwarded_related"
    assert lvs.director.totals().conns == 1


def test_an_error_for_a_service_without_real_servers(lvs: Harness, family: Family) -> None:
    """No error about an error."""
    talk = Talk(lvs, family).serve(0)
    lvs.set(schedule_icmp=1)
    saw = ip(family.vip, family.client, TCP, tcp(80, talk.sport, "A"))
    result = lvs.from_client(icmp_error(family.client, family.vip, TOO_BIG[family.version], saw))
    assert (result.reason, result.answers) == ("dropped_no_destination", ())
    assert not lvs.entries()
