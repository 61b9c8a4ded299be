"""Persistence under packets on all CPUs at once: one template for each client network, and all is counted right.

In a quiet round two threads send the same flows in the same order to an empty director, so that they meet at the first
packet of each client network, and of each Call-ID: there must be one template for it, and all its connections must be
at that one's real server. In a storm they send at random, replies too, while the sweep runs, the clock jumps and
commands take real servers away and bring them back. Then everything rests, and the books must balance; and when all
time is over, nothing is left.

PYLVS_CROWD_SECONDS makes it longer.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from support.books import books
from support.clients import CASES, RPORT, SERVERS, THREADS, Stage, senders
from support.crowd import Crowd, together
from support.harness import Harness
from support.packets import TCP, UDP
from support.talk import FAMILIES, Family, at

SECONDS_LONG = float(os.environ.get("PYLVS_CROWD_SECONDS", "6")) / 4
DAYS = 10 * 86400
STORM = {TCP: "SSSSSSSS AAAAAA FF R ss aaa ff", UDP: "AAA a"}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def stage(request: pytest.FixtureRequest, lvs: Harness) -> Iterator[Stage]:
    yield Stage(lvs, request.param)


@pytest.fixture
def crowd(stage: Stage) -> Iterator[Crowd]:
    with Crowd(stage.lvs, stage.flows) as crowd:
        yield crowd


def test_there_is_one_template_for_each_network(stage: Stage, crowd: Crowd) -> None:
    rounds, end = 0, time.monotonic() + SECONDS_LONG
    lvs, started = stage.lvs, threading.Barrier(THREADS)
    while time.monotonic() < end or rounds < 4:
        family = FAMILIES[rounds % 2]
        flows, before = stage.ranges[family], lvs.reasons()

        def send(thread: int, family: Family = family, flows: range = flows) -> None:
            crowd.plan(thread, "S", family.version, shared=flows, in_turn=True, datagrams=stage.case.protocol == UDP)
            started.wait()
            crowd.run(thread, len(flows), family.version)

        with together(*senders(send)):
            pass
        dropped = {name: now - before[name] for name, now in lvs.reasons().items()
                   if name.startswith("dropped_") and now != before[name]}  # fmt: skip
        assert dropped.keys() <= {"dropped_contended"} and sum(dropped.values()) <= THREADS * 4, dropped
        # whoever was told to come again does
        crowd.plan(0, "S", family.version, shared=flows, in_turn=True, datagrams=stage.case.protocol == UDP)
        crowd.run(0, len(flows), family.version)
        stage.each_net_has_one(family)
        stage.empty()
        rounds += 1
    assert rounds >= 4


def _storm(stage: Stage, crowd: Crowd, *others: Callable[[], None], runs: int = 6, packets: int = 3000) -> None:
    """Both threads send at random, while others do what they do, again and again."""
    over = threading.Event()

    def send(thread: int) -> None:
        for run in range(runs):
            family = FAMILIES[(run + thread // 2) % 2]
            crowd.plan(thread, STORM[stage.case.protocol], family.version, shared=stage.ranges[family],
                       datagrams=stage.case.protocol == UDP)  # fmt: skip
            crowd.run(thread, packets, family.version)

    def again(other: Callable[[], None]) -> Callable[[], None]:
        def body() -> None:
            while not over.is_set():
                other()

        return body

    with together(*senders(send)) as sending, together(*map(again, others)):
        try:
            for sender in sending:
                sender.join()
        finally:
            over.set()


def _settle(stage: Stage) -> None:
    """Everything rests: nothing is past its time, and the books balance."""
    stage.lvs.sweep()
    books(stage.lvs.instance)
    stage.empty()


def test_templates_end_while_they_get_connections(stage: Stage, crowd: Crowd) -> None:
    lvs, rounds, end = stage.lvs, 0, time.monotonic() + SECONDS_LONG

    moved = [0]

    def clock() -> None:
        if moved[0] < DAYS:  # what nobody has looked at for 26 days seems to be in the future
            step = random.choice((31, 61, 121, 301))
            lvs.shift(step)
            moved[0] += step

    def clock_and_sweep() -> None:
        clock()
        lvs.sweep()

    while time.monotonic() < end or rounds < 2:
        moved[0] = 0
        _storm(stage, crowd, clock if rounds % 2 else clock_and_sweep)
        _settle(stage)
        rounds += 1


def test_real_servers_come_and_go_meanwhile(stage: Stage, crowd: Crowd) -> None:
    lvs, rounds, end = stage.lvs, 0, time.monotonic() + SECONDS_LONG
    lvs.set(expire_quiescent_template=1)
    talks = list(stage.talks.values())

    def change() -> None:
        talk = random.choice(talks)
        server = random.choice(talk.family.servers[:SERVERS])
        if random.random() < 0.5:
            talk.weigh(server, 0, stage.case.method)
            talk.weigh(server, 1, stage.case.method)
        else:
            talk.delete(server)
            talk.add(server, stage.case.method)

    while time.monotonic() < end or rounds < 2:
        lvs.set(expire_nodest_conn=rounds % 2)
        _storm(stage, crowd, change, lvs.sweep)
        _settle(stage)
        rounds += 1
    for family in FAMILIES:
        assert all(stage.lvs.loads()[at(server, RPORT)] == (0, 0) for server in family.servers[:SERVERS])


def test_entries_are_dropped_meanwhile(stage: Stage, crowd: Crowd) -> None:
    """drop_entry takes connections, and templates that have not proved themselves."""
    lvs = stage.lvs
    lvs.set(drop_entry=3)
    before = lvs.instance.runtime.get(0, "entries_dropped")

    def second() -> None:
        lvs.advance(1)

    _storm(stage, crowd, second, runs=4)
    for _ in range(100):  # half-open ones and idle templates go, whatever the storm left
        second()
    assert lvs.instance.runtime.get(0, "entries_dropped") > before or stage.case.protocol == UDP
    lvs.set(drop_entry=0)
    _settle(stage)
