"""LVS-TUN: a request travels to the real server in another packet, whose header is made from its own (facts 6.7, 6.8).

The recordings of kernel IPVS (tests/golden/wire/tun) are compared to the letter; here is what they do not have: every
type with every mixture of families, checksum and type of service, and what changes while connections are there.
"""

import errno
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pylvs import Director
from pylvs.datapath import _layout
from pylvs.errors import InvalidValue
from pylvs.model import TUN_GUE, TUNNEL, real_server, virtual_service
from support.harness import INDEX, MACS, Harness, Result, ip
from support.packets import DESTINATION, TCP, UDP, dissect, tcp_packet, wrong_sums
from support.talk import FAMILIES, IPV4, IPV6, Family, Talk, at
from support.tunnels import Tunnelled, pending, unwrap, wrong_tunnel_sums

GUE = "--tun-type gue --tun-port 6080"
KINDS = {
    "ipip": "", "gre": "--tun-type gre", "gre-csum": "--tun-type gre --tun-csum", "gue": GUE,
    "gue-csum": f"{GUE} --tun-csum", "gue-remcsum": f"{GUE} --tun-remcsum",
}  # fmt: skip
CHECKSUM_COMPLETE = 1 << 2  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE
EXTRA = {"ipip": 0, "gre": 4, "gre-csum": 8, "gue": 12, "gue-csum": 12, "gue-remcsum": 12}
CASES = [
    pytest.param(inner, outer, kind, id=f"{inner.version}in{outer.version}-{kind}")
    for inner, outer, kind in itertools.product(FAMILIES, FAMILIES, KINDS)
]


def _tunnel(lvs: Harness, inner: Family, outer: Family, kind: str, protocol: int = TCP) -> Talk:
    talk = Talk(lvs, inner, protocol, rport=80)
    lvs.ipvsadm(f"-A {talk.key} -s rr", f"-a {talk.key} -r {at(outer.server, 80)} -i {KINDS[kind]}")
    return talk


def _through(result: Result) -> Tunnelled:
    assert result.reason == "forwarded_tunnel", result
    assert not wrong_tunnel_sums(result.frame[14:])
    return unwrap(result.frame[14:])


@pytest.mark.parametrize(("inner", "outer", "kind"), CASES)
def test_headers(lvs: Harness, inner: Family, outer: Family, kind: str, protocol: int) -> None:
    talk = _tunnel(lvs, inner, outer, kind, protocol)
    question = talk.question("S", b"some payload", ttl=33, tos=0x10)
    lvs.from_client(question)  # the way is remembered: the next one does not ask for it
    result = lvs.from_client(question)
    tunnelled, before = _through(result), dissect(question)
    assert result.frame[12:14] == (b"\x08\x00" if outer is IPV4 else b"\x86\xdd")
    assert (tunnelled.outer.src, tunnelled.outer.dst) == (outer.far, outer.server)
    assert (tunnelled.outer.ttl, tunnelled.outer.tos) == (32, 0x10)
    assert tunnelled.kind == kind.partition("-")[0]
    assert tunnelled.summed == kind.endswith("csum")
    assert tunnelled.overhead == outer.head + EXTRA[kind]
    if outer is IPV6:
        assert tunnelled.outer.raw[1] & 15 == 0 and tunnelled.outer.raw[2:4] == bytes(2)  # flow label
    if tunnelled.kind == "gue":
        assert tunnelled.ports[1] == 6080
        assert 32768 <= tunnelled.ports[0] <= 60999
    after = dissect(tunnelled.inner)
    assert (after.ttl, after.segment) == (32, before.segment)
    free = (8, 10, 11) if inner is IPV4 else (7,)  # TTL and header checksum
    assert [n for n in range(inner.head) if after.raw[n] != before.raw[n] and n not in free] == []


@pytest.mark.parametrize("outer", FAMILIES, ids=["ipv4", "ipv6"])
def test_type_of_service(lvs: Harness, family: Family, outer: Family) -> None:
    """It is copied, but "congestion experienced" becomes "able to say so": that is the inner packet's to say."""
    talk = _tunnel(lvs, family, outer, "gre")
    for tos in (0, 1, 2, 3, 0xB8, 0xBB, 0xFF):
        tunnelled = _through(talk.asks("S", tos=tos))
        assert tunnelled.outer.tos == (tos & ~3 | 2 if tos & 3 == 3 else tos)
        assert dissect(tunnelled.inner).tos == tos


