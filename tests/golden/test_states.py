"""The state machines: conversations packet by packet, and the state and timeout that kernel IPVS had after each.

An event is who sends (c: client, s: real server) and what; each sequence has a client port of its own.
"""

import pytest

from support.harness import Harness
from support.packets import SCTP, TCP, UDP, ip, sctp, tcp, udp
from support.recordings import Case, playable

BASE = 1025
SLACK = 2  # seconds that the recording took at most


def _packet(case: Case, port: int, event: str) -> bytes:
    six = ":" in case["vip"]
    client, server = ("fd00:1::1", "fd00:2::1") if six else ("10.1.0.1", "10.2.0.1")
    who, what = event[0], event[1:]
    src, sport, dst, dport = (
        (client, port, case["vip"], case["port"]) if who == "c" else (server, case["rport"], client, port)
    )
    if case["proto"] == "udp":
        return ip(src, dst, UDP, udp(sport, dport, b"x"))
    if case["proto"] == "sctp":
        return ip(src, dst, SCTP, sctp(sport, dport, what))
    return ip(src, dst, TCP, tcp(sport, dport, what))


@pytest.mark.parametrize("case", playable("states"), ids=lambda case: case["id"])
def test_states_and_timeouts(lvs: Harness, case: Case) -> None:
    for command in case.get("before", ()):
        lvs.ipvsadm(command.removeprefix("ipvsadm "))
    lvs.set(**case.get("sysctl", {}))
    lvs.restore(case["restore"])
    client = "fd00:1::1" if ":" in case["vip"] else "10.1.0.1"
    sequences = case["sequences"]
    wrong = []
    for step in range(max(len(sequence["events"]) for sequence in sequences)):
        at_it = [(BASE + i, s) for i, s in enumerate(sequences) if step < len(s["events"])]
        for port, sequence in at_it:
            event = sequence["events"][step]
            packet = _packet(case, port, event)
            (lvs.from_client if event[0] == "c" else lvs.from_server)(packet)
        entries = lvs.entries()
        for port, sequence in at_it:
            recorded = sequence["states"][step]
            entry = entries.get((client, port))
            if entry is None or recorded is None:
                same = entry is None and recorded is None
            else:
                seconds = entry.timeout // 1000
                same = entry.shown.state == recorded[0] and seconds - SLACK <= recorded[1] < seconds
            if not same:
                wrong.append((sequence["events"][: step + 1], recorded, entry))
    assert not wrong


def test_what_is_played() -> None:
    """A recording that silently drops out would be a test that cannot fail."""
    assert len(playable("states")) == 25
