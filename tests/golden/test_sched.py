"""Whole conversations with many clients: whom the real director chose, and what its table was in the end.

A TCP connection is SYN, SYN+ACK, ACK and stays open; `close` is orderly, the client first. An SCTP association's
handshake is the same in four packets. A real server without a port of its own is asked on the service's.
"""

import re
from typing import Any

import pytest

from support.harness import Harness, Result
from support.packets import sctp_packet, tcp_packet, udp_packet
from support.recordings import Case, mark_of, playable


class Conversation:
    """A scenario being played: its clients, and the connections that they hold open."""

    def __init__(self, lvs: Harness, case: Case):
        self.lvs, self.case = lvs, case
        self.udp, self.sctp = case["proto"] == "udp", case["proto"] == "sctp"
        words = case["service"].split()
        self.key = " ".join(words[: 3 if words[2] == "-6" else 2])
        self.chosen: list[str | list[Any] | None] = []
        self.open: list[tuple[str, int, str, int] | None] = []
        self.asked: dict[tuple[str, int], tuple[str, int]] = {}

    def server(self, address: str) -> str:
        port = self.case.get("rport")
        if not port:
            return address  # as the service's
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    def client_says(self, src: str, sport: int, flags: str) -> Result:
        to = self.asked.get((src, sport)) or (self.case["vip"], self.case["port"])
        mark = mark_of(self.case, to[0])
        if self.udp:
            return self.lvs.from_client(udp_packet(src, sport, *to), mark=mark)
        make = sctp_packet if self.sctp else tcp_packet
        return self.lvs.from_client(make(src, sport, *to, flags), mark=mark)

    def server_says(self, connection: tuple[str, int, str, int], flags: str) -> None:
        src, sport, address, port = connection
        make = sctp_packet if self.sctp else tcp_packet
        assert self.lvs.from_server(make(address, port, src, sport, flags)).reason == "forwarded_nat_reply"

    def connect(self, src: str, sport: int, *to: Any) -> None:
        if to:  # one of the addresses and ports that a service by mark has
            self.asked[src, sport] = (to[0], to[1])
        result = self.client_says(src, sport, "INIT" if self.sctp else "S")
        if not result.forwarded:
            assert result.reason == "dropped_no_destination"
            self.chosen.append(None)
            self.open.append(None)
            return
        address, port = result.packet.destination
        connection = src, sport, address, port
        if self.sctp:
            self.server_says(connection, "INIT_ACK")
            assert self.client_says(src, sport, "COOKIE_ECHO").packet.destination == (address, port)
            self.server_says(connection, "COOKIE_ACK")
        elif not self.udp:
            self.server_says(connection, "SA")
            assert self.client_says(src, sport, "A").packet.destination == (address, port)
        self.chosen.append([address, port] if "ports" in self.case else address)
        self.open.append(connection)

    def close(self, number: int) -> None:
        connection = self.open[number]
        self.open[number] = None
        if connection is None or self.udp:
            return
        self.client_says(*connection[:2], "F")
        self.server_says(connection, "A")
        self.server_says(connection, "F")
        self.client_says(*connection[:2], "A")

    def play(self, op: str, *rest: Any) -> None:
        if op == "conn":
            self.connect(*rest)
        elif op == "burst":
            src, first, count = rest
            for port in range(first, first + count):
                self.connect(src, port)
        elif op == "close":
            self.close(rest[0])
        elif op == "closeall":
            for number, _ in enumerate(self.open):
                self.close(number)
        elif op == "weight":
            self.lvs.ipvsadm(f"-e {self.key} -r {self.server(rest[0])} -m -w {rest[1]}")
        elif op == "add":
            self.lvs.ipvsadm(f"-a {self.key} -r {self.server(rest[0])} -m -w {rest[1]}")
        elif op == "edit":
            self.lvs.ipvsadm(f"-e {self.key} -r {self.server(rest[0])} -m {rest[1]}")
        elif op == "del":
            self.lvs.ipvsadm(f"-d {self.key} -r {self.server(rest[0])}")
        elif op == "cmd":
            self.lvs.ipvsadm(rest[0])
        else:
            raise AssertionError(f"unknown step {op}")


def _rows(table: str) -> list[list[str]]:
    """A listing's words, line by line, without the connection table's size."""
    return [re.sub(r"size=\d+", "", line).split() for line in table.splitlines()]


@pytest.mark.parametrize("case", playable("sched"), ids=lambda case: case["id"])
def test_choices_and_table(lvs: Harness, case: Case) -> None:
    conversation = Conversation(lvs, case)
    lvs.set(**case.get("sysctl", {}))
    lvs.restore(
        f"-A {case['service']}\n"
        + "".join(
            f"-a {conversation.key} -r {conversation.server(d[0])} -m -w {d[1]} {' '.join(d[2:])}\n"
            for d in case["dests"]
        )
    )
    for op in case["ops"]:
        conversation.play(*op)
    assert conversation.chosen == case["chosen"]
    assert _rows(lvs.ipvsadm("-Ln")) == _rows(case["table"])
    assert lvs.ipvsadm("-Sn").splitlines() == case["save"].splitlines()


def test_what_is_played() -> None:
    assert len(playable("sched")) == 235
