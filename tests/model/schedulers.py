"""Schedulers for the model: who gets the next connection.

Rules of this file: each scheduler is written word for word from what kernel IPVS does, with the service's list of real
servers itself in hand (newest first), and moves a finger along that list. None is clever.

    chosen(servers, asked)   the real server for a new connection, or None
    added(servers)    one was put at the head of the list
    removed(servers, gone, before)   `gone` was taken out; `before` stood before it, None if it was the first
    edited(servers)   the weight or the method of one was set
"""

from collections.abc import Sequence
from functools import reduce
from ipaddress import ip_address
from math import gcd
from operator import xor
from typing import NamedTuple, Protocol


class Asked(NamedTuple):
    """What a packet that opens a connection says."""

    client: str = ""
    port: int = 0
    destination: str = ""


class Server(Protocol):
    """What a scheduler looks at."""

    address: str
    port: int
    weight: int
    last_weight: int
    """The last weight that was not 0."""
    overloaded: bool

    @property
    def active(self) -> int: ...

    @property
    def inactive(self) -> int: ...


HEAD = None
"""A finger that points at the list's head points at no real server."""


def eligible(server: Server) -> bool:
    """May it have new connections?"""
    return not server.overloaded and server.weight > 0


def overhead(server: Server) -> int:
    """What lc and wlc call load: the newest kernels count an active connection 257 times."""
    return 257 * server.active + server.inactive


def _place(servers: Sequence[Server], finger: Server | None) -> int:
    """The finger's place in the list; the head is the place before the first."""
    return -1 if finger is HEAD else next(i for i, server in enumerate(servers) if server is finger)


class Lc:
    """Least connection: the first of those with the least overhead."""

    def __init__(self, servers: Sequence[Server]) -> None:
        pass

    def added(self, servers: Sequence[Server]) -> None:
        pass

    def edited(self, servers: Sequence[Server]) -> None:
        pass

    def removed(self, servers: Sequence[Server], gone: Server, before: Server | None) -> None:
        pass

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        return min(filter(eligible, servers), key=overhead, default=None)


class Wlc(Lc):
    """Weighted least connection: the least overhead for its weight; the first wins."""

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        best: Server | None = None
        for server in filter(eligible, servers):
            if best is None or overhead(best) * server.weight > overhead(server) * best.weight:
                best = server
        return best


class Rr:
    """Round robin: the next one of those that may."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.finger: Server | None = HEAD

    def added(self, servers: Sequence[Server]) -> None:
        pass

    def edited(self, servers: Sequence[Server]) -> None:
        pass

    def removed(self, servers: Sequence[Server], gone: Server, before: Server | None) -> None:
        if self.finger is gone:
            self.finger = before

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        after = _place(servers, self.finger) + 1
        for server in [*servers[after:], *servers[:after]]:
            if eligible(server):
                self.finger = server
                return server
        return None


class Wrr:
    """Weighted round robin: pass after pass over those whose weight reaches a current weight, which goes down from the
    highest weight by the weights' greatest common divisor."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._measure(servers)
        self.current = self.top

    def _measure(self, servers: Sequence[Server]) -> None:
        self.finger: Server | None = HEAD
        self.step = gcd(*(server.weight for server in servers)) or 1
        self.top = max((server.weight for server in servers), default=0) - (self.step - 1)
        self.top = max(self.top, 0)

    def edited(self, servers: Sequence[Server]) -> None:
        self._measure(servers)
        if self.current > self.top or self.current == 0:
            self.current = self.top
        elif self.step > 1:
            self.current = self.current // self.step * self.step + 1

    added = edited

    def removed(self, servers: Sequence[Server], gone: Server, before: Server | None) -> None:
        self.edited(servers)

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        if self.top == 0:
            return None
        last, stop = self.finger, HEAD
        last_pass = restarted = False
        after = _place(servers, last) + 1
        while True:
            for server in servers[after:]:
                if not server.overloaded and server.weight >= self.current:
                    self.finger = server
                    return server
                if server is stop:
                    self.finger = server
                    return None
            after = 0
            self.current -= self.step
            if self.current <= 0:
                self.current = self.top
                if last_pass or last is HEAD:
                    self.finger = HEAD
                    return None
                restarted = True
            last_pass = self.current <= self.step
            if last_pass and restarted and last is not HEAD:
                stop = last


