"""Persistence under packets on all CPUs at once: one template for each client network, and all of that is counted right.

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
from typing import NamedTuple

import pytest

from pylvs.datapath import _layout
from pylvs.datapath.connections import Entry, entries
from support.books import books
from support.crowd import Crowd, Flow, together
from support.harness import Harness
from support.packets import TCP, UDP
from support.talk import FAMILIES, IPV4, Family, Talk, at

SECONDS_LONG = float(os.environ.get("PYLVS_CROWD_SECONDS", "6")) / 4
CPUS = sorted(os.sched_getaffinity(0))
THREADS, NETS, HOSTS, SERVERS = 2, 24, 10, 3
PORT, RPORT = 5060, 5060
DAYS = 10 * 86400
STORM = {TCP: "SSSSSSSS AAAAAA FF R ss aaa ff", UDP: "AAA a"}


class Case(NamedTuple):
    """A kind of persistent service."""

    protocol: int
    method: str
    options: str = ""

    @property
    def once(self) -> bool:
        return "-o" in self.options

    @property
    def sip(self) -> bool:
        return "sip" in self.options


CASES = {
    "tcp-dr": Case(TCP, "-g"),
    "tcp-nat": Case(TCP, "-m"),
    "udp-nat": Case(UDP, "-m"),
    "one-packet": Case(UDP, "-m", "-o"),
    "sip": Case(UDP, "-m", "--pe sip"),
    "sip-one-packet": Case(UDP, "-m", "--pe sip -o"),
}


class Stage:
    """A persistent service of each family, and the flows of its clients.

    Attributes:
        nets: the client network, and if it is SIP the call, of each flow.
    """

    def __init__(self, lvs: Harness, case: Case):
        self.lvs, self.case = lvs, case
        self.flows: list[Flow] = []
        self.nets: dict[tuple[bytes, int], int] = {}
        self.ranges: dict[Family, range] = {}
        self.talks = {family: Talk(lvs, family, case.protocol, port=PORT, rport=RPORT) for family in FAMILIES}
        for family, talk in self.talks.items():
            mask = "255.255.255.0" if family is IPV4 else "112"
            lvs.ipvsadm(f"-A {talk.key} -s rr -p 300 -M {mask} {case.options}")
            for server in family.servers[:SERVERS]:
                talk.add(server, case.method)
            first = len(self.flows)
            self.flows += [self._flow(family, net, host) for host in range(1, HOSTS + 1) for net in range(NETS)]
            self.ranges[family] = range(first, len(self.flows))

    def _flow(self, family: Family, net: int, host: int) -> Flow:
        client = f"10.1.{net}.{host}" if family is IPV4 else f"fd00:1::{net:x}:{host:x}"
        payload = None if self.case.protocol == TCP else b"\ni:%x\n" % net if self.case.sip else b"x"
        return Flow(client, 1000 + host, family.vip, PORT, family.servers[net % SERVERS], RPORT,
                    self.case.method == "-m", payload=payload)  # fmt: skip

    @staticmethod
    def _net(entry: Entry) -> tuple[int, bytes]:
        return entry.family, entry.addresses[:3] if entry.family == 2 else entry.addresses[:14]

    def empty(self) -> None:
        """Let all time be over. Templates end after what they control, so it takes another round."""
        for _ in range(2):
            self.lvs.advance(1000)
        assert books(self.lvs.instance) == (0, 0)
        assert not self.lvs.instance.call_ids.keys()

    def each_net_has_one(self, family: Family) -> None:
        """A template for every client network, and all its connections where that says."""
        conns, _ = books(self.lvs.instance)
        there: dict[tuple[int, bytes], set[int]] = {}
        templates, found = [], list(entries(self.lvs.instance))
        for entry in found:
            there.setdefault(self._net(entry), set()).add(entry.dest)
            if entry.flags & _layout.CONN_TEMPLATE:
                templates.append(self._net(entry))
        assert len(templates) == len(set(templates)) == NETS
        assert {len(dests) for dests in there.values()} == {1}, there
        wanted = NETS + (0 if self.case.once else len(self.ranges[family]))
        assert conns == len(found) == wanted


def _senders(*bodies: Callable[[int], None]) -> list[Callable[[], None]]:
    """A thread for each CPU's share of the packets."""

    def sender(thread: int) -> None:
        os.sched_setaffinity(0, {CPUS[thread % len(CPUS)]})
        for body in bodies:
            body(thread)

    return [lambda thread=thread: sender(thread) for thread in range(THREADS)]  # type: ignore[misc]


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

        with together(*_senders(send)):
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

    with together(*_senders(send)) as senders, together(*map(again, others)):
        try:
            for sender in senders:
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
