"""Nanoseconds per packet through the real program, by BPF_PROG_TEST_RUN: the quick look while working on it.

    python -m bench packet [--rounds N] [--repeat N] [--flows N,N,...] [--quick]

The rounds of all cases alternate; medians and spread are shown. How the connection table does beside others:
`python -m bench table`.
"""

import argparse
import os
import statistics
import sys
import traceback
from collections.abc import Callable

from bench.replay import DR, NAT_REPLY, NAT_REQUEST, SYN, Case, Replayer, add_services, enter_namespace
from pylvs.datapath import loading

CASES = {"DR established": DR, "NAT request": NAT_REQUEST, "NAT reply": NAT_REPLY}
NEW = {"DR new connection": DR._replace(flags=SYN), "NAT new connection": NAT_REQUEST._replace(flags=SYN)}


class Bench:
    """A director in a namespace of its own, and the replaying program."""

    def __init__(self, conn_bits: int) -> None:
        enter_namespace()
        self.instance = loading.load(conn_bits)
        add_services()
        self.replayer = Replayer()
        self.ingress = self.instance.program("ingress")

    def open(self, case: Case, flows: int) -> None:
        """Bring every flow of a case to ESTABLISHED."""
        for flags in (SYN, case.flags):
            self.replayer.run(
                case._replace(flags=flags, reply=False), self.ingress, flows, flows, first=0, at_random=False
            )
        if self.conns() < flows:
            raise SystemExit(f"{case.name}: {self.conns()} of {flows} connections were made")

    def forget(self) -> None:
        """Let every connection's time be over, and their slots rest."""
        config = self.instance.config
        config.put(0, "clock_offset", config.get(0, "clock_offset") + 1000 * 10**9)
        self.instance.run("catch_up")
        config.put(0, "clock_offset", config.get(0, "clock_offset") + 10**9)

    def conns(self) -> int:
        return int(self.instance.runtime.get(0, "conns"))

    def net(self, case: Case, flows: int, repeat: int, at_random: bool) -> float:
        empty = self.replayer.run(case, self.replayer.nothing, flows, repeat, at_random=at_random)
        return self.replayer.run(case, self.ingress, flows, repeat, at_random=at_random) - empty


def measure(arguments: argparse.Namespace) -> dict[tuple[str, str], list[float]]:
    """(case, flows) -> the net nanoseconds of each round."""
    bench = Bench(arguments.conn_bits)
    results: dict[tuple[str, str], list[float]] = {}
    new = 1 << (arguments.conn_bits - 2)
    for flows in arguments.flows:
        for _ in range(arguments.rounds):
            for name, case in CASES.items():
                bench.forget()
                bench.open(case, flows)
                figure = bench.net(case, flows, arguments.repeat, True)
                results.setdefault((name, str(flows)), []).append(figure)
            for name, case in NEW.items():
                bench.forget()
                results.setdefault((name, "new"), []).append(bench.net(case, new, new, False))
    return results


def in_child(measure: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run a measurement in a child, which may enter a network namespace; its exit code."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = measure(arguments)
        except Exception:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_namespace(arguments: argparse.Namespace) -> int:
    """The measurement proper, in a child with a network namespace of its own."""
    try:
        rows = measure(arguments)
    finally:
        loading.unload()
    print(f"{'case':<22}{'flows':>9}{'median ns':>11}{'min':>7}{'max':>7}")
    for (name, flows), values in rows.items():
        print(f"{name:<22}{flows:>9}{statistics.median(values):>11.0f}{min(values):>7.0f}{max(values):>7.0f}")
    return 0


def main(argv: list[str]) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m bench packet", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=200_000)
    parser.add_argument("--flows", type=lambda text: [int(n) for n in text.split(",")], default=[1, 1024, 65536])
    parser.add_argument("--conn-bits", type=int, default=18)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rounds = 3
    return in_child(in_namespace, arguments)
