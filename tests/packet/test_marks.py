"""The director's own marks: rules in order, of which the first that matches counts. Compared with a plain model."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pylvs.datapath import _layout, syscall
from pylvs.datapath.instance import Instance
from pylvs.datapath.maps import SharedArray
from pylvs.datapath.markrules import pack, unpack
from pylvs.errors import InvalidValue, TableFull
from pylvs.marks import mark_rule
from pylvs.model import MarkRule, real_server, virtual_service
from support.dying import by_director, dying_at, in_child
from support.harness import CLIENT, INDEX, SERVER, Harness, frame
from support.packets import TCP, UDP, ip, tcp, udp
from support.talk import IPV4, IPV6, Family

MARKS = (1, 2, 3)
WEB = mark_rule(1, destination="10.99.0.0/16", protocol="tcp", destination_ports="80,443")


def _services(lvs: Harness) -> None:
    """For each mark a service in both families, with a real server of its own."""
    for family in (IPV4, IPV6):
        for mark in MARKS:
            service = virtual_service(fwmark=mark, family=10 if family is IPV6 else 2, scheduler="rr")
            lvs.director.add_service(service)
            lvs.director.add_destination(service, real_server(family.servers[mark], 0, method=0))


def _mark_of(lvs: Harness, packet: bytes, family: Family, interface: str = CLIENT, mark: int = 0) -> int:
    """The mark by which a packet found its service; 0: none."""
    result = lvs.send(frame(packet, interface), interface, mark=mark)
    if result.reason == "up_no_service":
        return 0
    assert result.reason == "forwarded_nat_request", result
    return family.servers.index(result.packet.dst)


def _ask(lvs: Harness, family: Family = IPV4, port: int = 80, sport: int = 1025, mark: int = 0) -> int:
    return _mark_of(lvs, ip(family.client, family.vip, TCP, tcp(sport, port)), family, mark=mark)


# ---- what a rule matches ----

PORTS = (0, 1, 20, 79, 80, 81, 442, 443, 1023, 1024, 65534, 65535)
CLIENTS = {4: ("10.1.0.1", "10.1.0.2", "10.1.127.255", "10.1.128.0"), 6: ("fd00:1::1", "fd00:1::2", "fd00:1::8000:0")}
VIPS = {4: ("10.99.0.1", "10.99.0.2", "10.99.1.1", "192.0.2.9"), 6: ("fd00:99::1", "fd00:99::2", "2001:db8::9")}
NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}

versions = st.sampled_from([4, 6])
ranges = st.lists(st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)).map(sorted).map(tuple), max_size=3)


@st.composite
def networks(draw: st.DrawFn, version: int, addresses: dict[int, tuple[str, ...]]) -> str:
    address = draw(st.sampled_from(addresses[version]))
    most = 32 if version == 4 else 128
    bits = draw(st.one_of(st.integers(0, most), st.sampled_from([most, most - 1, most // 2])))
    return str(ip_network(f"{address}/{bits}", strict=False))


@st.composite
def rule_words(draw: st.DrawFn) -> dict[str, Any]:
    """The arguments of a rule, as a user might give them."""
    version = draw(versions)
    words: dict[str, Any] = {
        "mark": draw(st.sampled_from([0, *MARKS])),
        "destination": draw(st.one_of(st.just(""), networks(version, VIPS))),
        "source": draw(st.one_of(st.just(""), networks(version, CLIENTS))),
        "interface": draw(st.sampled_from(["", "", "d0", "d1"])),
        "protocol": draw(st.sampled_from(["", "tcp", "udp", "sctp"])),
        "family": "",
    }
    words["family"] = draw(st.sampled_from([0, 0, f"ipv{version}"]))
    named = words["protocol"] != ""
    words["destination_ports"] = draw(ranges) if named else []
    words["source_ports"] = draw(ranges) if named else []
    if not any((words["destination"], words["source"], words["interface"], words["protocol"], words["family"])):
        words["interface"] = "d0"
    return words


@st.composite
def packets(draw: st.DrawFn) -> tuple[int, int, str, str, int, int, str]:
    """(version, protocol, source, destination, source port, destination port, interface)."""
    version = draw(versions)
    return (
        version,
        draw(st.sampled_from([TCP, UDP])),
        draw(st.sampled_from(CLIENTS[version])),
        draw(st.sampled_from(VIPS[version])),
        draw(st.sampled_from([port for port in PORTS if port != 20])),  # which is never scheduled
        draw(st.sampled_from(PORTS)),
        draw(st.sampled_from([CLIENT, SERVER])),
    )


def matches(words: dict[str, Any], packet: tuple[int, int, str, str, int, int, str]) -> bool:
    """What the manual says, said again as plainly as can be."""
    version, protocol, src, dst, sport, dport, interface = packet

    def inside(address: str, network: str) -> bool:
        return not network or (ip_network(network).version == version and ip_address(address) in ip_network(network))

    def among(port: int, wanted: list[tuple[int, int]]) -> bool:
        return not wanted or any(low <= port <= high for low, high in wanted)

    return (
        inside(dst, words["destination"])
        and inside(src, words["source"])
        and words["interface"] in ("", interface)
        and (not words["protocol"] or NUMBERS[words["protocol"]] == protocol)
        and words["family"] in (0, f"ipv{version}")
        and among(dport, words["destination_ports"])
        and among(sport, words["source_ports"])
    )


def expected(rules: list[dict[str, Any]], packet: tuple[int, int, str, str, int, int, str], already: int) -> int:
    for words in rules:
        if matches(words, packet):
            return int(words["mark"])
    return already


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(rule_words(), max_size=5),
    st.lists(st.tuples(packets(), st.sampled_from([0, *MARKS])), min_size=1, max_size=8),
)
def test_rules_are_what_the_model_says(lvs: Harness, rules: list, asked: list) -> None:
    lvs.reset()
    _services(lvs)
    made = list(dict.fromkeys(mark_rule(**words) for words in rules))
    lvs.director.set_marks(made)
    assert lvs.director.marks() == made
    for packet, already in asked:
        version, protocol, src, dst, sport, dport, interface = packet
        family = IPV4 if version == 4 else IPV6
        segment = tcp(sport, dport) if protocol == TCP else udp(sport, dport)
        if any((c.caddr, c.cport, c.vaddr, c.vport, c.protocol) == (src, sport, dst, dport, protocol)
               for c in lvs.director.connections()):  # fmt: skip
            continue  # it goes with its connection
        found = _mark_of(lvs, ip(src, dst, protocol, segment), family, interface, mark=already)
        assert found == expected(rules, packet, already)


@settings(max_examples=300, deadline=None)
@given(rule_words())
def test_a_rule_comes_back_from_the_map(words: dict[str, Any]) -> None:
    rule = mark_rule(**words)
    assert unpack(pack(rule, {"d0": 100, "d1": 200})) == rule


def test_a_family_or_protocol_of_its_own(lvs: Harness) -> None:
    _services(lvs)
    lvs.director.add_mark(mark_rule(1, protocol="tcp", destination_ports="80", family="ipv6"))
    assert (_ask(lvs, IPV4), _ask(lvs, IPV6)) == (0, 1)
    lvs.director.add_mark(mark_rule(2, protocol="tcp", destination_ports="80"))
    assert (_ask(lvs, IPV4), _ask(lvs, IPV6, sport=1026)) == (2, 1)


# ---- order, and what counts beside the rules ----


def test_the_first_that_matches_counts(lvs: Harness) -> None:
    _services(lvs)
    lvs.director.add_mark(mark_rule(1, destination="10.99.0.0/16"))
    lvs.director.add_mark(mark_rule(2, destination="10.99.0.1"))
    assert _ask(lvs) == 1
    lvs.director.add_mark(mark_rule(3, destination="10.99.0.1", protocol="tcp"), place=1)
    assert _ask(lvs, sport=1026) == 3
    assert [rule.mark for rule in lvs.director.marks()] == [3, 1, 2]
    lvs.director.delete_mark(2)
    assert [rule.mark for rule in lvs.director.marks()] == [3, 2]


def test_mark_0_exempts(lvs: Harness) -> None:
    _services(lvs)
    lvs.director.add_mark(mark_rule(0, source="10.1.0.0/16", protocol="tcp", destination_ports="22"))
    lvs.director.add_mark(mark_rule(1, destination="10.99.0.1"))
    assert (_ask(lvs, port=22), _ask(lvs, port=22, mark=2, sport=1026), _ask(lvs, port=23)) == (0, 0, 1)


def test_a_mark_that_the_packet_has_counts_if_no_rule_matches(lvs: Harness) -> None:
    _services(lvs)
    lvs.director.add_mark(WEB)
    assert (_ask(lvs, port=80, mark=2), _ask(lvs, port=81, mark=2)) == (1, 2)


def test_a_connection_remembers_its_mark(lvs: Harness, family: Family) -> None:
    _services(lvs)
    lvs.director.add_mark(mark_rule(3, destination=family.vip))
    assert _ask(lvs, family) == 3
    assert [c.fwmark for c in lvs.director.connections()] == [3]


def test_open_connections_ask_no_rule(lvs: Harness) -> None:
    """Neither a new rule nor a removed one moves them."""
    _services(lvs)
    lvs.director.add_mark(WEB)
    assert _ask(lvs) == 1
    lvs.director.set_marks([mark_rule(2, destination="10.99.0.1")])
    assert (_ask(lvs), _ask(lvs, sport=1026)) == (1, 2)
    lvs.director.flush_marks()
    assert (_ask(lvs), _ask(lvs, sport=1026), _ask(lvs, sport=1027)) == (1, 2, 0)


def test_without_a_service_by_mark_no_rule_is_asked(lvs: Harness) -> None:
    """And a service by address is found as ever."""
    lvs.ipvsadm("-A -t 10.99.0.1:80 -s rr", "-a -t 10.99.0.1:80 -r 10.2.0.5 -m")
    lvs.director.add_mark(WEB)
    lvs.from_client(ip(IPV4.client, IPV4.vip, TCP, tcp(1025, 80)), mark=9)
    assert [c.fwmark for c in lvs.director.connections()] == [9]


def test_an_interface_that_goes_and_comes_back(lvs: Harness) -> None:
    """Rules know it by its name; the next command that changes something finds its number."""
    _services(lvs)
    lvs.director.add_mark(mark_rule(1, interface="d0"))
    place = _row(lvs.instance)
    assert lvs.instance.marks.get(place, "ifindex") == INDEX["d0"]
    lvs.instance.marks.put(place, "ifindex", 77)  # as it would be if d0 had had another number
    assert _ask(lvs) == 0
    lvs.reopen()
    lvs.ipvsadm("-Z")
    assert _ask(lvs) == 1


def _row(instance: Instance) -> int:
    return _layout.MARK_RULES if instance.config.get(0, "marks") & _layout.MARK_ROW else 0


# ---- changes ----


def test_as_many_as_there_is_room_for(lvs: Harness) -> None:
    """The last one counts like the first."""
    _services(lvs)
    rules = [mark_rule(2, destination=f"192.0.{n >> 8}.{n & 255}") for n in range(_layout.MARK_RULES - 1)]
    lvs.director.set_marks([*rules, WEB])
    assert _ask(lvs) == 1
    for change in (lambda d: d.add_mark(mark_rule(1, destination="10.0.0.1")),
                   lambda d: d.add_mark(mark_rule(1, destination="10.0.0.1"), place=1),
                   lambda d: d.set_marks([*rules, WEB, mark_rule(1, destination="10.0.0.1")])):  # fmt: skip
        with pytest.raises(TableFull, match="room for 1024 rules"):
            change(lvs.director)
    assert lvs.director.marks() == [*rules, WEB]


def test_refusals_change_nothing(lvs: Harness) -> None:
    director = lvs.director
    director.add_mark(WEB)
    other = mark_rule(1, destination="10.99.0.1")
    for number, change in (
        (17, lambda: director.add_mark(WEB)),
        (17, lambda: director.add_mark(WEB, place=1)),
        (17, lambda: director.set_marks([other, other])),
        (22, lambda: director.add_mark(other, place=0)),
        (22, lambda: director.add_mark(other, place=3)),
        (19, lambda: director.add_mark(mark_rule(1, interface="nonesuch"))),
        (19, lambda: director.set_marks([mark_rule(1, interface="nonesuch")])),
        (2, lambda: director.delete_mark(other)),
        (2, lambda: director.delete_mark(0)),
        (2, lambda: director.delete_mark(2)),
    ):
        with pytest.raises(InvalidValue) as caught:
            change()
        assert caught.value.errno == number
        assert director.marks() == [WEB]


OPERATIONS = {
    "append": lambda d: d.add_mark(mark_rule(3, destination="10.99.0.1")),
    "insert": lambda d: d.add_mark(mark_rule(3, destination="10.99.0.1"), place=1),
    "delete": lambda d: d.delete_mark(1),
    "flush": lambda d: d.flush_marks(),
    "set": lambda d: d.set_marks([mark_rule(2, destination="10.99.0.1"), WEB]),
}


STORES = ((SharedArray, "write"), (SharedArray, "put"))


@pytest.mark.parametrize("torn", [False, True], ids=["before", "within"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_every_store(lvs: Harness, name: str, torn: bool) -> None:
    """Packets and listings see the old rules or the new ones, and the next command works."""
    old = [WEB, mark_rule(2, destination="10.99.0.0/24")]
    died, new = 0, None
    while True:
        lvs.reset()
        _services(lvs)
        lvs.director.set_marks(old)
        lvs.instance.config.put(0, "marks_moved", 0)  # the child need not wait
        ended = in_child(dying_at(died + 1, STORES, by_director(OPERATIONS[name]), torn))
        if new is None:
            lvs.director.set_marks(old)
            OPERATIONS[name](lvs.director)
            new = lvs.director.marks()
            continue
        if ended == 0:
            break
        died += 1
        seen = lvs.director.marks()
        assert seen in (old, new)
        assert _ask(lvs) == expected_mark(seen)
        lvs.director.add_mark(mark_rule(1, destination="10.99.7.7"))
        assert lvs.director.marks() == [*seen, mark_rule(1, destination="10.99.7.7")]
    assert died >= 2


def expected_mark(rules: list[MarkRule]) -> int:
    """Of a packet to 10.99.0.1:80: all rules of these tests match it."""
    return rules[0].mark if rules else 0


def test_a_row_rests_before_it_is_written_again(lvs: Harness) -> None:
    """A packet may be going through it. Rules at the end need no other row, and no rest."""
    lvs.director.set_marks([WEB])
    before = lvs.instance.config.get(0, "marks_moved")
    row = _row(lvs.instance)
    lvs.director.add_mark(mark_rule(1, destination="10.99.0.9"))
    assert (_row(lvs.instance), lvs.instance.config.get(0, "marks_moved")) == (row, before)
    lvs.director.flush_marks()
    assert _row(lvs.instance) != row
    assert lvs.instance.config.get(0, "marks_moved") - before >= 50_000_000


def test_the_map_is_as_large_as_the_layout_says(lvs: Harness) -> None:
    assert lvs.instance.marks.entries == 2 * _layout.MARK_RULES
    assert syscall.map_size(lvs.instance.marks.fd)[1] == 144
