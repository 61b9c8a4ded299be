"""Which service a packet belongs to (facts 1.3): by mark, exact, FTP's data, port zero; and what a service without
persistence does with ports that are not its own (facts 2.3, step 5, and 6.9)."""

from itertools import count

import pytest

from pylvs.datapath import _layout
from pylvs.model import TCP as PROTO_TCP
from pylvs.model import VirtualService, real_server, virtual_service
from support.harness import Harness, Result
from support.packets import TCP, UDP, ip, tcp, udp
from support.talk import IPV4, IPV6, Family, at

MARKED, EXACT, FTP, ZERO = range(4)
"""The real server of each service, by its place among the family's."""
_sports = count(2000)


def _add(lvs: Harness, service: VirtualService, family: Family, place: int, port: int = 0) -> None:
    lvs.director.add_service(service)
    lvs.director.add_destination(service, real_server(family.servers[place], port, method=0))


def _asks(
    lvs: Harness, family: Family, port: int, *, mark: int = 0, protocol: int = TCP, vip: str = "", sport: int = 0
) -> Result:
    sport = sport or next(_sports)
    segment = tcp(sport, port) if protocol == TCP else udp(sport, port)
    return lvs.from_client(ip(family.client, vip or family.vip, protocol, segment), mark=mark)


def _whose(result: Result, family: Family) -> int | str:
    """The place of the real server that was chosen, or why none was."""
    return family.servers.index(result.packet.dst) if result.forwarded else result.reason


def _mark(number: int, family: Family) -> VirtualService:
    return virtual_service(fwmark=number, family=10 if family is IPV6 else 2, scheduler="rr")


def _web(family: Family, port: int, protocol: int = PROTO_TCP) -> VirtualService:
    return virtual_service(family.vip, port, protocol=protocol, scheduler="rr")


def test_a_mark_goes_before_all_else(lvs: Harness, family: Family, protocol: int) -> None:
    """Protocol, address and port of a service by mark are any; a mark without a service is none."""
    _add(lvs, _web(family, 80, protocol), family, EXACT, 80)
    _add(lvs, _mark(5, family), family, MARKED)
    assert _whose(_asks(lvs, family, 80, protocol=protocol), family) == EXACT
    assert _whose(_asks(lvs, family, 80, mark=6, protocol=protocol), family) == EXACT
    for port in (80, 81, 21, 20, 0, 65535):
        assert _whose(_asks(lvs, family, port, mark=5, protocol=protocol), family) == MARKED
    assert _whose(_asks(lvs, family, 443, mark=5, protocol=protocol, vip=family.nowhere), family) == MARKED
    assert _asks(lvs, family, 443, mark=6, protocol=protocol).reason == "up_no_service"


def test_a_mark_is_of_one_family(lvs: Harness) -> None:
    _add(lvs, _mark(5, IPV4), IPV4, 1)
    assert _whose(_asks(lvs, IPV4, 80, mark=5), IPV4) == 1
    assert _asks(lvs, IPV6, 80, mark=5).reason == "up_no_service"
    _add(lvs, _mark(5, IPV6), IPV6, 2)
    assert _whose(_asks(lvs, IPV6, 80, mark=5), IPV6) == 2
    assert _whose(_asks(lvs, IPV4, 80, mark=5), IPV4) == 1
    lvs.ipvsadm("-D -f 5")
    assert _asks(lvs, IPV4, 80, mark=5).reason == "up_no_service"
    assert _whose(_asks(lvs, IPV6, 80, mark=5), IPV6) == 2


