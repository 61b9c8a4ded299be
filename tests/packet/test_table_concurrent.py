"""The connection table against a plain dictionary, under packets on all CPUs at once.

Two threads send random events of few flows, so that they meet on the same keys; each has flows of its own beside, whose
every packet is written down. Meanwhile the sweep runs, the table is read, and in some rounds the clock jumps. After
each round everything rests, and then the books must balance exactly, and of every thread's own flows the dictionary
says which connections are there, in which state, with how many packets.

PYLVS_CROWD_SECONDS makes it longer.
"""

import os
import random
import threading
import time
from dataclasses import dataclass, field

from model.tcp import SECONDS, STATES, next_state
from pylvs.datapath import _layout
from pylvs.datapath.connections import Entry, entries
from pylvs.datapath.table import usage
from support.books import books
from support.crowd import FROM_SERVER, Crowd, Flow, together
from support.harness import Harness
from support.packets import address
from support.talk import IPV4, IPV6, Family, Talk

SECONDS_LONG = float(os.environ.get("PYLVS_CROWD_SECONDS", "6"))
CPUS = sorted(os.sched_getaffinity(0))
THREADS, SHARED, OWN, MANY = 2, 48, 192, 4096
RUNS, PACKETS = 8, 4000
PORTS = {80: (8080, True), 443: (8080, True), 8443: (8443, False)}
"""VIP port -> (real server's port, LVS-NAT?). Those of 80 and of 443 have replies that look alike."""
EVENTS = "SSSS AAAAAAAA FFF R sss aaa ff r"
STEP = 65  # seconds: none of TCP's timeouts is a multiple of it, nor near one
_TIMES = sorted(set(SECONDS.values()))


def _client(family: Family, sport: int) -> str:
    return f"10.1.{sport >> 8}.{sport & 255}" if family is IPV4 else f"fd00:1::{sport:x}"


def _flow(family: Family, sport: int, port: int) -> Flow:
    rport, nat = PORTS[port]
    mark = sport if sport % 3 == 0 else 0  # an IPv6 connection takes another slot for it
    return Flow(_client(family, sport), sport, family.vip, port, family.servers[0 if nat else 1], rport, nat, mark)


@dataclass
class _Known:
    """What the dictionary holds of a connection."""

    state: str
    replies_seen: bool
    packets: int
    touched: int


@dataclass
class _Dictionary:
    """The plain dictionary: a connection for each flow, and what packets do to it, one after the other."""

    flows: list[Flow]
    known: dict[int, _Known] = field(default_factory=dict)
    clock: int = 0

    def _alive(self, number: int) -> _Known | None:
        found = self.known.get(number)
        if found and self.clock - found.touched > SECONDS[found.state]:
            del self.known[number]
            return None
        return found

    def packet(self, number: int, event: int) -> None:
        names = {name for name, bit in (("FIN", 1), ("SYN", 2), ("RST", 4), ("ACK", 16)) if event & bit}
        found = self._alive(number)
        if event & FROM_SERVER:
            if found:
                found.replies_seen = True
                found.state, found.touched = next_state("OUTPUT", found.state, names), self.clock
            return
        if "SYN" in names and (found is None or found.state in ("TIME_WAIT", "CLOSE")):
            found = self.known[number] = _Known("NONE", self.flows[number].nat, 0, 0)
        if found:
            direction = "INPUT" if found.replies_seen else "INPUT_ONLY"
            found.state, found.touched = next_state(direction, found.state, names), self.clock
            found.packets += 1

    def present(self) -> dict[int, _Known]:
        return {number: known for number in list(self.known) if (known := self._alive(number))}


