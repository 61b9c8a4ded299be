"""Nanoseconds of a new connection with each scheduler, by how many real servers there are; and what changes cost.

    python -m bench schedulers [--rounds N] [--births N] [--servers N,N,...] [--only NAME,NAME] [--write]

New connections are LVS-DR, by BPF_PROG_TEST_RUN through the real program; the schedulers alternate. All real servers
have weight 1 to 4 and the connections that the round before has left them: none. Changes are new weights through one
`pylvs.Director`, and as many more real servers, one after the other. `--write`: into docs/performance.md.
"""

import argparse
import os
import statistics
import sys
import time

from bench.packet import Bench, in_child
from bench.page import replace
from bench.replay import DR, SYN
from pylvs import Director, real_server, virtual_service
from pylvs.datapath import loading
from pylvs.schedulers import NAMES

_VIP = "10.99.0.1"


def _server(number: int, weight: int):  # type: ignore[no-untyped-def]
    return real_server(f"10.2.{number >> 8}.{number & 255}", 80, weight=weight)


def _serve(director: Director, servers: int) -> None:
    service = virtual_service(_VIP, 80, scheduler="rr")
    director.delete_service(service)
    director.add_service(service)
    for number in range(servers):
        director.add_destination(service, _server(number, 1 + number % 4))


def births(bench: Bench, director: Director, arguments: argparse.Namespace) -> dict[tuple[str, int], list[float]]:
    """(scheduler, real servers) -> nanoseconds of a new connection, each round's."""
    found: dict[tuple[str, int], list[float]] = {}
    case = DR._replace(flags=SYN)
    for servers in arguments.servers:
        _serve(director, servers)
        for _ in range(arguments.rounds):
            for name in arguments.only:
                director.edit_service(virtual_service(_VIP, 80, scheduler=name))
                bench.forget()
                # the slower ones get fewer: a bench of many real servers must end
                count = max(arguments.births * 4 // (4 + servers // 16), 64)
                before = bench.conns()
                figure = bench.net(case, count, count, False)
                if bench.conns() - before < count * 0.99 and name != "ovf":
                    raise SystemExit(f"{name}: {bench.conns() - before} of {count} connections were made")
                found.setdefault((name, servers), []).append(figure)
        print(f"{servers} real servers", file=sys.stderr)
    return found


def changes(director: Director, arguments: argparse.Namespace) -> dict[tuple[str, int], tuple[float, float]]:
    """(scheduler, real servers) -> microseconds of a new weight, and of adding a real server."""
    found = {}
    for servers in arguments.servers:
        for name in arguments.only:
            director.delete_service(virtual_service(_VIP, 80))
            service = virtual_service(_VIP, 80, scheduler=name)
            director.add_service(service)
            start = time.perf_counter()
            for number in range(servers):
                director.add_destination(service, _server(number, 1 + number % 4))
            added = time.perf_counter()
            for turn in range(arguments.edits):
                director.edit_destination(service, _server(turn % servers, 2 + turn % 5))
            edited = time.perf_counter()
            found[name, servers] = (edited - added) / arguments.edits * 1e6, (added - start) / servers * 1e6
    return found


def page(
    new: dict[tuple[str, int], list[float]],
    changed: dict[tuple[str, int], tuple[float, float]],
    arguments: argparse.Namespace,
) -> str:
    """The tables, as markdown."""
    sizes = arguments.servers
    lines = [f"    {' '.join(arguments.command)}", ""]
    lines.append(f"{arguments.rounds} rounds, Linux {os.uname().release.split('-')[0]}, {os.cpu_count()} CPUs.")
    lines += ["", "| new connection, ns, by real servers | " + " | ".join(map(str, sizes)) + " |"]
    lines.append("|---|" + "---:|" * len(sizes))
    for name in arguments.only:
        cells = (f"{statistics.median(new[name, size]):.0f}" for size in sizes)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "| a new weight / another real server, µs | " + " | ".join(map(str, sizes)) + " |"]
    lines.append("|---|" + "---:|" * len(sizes))
    for name in arguments.only:
        cells = (f"{changed[name, size][0]:.0f} / {changed[name, size][1]:.0f}" for size in sizes)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measure(arguments: argparse.Namespace) -> int:
    """The measurement proper, in a child with a network namespace of its own."""
    bench = Bench(arguments.conn_bits)
    try:
        with Director() as director:
            text = page(births(bench, director, arguments), changes(director, arguments), arguments)
    finally:
        loading.unload()
    print(text)
    if arguments.write:
        replace({"schedulers": text})
    return 0


def main(argv: list[str]) -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m bench schedulers", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--births", type=int, default=1 << 14, help="connections per round; fewer with many servers")
    parser.add_argument("--edits", type=int, default=500)
    parser.add_argument("--servers", type=lambda text: [int(n) for n in text.split(",")], default=[4, 64, 1024])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(NAMES))
    parser.add_argument("--conn-bits", type=int, default=18)
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    arguments = parser.parse_args(argv)
    arguments.command = ["python -m bench schedulers", *argv]
    return in_child(measure, arguments)
