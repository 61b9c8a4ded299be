"""Listings of a table with connections: ipvsadm's own output beside the recorded one.

Connections are listed in no order that can be predicted, so lines are compared as sets. The recorded system needed up
to SLACK seconds between the packets and a listing; here they are as good as simultaneous.
"""

import re
import shlex

import pytest

from support.harness import Harness
from support.packets import TCP, UDP, ip, tcp, udp
from support.recordings import Case, mark_of, playable

SLACK = 3
NOT_IPVSADM = ("cat ",)  # the tables under /proc have tests of their own

UNPLAYED = {
    "stats-zero": "kernel IPVS zeroes the counters as it last published them, up to 2 s ago; ours are the present ones",
    "stats-zero-service": "as stats-zero",
}
PLAYED = [case for case in playable("conn") if case["id"] not in UNPLAYED]


def _play(lvs: Harness, case: Case) -> None:
    for who, *rest in case["packets"]:
        if who == "cmd":
            lvs.ipvsadm(rest[0].removeprefix("ipvsadm "))
            continue
        if who == "sleep":
            lvs.advance(rest[0])
            continue
        proto, src, sport, dst, dport, what, *more = rest
        size = more[0] if more else int(proto == "udp")
        payload = b"x" * size if isinstance(size, int) else size.encode()
        if proto == "udp":
            packet = ip(src, dst, UDP, udp(sport, dport, payload))
        else:
            packet = ip(src, dst, TCP, tcp(sport, dport, what, payload=payload))
        (lvs.from_client if who == "c" else lvs.from_server)(packet, mark=mark_of(case, dst))


def _seconds(clock: str) -> int:
    minutes, seconds = clock.split(":")
    return int(minutes) * 60 + int(seconds)


def _same_listing(ours: str, recorded: str) -> bool:
    """The same lines, but for the order of connections, the seconds that they have left, and the table's size."""
    ours, recorded = (re.sub(r"\(size=\d+\)", "", text) for text in (ours, recorded))
    entry = re.compile(r"^(\w+ +)(\d\d:\d\d)(  .*)$", re.MULTILINE)
    left = {(a, c): _seconds(b) for a, b, c in entry.findall(ours)}
    their = {(a, c): _seconds(b) for a, b, c in entry.findall(recorded)}
    return (
        entry.sub("", ours).split("\n") == entry.sub("", recorded).split("\n")
        and left.keys() == their.keys()
        and all(their[line] - 1 <= seconds <= their[line] + SLACK for line, seconds in left.items())
    )


@pytest.mark.parametrize("case", PLAYED, ids=lambda case: case["id"])
def test_listings(lvs: Harness, case: Case) -> None:
    lvs.set(**case.get("sysctl", {}))
    lvs.restore(case["restore"])
    _play(lvs, case)
    compared = 0
    for step in case["result"]:
        program, *words = shlex.split(step["cmd"])
        if program == "sleep":
            lvs.advance(float(words[0]))
        elif not step["cmd"].startswith(NOT_IPVSADM):
            assert program == "ipvsadm"
            ours = lvs.ipvsadm(shlex.join(words))
            assert _same_listing(ours, step["stdout"]), f"{step['cmd']}:\n{ours}\nrecorded:\n{step['stdout']}"
            compared += 1
    assert compared == 8


def test_what_is_played() -> None:
    assert [case["id"] for case in PLAYED] == [
        "list-tcp-nat", "list-tcp-secure", "list-tcp-dr", "list-tcp-tun", "list-udp-nat", "templ-tcp-plain",
        "templ-tcp-mask24", "templ-tcp-default", "templ-tcp-tun", "templ-port0", "templ-udp", "templ-udp-ops",
        "templ-fwmark-mask", "list-fwmark", "list-fwmark-port", "templ-tcp6-64", "templ-fwmark6-112",
        "templ-sip", "templ-quiesce-1", "templ-quiesce-2", "deleted-dest", "deleted-dest-expire",
        "deleted-service", "stats-count", "nodest", "weight0",
    ]  # fmt: skip
