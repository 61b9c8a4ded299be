"""The connection table and its rivals, in nanoseconds per packet, bytes per connection and CPU time of the sweep.

    python -m bench table [--quick | --full] [--flows N,..] [--loads N,..] [--rounds N] [--only PROGRAM,..] [--steps]
                          [--write-docs] [--from FILE]

Every rival is the product with its table exchanged (bench/tables/), or a plain program that only forwards
(bench/baseline.bpf.c). All run by BPF_PROG_TEST_RUN, in turn within each round, beginning with another one each time;
each figure is the difference to a program that does nothing, measured at the same moment. Packets are of established
flows at random; a new connection's packets come one after the other. No packet leaves a namespace.

It takes about 4 minutes; --quick 20 seconds; --full, with 8 million flows, 7 minutes and up to 8 GB of memory.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench import findings, page, rivals
from bench.report import save
from bench.subjects import PROGRAMS, TABLES, Subjects, fitting

SMALLEST = 1 << 17  # slots: below that a table is in the CPU's caches anyway
EMPTY = (20, 22, 24)  # log2 of the slots of the empty tables that are swept
METHODS = {"dr": ("dr", "dr-new"), "nat": ("nat-in", "nat-out", "nat-new")}
Row = dict[str, Any]


def _numbers(text: str) -> list[int]:
    units = {"K": 1 << 10, "M": 1 << 20}
    return [int(word.rstrip("KM")) * units.get(word[-1], 1) for word in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m bench table", description=lines[0], epilog=lines[-1])
    parser.add_argument("--flows", type=_numbers, default=_numbers("1,1K,64K,1M"), help="1,1K,64K,1M")
    parser.add_argument("--loads", type=_numbers, default=[50, 75, 90], help="per cent of the slots: 50,75,90")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=500_000, help="packets of established flows per figure")
    parser.add_argument("--methods", default="dr,nat")
    parser.add_argument("--only", help=f"of {','.join(PROGRAMS)}")
    parser.add_argument("--memory", type=float, default=8.0, help="GB that the tables may take together")
    parser.add_argument("--quick", action="store_true", help="3 rounds, 1 and 64 K flows, a load of 50 %%")
    parser.add_argument("--full", action="store_true", help="8 M flows, too")
    parser.add_argument("--steps", action="store_true", help="leave steps of the packet path out in turn (bench/steps)")
    parser.add_argument("--write-docs", action="store_true", help="put tables and plots into docs/performance.md")
    parser.add_argument("--from", dest="file", type=Path, help="the figures of an earlier run instead of measuring")
    return parser


def main(argv: list[str]) -> int:
    """Measure, print, save, and write the documentation if asked to."""
    arguments = _parser().parse_args(argv)
    if arguments.quick:
        arguments.flows, arguments.loads, arguments.rounds, arguments.repeat = [1, 1 << 16], [50], 3, 200_000
    if arguments.full:
        arguments.flows = [*arguments.flows, 1 << 23]
    if arguments.file:
        result = json.loads(arguments.file.read_text())
    else:
        result = measure_steps(arguments) if arguments.steps else measure(arguments)
        result["command"] = " ".join(["python -m bench table", *(word for word in argv if word != "--write-docs")])
        file = save("steps" if arguments.steps else "table", result)
        result = json.loads(file.read_text())
        print(f"{file}", file=sys.stderr)
    print("\n\n".join(findings.sections(result).values()))
    if arguments.write_docs:
        page.write(result)
    return 0


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything: {"rows": figures, "sweeps": .., "memory": .., "copy": GB/s}."""
    names = list(PROGRAMS) if arguments.only is None else arguments.only.split(",")
    if unknown := set(names) - set(PROGRAMS):
        raise SystemExit(f"bench: unknown: {', '.join(unknown)}; there are: {', '.join(PROGRAMS)}")
    result: dict[str, Any] = {"rows": [], "sweeps": [], "memory": [], "rounds": arguments.rounds}
    with Subjects(PROGRAMS[name][0] for name in names) as subjects:
        for method in arguments.methods.split(","):
            for flows in sorted(arguments.flows):
                # loads are looked at where there is a table to fill
                loads = arguments.loads if 1 << 14 <= flows <= 1 << 21 else [50]
                for load in loads:
                    _point(subjects, names, method, flows, load, arguments, result)
        if "slots" in subjects.by_kind and "dr" in arguments.methods and not arguments.quick:
            for bits in EMPTY:
                subjects.by_kind["slots"].ask("load", 1 << bits, 1)
                for _ in range(arguments.rounds):
                    _sweep(subjects.by_kind["slots"], 1 << bits, 0, result)
        if "plain" in subjects.by_kind:
            result["copy"] = max(subjects.by_kind["plain"].ask("bandwidth", 256) for _ in range(3))
    return result


