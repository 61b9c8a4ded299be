"""Whose packets are the director's business: what opens a connection, and what is handed up to the stack as it came."""

import pytest

from support.harness import CLIENT, MACS, SERVER, Harness, frame
from support.packets import (
    ACK,
    DESTINATION,
    ETH_ARP,
    FIN,
    FRAGMENT,
    ICMP,
    ICMP6,
    NO_NEXT,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
    ether,
    ip,
    tcp,
    tcp_packet,
    udp,
)
from support.talk import IPV4, IPV6, Family, Talk


def _nothing_happened(lvs: Harness) -> None:
    assert not lvs.entries()
    assert lvs.director.totals()[:5] == (0, 0, 0, 0, 0)
    assert set(lvs.loads().values()) <= {(0, 0)}


# What opens a TCP connection: SYN without RST, whatever else is set (facts 2.4).


@pytest.mark.parametrize("flags", range(64))
def test_which_flags_open_a_connection(lvs: Harness, flags: int) -> None:
    talk = Talk(lvs, IPV4).serve()
    result = talk.asks(flags)
    if flags & SYN and not flags & RST:
        assert result.reason == "forwarded_nat_request"
        assert lvs.director.totals().conns == 1
    else:
        assert result.reason == "up_no_connection"
        _nothing_happened(lvs)


@pytest.mark.parametrize("flags", [SYN, SYN | ACK, ACK, RST, RST | ACK, FIN | ACK, PSH | ACK, 0, URG])
def test_which_flags_open_a_connection_ipv6(lvs: Harness, flags: int) -> None:
    assert Talk(lvs, IPV6).serve().asks(flags).forwarded == bool(flags & SYN)


def test_any_datagram_opens_a_connection(lvs: Harness, family: Family) -> None:
    assert Talk(lvs, family, UDP).serve().asks(payload=b"").reason == "forwarded_nat_request"


def test_client_port_20_is_never_scheduled(lvs: Harness, family: Family, protocol: int) -> None:
    """FTP's data port (facts 2.3)."""
    assert Talk(lvs, family, protocol, sport=20).serve().asks("S").reason == "up_client_port_20"
    _nothing_happened(lvs)


def test_which_service(lvs: Harness, family: Family, protocol: int) -> None:
    """Address, port and protocol must all be the service's."""
    talk = Talk(lvs, family, protocol).serve()
    other = UDP if protocol == TCP else TCP
    neighbour = family.vip[:-1] + "2"
    segment = tcp(1025, 80) if protocol == TCP else udp(1025, 80)
    assert Talk(lvs, family, other).asks("S").reason == "up_no_service"
    assert Talk(lvs, family, protocol, port=81).asks("S").reason == "up_no_service"
    assert lvs.from_client(ip(family.client, neighbour, protocol, segment)).reason == "up_no_service"
    _nothing_happened(lvs)
    assert talk.asks("S").forwarded


def test_services_are_told_apart(lvs: Harness, family: Family) -> None:
    first = Talk(lvs, family, TCP).serve(1)
    lvs.ipvsadm(f"-A {Talk(lvs, family, UDP).key} -s rr")
    Talk(lvs, family, UDP).add(family.servers[1])
    assert first.asks("S").packet.dst == family.servers[0]
    assert Talk(lvs, family, UDP).asks().packet.dst == family.servers[1]


# What is no TCP or UDP, or not all of it.


@pytest.mark.parametrize("number", [0, 2, 4, 41, 47, 89, 136, 255])
def test_other_protocols(lvs: Harness, family: Family, number: int) -> None:
    if family is IPV6 and number in (0, FRAGMENT, DESTINATION):
        pytest.skip("an extension header")
    Talk(lvs, family).serve()
    result = lvs.from_client(ip(family.client, family.vip, number, tcp(1025, 80), check=False))
    assert result.reason == "up_protocol"
    _nothing_happened(lvs)


def test_ping(lvs: Harness, family: Family) -> None:
    Talk(lvs, family).serve()
    echo = bytes((8 if family is IPV4 else 128, 0, 0, 0, 0, 7, 0, 1)) + b"ping"
    number = ICMP if family is IPV4 else ICMP6
    assert lvs.from_client(ip(family.client, family.vip, number, echo)).reason == "up_protocol"


def test_ipv6_without_a_next_header(lvs: Harness) -> None:
    Talk(lvs, IPV6).serve()
    assert lvs.from_client(ip(IPV6.client, IPV6.vip, NO_NEXT, tcp(1025, 80))).reason == "up_protocol"


