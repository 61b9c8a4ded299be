"""Figures into medians, ratios, a table and a file: pure but for the writing."""

import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

# samples[peer][metric] = one figure per round, None where the round failed
Samples = Mapping[str, Mapping[str, Sequence[float | None]]]


def median(values: Sequence[float | None]) -> float | None:
    """The median of the rounds that succeeded."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def ratio(values: Sequence[float | None], base: Sequence[float | None]) -> float | None:
    """The median of the rounds' ratios: a round's peers share its noise, medians of each would not."""
    return median([v / b if v is not None and b else None for v, b in zip(values, base, strict=False)])


def spread(values: Sequence[float | None]) -> float | None:
    """Half the distance between the best and the worst round, as a part of the median."""
    known = [value for value in values if value is not None]
    middle = median(known)
    return (max(known) - min(known)) / 2 / middle if middle and len(known) > 1 else None


def table(samples: Samples, metrics: Mapping[str, str], base: str) -> str:
    """A markdown table: a row per peer, for each metric the median and the ratio to the base peer."""
    head = ["", *(f"{title} | ratio | ±" for title in metrics.values())]
    width = 1 + 3 * len(metrics)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" + "---:|" * (width - 1)]
    for peer, figures in samples.items():
        cells = [peer]
        for metric in metrics:
            values = figures.get(metric, [])
            reference = samples.get(base, {}).get(metric, [])
            cells += [_number(median(values)), _ratio(ratio(values, reference)), _percent(spread(values))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "cpu": _cpu(),
        "clang": _clang(),
    }


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown")


def _clang() -> str:
    from hatch_build import find_clang

    said = subprocess.run([find_clang(), "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"clang version \d+", said)
    return found[0].replace(" version", "") if found else "clang"


def save(name: str, content: Mapping[str, Any]) -> Path:
    """Write a result file and return where."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(json.dumps({"machine": machine()} | dict(content), indent=1) + "\n")
    return file
