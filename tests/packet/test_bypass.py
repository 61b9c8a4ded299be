"""cache_bypass: what nobody of a service by mark takes goes on to where the client wanted to go (facts 6.9).

A transparent cache's clients still reach the web when the caches are gone. That connections and listings are the
kernel's was seen in an oracle guest of Linux 6.1: method Bypass, no real server, nobody's counters.
"""

from collections.abc import Iterator

import pytest

from pylvs.datapath import resize
from pylvs.model import BYPASS
from support.books import books
from support.harness import MACS, Harness, Result
from support.harness import ip as ip_command
from support.packets import RST, SCTP, TCP, UDP, dissect, icmp_error, ip, sctp, tcp, udp
from support.talk import IPV4, IPV6, Family

MARK = 5
NOWHERE = {4: "0.0.0.0", 6: "::"}


@pytest.fixture
def bypassing(lvs: Harness) -> Iterator[Harness]:
    lvs.set(cache_bypass=1)
    yield lvs
    books(lvs.instance)


def _serve(lvs: Harness, family: Family, options: str = "-s dh", servers: int = 0, weight: int = 1) -> str:
    service = f"-f {MARK}" + (" -6" if family is IPV6 else "")
    lvs.ipvsadm(f"-A {service} {options}")
    for server in family.servers[:servers]:
        lvs.ipvsadm(f"-a {service} -r {f'[{server}]:0' if family is IPV6 else server} -g -w {weight}")
    return service


def _origin(family: Family) -> str:
    """A server in the world: behind the router of the real servers, but none of them."""
    return family.server[:-1] + "77"


def _asks(lvs: Harness, family: Family, flags: str = "S", protocol: int = TCP, to: str = "", **more: int) -> Result:
    segment = {TCP: tcp(1025, 80, flags), UDP: udp(1025, 80), SCTP: sctp(1025, 80, "INIT")}[protocol]
    return lvs.from_client(ip(family.client, to or _origin(family), protocol, segment, **more), mark=MARK)


@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
def test_past_the_real_servers(bypassing: Harness, family: Family, protocol: int) -> None:
    _serve(bypassing, family)
    before = ip(family.client, _origin(family), protocol, b"")
    result = _asks(bypassing, family, protocol=protocol)
    assert result.reason == "forwarded_bypass"
    assert (result.packet.src, result.packet.dst) == (family.client, _origin(family))
    assert result.packet.ttl == dissect(before).ttl - 1
    connection = bypassing.connections()[family.client, 1025]
    assert (connection.vaddr, connection.vport) == (_origin(family), 80)
    assert (connection.daddr, connection.dport, connection.method) == (NOWHERE[family.version], 0, BYPASS)
    assert connection.fwmark == MARK
    totals = bypassing.director.totals()
    assert (totals.conns, totals.inpkts) == (0, 0), "what bypasses is nobody's"


def test_listings(bypassing: Harness, family: Family) -> None:
    """The rows of kernel IPVS, which prints SYN_RECV: it expects to see the origin's replies."""
    _serve(bypassing, family)
    _asks(bypassing, family)
    shown = bypassing.ipvsadm("-L -c -n").splitlines()[-1].split()
    nowhere = "[::]:0" if family is IPV6 else "0.0.0.0:0"
    assert (shown[0], shown[2], shown[-1]) == ("TCP", "SYN_RECV", nowhere)
    _asks(bypassing, family, "A")
    assert bypassing.connections()[family.client, 1025].state == "ESTABLISHED"


def test_later_packets_follow(bypassing: Harness, family: Family) -> None:
    """Whether there are real servers by then, or the switch is off, or the mark is gone."""
    service = _serve(bypassing, family)
    assert _asks(bypassing, family).reason == "forwarded_bypass"
    bypassing.set(cache_bypass=0)
    server = f"[{family.server}]:0" if family is IPV6 else family.server
    bypassing.ipvsadm(f"-a {service} -r {server} -g")
    hops = set()
    for flags in ("A", "A", "F"):
        packet = ip(family.client, _origin(family), TCP, tcp(1025, 80, flags))
        result = bypassing.from_client(packet)
        assert result.reason == "forwarded_bypass"
        hops.add(result.frame[:6])
    assert hops <= {MACS["r0"], MACS["d0"]}
    assert bypassing.entries()[family.client, 1025].shown.packets == 4
    packet = ip(family.client, _origin(family), TCP, tcp(1026, 80, "S"))
    assert bypassing.from_client(packet, mark=MARK).reason == "forwarded_route"


def test_replies_that_pass_are_seen(bypassing: Harness, family: Family) -> None:
    _serve(bypassing, family)
    _asks(bypassing, family)
    answer = ip(_origin(family), family.client, TCP, tcp(80, 1025, RST))
    assert bypassing.from_server(answer).reason == "up_reply_unchanged"
    assert bypassing.connections()[family.client, 1025].state == "CLOSE"