def test_more_extension_headers_than_anybody_sends(lvs: Harness) -> None:
    talk = Talk(lvs, IPV6).serve()
    assert talk.asks("S", extensions=[(DESTINATION, b"\1\4" + bytes(4))] * 9).handed_up


# Frames for somebody else, and frames of another kind.


@pytest.mark.parametrize("mac", ["ffffffffffff", "01005e000001", "333300000001", "020000000099"])
def test_frames_not_for_the_director(lvs: Harness, family: Family, mac: str) -> None:
    """Broadcast, multicast, somebody else's: an IP address alone makes nobody a client."""
    talk = Talk(lvs, family).serve()
    assert lvs.send(ether(talk.question("S"), bytes.fromhex(mac), MACS["c0"])).reason == "up_other_host"
    _nothing_happened(lvs)


@pytest.mark.parametrize("kind", [ETH_ARP, 0x88CC, 0x8863, 0x0001, 0x05DC, 0x0000, 0xFFFF])
def test_not_ip(lvs: Harness, family: Family, kind: int) -> None:
    talk = Talk(lvs, family).serve()
    assert lvs.send(ether(talk.question("S"), MACS["d0"], MACS["c0"], kind)).reason == "up_not_ip"


@pytest.mark.parametrize("kind", [0x8100, 0x88A8])
def test_vlan_tags_within_the_frame(lvs: Harness, family: Family, kind: int) -> None:
    """A tag that the device did not take out: the VLAN's own interface will see the packet."""
    tagged = b"\x00\x05\x08\x00" if family is IPV4 else b"\x00\x05\x86\xdd"
    talk = Talk(lvs, family).serve()
    assert lvs.send(ether(tagged + talk.question("S"), MACS["d0"], MACS["c0"], kind)).handed_up
    _nothing_happened(lvs)


def test_the_other_family_behind_an_ethernet_type(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve()
    six = Talk(lvs, IPV6).serve()
    assert lvs.send(ether(talk.question("S").ljust(60, b"\0"), MACS["d0"], MACS["c0"], 0x86DD)).reason == "up_malformed"
    assert lvs.send(ether(six.question("S"), MACS["d0"], MACS["c0"], 0x0800)).reason == "up_malformed"


# Sources that cannot be.


@pytest.mark.parametrize("source", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.255.9.250", "255.255.255.255"])
def test_martians_ipv4(lvs: Harness, source: str) -> None:
    Talk(lvs, IPV4).serve()
    assert lvs.from_client(tcp_packet(source, 1025, IPV4.vip, 80)).reason == "up_martian"
    _nothing_happened(lvs)


@pytest.mark.parametrize("source", ["::", "::1", "ff02::1", "ff0e::5"])
def test_martians_ipv6(lvs: Harness, source: str) -> None:
    Talk(lvs, IPV6).serve()
    assert lvs.from_client(tcp_packet(source, 1025, IPV6.vip, 80)).reason == "up_martian"
    _nothing_happened(lvs)


# Replies.


def test_a_reply_of_nobody(lvs: Harness, family: Family, protocol: int) -> None:
    """Its connection is gone, or never was: forwarding it is the stack's."""
    talk = Talk(lvs, family, protocol).serve().opens()
    assert talk.from_port(1026).answers("A").handed_up
    lvs.advance(1000)
    assert talk.answers("A").reason == "up_no_service"


def test_a_reply_that_would_open_the_servers_own_service(lvs: Harness, family: Family) -> None:
    """Only the connection decides what is a reply: the same real server may be a client of another service."""
    talk = Talk(lvs, family).serve().opens()
    back = tcp_packet(talk.rs, 40000, family.vip, 80, "S")
    assert lvs.from_server(back).reason == "forwarded_nat_request"


def test_direction_is_told_by_addresses_not_by_interfaces(lvs: Harness, family: Family) -> None:
    """A one-armed director has clients and real servers on one wire."""
    talk = Talk(lvs, family).serve()
    assert lvs.send(frame(talk.question("S"), SERVER), SERVER).reason == "forwarded_nat_request"
    assert lvs.send(frame(talk.answer("SA"), CLIENT), CLIENT).reason == "forwarded_nat_reply"


def test_the_mark_of_the_first_packet_is_remembered(lvs: Harness, family: Family) -> None:
    talk = Talk(lvs, family).serve()
    lvs.from_client(talk.question("S"), mark=77)
    lvs.from_client(talk.question("A"), mark=5)
    assert talk.entry.shown.fwmark == 77
