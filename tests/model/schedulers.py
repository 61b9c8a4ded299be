"""Schedulers for the model: who gets the next connection.

Rules of this file: each scheduler is written word for word from what kernel IPVS does, with the service's list of real
servers itself in hand (newest first), and moves a finger along that list. None is clever.

    chosen(servers)   the real server for a new connection, or None
    added(servers)    one was put at the head of the list
    removed(servers, gone, before)   `gone` was taken out; `before` stood before it, None if it was the first
    edited(servers)   the weight or the method of one was set
"""

from collections.abc import Sequence
from math import gcd
from typing import Protocol


class Server(Protocol):
    """What a scheduler looks at."""

    weight: int
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

    def chosen(self, servers: Sequence[Server]) -> Server | None:
        return min(filter(eligible, servers), key=overhead, default=None)


class Wlc(Lc):
    """Weighted least connection: the least overhead for its weight; the first wins."""

    def chosen(self, servers: Sequence[Server]) -> Server | None:
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

    def chosen(self, servers: Sequence[Server]) -> Server | None:
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

    def chosen(self, servers: Sequence[Server]) -> Server | None:
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


SCHEDULERS = {"rr": Rr, "wrr": Wrr, "lc": Lc, "wlc": Wlc}