def test_only_when_nobody_takes_it(bypassing: Harness, family: Family) -> None:
    service = _serve(bypassing, family, servers=2)
    assert _asks(bypassing, family).reason == "forwarded_route"
    for server in family.servers[:2]:
        server = f"[{server}]:0" if family is IPV6 else server
        bypassing.ipvsadm(f"-e {service} -r {server} -g -w 0")
    packet = ip(family.client, _origin(family), TCP, tcp(1026, 80, "S"))
    assert bypassing.from_client(packet, mark=MARK).reason == "forwarded_bypass"


def test_persistent_and_one_packet_services(bypassing: Harness, family: Family) -> None:
    """No template comes of it; a datagram of -o leaves no connection."""
    service = _serve(bypassing, family, "-s rr -p 60")
    assert _asks(bypassing, family).reason == "forwarded_bypass"
    [connection] = bypassing.connections().values()
    assert not connection.template
    bypassing.ipvsadm(f"-E {service} -s rr -o")
    datagram = ip(family.client, _origin(family), UDP, udp(2000, 53))
    for _ in range(2):
        assert bypassing.from_client(datagram, mark=MARK).reason == "forwarded_bypass"
    assert len(bypassing.connections()) == 1


@pytest.mark.parametrize("off", [True, False])
def test_what_does_not_bypass(bypassing: Harness, family: Family, off: bool) -> None:
    """An address of the director's own; with the switch off, every address; a service that is not by mark."""
    _serve(bypassing, family)
    if off:
        bypassing.set(cache_bypass=0)
    to = [family.vip, family.near, family.nowhere] + ([_origin(family)] if off else [])
    if family is IPV4:
        to.append("10.0.2.255")
    for address in to:
        assert _asks(bypassing, family, to=address).reason == "dropped_no_destination", address
    at = f"[{_origin(family)}]:80" if family is IPV6 else f"{_origin(family)}:80"
    bypassing.ipvsadm(f"-A -t {at} -s rr")
    packet = ip(family.client, _origin(family), TCP, tcp(1025, 80, "S"))
    assert bypassing.from_client(packet).reason == "dropped_no_destination"
    assert not bypassing.connections()


def test_ttl(bypassing: Harness, family: Family) -> None:
    _serve(bypassing, family)
    assert _asks(bypassing, family, ttl=1).reason == "dropped_ttl_exceeded"
    assert _asks(bypassing, family, ttl=2).packet.ttl == 1


def test_length(bypassing: Harness, family: Family) -> None:
    _serve(bypassing, family)
    _asks(bypassing, family)
    ip_command("link set d1 mtu 1400")
    try:
        for size, reason in ((1400, "forwarded_bypass"), (1401, "dropped_too_big")):
            segment = tcp(1025, 80, "A", payload=bytes(size - family.head - 20))
            packet = ip(family.client, _origin(family), TCP, segment, df=family is IPV4)
            assert bypassing.from_client(packet).reason == reason
    finally:
        ip_command("link set d1 mtu 1500")


@pytest.mark.parametrize("options", ["-s rr", "-s rr -o"], ids=["connection", "one packet"])
def test_fragments(bypassing: Harness, options: str) -> None:
    """They go the way of their first one, and count for nobody either."""
    _serve(bypassing, IPV4, options)
    whole = ip(IPV4.client, _origin(IPV4), UDP, udp(1025, 80, bytes(1000)))
    pieces = [whole[20:520], whole[520:]]  # the checksum in the first one is over all
    for at, piece in ((0, pieces[0][:496]), (496, pieces[0][496:] + pieces[1])):
        one = ip(IPV4.client, _origin(IPV4), UDP, piece, fragment=at, more=not at, check=False)
        result = bypassing.from_client(one, mark=MARK)
        assert result.reason == "forwarded_bypass", at
        assert (result.packet.dst, result.packet.ttl) == (_origin(IPV4), 63)
    assert bypassing.director.totals().inpkts == 0


def test_errors_about_replies(bypassing: Harness, family: Family) -> None:
    """What the client says about the origin's packets goes to the origin; what nobody asked for makes no connection."""
    bypassing.set(schedule_icmp=1)
    _serve(bypassing, family)
    reply = ip(_origin(family), family.client, UDP, udp(80, 1025))
    kind = (3, 3) if family is IPV4 else (1, 4)
    error = icmp_error(family.client, _origin(family), kind, reply)
    assert bypassing.from_client(error, mark=MARK).reason == "dropped_no_destination"
    assert _asks(bypassing, family, protocol=UDP).reason == "forwarded_bypass"
    result = bypassing.from_client(error, mark=MARK)
    assert result.reason == "forwarded_related"
    assert result.packet.dst == _origin(family)
    assert result.packet.quoted == dissect(error).quoted
    assert bypassing.entries()[family.client, 1025].shown.packets == 2


def test_moves_with_the_table_and_ends(movable: Harness) -> None:
    movable.set(cache_bypass=1)
    _serve(movable, IPV4)
    _asks(movable, IPV4)
    with movable.instance.locked():
        resize.resize(movable.instance, 13)
    movable.reopen()  # the harness holds on to the program that it opened
    assert _asks(movable, IPV4, "A").reason == "forwarded_bypass"
    assert books(movable.instance) == (1, 1)
    movable.advance(15 * 60 + 1)
    assert books(movable.instance) == (0, 0)
