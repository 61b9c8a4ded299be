"""Persistence while the connection table is moved to and fro under packets: who has whom, and how many, stays right.

The moves and what surrounds them are those of test_resize_hammer.py; here new connections come all the time, on every
CPU, through templates that are just being moved, or that end or become invalid meanwhile.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pylvs.datapath import _layout, programs, resize
from pylvs.datapath.connections import entries
from support.books import books
from support.clients import CASES, RPORT, SERVERS, THREADS, Stage, senders
from support.crowd import Crowd, together
from support.harness import Harness
from support.packets import UDP
from support.talk import FAMILIES, at

ROUNDS, PACKETS = 12, 2000


@pytest.fixture(scope="module")
def movable() -> Iterator[Harness]:
    with Harness() as harness:
        harness.leave()
        yield harness


@pytest.fixture(params=["tcp-dr", "tcp-nat", "one-packet", "sip"])
def stage(request: pytest.FixtureRequest, movable: Harness) -> Iterator[Stage]:
    movable.enter()
    try:
        movable.reload()
        yield Stage(movable, CASES[request.param])
    finally:
        movable.leave()


def _hammered(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, events: str, *meanwhile: Callable[[], None], bits: int = 13
) -> int:
    """Resize, and move all to and fro before it is done, while packets come. How many were sent."""
    lvs, case, enough, sent = stage.lvs, stage.case, [], [0] * THREADS
    move, load, loaded = resize._move, programs.load, {}

    def loading(*arguments: Any) -> Any:
        found = load(*arguments)
        loaded.update({name: fd for name, fd in found[1].items() if name in ("mend", "clear")})
        return found

    monkeypatch.setattr(programs, "load", loading)
    with Crowd(lvs, stage.flows) as crowd:

        def send(thread: int) -> None:
            turn = thread
            while not enough:
                family = FAMILIES[turn % 2]
                crowd.plan(thread, events, family.version, shared=stage.ranges[family], datagrams=case.protocol == UDP)
                crowd.run(thread, PACKETS, family.version)
                sent[thread] += PACKETS
                turn += 1

        def again() -> None:
            while not enough:
                for one in meanwhile:
                    one()

        def to_and_fro(running: resize.Instance, to: int, program: int, groups: int) -> int:
            monkeypatch.setattr(resize, "_move", move)
            here, there = (running.slots.entries // _layout.GROUP_SLOTS, (1 << bits) // _layout.GROUP_SLOTS)
            crowd.aim(lvs)  # what is pinned now knows both tables
            with together(*senders(send), *([again] if meanwhile else [])):
                try:
                    for _ in range(ROUNDS):
                        for direction, source, target in (
                            (_layout.RESIZING_TO_NEW, here, there),
                            (_layout.RESIZING_TO_OLD, there, here),
                        ):
                            assert move(running, direction, program, source) == 0
                            resize._mend(loaded, target)
                    return move(running, to, program, groups)
                finally:
                    enough.append(True)

        monkeypatch.setattr(resize, "_move", to_and_fro)
        with lvs.instance.locked():
            resize.resize(lvs.instance, bits)
    lvs.reopen()
    assert lvs.instance.config.get(0, "conn_slots") == 1 << bits
    return sum(sent)


def _everybody(stage: Stage) -> None:
    """One packet of every flow."""
    with Crowd(stage.lvs, stage.flows) as crowd:
        for family, flows in stage.ranges.items():
            crowd.plan(0, "S", family.version, shared=flows, in_turn=True, datagrams=stage.case.protocol == UDP)
            crowd.run(0, len(flows), family.version)


def test_every_network_keeps_its_real_server(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    lvs = stage.lvs
    with Crowd(lvs, stage.flows) as crowd:  # of each network one client, so that there are all templates
        for family, flows in stage.ranges.items():
            first = range(flows.start, flows.start + len(flows) // 10)
            crowd.plan(0, "S", family.version, shared=first, in_turn=True, datagrams=stage.case.protocol == UDP)
            crowd.run(0, len(first), family.version)
    had = {stage.net(entry): entry.dest for entry in entries(lvs.instance)}
    before = lvs.reasons()
    sent = _hammered(stage, monkeypatch, "SSSSAAAA")
    now = lvs.reasons()
    changed = {name: now[name] - before[name] for name in now if now[name] != before[name]}
    assert changed["received"] == sent > 10 * PACKETS
    refused = sum(count for name, count in changed.items() if name.startswith("dropped_"))
    assert set(changed) <= {"received", "forwarded_route", "forwarded_nat_request", "up_no_connection",
                            "dropped_contended"}, changed  # fmt: skip
    assert refused <= sent / 1000, changed
    _everybody(stage)
    assert stage.each_net_has_one(*FAMILIES) == had
    stage.empty()


def test_what_ends_while_it_is_moved(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    lvs = stage.lvs
    lvs.set(expire_quiescent_template=1)

    def clock() -> None:
        lvs.shift(random.choice((31, 61, 121, 301)))
        assert lvs.instance.run("catch_up") == 0

    def invalid() -> None:
        """A weight of 0 for a moment, as far as the templates see it: commands wait for the resizing."""
        load = lvs.instance.dest_loads
        dest = random.randrange(lvs.instance.config.get(0, "dests_high"))
        load.put(dest, "weight", 0)
        load.put(dest, "weight", 1)

    _hammered(stage, monkeypatch, "SSSSSSSS AAAAAA FF R ss aaa ff" if stage.case.protocol != UDP else "AAAa",
              clock, invalid)  # fmt: skip
    lvs.sweep()
    books(lvs.instance)
    stage.empty()
    assert all(lvs.loads()[at(server, RPORT)] == (0, 0) for f in FAMILIES for server in f.servers[:SERVERS])
