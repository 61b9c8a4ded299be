"""What the original listed while there was traffic.

The connections are taken from the same moment's /proc/net/ip_vs_conn, and the counters from the one listing that has
each: so every listing is compared with what the others say. Time goes on between two listings, so that the seconds
left are not compared; and connections come in no order.
"""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pylvs.ipvsadm.commands import Shell
from pylvs.model import SCTP, TCP, UDP, Connection, Stats, canonical_address
from support.fake_director import FakeDirector
from support.hosts import TestResolver

CASES = json.loads((Path(__file__).parent / "cli" / "listings" / "traffic.json").read_text())
HOSTS = {"10.1.0.1": "client1.example.test", "10.99.0.1": "vip1.example.test", "10.2.0.1": "rs1.example.test"}
# Their rules were changed between the packets, and that part of the case is for the tests of the packet path: what is
# in `restore` is not what was listed. Their connections are compared all the same.
CHANGED = ("templ-quiesce-1", "templ-quiesce-2", "deleted-dest", "deleted-dest-expire", "deleted-service")
PROTOCOLS = {"IP": 0, "TCP": TCP, "UDP": UDP, "SCTP": SCTP}


def address(text: str) -> str:
    if ":" in text:
        return canonical_address(text)
    return ".".join(str(byte) for byte in bytes.fromhex(text))


def connection(line: str) -> Connection:
    protocol, client, cport, virtual, vport, server, dport, state, expires, *engine = line.split()
    return Connection(
        family=10 if ":" in client else 2,
        protocol=PROTOCOLS[protocol],
        caddr=address(client),
        cport=int(cport, 16),
        vaddr=address(virtual),
        vport=int(vport, 16),
        daddr=address(server),
        dport=int(dport, 16),
        state=state,
        expires=int(expires) * 1000,
        pe_name=engine[0] if engine else "",
        pe_data=engine[1].encode() if engine else b"",
    )


def numbers(text: str) -> list[list[int]]:
    """The numbers at the end of each line of a listing, after its title."""
    return [[int(word) for word in re.findall(r" +(\d+)(?= |$)", line)] for line in text.splitlines()[3:]]


class Busy(FakeDirector):
    """The services of a case with the counters that were seen."""

    def __init__(self, case: dict[str, Any]):
        listed = case["result"]
        connections = listed["cat /proc/net/ip_vs_conn"].splitlines()[1:]
        super().__init__(connections=[connection(line) for line in connections])
        if case["id"] in CHANGED:
            return
        run(self, ["-R"], case["restore"])
        stats = iter(numbers(listed["ipvsadm -Ln --stats --exact"]))
        counts = iter(numbers(listed["ipvsadm -Ln --persistent-conn"]))
        for key, entry in sorted(self._services.items(), key=lambda item: item[0][1:]):
            service_stats, _ = Stats(*next(stats)[-5:]), next(counts)
            destinations = [
                dest._replace(
                    persistent=count[-3], active=count[-2], inactive=count[-1], stats=Stats(*next(stats)[-5:])
                )
                for dest in sorted(entry.destinations, key=lambda dest: dest.server)
                for count in [next(counts)]
            ]
            self._services[key] = entry._replace(stats=service_stats, destinations=tuple(destinations))


def run(director: FakeDirector, words: list[str], stdin: str = "") -> str:
    out, err = io.StringIO(), io.StringIO()
    assert Shell(io.StringIO(stdin), out, err, lambda: director, TestResolver(HOSTS)).run(words) == 0
    assert err.getvalue() == ""
    return out.getvalue()


def comparable(command: str, text: str) -> str | list[str]:
    if "c" not in command.split()[1]:
        return text
    return sorted(re.sub(r"(?m)^(\w+ +)\d\d+:\d\d  ", r"\1mm:ss  ", text).splitlines(keepends=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_listings_under_traffic(case: dict[str, Any]) -> None:
    director = Busy(case)
    for command, expected in case["result"].items():
        program, *words = command.split()
        if program != "ipvsadm" or (case["id"] in CHANGED and "c" not in words[0]):
            continue
        assert comparable(command, run(director, words)) == comparable(command, expected), command
