"""End to end: client – director – real server in namespaces, new connections, requests and bytes per second.

All peers are up at the same time, each in a lab of its own; the rounds go through them in turn, beginning with another
one each time, so that a noisy machine is noisy for all. Ratios are to plain routing in the same round. Absolute figures
say little: client, director and real server share this machine's CPUs.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from bench.peers import BASE, HTTP_PORT, OURS, PEERS, TITLES
from bench.report import save, table
from pylvs.lab import Lab, LabError, wait_for
from pylvs.lab.servers import PACKAGES, program

CONNECTIONS = 32
METRICS = {"close": "new connections/s", "keepalive": "requests/s", "bulk": "Gbit/s"}
RATE = re.compile(r"^Requests/sec:\s+([\d.]+)", re.MULTILINE)
TROUBLE = re.compile(r"^\s*(Socket errors:.*|Non-2xx.*)", re.MULTILINE)

PACKAGES.setdefault("nft", "nftables")


def main(argv: list[str]) -> int:
    """Run the benchmark and print its table."""
    arguments = _parser().parse_args(argv)
    try:
        peers = _chosen(arguments.only, PEERS)
        metrics = _chosen(arguments.metrics, METRICS)
        for tool in ["wrk", "iperf3"]:
            program(tool)
        samples, skipped = _measure(peers, metrics, arguments.servers, arguments.rounds, arguments.seconds)
    except (LabError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    titled = {TITLES[peer]: figures for peer, figures in samples.items()}
    print(f"\n{arguments.rounds} rounds of {arguments.seconds:g} s; median, ratio to {TITLES[BASE]}, spread\n")
    print(table(titled, {metric: METRICS[metric] for metric in metrics}, TITLES[BASE]))
    for peer, reason in skipped.items():
        print(f"\nnot measured: {peer}: {reason}")
    parameters = {"rounds": arguments.rounds, "seconds": arguments.seconds, "connections": CONNECTIONS,
                  "servers": arguments.servers}  # fmt: skip
    file = save("e2e", {"parameters": parameters, "samples": samples, "skipped": skipped})
    print(f"\n{file}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench e2e", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--servers", type=int, default=1, help="real servers; plain routing leads to the first")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--only", metavar="PEER,...", help=f"of {','.join(PEERS)}")
    parser.add_argument("--metrics", metavar="METRIC,...", help=f"of {','.join(METRICS)}")
    return parser


def _chosen(words: str | None, known: Mapping[str, object]) -> list[str]:
    chosen = list(known) if words is None else words.split(",")
    for word in chosen:
        if word not in known:
            raise ValueError(f"unknown: {word}; there are: {', '.join(known)}")
    return chosen


def _measure(
    peers: list[str], metrics: list[str], servers: int, rounds: int, seconds: float
) -> tuple[dict[str, dict[str, list[float | None]]], dict[str, str]]:
    samples: dict[str, dict[str, list[float | None]]] = {}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:
        ready: dict[str, tuple[Lab, str]] = {}
        for peer in peers:
            try:
                ready[peer] = _set_up(peer, servers, stack)
                samples[peer] = {metric: [] for metric in metrics}
            except (LabError, TimeoutError) as error:
                skipped[peer] = str(error).strip().splitlines()[-1]
                print(f"{peer}: {skipped[peer]}", file=sys.stderr)
        order = list(ready)
        for number in range(rounds):
            for metric in metrics:
                for peer in order[number % len(order) :] + order[: number % len(order)]:
                    lab, address = ready[peer]
                    figure = _METHODS[metric](lab, address, seconds)
                    samples[peer][metric].append(figure)
                    said = "failed" if figure is None else f"{figure:.2f}"
                    print(f"round {number + 1}: {peer:<8} {metric:<10} {said}", file=sys.stderr, flush=True)
    return samples, skipped


def _set_up(peer: str, servers: int, stack: ExitStack) -> tuple[Lab, str]:
    """A lab with the peer on its director, proven to answer."""
    own = ExitStack()
    with own:
        lab = own.enter_context(Lab("bench", realservers=servers))
        for server in lab.realservers:
            lab.serve_iperf3(server.name)
        address = PEERS[peer](lab)

        def answers() -> bool:
            done = lab.run("client", ["curl", "-s", "-m", "1", f"http://{address}:{HTTP_PORT}/"], check=False)
            return done.stdout.startswith("rs")

        wait_for(answers, f"{peer} to answer", seconds=5)
        if peer in OURS and counted(lab) == 0:
            raise LabError(f"{peer} was answered, but its director has not counted a connection: that was not pylvs")
        stack.push(own.pop_all())
    return lab, address


def counted(lab: Lab) -> int:
    """How many connections the director's own statistics hold."""
    rows = [line.split() for line in lab.ipvsadm("-Ln --stats --exact").stdout.splitlines() if line.startswith("TCP")]
    return sum(int(row[2]) for row in rows)


def _wrk(lab: Lab, address: str, seconds: float, *headers: str) -> float | None:
    """Requests per second; None if connections failed."""
    duration = f"{max(1, round(seconds))}s"
    words = ["wrk", "-t", "2", "-c", str(CONNECTIONS), "-d", duration, "--timeout", "2s"]
    words += [word for header in headers for word in ("-H", header)]
    done = lab.run("client", [*words, f"http://{address}:{HTTP_PORT}/"], check=False, timeout=seconds + 20)
    rate = RATE.search(done.stdout)
    trouble = TROUBLE.search(done.stdout)
    if trouble:
        print(f"  wrk: {trouble.group(1)}", file=sys.stderr)
    return float(rate.group(1)) if rate and float(rate.group(1)) > 0 else None


def _close(lab: Lab, address: str, seconds: float) -> float | None:
    return _wrk(lab, address, seconds, "Connection: close")


def _keepalive(lab: Lab, address: str, seconds: float) -> float | None:
    return _wrk(lab, address, seconds)


def _bulk(lab: Lab, address: str, seconds: float) -> float | None:
    """Gbit per second from the client to the real server."""
    words = ["iperf3", "-c", address, "-t", str(max(1, round(seconds))), "--json", "--connect-timeout", "2000"]
    done = lab.run("client", words, check=False, timeout=seconds + 20)
    if done.returncode != 0:
        return None
    received: float = json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]
    return received / 1e9


_METHODS: dict[str, Callable[[Lab, str, float], float | None]] = {
    "close": _close,
    "keepalive": _keepalive,
    "bulk": _bulk,
}
