"""Packets that really go through the director: from one cable to the other, and round by its own ingress."""

import socket
from collections.abc import Iterable
from typing import NamedTuple

from pylvs.lab.waiting import wait_for
from support.harness import CLIENT, SERVER, Harness, frame
from support.packets import ICMP6, dissect

_ALL = 3  # ETH_P_ALL
_ROOM, _RCVBUFFORCE = 8 << 20, 33


class Came(NamedTuple):
    """A packet that left the director."""

    side: str
    """CLIENT or SERVER: by which interface."""
    packet: bytes


class Wires:
    """Both cables of a Harness.

    with Wires(lvs) as wires:
        wires.send(CLIENT, fragments)
        assert [came.packet for came in wires.came()] == ...
    """

    def __init__(self, lvs: Harness):
        self._lvs = lvs
        self._ends: dict[str, socket.socket] = {}
        lvs.shift(10)  # so that the clock can be put back
        for side in (CLIENT, SERVER):
            end = self._ends[side] = lvs.cable(side, _ALL)
            end.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _ROOM)
            end.setblocking(False)

    def __enter__(self) -> "Wires":
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends.values():
            end.close()

    def send(self, side: str, packets: Iterable[bytes]) -> dict[str, int]:
        """Let packets arrive, one after the other, and wait until something became of each; how many were counted under
        which reason. Of those that wait, fewer may do so than before."""
        before, count, now = self._lvs.reasons(), 0, self._lvs.instance.now()
        for one in packets:
            self._stand_still(now)
            self._ends[side].send(frame(one, side))
            count += 1
        wait_for(lambda: self._settled(before, count), f"{count} packets to be counted")
        self._stand_still(now)
        now = self._lvs.reasons()
        return {name: now[name] - before[name] for name in now if now[name] != before[name] and name != "received"}

    def _stand_still(self, now: int) -> None:
        """Put the director's clock back to then: what waits does not wait longer on a machine that has much to do."""
        offset = self._lvs.instance.config.get(0, "clock_offset")
        self._lvs.configure(clock_offset=offset + now - self._lvs.instance.now())

    def _settled(self, before: dict[str, int], count: int) -> bool:
        now = self._lvs.reasons()
        noted = sum(now[name] - before[name] for name in now if name != "received" and not name.startswith("answered_"))
        return now["received"] - before["received"] == count and noted == count

    def came(self, count: int) -> list[Came]:
        """What has left the director since the last time, but for what it says of its own accord; waits until it is as
        much as that."""
        found: list[Came] = []
        wait_for(lambda: len(self._hear(found)) >= count, f"{count} packets to come out of the director")
        return found

    def _hear(self, found: list[Came]) -> list[Came]:
        for side, end in self._ends.items():
            while True:
                try:
                    packet, sender = end.recvfrom(1 << 17)
                except BlockingIOError:
                    break
                if sender[1] not in (0x0800, 0x86DD) or sender[2] == socket.PACKET_OUTGOING:
                    continue
                if dissect(packet[14:]).protocol in (ICMP6, 0):  # neighbours, and who listens to which group
                    continue
                found.append(Came(side, packet[14:]))
        return found