class Sed(Wlc):
    """Shortest expected delay: the least active connections, the coming one counted, for its weight."""

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        best: Server | None = None
        for server in filter(eligible, servers):
            if best is None or (best.active + 1) * server.weight > (server.active + 1) * best.weight:
                best = server
        return best


class Nq(Sed):
    """Never queue: the first that is idle; else as sed."""

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        for server in filter(eligible, servers):
            if server.active == 0:
                return server
        return super().chosen(servers, asked)


class Fo(Lc):
    """Failover: the heaviest; the first wins."""

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        return max(filter(eligible, servers), key=lambda server: server.weight, default=None)


class Ovf(Lc):
    """Overflow: the heaviest of those that have no more active connections than their weight; the first wins."""

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        able = [server for server in filter(eligible, servers) if server.active <= server.weight]
        return max(able, key=lambda server: server.weight, default=None)


# ---- those that hash ------------------------------------------------------------------------------------------------


def folded(address: str) -> int:
    """An address as 32 bits."""
    raw = ip_address(address).packed
    words = [int.from_bytes(raw[i : i + 4], "big") for i in range(0, len(raw), 4)]
    return reduce(xor, words)


def multiplicative(value: int) -> int:
    """The upper 8 bits of a product."""
    return value * 0x61C88647 % 2**32 // 2**24