def _sweep(subject: Any, slots: int, live: int, result: dict[str, Any]) -> None:
    result["sweeps"].append({"table": subject.kind, "slots": slots, "live": live, "ns": subject.ask("sweep", 1)})


def _point(
    subjects: Subjects, names: list[str], method: str, flows: int, load: int, arguments: argparse.Namespace,
    result: dict[str, Any],
) -> None:  # fmt: skip
    """All programs with tables of one size, filled alike."""
    sides = 2 if method == "nat" else 1
    slots = max(SMALLEST, 1 << (2 * sides * flows - 1).bit_length())
    if load != 50:
        flows = slots * load // 100 // sides
    births = min(slots // (16 if load == 50 else 32) // sides, 1 << 16)
    rounds = min(arguments.rounds, 3) if flows > 1 << 22 else arguments.rounds  # these take minutes to set up
    wanted = names if load == 50 else [name for name in names if name in TABLES]
    chosen = fitting(wanted, slots, flows * sides, int(arguments.memory * (1 << 30)))
    kinds = list(dict.fromkeys(PROGRAMS[name][0] for name in chosen))
    _say(f"{method}, {flows} flows in {slots} slots" + ("" if chosen == wanted else f": only {', '.join(chosen)}"))
    for kind in kinds:
        subject = subjects.by_kind[kind]
        if kind == "plain":
            subject.ask("load", flows * sides, "floor_of" in chosen, slots if "one_line" in chosen else 1)
            for case in METHODS[method][:-1]:
                subject.ask("fill", case, 0, flows)
                for name in chosen:
                    if PROGRAMS[name][0] == "plain" and subject.ask("verdict", case, name, 0) != 7:
                        raise SystemExit(f"bench: {name} does not forward {case}")
            continue
        subject.ask("load", slots, sides)
        made = subject.ask("fill", METHODS[method][0], 0, flows)
        if made < flows:
            _say(f"  {kind}: {made} of {flows} connections were made")
        memory = subject.ask("memory")
        result["memory"].append({"table": kind, "method": method, "slots": slots, "conns": made, "maps": memory})
    figures: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for case in METHODS[method]:
            turn = number % len(chosen)
            for name in chosen[turn:] + chosen[:turn]:
                subject = subjects.of(name)
                if not case.endswith("new"):
                    figure = subject.ask("packets", case, name, flows, arguments.repeat)
                elif subject.kind != "plain":
                    figure = subject.ask("births", case, flows, births)
                else:
                    continue
                figures.setdefault((case, name), []).append(figure)
        if method == "dr" and flows >= 1 << 16:
            for kind in kinds:
                if kind != "plain":
                    _sweep(subjects.by_kind[kind], slots, flows, result)
    for (case, name), values in figures.items():
        row = {"case": case, "flows": flows, "load": load, "slots": slots, "program": name, "ns": values}
        result["rows"].append(row)
    for kind in kinds:
        subjects.by_kind[kind].ask("unload")


def measure_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """The product whole and with each step of its packet path left out: {"steps": figures}."""
    headers = rivals.HERE / "steps"
    kinds = ["slots", *sorted(header.stem for header in headers.glob("*.h"))]
    if arguments.only:
        kinds = ["slots", *arguments.only.split(",")]
    rows: list[Row] = []
    with Subjects(kinds, headers) as subjects:
        for method in arguments.methods.split(","):
            for flows in sorted(flows for flows in arguments.flows if flows <= 1 << 20):
                slots = max(SMALLEST, 4 * flows)
                _say(f"{method}, {flows} flows")
                # what finds without looking is for one flow of LVS-DR
                chosen = [kind for kind in subjects.by_kind if (flows, method) == (1, "dr") or kind != "find"]
                for kind in chosen:
                    subjects.by_kind[kind].ask("load", slots, 2 if method == "nat" else 1)
                    subjects.by_kind[kind].ask("fill", METHODS[method][0], 0, flows)
                figures: dict[tuple[str, str], list[float]] = {}
                for number in range(arguments.rounds):
                    for case in METHODS[method][:-1]:
                        turn = number % len(chosen)
                        for kind in chosen[turn:] + chosen[:turn]:
                            figure = subjects.by_kind[kind].ask("packets", case, kind, flows, arguments.repeat)
                            figures.setdefault((case, kind), []).append(figure)
                for (case, kind), values in figures.items():
                    rows.append({"case": case, "flows": flows, "without": kind, "ns": values})
                for kind in chosen:
                    subjects.by_kind[kind].ask("unload")
    return {"steps": rows, "rounds": arguments.rounds}
