"""`pylvs demo`: LVS-NAT and LVS-DR with real clients and real servers, in namespaces, in a few seconds."""

import shlex
import signal
import sys
from collections import Counter
from types import FrameType
from typing import NamedTuple

from pylvs.cli.parsing import Parser
from pylvs.lab import Lab, LabError

CONNECTIONS = 12


class Act(NamedTuple):
    """One part of the demo: a topology, how the director forwards in it, and what to look at."""

    topology: str
    title: str
    flag: str
    how: str


ACTS = (
    Act(
        "nat",
        "LVS-NAT",
        "-m",
        "The director rewrites the destination of each request, and the source of each reply.",
    ),
    Act(
        "dr",
        "LVS-DR (direct routing)",
        "-g",
        "The director changes no packet, only the frame around it; replies go from the real server past it.",
    ),
)


_DESCRIPTION = """\
A minute's tour: LVS-NAT and LVS-DR with real clients and real servers, each in a
network namespace of its own on this machine; what is typed, and what ipvsadm then
shows. Nothing is left behind.
"""


def parsers() -> list[Parser]:
    """For pylvs.cli.parsing."""
    exits = {0: "every connection was answered, by every real server in turn", 1: "not so: see what is printed"}
    return [Parser(prog="pylvs demo", description=_DESCRIPTION, examples=[("pylvs demo", "")], exits=exits)]


def main(argv: list[str]) -> int:
    """Run the demo; 0 if every connection was answered and every real server had its part."""
    parsers()[0].parse_args(argv)
    # An exception takes the labs down on the way out; the signal's default would leave them.
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        print(
            "pylvs demo: clients, a director and real servers, each in a network namespace of its own on this machine."
        )
        passed = [_play(act, number) for number, act in enumerate(ACTS, 1)]
    except (LabError, TimeoutError) as error:
        print(f"pylvs demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\npylvs demo: interrupted; everything is removed.", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    _rule("The end")
    if all(passed):
        print("Every connection was answered, by every real server in turn, and nothing is left on this machine.")
        print("Play on: pylvs lab up nat")
        return 0
    print("Something went wrong: see above.", file=sys.stderr)
    return 1


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _rule(title: str) -> None:
    print(f"\n-- {title} " + "-" * (100 - len(title)))


def _play(act: Act, number: int) -> bool:
    with Lab(act.topology) as lab:
        _rule(f"{number}. {act.title}")
        print(lab.topology.drawing)
        print(f"{act.how}\n")
        print("Tell the director of a virtual service and its real servers:")
        _command(lab, f"-A -t {lab.vip}:80 -s rr")
        for server in lab.realservers:
            _command(lab, f"-a -t {lab.vip}:80 -r {server.ipv4}:80 {act.flag}")
        passed = _connect(lab)
        print("\nWhat the director has to say about it (the client closed its connections: they are inactive by now):")
        for words in ("-Ln", "-Lnc", "-Ln --stats"):
            _command(lab, words)
    return passed


def _command(lab: Lab, words: str) -> None:
    print(f"  director# ipvsadm {words}", flush=True)
    for line in lab.ipvsadm(shlex.split(words)).stdout.splitlines():
        print(f"      {line.rstrip()}")


def _connect(lab: Lab) -> bool:
    """Connect from the client, show who answered; whether all did."""
    print(f"\nThe client connects {CONNECTIONS} times:")
    print(f"  client$ curl http://{lab.vip}/", flush=True)
    answers: Counter[str] = Counter()
    for _ in range(CONNECTIONS):
        done = lab.run("client", ["curl", "-sS", "-m", "3", f"http://{lab.vip}/"], check=False)
        answers[done.stdout.strip() if done.returncode == 0 else f"failed: {done.stderr.strip()}"] += 1
    servers = [server.name for server in lab.realservers]
    for answer in [*servers, *(answer for answer in answers if answer not in servers)]:
        print(f"      {answer:<5} {'#' * answers[answer]:<{CONNECTIONS}} {answers[answer]}")
    return all(answers[server] for server in servers) and sum(answers[s] for s in servers) == CONNECTIONS