class _Table:
    """The table under test, and who works on it."""

    def __init__(self, lvs: Harness):
        self.lvs = lvs
        for family in (IPV4, IPV6):
            for port, (rport, nat) in PORTS.items():
                talk = Talk(lvs, family, port=port, rport=rport)
                lvs.ipvsadm(f"-A {talk.key} -s wlc")
                talk.add(family.servers[0 if nat else 1], "-m" if nat else "-g")
        self.flows: list[Flow] = []
        self.shared = {family: self._range(family, SHARED, 1000, (80, 443, 8443)) for family in (IPV4, IPV6)}
        self.own = [
            {family: self._own(family, 2000 + 1000 * thread) for family in (IPV4, IPV6)} for thread in range(THREADS)
        ]
        self.many = {family: self._range(family, MANY // 2, 10_000, (80, 8443)) for family in (IPV4, IPV6)}
        self.numbers = {(flow.client, flow.sport, flow.port): n for n, flow in enumerate(self.flows)}
        self.torn: list[Entry] = []
        self.read = 0
        known: set[tuple[bytes, int, int, int]] = set()
        for flow in self.flows:
            addresses = (address(flow.client) + address(flow.vip)).ljust(8, b"\0")
            known.add((addresses, flow.sport, flow.port, flow.rport))
        self._known = known

    def _range(self, family: Family, count: int, sport: int, ports: tuple[int, ...]) -> range:
        first = len(self.flows)
        self.flows += [_flow(family, sport + n, port) for n in range(count // len(ports)) for port in ports]
        return range(first, len(self.flows))

    def _own(self, family: Family, sport: int) -> range:
        first = len(self.flows)
        self.flows += [_flow(family, sport + n, (80, 443, 8443)[n % 3]) for n in range(OWN)]
        return range(first, len(self.flows))

    def entry_number(self, entry: Entry) -> int:
        """Which flow's it is."""
        width = 4 if entry.family == 2 else 16
        for family in (IPV4, IPV6):
            if len(address(family.client)) == width:
                return self.numbers[_client(family, entry.cport), entry.cport, entry.vport]
        raise AssertionError(entry)

    def look(self) -> None:
        """Read the table: every entry is one that some packet has made, no part of it another's."""
        for entry in entries(self.lvs.instance):
            width = 8 if entry.family == 2 else 32
            whole = (entry.addresses[:width], entry.cport, entry.vport, entry.dport)
            nat = entry.flags & _layout.CONN_METHOD == 0
            if whole not in self._known or nat != PORTS[entry.vport][1] or entry.state >= len(STATES):
                self.torn.append(entry)
            self.read += 1


def _round(table: _Table, crowd: Crowd, storm: bool, logs: list[list[tuple[int, int]]]) -> None:
    """All threads send, while the sweep runs and the table is read; in a storm with many flows and a jumping clock."""
    lvs, over = table.lvs, threading.Event()

    def sender(thread: int) -> None:
        os.sched_setaffinity(0, {CPUS[thread % len(CPUS)]})
        for run in range(RUNS):
            family = (IPV4, IPV6)[(run + thread // 2) % 2]
            shared = table.many[family] if storm and run % 4 < 2 else table.shared[family]
            crowd.plan(thread, EVENTS, family.version, shared=shared, own=table.own[thread][family],
                       own_of_8=2)  # fmt: skip
            crowd.run(thread, PACKETS, family.version)
            logs[thread] += crowd.log(thread)

    def sweeper() -> None:
        while not over.is_set():
            lvs.sweep()
            if storm:
                lvs.shift(random.choice((11, 31, 61, 121, 901)))

    with together(*(lambda thread=thread: sender(thread) for thread in range(THREADS))) as senders, together(sweeper):
        try:
            while any(thread.is_alive() for thread in senders):
                table.look()
        finally:
            over.set()


def _compare(table: _Table, dictionary: _Dictionary) -> None:
    own = {number for of_thread in table.own for numbers in of_thread.values() for number in numbers}
    there = {number: entry for entry in entries(table.lvs.instance) if (number := table.entry_number(entry)) in own}
    expected = dictionary.present()
    assert there.keys() == expected.keys(), (
        f"{[table.flows[n] for n in expected.keys() - there.keys()][:3]} are missing, "
        f"{[table.flows[n] for n in there.keys() - expected.keys()][:3]} should not be there"
    )
    for number, known in expected.items():
        entry = there[number]
        found = (STATES[entry.state], entry.packets, not entry.flags & _layout.CONN_NOOUTPUT)
        assert found == (known.state, known.packets, known.replies_seen), table.flows[number]


def _late(table: _Table) -> tuple[int, int]:
    return table.lvs.reasons()["dropped_table_full"], table.lvs.instance.runtime.get(0, "gave_way")


def test_the_table_is_a_dictionary(lvs: Harness) -> None:
    assert all(abs(STEP * turns - limit) >= 5 for limit in _TIMES for turns in range(1, 20))
    table = _Table(lvs)
    dictionary = _Dictionary(table.flows)
    exact = storms = packets = 0
    end = time.monotonic() + SECONDS_LONG
    with Crowd(lvs, table.flows) as crowd:
        while time.monotonic() < end or storms < 2:
            storm = exact % 4 == 3 and storms * 4 < exact
            logs: list[list[tuple[int, int]]] = [[] for _ in range(THREADS)]
            late = _late(table)
            _round(table, crowd, storm, logs)
            packets += THREADS * RUNS * PACKETS
            assert not table.torn, table.torn[:3]
            if storm:
                storms += 1
                lvs.sweep()
                books(lvs.instance)
                lvs.shift(1000)
                dictionary.known.clear()
                if storms % 2:  # every other time the next round finds all that is past still there
                    lvs.sweep()
                    assert books(lvs.instance) == (0, 0)
                    assert usage(lvs.instance).used == 0
                continue
            refused, gave_way = (now - then for now, then in zip(_late(table), late, strict=True))
            assert gave_way == 0, "there was room"
            # of a few clients that open the same connection on several CPUs, one or the other is told to come again
            assert refused < THREADS * RUNS * PACKETS / 1000
            for event in (event for log in logs for event in log):
                dictionary.packet(*event)
            lvs.sweep()
            books(lvs.instance)
            _compare(table, dictionary)
            exact += 1
            lvs.shift(STEP)
            dictionary.clock += STEP
    print(f"{packets} packets, {exact} rounds compared, {storms} storms, {table.read} entries read")
    assert exact > 4 and table.read > 1000