@pytest.mark.parametrize("mark", [1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_every_mark(lvs: Harness, family: Family, mark: int) -> None:
    _add(lvs, _mark(mark, family), family, MARKED)
    assert _whose(_asks(lvs, family, 80, mark=mark), family) == MARKED
    assert _asks(lvs, family, 80, mark=mark ^ 2).reason == "up_no_service"
    assert [c.fwmark for c in lvs.director.connections()] == [mark]


def test_a_connection_by_mark_keeps_its_own_address_and_port(lvs: Harness, family: Family, protocol: int) -> None:
    """A real server's port 0 is the client's; another maps all ports to it (facts 2.3, step 8). Replies have the name
    that the client asked for, and later packets need no mark."""
    _add(lvs, _mark(5, family), family, MARKED)
    for sport, vip, port in ((1025, family.vip, 80), (1026, family.vip, 443), (1027, family.nowhere, 8080)):
        result = _asks(lvs, family, port, mark=5, protocol=protocol, vip=vip, sport=sport)
        assert result.packet.destination == (family.server, port)
        shown = lvs.entries()[family.client, sport].shown
        assert (shown.vaddr, shown.vport, shown.dport) == (vip, port, port)
        segment = tcp(port, sport, "SA") if protocol == TCP else udp(port, sport)
        reply = lvs.from_server(ip(family.server, family.client, protocol, segment))
        assert reply.packet.source == (vip, port)
        segment = tcp(sport, port, "A") if protocol == TCP else udp(sport, port)
        again = lvs.from_client(ip(family.client, vip, protocol, segment))
        assert again.packet.destination == (family.server, port)
    lvs.director.add_service(_mark(6, family))
    lvs.director.add_destination(_mark(6, family), real_server(family.servers[1], 8080, method=0))
    assert _asks(lvs, family, 443, mark=6, protocol=protocol).packet.destination == (family.servers[1], 8080)


def test_direct_routing_to_addresses_that_are_nobodys(lvs: Harness, family: Family) -> None:
    """A director without a VIP: whatever is marked and passes by."""
    lvs.director.add_service(_mark(5, family))
    lvs.director.add_destination(_mark(5, family), real_server(family.server))
    result = _asks(lvs, family, 443, mark=5, vip=family.nowhere)
    assert result.reason == "forwarded_route"
    assert result.packet.destination == (family.nowhere, 443)


def test_a_mark_without_a_real_server_is_refused(lvs: Harness, family: Family) -> None:
    lvs.director.add_service(_mark(5, family))
    result = _asks(lvs, family, 80, mark=5)
    assert (result.reason, result.answers) == ("dropped_no_destination", ("answered_icmp",))


# FTP's data: passive data connections come to the service's port 21, which without persistence does not take them.


@pytest.mark.parametrize("port, ours", [(20, True), (1024, True), (65535, True), (1023, False), (22, False)])
def test_ports_of_ftp_data(lvs: Harness, family: Family, port: int, ours: bool) -> None:
    _add(lvs, _web(family, 21), family, FTP, 21)
    assert _whose(_asks(lvs, family, 21), family) == FTP
    assert _asks(lvs, family, port).reason == ("up_ftp_data" if ours else "up_no_service")
    assert _asks(lvs, family, port, protocol=UDP).reason == "up_no_service"
    assert _asks(lvs, family, port, vip=family.vip[:-1] + "2").reason == "up_no_service"
    assert lvs.director.totals().conns == 1


def test_where_unprivileged_ports_begin(lvs: Harness, family: Family) -> None:
    """As the next command that changes something finds it."""
    _add(lvs, _web(family, 21), family, FTP, 21)
    path = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    with open(path) as file:
        before = file.read()
    try:
        with open(path, "w") as file:
            file.write("500")
        lvs.reopen()
        lvs.ipvsadm("-Z")
        assert _asks(lvs, family, 500).reason == "up_ftp_data"
        assert _asks(lvs, family, 499).reason == "up_no_service"
    finally:
        with open(path, "w") as file:
            file.write(before)


def test_an_exact_service_goes_before_ftp(lvs: Harness, family: Family) -> None:
    _add(lvs, _web(family, 21), family, FTP, 21)
    _add(lvs, _web(family, 2121), family, EXACT, 2121)
    assert _whose(_asks(lvs, family, 2121), family) == EXACT
    lvs.ipvsadm(f"-D -t {at(family.vip, 2121)}")
    assert _asks(lvs, family, 2121).reason == "up_ftp_data"
    lvs.ipvsadm(f"-D -t {at(family.vip, 21)}")
    assert _asks(lvs, family, 2121).reason == "up_no_service"


def test_ftp_goes_before_port_zero(lvs: Harness, family: Family) -> None:
    _add(lvs, _web(family, 21), family, FTP, 21)
    _add(lvs, _web(family, 0), family, ZERO)
    assert _asks(lvs, family, 2000).reason == "up_ftp_data"
    assert _asks(lvs, family, 80).reason == "dropped_no_destination"


def test_ftp_without_a_real_server_is_refused_on_port_21_alone(lvs: Harness, family: Family) -> None:
    lvs.director.add_service(_web(family, 21))
    assert _asks(lvs, family, 21).answers == ("answered_icmp",)
    assert _asks(lvs, family, 2000).reason == "up_ftp_data"


# Port zero.


def test_port_zero_without_persistence_is_refused(lvs: Harness, family: Family, protocol: int) -> None:
    """The kernel takes such a service and then sends each of its clients away; only a packet to port 0 itself fits."""
    _add(lvs, _web(family, 0, protocol), family, ZERO, 8080)
    _add(lvs, _web(family, 80, protocol), family, EXACT, 80)
    refused = _asks(lvs, family, 81, protocol=protocol)
    assert (refused.reason, refused.answers) == ("dropped_no_destination", ("answered_icmp",))
    assert _whose(_asks(lvs, family, 80, protocol=protocol), family) == EXACT
    assert _whose(_asks(lvs, family, 0, protocol=protocol), family) == ZERO
    other = UDP if protocol == TCP else TCP
    assert _asks(lvs, family, 81, protocol=other).reason == "up_no_service"
    lvs.director.delete_service(_web(family, 0, protocol))
    assert _asks(lvs, family, 81, protocol=protocol).reason == "up_no_service"


# The same two with persistence, which is what they are for.


def test_persistent_port_zero_takes_all_ports(lvs: Harness, family: Family, protocol: int) -> None:
    service = _web(family, 0, protocol)._replace(persistent=60)
    lvs.director.add_service(service)
    for place in (0, 1):
        lvs.director.add_destination(service, real_server(family.servers[place], 0, method=0))
    _add(lvs, _web(family, 80, protocol), family, 2, 80)
    answers = [_asks(lvs, family, port, protocol=protocol) for port in (21, 443, 65535, 443)]
    assert len({answer.packet.dst for answer in answers}) == 1
    assert [answer.packet.destination[1] for answer in answers] == [21, 443, 65535, 443]
    assert _whose(_asks(lvs, family, 80, protocol=protocol), family) == 2


def test_persistent_ftp_takes_its_data(lvs: Harness, family: Family) -> None:
    """From clients that have a template; and to whom others go is their scheduler's choice."""
    service = _web(family, 21)._replace(persistent=60)
    lvs.director.add_service(service)
    for place in (0, 1):
        lvs.director.add_destination(service, real_server(family.servers[place], 21, method=0))
    control = _asks(lvs, family, 21)
    data = _asks(lvs, family, 40000)
    assert data.packet.destination == (control.packet.dst, 40000)
    assert _asks(lvs, family, 1023).reason == "up_no_service"
    for server in (0, 1):
        lvs.director.edit_destination(service, real_server(family.servers[server], 21, method=0, weight=0))
    lvs.advance(100)
    lvs.advance(100)  # the template waits for its connections to be gone
    assert _asks(lvs, family, 21).reason == "dropped_no_destination"
    assert _asks(lvs, family, 40000).reason == "up_ftp_data"


def test_a_packet_that_is_nobodys_takes_nothing_from_the_one_before(lvs: Harness, family: Family) -> None:
    """The template goes on counting the connection that it has, and lives no longer than that."""
    service = _web(family, 80)._replace(persistent=60)
    _add(lvs, service, family, EXACT, 80)
    assert _asks(lvs, family, 80).forwarded
    for _ in range(3):
        assert _asks(lvs, family, 81).reason == "up_no_service"
    lvs.advance(100)
    lvs.advance(100)
    assert not lvs.entries()


# What packets are looked up as: config.families, which no change leaves wrong.


def _looked_up(lvs: Harness) -> int:
    return int(lvs.instance.config.get(0, "families"))


def test_what_there_are_services_of(lvs: Harness) -> None:
    six, ftp, mark, udp_ftp = _web(IPV6, 80), _web(IPV4, 21), _mark(1, IPV4), _web(IPV4, 21, 17)
    assert _looked_up(lvs) == 0
    lvs.director.add_service(six)
    assert _looked_up(lvs) == _layout.SERVES_IPV6
    lvs.director.add_service(ftp)
    lvs.director.add_service(udp_ftp)
    both = _layout.SERVES_IPV4 | _layout.SERVES_IPV6
    assert _looked_up(lvs) == both | _layout.SERVES_FTP
    lvs.director.add_service(mark)
    assert _looked_up(lvs) == both | _layout.SERVES_FTP | _layout.SERVES_MARKS | _layout.SERVES_PORT_ZERO
    lvs.director.delete_service(ftp)
    assert _looked_up(lvs) & _layout.SERVES_FTP, "a service on port 21 is left, as the kernel counts"
    lvs.director.delete_service(udp_ftp)
    assert not _looked_up(lvs) & _layout.SERVES_FTP
    lvs.director.delete_service(six)
    assert _looked_up(lvs) == _layout.SERVES_IPV4 | _layout.SERVES_MARKS | _layout.SERVES_PORT_ZERO
    lvs.director.flush()
    assert _looked_up(lvs) == 0
