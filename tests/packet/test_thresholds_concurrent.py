"""Thresholds and one-packet scheduling under packets on all CPUs at once (facts 1.9, 2.5).

A real server never has more than its upper threshold and one for each CPU that was just choosing; and whatever others
have said meanwhile, when everything rests it is overloaded if it has too many, and is not if it has few.
"""

import os
import random
import threading
import time

import pytest

from support.books import books
from support.crowd import Crowd, Flow, together
from support.harness import Harness
from support.packets import TCP, UDP
from support.talk import Family, Talk, at

SECONDS_LONG = float(os.environ.get("PYLVS_CROWD_SECONDS", "6")) / 4
CPUS = sorted(os.sched_getaffinity(0))
THREADS, FLOWS = 2, 300


class Limited:
    """A service with two limited real servers and one that takes all the others."""

    def __init__(self, lvs: Harness, family: Family, protocol: int, upper: int, lower: int, options: str = ""):
        self.lvs, self.family, self.protocol = lvs, family, protocol
        self.upper, self.lower = upper, lower or upper - upper // 4
        talk = Talk(lvs, family, protocol)
        lvs.ipvsadm(f"-A {talk.key} -s wlc {options}")
        for server in family.servers[:2]:
            lvs.ipvsadm(f"-a {talk.key} -r {at(server, 80)} -g -w 1000 -x {upper} -y {lower}")
        lvs.ipvsadm(f"-a {talk.key} -r {at(family.servers[2], 80)} -g -w 1")
        service = next(iter(lvs.director.services())).service
        self.dests = [lvs.number_of(service, server, 80) for server in family.servers[:2]]
        payload = b"x" if protocol == UDP else None
        self.flows = [
            Flow(family.client, 2000 + n, family.vip, 80, family.servers[0], 80, False, payload=payload)
            for n in range(FLOWS)
        ]

    def total(self, dest: int) -> int:
        return int(self.lvs.instance.dest_loads.get(dest, "total"))

    def storm(self, crowd: Crowd, events: str, clock: bool) -> int:
        """Both threads send at random; the most connections that a limited one was seen with."""
        over, most = threading.Event(), [0]

        def send(thread: int) -> None:
            os.sched_setaffinity(0, {CPUS[thread % len(CPUS)]})
            for _ in range(6):
                crowd.plan(thread, events, self.family.version, shared=range(FLOWS), datagrams=self.protocol == UDP)
                crowd.run(thread, 3000, self.family.version)

        def look() -> None:
            while not over.is_set():
                if clock:
                    self.lvs.shift(random.choice((11, 61, 121)))
                    self.lvs.sweep()
                for _ in range(20):
                    most[0] = max(most[0], *map(self.total, self.dests))

        with together(*(lambda thread=thread: send(thread) for thread in range(THREADS))) as senders, together(look):
            try:
                for sender in senders:
                    sender.join()
            finally:
                over.set()
        self.lvs.sweep()
        return most[0]

    def agrees(self) -> None:
        """What the flags say is what the numbers say."""
        books(self.lvs.instance)
        for dest in self.dests:
            overload, total = self.lvs.instance.dest_loads.get(dest, "overload"), self.total(dest)
            assert overload == 1 or total < self.upper, f"{total} of {self.upper}, and takes more"
            assert overload == 0 or total >= self.lower, f"{total} of {self.upper}, and takes none"


@pytest.mark.parametrize(("upper", "lower"), [(20, 0), (8, 2), (1, 0)])
def test_nobody_gets_more_than_he_takes(lvs: Harness, family: Family, upper: int, lower: int) -> None:
    limited = Limited(lvs, family, TCP, upper, lower)
    rounds, end = 0, time.monotonic() + SECONDS_LONG
    with Crowd(lvs, limited.flows) as crowd:
        while time.monotonic() < end or rounds < 2:
            made = lvs.director.totals().conns
            assert limited.storm(crowd, "SSSS AAAA FF RR aa", clock=rounds % 2 == 1) <= upper + THREADS
            assert lvs.director.totals().conns > made
            limited.agrees()
            rounds += 1
            lvs.advance(1000)
            assert books(lvs.instance) == (0, 0)
            limited.agrees()


@pytest.mark.parametrize("options", ["-o", "-o -p 300"], ids=["plain", "persistent"])
def test_packets_scheduled_one_by_one_leave_nothing(lvs: Harness, family: Family, options: str) -> None:
    """With a threshold of 1 and so many CPUs the flags are moved by almost every packet."""
    limited = Limited(lvs, family, UDP, 1, 0, options)
    rounds, end = 0, time.monotonic() + SECONDS_LONG
    with Crowd(lvs, limited.flows) as crowd:
        while time.monotonic() < end or rounds < 2:
            sent = lvs.reasons()["forwarded_route"]
            assert limited.storm(crowd, "AAAA a", clock=rounds % 2 == 1) <= 1 + THREADS
            assert lvs.reasons()["forwarded_route"] - sent > THREADS * 3000
            limited.agrees()
            assert set(lvs.loads().values()) == {(0, 0)}
            rounds += 1
            lvs.advance(1000)
            assert books(lvs.instance) == (0, 0)
