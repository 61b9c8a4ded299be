"""The detour: packets that netfilter has marked are routed to the packet path. Here: what is set up and undone, killed
in the middle or not, and that a hop is counted once. tests/e2e/test_marks.py has the packets."""

import subprocess
from collections.abc import Iterator

import pytest

from pylvs.datapath import detour, netlink
from pylvs.errors import InvalidValue, NotSupported
from pylvs.marks import mark_route
from pylvs.model import MarkRoute
from support.dying import by_director, dying_at, in_child
from support.harness import INDEX, Harness, ip
from support.packets import dissect, wrong_sums
from support.talk import IPV4, IPV6, Family, Talk

ONE, SIX = mark_route(1), mark_route(0x10, 0xF0, "ipv6")
PLAIN = ["0: from all lookup local", "32766: from all lookup main", "32767: from all lookup default"]


def rules(six: bool = False) -> list[str]:
    """The routing rules as ip(8) tells them."""
    words = ["ip", *(["-6"] if six else []), "rule"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return [" ".join(line.split()) for line in lines]


def _links() -> set[str]:
    return {interface.name for interface in netlink.interfaces()}


@pytest.fixture
def lvs(own_network: Harness) -> Iterator[Harness]:
    """A director without a detour, and none is left behind."""
    own_network.enter()
    try:
        own_network.reset()
        yield own_network
    finally:
        detour.clear()
        own_network.leave()


# ---- setting up, taking down ----


def test_what_is_set_up(lvs: Harness) -> None:
    lvs.director.add_mark_route(ONE)
    assert rules() == [
        "0: from all iif pylvs1 goto 2 proto 197",
        "1: from all fwmark 0x1 lookup 50432 proto 197",
        "2: from all lookup local proto 197",
        *PLAIN[1:],
    ]
    assert rules(six=True) == PLAIN[:2], "the other family is left alone"
    assert {"pylvs0", "pylvs1"} <= _links()
    inner = next(i.ifindex for i in netlink.interfaces() if i.name == "pylvs1")
    assert lvs.instance.config.get(0, "mark_device") == inner
    assert inner in lvs.instance.attached()
    assert lvs.director.mark_routes() == [ONE]


def test_twice_is_once(lvs: Harness) -> None:
    lvs.director.add_mark_route(ONE)
    before = rules(), _links()
    lvs.director.add_mark_route(ONE)
    assert (rules(), _links()) == before


def test_several_and_both_families(lvs: Harness) -> None:
    routes = [ONE, mark_route(2), mark_route(2, 0x3), SIX]
    for route in routes:
        lvs.director.add_mark_route(route)
    assert lvs.director.mark_routes() == sorted(routes, key=lambda route: (route.family, route.mark, route.mask))
    lvs.director.delete_mark_route(mark_route(2))
    assert sum("fwmark" in rule for rule in rules()) == 2
    assert any("fwmark 0x2/0x3" in rule for rule in rules())
    lvs.director.delete_mark_route(SIX)
    assert rules(six=True) == PLAIN[:2]
    assert {"pylvs0", "pylvs1"} <= _links(), "the others need them"
    lvs.director.delete_mark_route(ONE)
    lvs.director.delete_mark_route(mark_route(2, 0x3))
    assert rules() == PLAIN
    assert not {"pylvs0", "pylvs1"} & _links()
    assert lvs.instance.config.get(0, "mark_device") == 0


def test_unload_takes_it_away(lvs: Harness) -> None:
    for route in (ONE, SIX):
        lvs.director.add_mark_route(route)
    lvs.reload()
    assert (rules(), rules(six=True)) == (PLAIN, PLAIN[:2])
    assert not {"pylvs0", "pylvs1"} & _links()


def test_a_local_rule_that_stands_elsewhere_stays_there(lvs: Harness) -> None:
    ip("rule add pref 50 lookup local\nrule del pref 0 lookup local\n")
    try:
        lvs.director.add_mark_route(ONE)
        assert "2: from all nop proto 197" in rules() and "50: from all lookup local" in rules()
        lvs.director.delete_mark_route(ONE)
        assert rules() == ["50: from all lookup local", *PLAIN[1:]]
    finally:
        ip("rule add pref 0 lookup local\nrule del pref 50 lookup local\n")


def test_rules_of_others_stay(lvs: Harness) -> None:
    ip("rule add pref 0 from 10.7.7.7 lookup local\nrule add pref 1 fwmark 5 lookup main\n")
    try:
        before = rules()
        lvs.director.add_mark_route(ONE)
        assert "0: from 10.7.7.7 lookup local" in rules()
        lvs.director.delete_mark_route(ONE)
        assert sorted(rules()) == sorted(before)
    finally:
        ip("rule del pref 0 from 10.7.7.7 lookup local\nrule del pref 1 fwmark 5 lookup main\n")


# ---- refusals ----


def test_without_forwarding(lvs: Harness) -> None:
    path = "/proc/sys/net/ipv4/ip_forward"
    try:
        with open(path, "w") as file:
            file.write("0")
        with pytest.raises(InvalidValue, match="sysctl -w net"):
            lvs.director.add_mark_route(ONE)
        assert rules() == PLAIN and "pylvs0" not in _links()
    finally:
        with open(path, "w") as file:
            file.write("1")


def test_an_interface_of_that_name_that_is_not_ours(lvs: Harness) -> None:
    ip("link add pylvs0 type bridge\n")
    try:
        with pytest.raises(NotSupported, match="pylvs0 that is not ours"):
            lvs.director.add_mark_route(ONE)
        assert rules() == PLAIN
        detour.clear()
        assert "pylvs0" in _links()
    finally:
        ip("link del pylvs0\n")


@pytest.mark.parametrize("route", [mark_route(2), mark_route(1, 0x1), mark_route(1, family="ipv6")])
def test_what_is_not_routed_cannot_be_taken_away(lvs: Harness, route: MarkRoute) -> None:
    lvs.director.add_mark_route(ONE)
    before = rules()
    with pytest.raises(InvalidValue) as caught:
        lvs.director.delete_mark_route(route)
    assert caught.value.errno == 2
    assert rules() == before


@pytest.mark.parametrize(
    "arguments", [(0,), (-1,), (1 << 32,), (1, 0), (1, 1 << 32), (5, 2), (1, 1, "ipx"), (1, 1, 7)]
)  # fmt: skip
def test_routes_that_cannot_be(arguments: tuple) -> None:
    with pytest.raises(InvalidValue):
        mark_route(*arguments)


# ---- killed ----


STEPS = ((netlink, "change"), (detour, "_setting"))


WORK = {"add": lambda d: d.add_mark_route(ONE), "delete": lambda d: d.delete_mark_route(ONE)}


@pytest.mark.parametrize("then", WORK)
@pytest.mark.parametrize("name", WORK)
def test_killed_at_every_step(lvs: Harness, name: str, then: str) -> None:
    """The director's own addresses are found at every moment, and whatever comes next succeeds."""
    died = 0
    while True:
        detour.clear()
        if name == "delete":
            lvs.director.add_mark_route(ONE)
        if in_child(dying_at(died + 1, STEPS, by_director(WORK[name]))) == 0:
            break
        died += 1
        assert any(rule.startswith(("0: from all lookup local", "2: from all lookup local")) for rule in rules())
        guarded = any("iif pylvs1 goto" in rule for rule in rules())
        routed = any("fwmark" in rule for rule in rules())
        assert guarded or not routed, "or a packet that is handed up would go round"
        assert lvs.director.mark_routes() == ([ONE] if routed else [])
        if then == "add" or routed:
            WORK[then](lvs.director)
        else:
            lvs.director.add_mark_route(ONE)
            WORK[then](lvs.director)
        assert lvs.director.mark_routes() == ([ONE] if then == "add" else [])
        if then == "add":
            lvs.director.delete_mark_route(ONE)
        assert rules() == PLAIN and "pylvs0" not in _links()
    assert died >= 4


@pytest.mark.parametrize("name", WORK)
def test_unload_after_a_kill_at_every_step(lvs: Harness, name: str) -> None:
    died = 0
    while True:
        detour.clear()
        if name == "delete":
            lvs.director.add_mark_route(ONE)
        if in_child(dying_at(died + 1, STEPS, by_director(WORK[name]))) == 0:
            break
        died += 1
        detour.clear()  # as unload does
        assert rules() == PLAIN and "pylvs0" not in _links()
    assert died >= 4


# ---- hops ----


def _by_detour(lvs: Harness) -> None:
    lvs.configure(mark_device=INDEX["d0"])


@pytest.mark.parametrize("method", ["-m", "-g"])
def test_a_hop_is_counted_once(lvs: Harness, family: Family, protocol: int, method: str) -> None:
    """It was the stack's when it routed the packet to us."""
    talk = Talk(lvs, family, protocol).serve(1, method)
    assert talk.asks("S", ttl=39).packet.ttl == 38
    _by_detour(lvs)
    for flags in ("S", "A"):
        after = talk.asks(flags, ttl=39)
        assert after.forwarded and after.packet.ttl == 39
        assert not wrong_sums(after.frame[14:])
    assert talk.asks("A", ttl=255).packet.ttl == 254, "nobody has routed that"
    assert talk.asks("A", ttl=1).packet.ttl == 1, "it came with 2"


def test_many_ttls_have_right_sums(lvs: Harness) -> None:
    talk = Talk(lvs, IPV4).serve()
    _by_detour(lvs)
    for ttl in range(1, 255):
        for ident in (0, 1, 0x1234, 0xFFFF - ttl):
            after = talk.asks("S", ttl=ttl, ident=ident)
            assert after.packet.ttl == ttl
            assert not wrong_sums(after.frame[14:])


def test_an_error_quotes_the_packet_as_it_came_to_the_director(lvs: Harness, family: Family) -> None:
    lvs.ipvsadm(f"-A {Talk(lvs, family).key} -s rr")
    _by_detour(lvs)
    answer = Talk(lvs, family).asks("S", ttl=39)
    assert answer.answers == ("answered_icmp",)
    assert not wrong_sums(answer.frame[14:])
    quoted = dissect(answer.frame[14 + family.head + 8 :])
    assert quoted.ttl == 40


def test_what_is_handed_up_is_as_it_came(lvs: Harness, family: Family) -> None:
    """So that no packet can go round for ever (the harness compares)."""
    Talk(lvs, family).serve()
    _by_detour(lvs)
    assert Talk(lvs, family, port=81).asks("S", ttl=39).reason == "up_no_service"
    assert Talk(lvs, family).asks("A", ttl=39).reason == "up_no_connection"


def test_packets_of_other_interfaces_are_counted(lvs: Harness) -> None:
    talk = Talk(lvs, IPV6).serve()
    lvs.configure(mark_device=INDEX["d1"])
    assert talk.asks("S", ttl=39).packet.ttl == 38
    lvs.configure(mark_device=0)
    assert talk.asks("A", ttl=39).packet.ttl == 38
