"""Tables and plots into docs/performance.md, between its marks: `<!-- bench: NAME -->` to `<!-- bench: end -->`."""

import re
from pathlib import Path
from typing import Any

from bench import findings, plot
from bench.subjects import PROGRAMS

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
PLOTS = PAGE.parent / "performance"
_MARKED = re.compile(r"<!-- bench: (?P<name>\w+) -->\n.*?<!-- bench: end -->", re.S)


def write(result: dict[str, Any]) -> None:
    """Replace what the marks enclose, where the result has something for it, and draw the plots anew."""
    texts = findings.sections(result)
    texts = {name: text for name, text in texts.items() if text.count("\n") > 1}
    if "rows" in result:
        texts["command"] = _command(result)
        PLOTS.mkdir(exist_ok=True)
        for name, text in _plots(result).items():
            (PLOTS / f"{name}.svg").write_text(text)
    elif "steps" in texts:
        texts["steps"] = _command(result) + "\n\n" + texts["steps"]

    replace(texts)


def replace(texts: dict[str, str]) -> None:
    """Put these texts between the marks of their names."""

    def marked(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in texts:
            return found[0]
        return f"<!-- bench: {name} -->\n{texts[name]}\n<!-- bench: end -->"

    PAGE.write_text(_MARKED.sub(marked, PAGE.read_text()))


def _command(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"    {result['command']}\n\n"
        f"{result['rounds']} rounds, Linux {machine['kernel'].split('-')[0]}, {machine['clang']}, "
        f"{machine['cpus']} CPUs ({machine['cpu']})."
    )


def _plots(result: dict[str, Any]) -> dict[str, str]:
    lines: dict[str, list[tuple[str, str, str]]] = {
        "dr": [(PROGRAMS[name][1], "dr", name) for name in ("slots", "hash", "index", "plain", "one_line")],
        "nat": [
            (f"{PROGRAMS[name][1]}: {way}", case, name)
            for name in ("slots", "hash")
            for way, case in (("request", "nat-in"), ("reply", "nat-out"))
        ],
        "new": [
            (f"{PROGRAMS[name][1]}: {way}", case, name)
            for name in ("slots", "hash")
            for way, case in (("DR", "dr-new"), ("NAT", "nat-new"))
        ],
    }
    titles = {
        "dr": "LVS-DR, established: ns per packet by number of flows",
        "nat": "LVS-NAT, established: ns per packet by number of flows",
        "new": "New connections: ns per packet by how many are there",
    }
    drawn = {}
    for name, wanted in lines.items():
        series = []
        for title, case, program in wanted:
            points = [
                (flows, findings.figures(result, case, flows, program)) for flows in findings.all_flows(result, case)
            ]
            points = [(flows, values) for flows, values in points if values]
            if name == "new":
                points = [(flows, values) for flows, values in points if flows >= 1 << 16]
            if len(points) > 1:
                series.append((title, points))
        if series:
            drawn[name] = plot.lines(titles[name], series)
    return drawn
