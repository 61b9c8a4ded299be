"""Clients of persistent services, of few networks and calls, for tests that send their packets on all CPUs at once."""

import os
from collections.abc import Callable
from typing import NamedTuple

from pylvs.datapath import _layout
from pylvs.datapath.connections import Entry, entries
from support.books import books
from support.crowd import Flow
from support.harness import Harness
from support.packets import TCP, UDP
from support.talk import FAMILIES, IPV4, Family, Talk

CPUS = sorted(os.sched_getaffinity(0))
THREADS, NETS, HOSTS, SERVERS = 2, 24, 10, 3
PORT, RPORT = 5060, 5060


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
        flows: of both families; those of one network are NETS apart.
        ranges: which of them are a family's.
    """

    def __init__(self, lvs: Harness, case: Case):
        self.lvs, self.case = lvs, case
        self.flows: list[Flow] = []
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
    def net(entry: Entry) -> tuple[int, bytes]:
        """The client network of a connection or template."""
        return entry.family, entry.addresses[:3] if entry.family == 2 else entry.addresses[:14]

    def empty(self) -> None:
        """Let all time be over. Templates end after what they control, so it takes another round."""
        for _ in range(2):
            self.lvs.advance(1000)
        assert books(self.lvs.instance) == (0, 0)
        assert not self.lvs.instance.call_ids.keys()

    def each_net_has_one(self, *families: Family) -> dict[tuple[int, bytes], int]:
        """A template for every client network of these families, and all its connections where that says.

        Returns:
            The real server of each network.
        """
        conns, _ = books(self.lvs.instance)
        there: dict[tuple[int, bytes], set[int]] = {}
        templates, found = [], list(entries(self.lvs.instance))
        for entry in found:
            there.setdefault(self.net(entry), set()).add(entry.dest)
            if entry.flags & _layout.CONN_TEMPLATE:
                templates.append(self.net(entry))
        assert len(templates) == len(set(templates)) == NETS * len(families)
        assert {len(dests) for dests in there.values()} == {1}, there
        wanted = len(templates) + (0 if self.case.once else sum(len(self.ranges[family]) for family in families))
        assert conns == len(found) == wanted
        return {net: dest for net, (dest,) in there.items()}


def senders(*bodies: Callable[[int], None]) -> list[Callable[[], None]]:
    """A thread for each CPU's share of the packets."""

    def sender(thread: int) -> None:
        os.sched_setaffinity(0, {CPUS[thread % len(CPUS)]})
        for body in bodies:
            body(thread)

    return [lambda thread=thread: sender(thread) for thread in range(THREADS)]  # type: ignore[misc]
