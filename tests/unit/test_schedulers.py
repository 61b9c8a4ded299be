"""What a change of its real servers does to a scheduler, without any kernel.

The choosing is in the packet path. Here the model chooses, and is itself held to the vectors of the kernel's own code;
after each choice its state, put as the packet path would leave it, is what `pylvs.schedulers` gets, and after each
change both must have come to the same.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import schedulers as plain
from pylvs import schedulers
from pylvs.errors import NoSuchScheduler

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "scheduler-vectors.json").read_text())["cases"]
CASES = [case for case in VECTORS if case["scheduler"] in plain.SCHEDULERS]


class Server:
    def __init__(self, name: str, weight: int):
        self.name, self.weight = name, weight
        self.overloaded = False
        self.active = self.inactive = 0


class Both:
    """A service as the model has it and as pylvs has it."""

    def __init__(self, name: str):
        self.servers: list[Server] = []
        self.plain = plain.SCHEDULERS[name]([])
        self.ours = schedulers.find(name)
        self.head = self.ours.start([])
        self.compare()

    def compare(self) -> None:
        assert self.head == self.as_head()

    def as_head(self) -> schedulers.Head:
        if isinstance(self.plain, plain.Rr):
            return schedulers.Head(self._place())
        if isinstance(self.plain, plain.Wrr):
            return schedulers.Head(self.plain.current << 32 | self._place(), self.plain.step, self.plain.top)
        return schedulers.Head()

    def _place(self) -> int:
        return self.servers.index(self.plain.finger) + 1 if self.plain.finger else 0

    def _weights(self) -> list[int]:
        return [server.weight for server in self.servers]

    def named(self, name: str) -> Server:
        return next(server for server in self.servers if server.name == name)

    def pick(self) -> str:
        chosen = self.plain.chosen(self.servers)
        self.head = self.as_head()
        return chosen.name if chosen else "-"

    def add(self, name: str, weight: int) -> None:
        self.servers.insert(0, Server(name, weight))
        self.plain.added(self.servers)
        self.head = self.ours.changed(self.head, self._weights(), lambda place: place + 1)
        self.compare()

    def edit(self, name: str, weight: int) -> None:
        self.named(name).weight = weight
        self.plain.edited(self.servers)
        self.head = self.ours.changed(self.head, self._weights(), lambda place: place)
        self.compare()

    def remove(self, name: str) -> None:
        server = self.named(name)
        at = self.servers.index(server)
        self.servers.remove(server)
        self.plain.removed(self.servers, server, self.servers[at - 1] if at else None)
        self.head = self.ours.changed(self.head, self._weights(), lambda place: place - (place >= at))
        self.compare()


@pytest.mark.parametrize("case", CASES, ids=[f"{case['scheduler']}-{i}" for i, case in enumerate(CASES)])
def test_vectors(case: dict[str, Any]) -> None:
    both = Both(case["scheduler"])
    for op, *rest in case["ops"]:
        if op == "pick":
            count, wanted = rest
            assert "".join(both.pick() for _ in range(count)) == wanted
        elif op == "add":
            name, _, _, weight = rest
            both.add(name, weight)
        elif op == "weight":
            both.edit(*rest)
        elif op == "del":
            both.remove(*rest)
        elif op == "active":
            both.named(rest[0]).active = rest[1]
        else:
            assert op == "overload"
            both.named(rest[0]).overloaded = bool(rest[1])


def test_what_is_played() -> None:
    assert {case["scheduler"] for case in CASES} == set(schedulers.NAMES)
    assert sum(op[0] == "pick" for case in CASES for op in case["ops"]) > 500


OPS = ("pick", "pick", "pick", "add", "edit", "remove", "switch")
STEPS = st.lists(st.tuples(st.sampled_from(OPS), st.integers(0, 5), st.integers(0, 6)), max_size=60)


@settings(derandomize=True, deadline=None)
@given(name=st.sampled_from(schedulers.NAMES), steps=STEPS)
def test_any_change(name: str, steps: list[tuple[str, int, int]]) -> None:
    both = Both(name)
    for op, which, weight in steps:
        there = {server.name for server in both.servers}
        if op == "pick":
            both.pick()
        elif op == "switch":  # to another one and back: both begin anew
            both.plain, both.head = type(both.plain)(both.servers), both.ours.start(both._weights())
            both.compare()
        elif op == "add" and str(which) not in there:
            both.add(str(which), weight)
        elif op == "edit" and str(which) in there:
            both.edit(str(which), weight)
        elif op == "remove" and str(which) in there:
            both.remove(str(which))


def test_names() -> None:
    for number, name in enumerate(schedulers.NAMES, 1):
        module = schedulers.find(name)
        assert (module.NAME, module.NUMBER, schedulers.name_of(number)) == (name, number, name)
    with pytest.raises(NoSuchScheduler, match="not supported yet"):
        schedulers.find("sh")
    with pytest.raises(NoSuchScheduler, match="there is no scheduler 'x'"):
        schedulers.find("x")
