"""What persistence, thresholds and estimation cost: nanoseconds of established packets and of new connections.

    python -m bench options [--rounds N] [--repeat N] [--flows N] [--births N] [--quick] [--write]

By BPF_PROG_TEST_RUN through the real program; the options alternate within each round, and each figure's ratio is to
the plain service in the same round. New connections are of few clients, so that all but the first find a template, and
of a client each, so that each makes one. What counting costs altogether: `python -m bench table --steps`. `--write`:
into docs/performance.md.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

from bench.packet import Bench, in_child
from bench.page import replace
from bench.replay import DR, NAT_REPLY, NAT_REQUEST, SYN, Case
from pylvs import MASQ, ROUTE, Director, real_server, virtual_service
from pylvs.datapath import loading

TARGET = 1.25  # of plain, at most, for an established packet
ESTABLISHED = {"DR": DR, "NAT request": NAT_REQUEST, "NAT reply": NAT_REPLY}
NEW = {"DR, few clients": DR, "DR, a client each": DR._replace(scattered=True), "NAT, few clients": NAT_REQUEST}


class Option(NamedTuple):
    """How the services of a row differ from plain ones."""

    persistent: int = 0
    upper: int = 0
    estimation: int = 1


OPTIONS = {
    "plain": Option(),
    "persistent": Option(persistent=300),
    "thresholds": Option(upper=1 << 30),
    "persistent, thresholds": Option(persistent=300, upper=1 << 30),
    "without estimation": Option(estimation=0),
}
Figures = dict[tuple[str, str], list[float]]


def _apply(bench: Bench, director: Director, option: Option) -> None:
    for number, method, port in ((1, ROUTE, 80), (2, MASQ, 8080)):
        service = virtual_service(f"10.99.0.{number}", 80, scheduler="rr", persistent=option.persistent)
        director.edit_service(service)
        director.edit_destination(service, real_server(f"10.2.0.{number}", port, method=method, upper=option.upper))
    bench.instance.sysctls.put(0, "run_estimation", option.estimation)


def _forget(bench: Bench) -> None:
    for _ in range(2):  # templates end after their connections
        bench.forget()
    if bench.conns():
        raise SystemExit(f"{bench.conns()} connections do not end")


def _born(bench: Bench, case: Case, count: int, templates: bool) -> float:
    """Nanoseconds of a new connection."""
    figure = bench.net(case._replace(flags=SYN), count, count, False)
    wanted = count * (2 if templates and case.scattered else 1)
    if bench.conns() < wanted * 0.99:
        raise SystemExit(f"{bench.conns()} of {wanted} connections and templates were made")
    return figure


def figures(bench: Bench, director: Director, arguments: argparse.Namespace) -> Figures:
    """(option, case) -> nanoseconds, each round's."""
    found: Figures = {}

    def note(option: str, case: str, figure: Callable[[], float]) -> None:
        _forget(bench)
        found.setdefault((option, case), []).append(figure())

    for turn in range(arguments.rounds):
        for name, option in OPTIONS.items():
            _apply(bench, director, option)
            for title, case in ESTABLISHED.items():

                def established(case: Case = case) -> float:
                    bench.open(case, arguments.flows)
                    return bench.net(case, arguments.flows, arguments.repeat, True)

                note(name, title, established)
            for title, case in NEW.items():
                note(
                    name,
                    title,
                    lambda case=case, option=option: _born(bench, case, arguments.births, bool(option.persistent)),
                )
        print(f"round {turn + 1} of {arguments.rounds}", file=sys.stderr)
    return found


def _cell(found: Figures, option: str, case: str) -> str:
    figures, plain = found[option, case], found["plain", case]
    ratio = statistics.median(mine / other for mine, other in zip(figures, plain, strict=True))
    return f"{statistics.median(figures):.0f} | {ratio:.2f}"


def page(found: Figures, arguments: argparse.Namespace) -> str:
    """The tables, as markdown."""
    lines = [f"    {' '.join(arguments.command)}", ""]
    lines.append(
        f"{arguments.rounds} rounds, {arguments.flows} flows, Linux {os.uname().release.split('-')[0]}, "
        f"{os.cpu_count()} CPUs. Ratios are to plain in the same round; an established packet's should be "
        f"{TARGET} at most."
    )
    for title, cases in (("established, ns", ESTABLISHED), ("new connection, ns", NEW)):
        lines += ["", f"| {title} | " + " | ".join(f"{case} | ratio" for case in cases) + " |"]
        lines.append("|---|" + "---:|" * 2 * len(cases))
        lines += [f"| {name} | " + " | ".join(_cell(found, name, case) for case in cases) + " |" for name in OPTIONS]
    return "\n".join(lines)


def measure(arguments: argparse.Namespace) -> int:
    """The measurement proper, in a child with a network namespace of its own."""
    bench = Bench(arguments.conn_bits)
    try:
        with Director() as director:
            text = page(figures(bench, director, arguments), arguments)
    finally:
        loading.unload()
    print(text)
    if arguments.write:
        replace({"options": text})
    return 0


def main(argv: list[str]) -> int:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m bench options", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=200_000)
    parser.add_argument("--flows", type=int, default=1 << 14)
    parser.add_argument("--births", type=int, default=1 << 15, help="new connections per figure, 65536 at most")
    parser.add_argument("--conn-bits", type=int, default=18)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--write", action="store_true", help="into docs/performance.md")
    arguments = parser.parse_args(argv)
    if arguments.births > 1 << 16:
        parser.error(f"there are 65536 clients at most, not {arguments.births}")
    arguments.rounds = 3 if arguments.quick else arguments.rounds
    arguments.command = ["python -m bench options", *(word for word in argv if word != "--write")]
    return in_child(measure, arguments)
