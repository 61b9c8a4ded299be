"""Upper and lower connection thresholds (facts 1.9): who is overloaded, until when, and what edits do to that.

The service is lc's with two real servers, of which the one under test is the one to have the next connection: where it
goes says whether that one is overloaded.
"""

import errno

import pytest

from pylvs.errors import InvalidValue
from pylvs.model import real_server
from pylvs.selections import selection
from support.harness import Harness
from support.talk import IPV4, Family, Talk, at


class Limited:
    """A service, its limited real server, and who has which connection."""

    def __init__(self, lvs: Harness, family: Family, words: str, scheduler: str = "fo"):
        self.lvs, self.family = lvs, family
        self.talk = Talk(lvs, family)
        self.rs, self.other = family.servers[:2]
        lvs.ipvsadm(f"-A {self.talk.key} -s {scheduler}", f"-a {self.talk.key} -r {at(self.other, 8080)} -m -w 1")
        lvs.ipvsadm(f"-a {self.talk.key} -r {at(self.rs, 8080)} -m -w 9 {words}")
        self.port = 2000
        self.held: list[int] = []

    def edit(self, words: str) -> None:
        self.lvs.ipvsadm(f"-e {self.talk.key} -r {at(self.rs, 8080)} -m {words}")

    def opens(self, count: int = 1) -> list[bool]:
        """That many connections more; for each, does the limited one have it? It is heavier: if it may, it does."""
        found = []
        for _ in range(count):
            self.port += 1
            talk = self.talk.from_port(self.port).opens()
            found.append(talk.rs == self.rs)
            if found[-1]:
                self.held.append(self.port)
        return found

    def ends(self, count: int = 1) -> None:
        """So many of its connections end."""
        for _ in range(count):
            client = at(self.family.client, self.held.pop(0))
            assert self.lvs.director.flush_connections(selection(client=client)) == 1

    def takes_no_more(self) -> bool:
        """Asked without changing anything: a connection that comes and goes, which the other one has."""
        self.port += 1
        talk = self.talk.from_port(self.port).opens()
        if talk.rs == self.rs:
            self.held.append(self.port)
            return False
        return True


def test_the_upper_threshold_is_how_many_it_takes(lvs: Harness, family: Family) -> None:
    limited = Limited(lvs, family, "-x 4")
    assert limited.opens(6) == [True] * 4 + [False] * 2


def test_it_takes_more_below_three_quarters(lvs: Harness, family: Family) -> None:
    limited = Limited(lvs, family, "-x 8")
    limited.opens(8)
    for left in (7, 6):
        limited.ends()
        assert limited.takes_no_more(), left
    limited.ends()
    assert limited.opens(4) == [True] * 3 + [False]


def test_or_below_the_lower_threshold(lvs: Harness, family: Family) -> None:
    limited = Limited(lvs, family, "-x 4 -y 2")
    limited.opens(4)
    for left in (3, 2):
        limited.ends()
        assert limited.takes_no_more(), left
    limited.ends()
    assert limited.opens(4) == [True] * 3 + [False]


def test_equal_thresholds(lvs: Harness) -> None:
    limited = Limited(lvs, IPV4, "-x 3 -y 3")
    assert limited.opens(4) == [True] * 3 + [False]
    limited.ends()
    assert limited.opens(2) == [True, False]


def test_one(lvs: Harness) -> None:
    limited = Limited(lvs, IPV4, "-x 1")
    for _ in range(3):
        assert limited.opens(2) == [True, False]
        limited.ends()


def test_inactive_connections_count(lvs: Harness, family: Family) -> None:
    limited = Limited(lvs, family, "-x 2")
    limited.opens(2)
    for port in limited.held:
        limited.talk.from_port(port).asks("F")
    assert lvs.loads()[at(limited.rs, 8080)] == (0, 2)
    assert limited.opens() == [False]
    lvs.advance(121)  # FIN_WAIT is over
    assert limited.opens() == [True]


