"""The schedulers' picks, from the kernel's own code: real changes and real packets, in the order of the vectors.

`pick` opens no connection in the vectors and `active` sets a number: so the loads are put back after each packet.
Real servers are named by letters; the newest is at the list's head.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pylvs.datapath.services import ServiceTable
from pylvs.model import MASQ, real_server, virtual_service
from pylvs.selections import Selection
from support.harness import Harness, ip
from support.packets import ether, tcp_packet
from support.recordings import GOLDEN, SCHEDULERS, Case

VIP, PORT = "10.99.0.1", 80


MARK = 1
FLAGS = {"sh": ("sh-fallback", "sh-port"), "mh": ("mh-fallback", "mh-port")}


def _vectors() -> list[Case]:
    cases = json.loads((GOLDEN / "scheduler-vectors.json").read_text(encoding="utf-8"))["cases"]
    return [dict(case, id=f"{case['scheduler']}-{number}") for number, case in enumerate(cases)]


@pytest.fixture
def routed(lvs: Harness) -> Iterator[Harness]:
    """The vectors' real servers are anywhere: behind the second wire."""
    ip("route add default via 10.0.2.2")
    yield lvs
    ip("route del default")


class Played:
    """A vector's service: found by a mark, since clients ask for many addresses."""

    def __init__(self, lvs: Harness, case: Case):
        self.lvs, self.director, self.loads = lvs, lvs.director, lvs.instance.dest_loads
        flags = [name for name, bit in zip(FLAGS.get(case["scheduler"], ()), (8, 16), strict=False) if case["flags"] & bit]
        self.service = virtual_service(fwmark=MARK, scheduler=case["scheduler"], scheduler_flags=flags)
        # below the director's checks: whether it takes marks is not the question
        ServiceTable(lvs.instance).add(self.service)
        self.servers: dict[str, tuple[str, int]] = {}
        self.active: dict[str, int] = {}
        self.overloaded: dict[str, int] = {}
        self.port = 1024

    def put_loads_back(self) -> None:
        """End the connections that picking has made, and let the loads be what the vector says."""
        self.director.flush_connections(Selection())
        for name, (address, port) in self.servers.items():
            number = self.lvs.number_of(self.service, address, port)
            self.loads.put(number, "active", self.active[name])
            self.loads.put(number, "total", self.active[name])
            self.loads.put(number, "overload", self.overloaded[name])

    def pick(self, client: str, port: int, asked: str) -> str:
        names = {server: name for name, server in self.servers.items()}
        packet = tcp_packet(client, port, asked, PORT, "S")
        if client.startswith("127."):  # clients were made up, too; these only lo lets in
            result = self.lvs.send(ether(packet, bytes(6), bytes(6)), "lo", mark=MARK)
        else:
            result = self.lvs.from_client(packet, mark=MARK)
        assert result.forwarded or result.reason == "dropped_no_destination"
        self.put_loads_back()
        return names[result.packet.destination] if result.forwarded else "-"

    def play(self, op: str, *rest: Any) -> None:
        if op == "add":
            name, address, at, weight = rest
            if address.startswith("127."):  # made up without a network: here that is the director itself
                address = "126." + address[4:]
            self.director.add_destination(self.service, real_server(address, at, method=MASQ, weight=weight))
            self.servers[name], self.active[name], self.overloaded[name] = (address, at), 0, 0
        elif op == "weight":
            name, weight = rest
            self.director.edit_destination(self.service, real_server(*self.servers[name], method=MASQ, weight=weight))
        elif op == "del":
            self.director.delete_destination(self.service, real_server(*self.servers.pop(rest[0])))
        elif op == "active":
            self.active[rest[0]] = rest[1]
            self.put_loads_back()
        elif op == "overload":
            self.overloaded[rest[0]] = rest[1]
            self.put_loads_back()
        elif op == "pick":
            count, wanted = rest
            picked = ""
            for _ in range(count):
                self.port += 1
                picked += self.pick("10.1.0.1", self.port, VIP)
            assert picked == wanted
        else:
            assert op == "pick_for", f"unknown step {op}"
            client, port, asked, wanted = rest
            assert self.pick(client, port, asked) == wanted


@pytest.mark.parametrize("case", _vectors(), ids=lambda case: case["id"])
def test_picks(routed: Harness, case: Case) -> None:
    played = Played(routed, case)
    for op in case["ops"]:
        played.play(*op)


def test_what_is_played() -> None:
    assert {name: sum(case["scheduler"] == name for case in _vectors()) for name in SCHEDULERS} == {
        "rr": 25, "wrr": 21, "lc": 26, "wlc": 27, "lblc": 20, "lblcr": 24, "dh": 23, "sh": 22, "sed": 21, "nq": 17,
        "fo": 23, "ovf": 26, "mh": 14, "twos": 0,
    }  # fmt: skip
    assert len(_vectors()) == 289
