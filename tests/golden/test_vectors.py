"""The schedulers' picks, from the kernel's own code: real changes and real packets, in the order of the vectors.

`pick` opens no connection in the vectors and `active` sets a number: so the loads are put back after each packet.
Real servers are named by letters; the newest is at the list's head.
"""

import json
from collections.abc import Iterator

import pytest

from pylvs.model import MASQ, real_server, virtual_service
from support.harness import Harness, ip
from support.packets import tcp_packet
from support.recordings import GOLDEN, SCHEDULERS, Case

VIP, PORT = "10.99.0.1", 80


def _vectors() -> list[Case]:
    """Those of the schedulers that there are; overloaded real servers need thresholds, which there are not yet."""
    cases = json.loads((GOLDEN / "scheduler-vectors.json").read_text(encoding="utf-8"))["cases"]
    numbered = [dict(case, id=f"{case['scheduler']}-{number}") for number, case in enumerate(cases)]
    return [
        case
        for case in numbered
        if case["scheduler"] in SCHEDULERS and not any(op[0] == "overload" and op[2] for op in case["ops"])
    ]


@pytest.fixture
def routed(lvs: Harness) -> Iterator[Harness]:
    """The vectors' real servers are anywhere: behind the second wire."""
    ip("route add default via 10.0.2.2")
    yield lvs
    ip("route del default")


@pytest.mark.parametrize("case", _vectors(), ids=lambda case: case["id"])
def test_picks(routed: Harness, case: Case) -> None:
    service = virtual_service(VIP, PORT, scheduler=case["scheduler"])
    routed.director.add_service(service)
    director, loads = routed.director, routed.instance.dest_loads
    servers: dict[str, tuple[str, int]] = {}
    active: dict[str, int] = {}
    port = 1024

    def put_loads_back() -> None:
        for name, (address, at) in servers.items():
            number = routed.number_of(service, address, at)
            loads.put(number, "active", active[name])
            loads.put(number, "total", active[name])

    for op, *rest in case["ops"]:
        if op == "add":
            name, address, at, weight = rest
            if address.startswith("127."):  # made up without a network: here that is the director itself
                address = "126." + address[4:]
            director.add_destination(service, real_server(address, at, method=MASQ, weight=weight))
            servers[name], active[name] = (address, at), 0
        elif op == "weight":
            name, weight = rest
            director.edit_destination(service, real_server(*servers[name], method=MASQ, weight=weight))
        elif op == "del":
            director.delete_destination(service, real_server(*servers.pop(rest[0])))
        elif op == "active":
            active[rest[0]] = rest[1]
            put_loads_back()
        elif op == "pick":
            count, wanted = rest
            names = {server: name for name, server in servers.items()}
            picked = ""
            for _ in range(count):
                port += 1
                result = routed.from_client(tcp_packet("10.1.0.1", port, VIP, PORT, "S"))
                picked += names[result.packet.destination] if result.forwarded else "-"
                assert result.forwarded or result.reason == "dropped_no_destination"
                put_loads_back()
            assert picked == wanted
        else:
            assert op == "overload" and not rest[1], f"unknown step {op}"


def test_what_is_played() -> None:
    assert {name: sum(case["scheduler"] == name for case in _vectors()) for name in SCHEDULERS} == {
        "rr": 13, "wrr": 16, "lc": 17, "wlc": 17,
    }  # fmt: skip