def test_those_who_come_find_it_overloaded_with_every_scheduler(lvs: Harness) -> None:
    for scheduler in ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sed", "nq", "fo", "twos"):
        limited = Limited(lvs, IPV4, "-x 2", scheduler)
        limited.opens(12 if scheduler != "lblc" else 2)
        loads = lvs.loads()
        assert loads[at(limited.rs, 8080)] == (2, 0), scheduler
        assert limited.opens(3) == ([False] * 3 if scheduler != "lblc" else [True] * 3), scheduler
        lvs.reset()


def test_an_overloaded_one_does_not_overflow(lvs: Harness) -> None:
    limited = Limited(lvs, IPV4, "-x 2", "ovf")
    assert limited.opens(4) == [True, True, False, False]


def test_refused_when_all_are_overloaded(lvs: Harness, family: Family) -> None:
    limited = Limited(lvs, family, "-x 1")
    limited.lvs.ipvsadm(f"-e {limited.talk.key} -r {at(limited.other, 8080)} -m -w 1 -x 1")
    limited.opens(2)
    limited.port += 1
    assert limited.talk.from_port(limited.port).asks("S").reason == "dropped_no_destination"


# ---- edits ---------------------------------------------------------------------------------------------------------------


def test_an_upper_threshold_at_or_below_what_it_has(lvs: Harness, family: Family) -> None:
    for upper in (3, 2):
        limited = Limited(lvs, family, "")
        limited.opens(3)
        limited.edit(f"-w 9 -x {upper}")
        assert limited.opens() == [False], upper
        lvs.reset()


def test_an_upper_threshold_above_what_it_has(lvs: Harness) -> None:
    limited = Limited(lvs, IPV4, "")
    limited.opens(3)
    limited.edit("-w 9 -x 4")
    assert limited.opens(2) == [True, False]


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("-x 5", 0),  # it has 4, no less than three quarters of 5: as before
        ("-x 6", 2),  # it has less than 5
        ("-x 6 -y 4", 0),
        ("-x 6 -y 5", 2),
        ("", 3),
    ],
)
def test_another_one_of_an_overloaded_one(lvs: Harness, words: str, more: int) -> None:
    limited = Limited(lvs, IPV4, "-x 4")
    limited.opens(4)
    limited.edit(f"-w 9 {words}")
    assert limited.opens(3) == [True] * more + [False] * (3 - more)


def test_another_weight_alone_leaves_it_overloaded(lvs: Harness) -> None:
    limited = Limited(lvs, IPV4, "-x 4")
    limited.opens(4)
    limited.ends()
    limited.edit("-w 8 -x 4")
    assert limited.takes_no_more()


def test_it_comes_back_as_overloaded_as_it_went(lvs: Harness) -> None:
    limited = Limited(lvs, IPV4, "-x 2")
    limited.opens(2)
    limited.talk.delete(limited.rs)
    lvs.ipvsadm(f"-a {limited.talk.key} -r {at(limited.rs, 8080)} -m -w 9 -x 2")
    assert limited.opens() == [False]
    limited.ends(2)
    assert limited.opens() == [True]


def test_shown_and_saved(lvs: Harness) -> None:
    limited = Limited(lvs, IPV4, "-x 40 -y 3")
    shown = lvs.ipvsadm("-Ln --thresholds").splitlines()
    assert shown[-2].split()[:4] == ["->", "10.2.0.1:8080", "40", "3"]
    assert shown[-1].split()[:4] == ["->", "10.2.0.2:8080", "0", "0"]
    [first, _] = next(iter(lvs.director.services())).destinations
    assert (first.server.upper, first.server.lower) == (40, 3)
    limited.edit("-w 1")
    assert lvs.ipvsadm("-Ln --thresholds").splitlines()[-2].split()[2:4] == ["0", "0"]


@pytest.mark.parametrize(
    ("limits", "number"),
    [
        ({"upper": 2, "lower": 3}, errno.ERANGE),
        ({"lower": 1}, errno.ERANGE),
        ({"upper": 1 << 31}, errno.EINVAL),
        ({"upper": -1}, errno.EINVAL),
    ],
)
def test_refused(limits: dict[str, int], number: int) -> None:
    with pytest.raises(InvalidValue) as raised:
        real_server("10.2.0.1", 80, **limits)
    assert raised.value.errno == number