def test_dont_fragment(lvs: Harness) -> None:
    """It is the inner packet's, unless pmtu_disc is off; of IPv6 none. What may be fragmented has an identification."""
    talk, talk6 = _tunnel(lvs, IPV4, IPV4, "ipip"), _tunnel(lvs, IPV6, IPV4, "ipip")
    for pmtu_disc in (1, 0):
        lvs.set(pmtu_disc=pmtu_disc)
        outer = _through(talk.asks("S", df=True)).outer
        assert outer.df == bool(pmtu_disc)
        assert (outer.ident == 0) == outer.df
        assert not _through(talk6.asks("S")).outer.df
        idents = {_through(talk.asks("A", df=False)).outer.ident for _ in range(20)}
        assert len(idents) == 20


def test_gue_ports_tell_flows_apart(lvs: Harness) -> None:
    """Each flow keeps its own, within the director's range of local ports."""
    talk = _tunnel(lvs, IPV4, IPV4, "gue", UDP)
    ports = {}
    for sport in range(1025, 1125):
        one = talk.from_port(sport)
        ports[sport] = _through(one.asks()).ports[0]
        assert _through(one.asks(payload=b"more")).ports[0] == ports[sport]
    assert len(set(ports.values())) > 90


@pytest.fixture
def few_ports(lvs: Harness) -> Iterator[Harness]:
    place = "/proc/sys/net/ipv4/ip_local_port_range"
    with open(place, encoding="ascii") as file:
        before = file.read()
    with open(place, "w", encoding="ascii") as file:
        file.write("20000 20009")
    lvs.reopen()
    yield lvs
    with open(place, "w", encoding="ascii") as file:
        file.write(before)


def test_gue_ports_follow_the_directors_range(few_ports: Harness) -> None:
    talk = _tunnel(few_ports, IPV4, IPV6, "gue-csum", UDP)
    ports = {_through(talk.from_port(sport).asks()).ports[0] for sport in range(1025, 1125)}
    assert ports <= set(range(20000, 20010)) and len(ports) > 5


@pytest.mark.parametrize("kind", ["gue-csum", "gre-csum"])
@pytest.mark.parametrize("outer", FAMILIES, ids=["ipv4", "ipv6"])
def test_a_checksum_that_the_device_will_finish(
    lvs: Harness, family: Family, outer: Family, kind: str, protocol: int
) -> None:
    """The tunnel's own sum is right once the inner one is finished."""
    talk = _tunnel(lvs, family, outer, kind, protocol)
    talk.asks("S")
    for size in (0, 1, 600, 1201):
        whole = talk.question("A", bytes(range(256)) * 5, ttl=65) if size == 1201 else talk.question("A", bytes(size))
        packet = bytearray(lvs.from_client(pending(whole)).frame[14:])
        inner = unwrap(bytes(packet)).inner
        at_ = len(packet) - len(inner) + family.head + (16 if protocol == TCP else 6)
        packet[at_ : at_ + 2] = whole[family.head + (16 if protocol == TCP else 6) :][:2]
        assert not wrong_tunnel_sums(bytes(packet))


