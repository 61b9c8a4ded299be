"""AH and ESP: what a client's IPsec packets have to do with its IKE connection, UDP 500 to 500 (facts 2.2).

    client -- IKE: UDP 500 -> 500, which makes the connection -- director -- real server
    client -- ESP, AH: follow it                              --          --

Recorded conversations are in tests/golden/wire/ipsec.json.
"""

import struct

import pytest

from support.books import books
from support.harness import Harness, Result
from support.packets import AH, ESP, SCTP, UDP, ip, sctp, tcp, udp, wrong_sums
from support.talk import IPV4, IPV6, Family, Talk

SEALED = struct.pack("!II", 0x1234, 1) + bytes(range(40))
"""SPI, sequence number, what nobody can read."""


def authenticated(following: int, inner: bytes) -> bytes:
    return struct.pack("!BBHII", following, 4, 0, 0x1234, 1) + bytes(12) + inner


def ike(lvs: Harness, family: Family, method: str = "-m", rport: int = 500) -> Talk:
    return Talk(lvs, family, UDP, sport=500, port=500, rport=rport).serve(2, method)


def esp(lvs: Harness, family: Family, body: bytes = SEALED, **of_ip: int) -> Result:
    return lvs.from_client(ip(family.client, family.vip, ESP, body, **of_ip))


def from_server(lvs: Harness, talk: Talk, source: str = "") -> Result:
    return lvs.from_server(ip(source or talk.rs, talk.family.client, ESP, SEALED))


@pytest.mark.parametrize("method", ["-m", "-g"])
def test_esp_follows_ike(lvs: Harness, family: Family, method: str) -> None:
    talk = ike(lvs, family, method)
    talk.asks()
    chosen = family.servers[1]
    sent = ip(family.client, family.vip, ESP, SEALED)
    result = lvs.from_client(sent)
    assert result.reason == ("forwarded_nat_request" if method == "-m" else "forwarded_route")
    assert (result.packet.src, result.packet.dst) == (family.client, chosen if method == "-m" else family.vip)
    assert (result.packet.protocol, result.packet.segment, result.packet.ttl) == (ESP, SEALED, 63)
    assert not wrong_sums(result.packet.raw)
    reply = from_server(lvs, talk, chosen if method == "-m" else family.vip)
    if method == "-m":
        assert reply.reason == "forwarded_nat_reply"
        assert (reply.packet.src, reply.packet.dst, reply.packet.segment) == (family.vip, family.client, SEALED)
        assert not wrong_sums(reply.packet.raw)
    else:
        assert reply.reason == "up_reply_unchanged"
    books(lvs.instance)


def test_ah_follows_ike(lvs: Harness) -> None:
    talk = ike(lvs, IPV4)
    talk.asks()
    body = authenticated(6, tcp(1025, 80))
    result = lvs.from_client(ip(IPV4.client, IPV4.vip, AH, body))
    assert (result.reason, result.packet.dst) == ("forwarded_nat_request", IPV4.servers[1])
    assert (result.packet.protocol, result.packet.segment) == (AH, body)


@pytest.mark.parametrize("inner", ["tcp", "udp", "sctp"])
def test_ah_over_ipv6_is_one_more_extension_header(lvs: Harness, inner: str) -> None:
    """What is behind it counts, as for kernel IPVS; its own sum the real server will find wrong under LVS-NAT."""
    body = {"tcp": (6, tcp(1025, 80)), "udp": (UDP, udp(1025, 80)), "sctp": (SCTP, sctp(1025, 80, "INIT"))}[inner]
    talk = Talk(lvs, IPV6, body[0], rport=80).serve(method="-g")
    result = lvs.from_client(ip(IPV6.client, IPV6.vip, AH, authenticated(*body)))
    assert result.reason == "forwarded_route"
    assert talk.entry.shown.packets == 1


@pytest.mark.parametrize("with_service", [False, True], ids=["no service", "a service"])
@pytest.mark.parametrize("number", [AH, ESP])
def test_they_never_open_a_connection(lvs: Harness, number: int, with_service: bool) -> None:
    Talk(lvs, IPV4).serve()
    if with_service:
        ike(lvs, IPV4)
    result = lvs.from_client(ip(IPV4.client, IPV4.vip, number, SEALED))
    assert result.reason == ("up_no_connection" if with_service else "up_no_service")
    assert not lvs.entries() and lvs.director.totals().inpkts == 0


def test_ports_other_than_500_are_no_ike(lvs: Harness, family: Family) -> None:
    talk = ike(lvs, family)
    talk.from_port(501).asks()
    assert esp(lvs, family).reason == "up_no_connection"
    talk.asks()
    assert esp(lvs, family).forwarded


def test_replies_come_from_port_500_only(lvs: Harness, family: Family) -> None:
    """A real server that has its IKE on another port is not found by what it seals: neither does kernel IPVS."""
    talk = ike(lvs, family, rport=4500)
    talk.asks()
    assert esp(lvs, family).forwarded
    assert from_server(lvs, talk, family.servers[1]).reason == "up_no_service"


def test_they_keep_a_connection_alive_and_change_nothing(lvs: Harness, family: Family) -> None:
    """Its time begins anew, by the timeout that it has: not by one that was set since."""
    talk = ike(lvs, family)
    talk.asks()
    for timeout, send in ((60, lambda: esp(lvs, family)), (70, lambda: from_server(lvs, talk, family.servers[1]))):
        lvs.ipvsadm(f"--set 0 0 {timeout}")
        lvs.advance(200)
        assert send().forwarded
        assert (talk.entry.timeout, talk.entry.shown.state) == (300_000, "UDP")
        assert talk.entry.shown.expires > 299_000
    assert talk.entry.shown.packets == 2
    talk.asks()
    assert talk.entry.timeout == 70_000


def test_they_are_counted(lvs: Harness, family: Family) -> None:
    talk = ike(lvs, family)
    talk.asks()
    before = lvs.director.totals()
    esp(lvs, family)
    from_server(lvs, talk, family.servers[1])
    after, size = lvs.director.totals(), family.head + len(SEALED)
    assert (after.conns, after.inpkts, after.outpkts) == (before.conns, before.inpkts + 1, before.outpkts + 1)
    assert (after.inbytes, after.outbytes) == (before.inbytes + size, before.outbytes + size)


@pytest.mark.parametrize("length", [0, 1, 3, 7, 8])
def test_they_need_no_length(lvs: Harness, family: Family, length: int) -> None:
    """Nothing of them is looked at."""
    ike(lvs, family).asks()
    result = esp(lvs, family, SEALED[:length])
    assert result.reason == "forwarded_nat_request" and result.packet.segment == SEALED[:length]


def test_ttl(lvs: Harness, family: Family) -> None:
    ike(lvs, family).asks()
    result = esp(lvs, family, ttl=1)
    assert result.reason == "dropped_ttl_exceeded" and result.answers == ("answered_icmp",)


def test_a_deleted_real_server(lvs: Harness, family: Family) -> None:
    talk = ike(lvs, family)
    talk.asks()
    talk.delete(family.servers[1])
    assert esp(lvs, family).reason == "dropped_destination_gone"
    lvs.set(expire_nodest_conn=1)
    assert esp(lvs, family).reason == "up_no_connection"
    assert talk.entry is None
