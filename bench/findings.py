"""What the figures of the table benchmark say: tables, and the targets that are met or missed. Pure."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from bench.report import ratio
from bench.subjects import PROGRAMS, TABLES

Result = dict[str, Any]
CASES = {
    "dr": "DR, established",
    "nat-in": "NAT request",
    "nat-out": "NAT reply",
    "dr-new": "DR, new connection",
    "nat-new": "NAT, new connection",
}
ROUND_SECONDS = 64 * 0.016  # the heartbeat walks the whole table in as many ticks


def sections(result: Result) -> dict[str, str]:
    """Name -> markdown, for the terminal and for the documentation."""
    if "steps" in result:
        return {"steps": steps(result)}
    return {
        "targets": targets(result),
        "packets": packets(result, established=True),
        "new": packets(result, established=False),
        "loads": loads(result),
        "memory": memory(result),
        "sweep": sweeps(result),
    }


def number(count: int) -> str:
    """65536 as 64 K."""
    for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def plural(flows: int) -> str:
    return "1 flow" if flows == 1 else f"{number(flows)} flows"


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def cell(values: Sequence[float] | None) -> str:
    """Median, and the half of the rounds that are nearest to it."""
    if not values:
        return "–"
    low, high = _quartiles(values)
    return f"{statistics.median(values):.0f} ({low:.0f}–{high:.0f})"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    titles = list(head)
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" + "---:|" * (len(titles) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def figures(result: Result, case: str, flows: int, program: str, load: int = 50) -> list[float]:
    """The rounds of one row; empty if it was not measured."""
    for row in result["rows"]:
        if (row["case"], row["flows"], row["program"], row["load"]) == (case, flows, program, load):
            return list(row["ns"])
    return []


def all_flows(result: Result, case: str) -> list[int]:
    return sorted({row["flows"] for row in result["rows"] if row["case"] == case and row["load"] == 50})


def packets(result: Result, established: bool) -> str:
    """A row per case and program, a column per number of flows."""
    cases = [case for case in CASES if case.endswith("new") != established]
    columns = sorted({flows for case in cases for flows in all_flows(result, case)})
    rows = []
    for case in cases:
        for program, (_, title) in PROGRAMS.items():
            cells = [cell(figures(result, case, flows, program)) for flows in columns]
            if any(text != "–" for text in cells):
                name = f"**{title}**" if program == "slots" else title
                rows.append([f"{CASES[case]}: {name}", *cells])
    heads = [plural(flows) if established else f"beside {plural(flows)}" for flows in columns]
    return _table(["ns per packet: median (quartiles)", *heads], rows)


def loads(result: Result) -> str:
    """How the tables stand being full."""
    rows = []
    levels = sorted({row["load"] for row in result["rows"]})
    sizes = sorted({row["slots"] for row in result["rows"] if row["load"] != 50})
    for slots in sizes:
        for case, title in CASES.items():
            for program in ("slots", "hash"):
                found = {
                    row["load"]: row["ns"]
                    for row in result["rows"]
                    if (row["case"], row["slots"], row["program"]) == (case, slots, program)
                }
                if len(found) > 1:
                    name = f"{title}, {number(slots)} slots: {PROGRAMS[program][1]}"
                    rows.append([name, *(cell(found.get(level)) for level in levels)])
    return _table(["ns per packet: median (quartiles)", *(f"{level} % full" for level in levels)], rows)


def memory(result: Result) -> str:
    """Bytes per connection, from what the kernel says that the maps take."""
    rows = []
    largest: dict[tuple[str, str, int], dict[str, Any]] = {}
    for entry in result["memory"]:
        share = round(100 * entry["conns"] * (2 if entry["method"] == "nat" else 1) / entry["slots"])
        key = (entry["table"], entry["method"], share)
        if share >= 40 and entry["slots"] >= largest.get(key, entry)["slots"]:
            largest[key] = entry
    for (table, method, share), entry in sorted(
        largest.items(), key=lambda item: (TABLES.index(item[0][0]), item[0][1], item[0][2])
    ):
        total = sum(entry["maps"].values())
        rows.append([
            f"{PROGRAMS[table][1]}, {method.upper()}, {share} % full",
            number(entry["slots"]),
            f"{total / entry['slots']:.2f}",
            f"{total / entry['conns']:.1f}",
        ])  # fmt: skip
    return _table(["", "slots", "bytes per slot", "bytes per connection"], rows)


def sweeps(result: Result) -> str:
    """What expiring costs: one walk over the whole table, and how much of a CPU that is."""
    groups: dict[tuple[str, int, int], list[float]] = {}
    for entry in result["sweeps"]:
        groups.setdefault((entry["table"], entry["slots"], entry["live"]), []).append(entry["ns"])
    rows = []
    for (table, slots, live), values in groups.items():
        if table != "slots" and 2 * live != slots:
            continue
        middle = statistics.median(values)
        rows.append([
            PROGRAMS[table][1],
            number(slots),
            number(live) if live else "none",
            f"{middle / 1e6:.2f} ({min(values) / 1e6:.2f}–{max(values) / 1e6:.2f})",
            f"{middle / live:.2f}" if live else "–",
            f"{middle / slots:.2f}",
            f"{middle / 1e6 / ROUND_SECONDS:.1f}",
            f"{slots * 64 / middle:.1f}" if table == "slots" and live else "–",
        ])  # fmt: skip
    head = [
        "",
        "slots",
        "live",
        "ms per walk",
        "ns per connection",
        "ns per slot",
        "CPU ms per second",
        "GB/s of slots",
    ]
    text = _table(head, rows)
    if copy := result.get("copy"):
        text += f"\n\nFor comparison: one CPU of this machine copies {copy:.0f} GB/s, read and written."
    return text


def _against(result: Result, case: str, flows: int, program: str, other: str, other_case: str = "") -> str | float:
    value = ratio(figures(result, case, flows, program), figures(result, other_case or case, flows, other))
    return "–" if value is None else value


def targets(result: Result) -> str:
    """Every target with its figures: what is asked, what is, whether that will do."""
    rows = []

    def row(what: str, most: float, value: str | float, form: str = ".2f") -> None:
        if not isinstance(value, str):
            rows.append([what, f"{most}", format(value, form), "met" if value <= most * 1.0005 else "**missed**"])

    for program in ("plain", "plain_fib", "plain_neigh", "floor_of"):
        value = _against(result, "dr", 1, "slots", program)
        row(f"one hot flow, DR: of “{PROGRAMS[program][1]}”", 1.2, value)
    for flows, most in ((1 << 16, 0.6), (1 << 20, 0.5), (1 << 23, 0.5)):
        for case in ("dr", "nat-in", "nat-out"):
            value = _against(result, case, flows, "slots", "hash")
            row(f"{number(flows)} flows, {CASES[case]}: of the same over a BPF hash", most, value)
    for flows in (1 << 16, 1 << 20, 1 << 23):
        for case in ("dr-new", "nat-new"):
            value = _against(result, case, flows, "slots", "hash")
            row(f"{CASES[case]} beside {number(flows)}: of the same over a BPF hash", 0.6, value)
    for flows in all_flows(result, "nat-in"):
        for case in ("nat-in", "nat-out"):
            value = _against(result, case, flows, "slots", "slots", "dr")
            row(f"{CASES[case]}, {plural(flows)}: of DR's", 1.6, value)
    mine = [entry for entry in result["memory"] if entry["table"] == "slots"]
    if mine:
        # a slot in a table so large that the pages' ends do not count
        entry = max(mine, key=lambda entry: entry["slots"])
        slot = sum(entry["maps"].values()) / entry["slots"]
        row("bytes per IPv4 DR connection: its slot, tag and part of a group's head", 65.25, slot)
        row("bytes per IPv4 NAT connection", 192, 2 * slot)
    swept = [e for e in result["sweeps"] if e["table"] == "slots" and e["live"] == 1 << 20]
    if swept:
        value = statistics.median(e["ns"] for e in swept) / 1e6 / ROUND_SECONDS
        row("sweep of 1 M connections: ms of a CPU per second", 50, value, ".1f")
    return _table(["target", "at most", "is", ""], rows) + least(result)


def least(result: Result) -> str:
    """What any table would cost at the least: a packet of one hot flow, and one line out of the memory."""
    said = []
    for flows in (1 << 16, 1 << 20):
        parts = [figures(result, "dr", 1, "slots"), figures(result, "dr", flows, "one_line")]
        parts += [figures(result, "dr", flows, "slots"), figures(result, "dr", flows, "hash")]
        if all(parts):
            hot, line, mine, other = map(statistics.median, parts)
            said.append(
                f"At {plural(flows)} a cold line alone takes {line:.0f} ns; with the {hot:.0f} ns of one hot flow that "
                f"is {hot + line:.0f}, or {(hot + line) / other:.2f} of the same over a BPF hash. We need {mine:.0f}."
            )
    return "\n\n" + " ".join(said) if said else ""


def steps(result: Result) -> str:
    """What a packet saves where a step is left out."""
    rows = []
    known = {(r["case"], r["flows"], r["without"]): r["ns"] for r in result["steps"]}
    for case, flows in dict.fromkeys((case, flows) for case, flows, _ in known):
        whole = known[case, flows, "slots"]
        rows.append([f"{CASES[case]}, {plural(flows)}", "nothing", cell(whole), ""])
        for (other, count, without), values in known.items():
            if (other, count) == (case, flows) and without != "slots":
                saved = [w - v for w, v in zip(whole, values, strict=False)]
                rows.append(["", without, cell(values), f"{statistics.median(saved):.0f}"])
    return _table(["", "left out", "ns per packet", "saves"], rows)