@pytest.fixture
def complete(lvs: Harness) -> int:
    """What makes the kernel say the sum of the whole packet, as network cards do, and see in the end whether it is
    still right: else EBADMSG."""
    try:
        lvs.from_client(Talk(lvs, IPV4).question("S"), flags=CHECKSUM_COMPLETE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("before Linux 6.17 the kernel cannot be asked for this")
    return CHECKSUM_COMPLETE


@pytest.mark.parametrize(("inner", "outer", "kind"), CASES)
def test_the_sum_that_the_network_card_has_said(
    lvs: Harness, complete: int, inner: Family, outer: Family, kind: str, protocol: int
) -> None:
    talk = _tunnel(lvs, inner, outer, kind, protocol)
    for size in (0, 33, 600):
        _through(lvs.from_client(talk.question("S", bytes(range(size % 256)) * 2), flags=complete))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.sampled_from(list(itertools.product(FAMILIES, FAMILIES, KINDS))),
    protocol=st.sampled_from([TCP, UDP]),
    payload=st.binary(max_size=1300),
    ttl=st.integers(2, 255),
    tos=st.integers(0, 255),
    df=st.booleans(),
    sport=st.integers(1, 65535).filter(lambda port: port != 20),
    words=st.integers(0, 10),
)
def test_sums_are_right(
    lvs: Harness, case: tuple[Family, Family, str], protocol: int, payload: bytes, ttl: int, tos: int, df: bool,
    sport: int, words: int,
) -> None:  # fmt: skip
    """Whatever the client sends, if its checksums are right so are all that leave; and the packet inside is its own."""
    inner, outer, kind = case
    lvs.reset()
    talk = _tunnel(lvs, inner, outer, kind, protocol).from_port(sport)
    more = {"options": bytes([1]) * 4 * words} if inner is IPV4 else {"extensions": [(DESTINATION, bytes(6))] * words}
    if inner is IPV6 and words > 7:
        more = {}
    question = talk.question("S", payload, ttl=ttl, tos=tos, df=df, **more)
    for _ in range(2):  # the second one's way is remembered
        tunnelled = _through(lvs.from_client(question))
        after, before = dissect(tunnelled.inner), dissect(question)
        assert (after.segment, after.ttl) == (before.segment, ttl - 1)
        assert after.raw[inner.head : after.head] == before.raw[inner.head : before.head]


# ---- what the checks of facts 6.8 say


def test_ttl(lvs: Harness, family: Family) -> None:
    talk = _tunnel(lvs, family, IPV4, "ipip")
    result = talk.asks("S", ttl=1)
    assert (result.reason, result.answers) == ("dropped_ttl_exceeded", ("answered_icmp",))
    assert _through(talk.asks("S", ttl=2)).outer.ttl == 1


@pytest.mark.parametrize(("inner", "outer", "kind"), CASES)
def test_too_big(lvs: Harness, inner: Family, outer: Family, kind: str) -> None:
    """The client is told what fits inside."""
    talk = _tunnel(lvs, inner, outer, kind)
    talk.asks("S")
    room = 1500 - outer.head - EXTRA[kind]
    payload = bytes(room - inner.head - 20)
    assert len(_through(talk.asks("A", payload, df=True)).outer.raw) == 1500
    result = talk.asks("A", payload + b"x", df=True)
    assert (result.reason, result.answers) == ("dropped_too_big", ("answered_icmp",))
    assert result.packet.icmp == (3, 4, room) if inner is IPV4 else (2, 0, room)
    assert dissect(bytes(result.packet.quoted) + bytes(2000)).ttl == 63
    merged = lvs.from_client(talk.question("A", payload * 2, df=True), gso_size=len(payload) + 1, gso_segs=2)
    assert merged.reason == "dropped_too_big"


def test_what_the_route_says(lvs: Harness) -> None:
    """A path that is narrower than its interface."""
    talk = _tunnel(lvs, IPV4, IPV4, "ipip")
    ip("route replace 10.2.0.0/16 via 10.0.2.2 mtu lock 1300")
    try:
        result = talk.asks("S", bytes(1300 - 20 - 40 + 1), df=True)
        assert result.packet.icmp == (3, 4, 1280)
        assert _through(talk.asks("S", bytes(1300 - 20 - 40), df=True)).outer.df
    finally:
        ip("route replace 10.2.0.0/16 via 10.0.2.2")


def test_too_narrow_for_any_packet(lvs: Harness) -> None:
    """Silence, as from kernel IPVS: less than 1280 in a tunnel of IPv6, less than 68 in one of IPv4."""
    talk, wide = _tunnel(lvs, IPV4, IPV6, "ipip"), Talk(lvs, IPV4, port=81, rport=80)
    lvs.ipvsadm(f"-A {wide.key} -s rr", f"-a {wide.key} -r 10.2.0.1:80 -i")
    ip("route replace fd00:2::/64 via fd00:a2::2 mtu lock 1300\nroute replace 10.2.0.0/16 via 10.0.2.2 mtu lock 80")
    try:
        for narrow in (talk, wide):
            result = narrow.asks("S")
            assert (result.reason, result.answers) == ("dropped_tunnel_too_narrow", ())
    finally:
        ip("route replace fd00:2::/64 via fd00:a2::2\nroute replace 10.2.0.0/16 via 10.0.2.2")