def sip(value: int, key: int) -> int:
    """The lower half of SipHash-1-3 of 4 bytes; both halves of the key are alike."""

    def turn(word: int, bits: int) -> int:
        return (word * 2**bits + word // 2 ** (64 - bits)) % 2**64

    a, b, c, d = (key ^ int.from_bytes(word, "big") for word in (b"somepseu", b"dorandom", b"lygenera", b"tedbytes"))
    block = 4 * 2**56 + value % 2**32
    d ^= block
    for number in range(4):
        a, c = (a + b) % 2**64, (c + d) % 2**64
        b, d = turn(b, 13) ^ a, turn(d, 16) ^ c
        a = turn(a, 32)
        c, a = (c + b) % 2**64, (a + d) % 2**64
        b, d = turn(b, 17) ^ c, turn(d, 21) ^ a
        c = turn(c, 32)
        if number == 0:
            a, c = a ^ block, c ^ 0xFF
    return (a ^ b ^ c ^ d) % 2**32


class Hashing:
    """Has a table that is made anew after each change. `fallback` and `port` are the flags."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.fallback = self.port = False
        self.entries: list[Server | None] = []
        self.fill(servers)

    def fill(self, servers: Sequence[Server]) -> None:
        raise NotImplementedError

    def added(self, servers: Sequence[Server]) -> None:
        self.fill(servers)

    def edited(self, servers: Sequence[Server]) -> None:
        self.fill(servers)

    def removed(self, servers: Sequence[Server], gone: Server, before: Server | None) -> None:
        self.fill(servers)

    def value(self, asked: Asked) -> int:
        return folded(asked.client) + (asked.port if self.port else 0)


class Dh(Hashing):
    """Destination hashing: each bucket has the next real server."""

    def fill(self, servers: Sequence[Server]) -> None:
        self.entries = [servers[i % len(servers)] if servers else None for i in range(256)]

    def edited(self, servers: Sequence[Server]) -> None:
        pass

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        server = self.entries[multiplicative(folded(asked.destination))]
        return server if server and eligible(server) else None


class Sh(Hashing):
    """Source hashing: a real server has as many buckets in a row as its weight says, but at least one."""

    def fill(self, servers: Sequence[Server]) -> None:
        runs = [server for server in servers for _ in range(max(server.weight, 1))]
        self.entries = [runs[i % len(runs)] if runs else None for i in range(256)]

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        first = multiplicative(self.value(asked))
        for again in range(-1, 256 if self.fallback else 0):
            # the first one; and then the kernel adds the first bucket's number twice
            server = self.entries[first if again < 0 else (again + 2 * first) % 256]
            if not server:
                return None
            if eligible(server):
                return server
        return None


class Mh(Hashing):
    """Maglev hashing: each real server walks its own way through the table and takes what is free, in turns."""

    SIZE, KEY, STEP_KEY = 4093, 2654435761, 2654446892

    def fill(self, servers: Sequence[Server]) -> None:
        self.entries = [None] * self.SIZE
        weights = [server.last_weight for server in servers]
        common = gcd(*weights)
        if not common:
            return
        too_many = max(0, (max(weights) // common).bit_length() - 6)
        ways = []
        for server in servers:
            if server.last_weight:
                value = folded(server.address) + server.port
                step = sip(value, self.STEP_KEY) % (self.SIZE - 1) + 1
                start = sip(value, self.KEY) % self.SIZE
                way = (entry % self.SIZE for entry in range(start, start + self.SIZE * step, step))
                ways.append((server, way, max(1, server.last_weight // common // 2**too_many)))
        while None in self.entries:
            for server, way, turns in ways:
                for _ in range(turns):
                    free = next((entry for entry in way if self.entries[entry] is None), None)
                    if free is None:
                        return
                    self.entries[free] = server

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        value = self.value(asked)
        first = sip(value, self.KEY) % self.SIZE
        for again in range(-1, self.SIZE if self.fallback else 0):
            more = 0 if again < 0 else (again + first) % self.SIZE
            server = self.entries[sip(value + more, self.KEY) % self.SIZE]
            if not server:
                return None
            if eligible(server):
                return server
        return None


# ---- those that remember destinations ----------------------------------------------------------------------------------


def too_busy(server: Server, servers: Sequence[Server]) -> bool:
    """More active connections than its weight, and somebody is half idle."""
    return server.active > server.weight and any(2 * other.active < other.weight for other in servers)


class Lblc(Wlc):
    """Locality-based least connection: a destination keeps its real server unless that is too busy."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.had: dict[str, Server] = {}

    def names(self, server: Server) -> bool:
        """Is it remembered for some destination?"""
        return server in self.had.values()

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        server = self.had.get(asked.destination)
        if server and server in servers and server.weight > 0 and not too_busy(server, servers):
            return server
        server = super().chosen(servers, asked)
        if server:
            self.had[asked.destination] = server
        return server


class Lblcr(Wlc):
    """The same with replication: a destination has a set of real servers, the newest first."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.had: dict[str, list[Server]] = {}

    def names(self, server: Server) -> bool:
        return any(server in members for members in self.had.values())

    def chosen(self, servers: Sequence[Server], asked: Asked) -> Server | None:
        members = self.had.get(asked.destination, [])
        server = super().chosen([member for member in members if member in servers], asked)
        if server and not too_busy(server, servers):
            return server
        server = super().chosen(servers, asked)
        if server and server not in members:
            self.had[asked.destination] = [server, *members]
        return server


def overloaded_after(change: str, was: bool, total: int, upper: int, lower: int) -> bool:
    """Is a real server overloaded after a connection was bound to it ("bound"), or has left it ("left"), or its
    thresholds were changed ("edited")? `total`: its connections then."""
    lower = lower or upper - upper // 4
    if not upper:
        return False if change == "edited" else was
    if change == "bound":
        return total >= lower if total == upper else was
    if change == "left":
        return total >= upper if total + 1 == lower else was
    return total >= upper or (was and total >= lower)


SCHEDULERS = {
    "rr": Rr, "wrr": Wrr, "lc": Lc, "wlc": Wlc, "lblc": Lblc, "lblcr": Lblcr, "dh": Dh, "sh": Sh, "sed": Sed, "nq": Nq,
    "fo": Fo, "ovf": Ovf, "mh": Mh,
}  # fmt: skip
"""All but twos, which draws."""