@pytest.mark.parametrize("outer", FAMILIES, ids=["ipv4", "ipv6"])
def test_no_route(lvs: Harness, family: Family, outer: Family) -> None:
    talk = Talk(lvs, family, rport=80)
    lvs.ipvsadm(f"-A {talk.key} -s rr", f"-a {talk.key} -r {at(outer.nowhere, 80)} -i")
    result = talk.asks("S")
    assert (result.reason, result.answers) == ("dropped_no_route", ("answered_icmp",))


# ---- the way


@pytest.mark.parametrize("outer", FAMILIES, ids=["ipv4", "ipv6"])
def test_next_hop(lvs: Harness, outer: Family) -> None:
    talk = _tunnel(lvs, IPV4, outer, "ipip")
    for _ in range(3):
        assert talk.asks("S").frame[:12] == MACS["r0"] + MACS["d1"]


@pytest.mark.parametrize("outer", FAMILIES, ids=["ipv4", "ipv6"])
def test_where_it_begins_is_what_routing_prefers(lvs: Harness, outer: Family) -> None:
    """The route's own source address; and with the next packet, another one."""
    own, way = (
        ("10.0.2.9", "10.2.0.0/16 via 10.0.2.2") if outer is IPV4 else ("fd00:a2::9", "fd00:2::/64 via fd00:a2::2")
    )
    talk = _tunnel(lvs, IPV4, outer, "gue-csum")
    assert _through(talk.asks("S")).outer.src == outer.far
    bits, more = (32, "") if outer is IPV4 else (128, "nodad")
    ip(f"addr add {own}/{bits} dev d1 {more}\nroute replace {way} src {own}")
    try:
        assert _through(talk.asks("S")).outer.src == own
    finally:
        ip(f"route replace {way}\naddr del {own}/{32 if outer is IPV4 else 128} dev d1")
    assert _through(talk.asks("S")).outer.src == outer.far


def test_what_old_kernels_go_by(lvs: Harness) -> None:
    """Learned with the real server: the interface and the address; and of every interface the first address."""
    for outer in FAMILIES:
        _tunnel(lvs, outer, outer, "ipip")
        number = lvs.number_of(virtual_service(outer.vip, 80), outer.server, 80)
        source, ifindex = (lvs.instance.dests.get(number, name) for name in ("source", "source_ifindex"))
        assert (source[: 4 if outer is IPV4 else 16], ifindex) == (
            dissect(tcp_packet(outer.far, 1, outer.server, 2)).raw[12:16]
            if outer is IPV4
            else dissect(tcp_packet(outer.far, 1, outer.server, 2)).raw[8:24],
            INDEX["d1"],
        )


# ---- real servers


def test_an_edit_counts_for_connections_that_there_are(lvs: Harness) -> None:
    """Type, port and checksum are read as each packet is sent (facts 1.8)."""
    talk = _tunnel(lvs, IPV4, IPV4, "ipip")
    assert _through(talk.asks("S")).kind == "ipip"
    for kind in ("gue-csum", "gre", "ipip"):
        lvs.ipvsadm(f"-e {talk.key} -r 10.2.0.1:80 -i {KINDS[kind]}")
        tunnelled = _through(talk.asks("A"))
        assert (tunnelled.kind, tunnelled.summed) == (kind.partition("-")[0], kind.endswith("csum"))
    assert lvs.director.totals().conns == 1


def test_a_connection_keeps_its_method(lvs: Harness) -> None:
    talk = _tunnel(lvs, IPV4, IPV4, "ipip")
    talk.asks("S")
    lvs.ipvsadm(f"-e {talk.key} -r 10.2.0.1:80 -g")
    assert talk.asks("A").reason == "forwarded_tunnel"
    assert talk.from_port(1026).asks("S").reason == "forwarded_route"


def test_a_killed_edit_is_undone(lvs: Harness) -> None:
    """What the pool says is the truth."""
    talk = _tunnel(lvs, IPV4, IPV4, "gue")
    service = virtual_service(IPV4.vip, 80)
    number = lvs.number_of(service, "10.2.0.1", 80)
    right = lvs.instance.dests.get(number, "tunnel")
    lvs.configure(changing=1)
    lvs.instance.dests.put(number, "tunnel", _layout.TUNNEL_GRE)
    lvs.ipvsadm("-A -t 10.99.0.1:99 -s rr")
    assert lvs.instance.dests.get(number, "tunnel") == right
    assert _through(talk.asks("S")).kind == "gue"


def test_one_packet_scheduling(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4, UDP, rport=80)
    lvs.ipvsadm(f"-A {talk.key} -s rr -o", f"-a {talk.key} -r [fd00:2::1]:80 -i {KINDS['gue-csum']}")
    for _ in range(3):
        assert _through(talk.asks()).outer.dst == "fd00:2::1"
    assert talk.entry is None


def test_replies_that_pass(lvs: Harness, family: Family) -> None:
    """They come from the VIP, are counted, and go on as they are."""
    talk = _tunnel(lvs, family, IPV4, "ipip")
    talk.asks("S")
    reply = tcp_packet(family.vip, 80, family.client, talk.sport, "SA")
    assert lvs.from_server(reply).reason == "up_reply_unchanged"
    assert lvs.director.totals().outpkts == 1


def test_mixed_families_in_listings(lvs: Harness) -> None:
    """A connection has the service's family, and its real server its own."""
    talk, talk6 = _tunnel(lvs, IPV4, IPV6, "gue"), _tunnel(lvs, IPV6, IPV4, "gre-csum")
    talk.asks("S")
    talk6.asks("S")
    listed = lvs.ipvsadm("-Ln --tun-info")
    assert "[fd00:2::1]:80" in listed and "gue:6080:-c" in listed and "gre:+c" in listed
    assert talk.entry.shown.daddr == "fd00:2::1"
    assert talk6.entry.shown.daddr == "10.2.0.1"
    rows = [line.split() for line in lvs.ipvsadm("-Lnc").splitlines()[2:]]
    assert sorted(row[-1] for row in rows) == ["10.2.0.1:80", "[fd00:2::1]:80"]
    saved = lvs.ipvsadm("-Sn")
    lvs.director.flush()
    lvs.restore(saved)
    assert lvs.ipvsadm("-Sn") == saved


def test_only_tunnels_join_families(lvs: Harness) -> None:
    service = virtual_service(IPV4.vip, 80)
    with Director() as director:
        director.add_service(service)
        with pytest.raises(InvalidValue, match="only a tunnel"):
            director.add_destination(service, real_server("fd00:2::1", 80))
        server = real_server("fd00:2::1", 80, method=TUNNEL, tun_type=TUN_GUE, tun_port=6080)
        director.add_destination(service, server)
        assert lvs.service("10.99.0.1:80").destinations[0].server == server
    with pytest.raises(InvalidValue, match="port"):
        real_server("10.2.0.1", 80, method=TUNNEL, tun_type=TUN_GUE)


def test_the_director_as_real_server(lvs: Harness, family: Family) -> None:
    """Its own stack gets the packet as it came, in no tunnel."""
    talk = Talk(lvs, family, rport=80)
    lvs.ipvsadm(f"-A {talk.key} -s rr", f"-a {talk.key} -r 10.0.2.1:80 -i")
    assert talk.asks("S", ttl=1).reason == "up_local_real_server"


def test_what_came_wrong_may_leave_so(lvs: Harness) -> None:
    """A wrong inner checksum is the real server's to notice; the tunnel's own is right."""
    talk = _tunnel(lvs, IPV4, IPV4, "gue-csum")
    question = bytearray(talk.question("S", b"data"))
    question[36] ^= 0x55
    assert wrong_sums(bytes(question)) == ["TCP"]
    assert wrong_tunnel_sums(lvs.from_client(bytes(question)).frame[14:]) == ["inner TCP"]
