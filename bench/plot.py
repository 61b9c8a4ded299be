"""Lines over a logarithmic axis, as SVG that reads well on light and on dark pages. Pure."""

import math
import statistics
from collections.abc import Sequence
from xml.sax.saxutils import escape

from bench.findings import number

Series = tuple[str, Sequence[tuple[int, Sequence[float]]]]
WIDTH, HEIGHT, LEFT, RIGHT, TOP = 720, 420, 56, 16, 40
# dark enough on white, light enough on black; each with a dash of its own for those who do not see the difference
COLOURS = ("#d6453d", "#3b82c4", "#2f9e62", "#b07d12", "#9061c2")
DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 4")
STYLE = """text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 } .grid { stroke: #8b949e; stroke-opacity: .3 } .axis { stroke: #8b949e }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }"""


def _step(most: float) -> int:
    """The distance of the grid's lines: about six of them."""
    rough = most / 6
    size = 10 ** math.floor(math.log10(rough))
    return int(next(factor * size for factor in (1, 2, 5, 10) if factor * size >= rough))


def lines(title: str, series: Sequence[Series]) -> str:
    """A plot of medians, with each point's smallest and greatest value as a thin bar."""
    bottom = HEIGHT - 44 - 18 * len(series)
    flows = sorted({x for _, points in series for x, _ in points})
    step = _step(max(max(values) for _, points in series for _, values in points))
    top = step * math.ceil(max(statistics.median(v) for _, points in series for _, v in points) * 1.1 / step)
    low, high = math.log2(flows[0]), math.log2(flows[-1])

    def x(value: int) -> float:
        return LEFT + 12 + (math.log2(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT - 24)

    def y(value: float) -> float:
        return bottom - min(value, top) / top * (bottom - TOP)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
    ]
    for value in range(0, top + 1, step):
        kind = "grid" if value else "axis"
        out.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
    for value in flows:
        out.append(f'<text x="{x(value):.1f}" y="{bottom + 20}" text-anchor="middle">{number(value)}</text>')
    for place, (name, points) in enumerate(series):
        colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
        path = " ".join(f"{x(flow):.1f},{y(statistics.median(values)):.1f}" for flow, values in points)
        pen = f'stroke="{colour}" stroke-dasharray="{dash}"' if dash else f'stroke="{colour}"'
        for flow, values in points:
            at = f"{x(flow):.1f}"
            out.append(
                f'<line stroke="{colour}" stroke-opacity=".6" x1="{at}" x2="{at}" '
                f'y1="{y(min(values)):.1f}" y2="{y(max(values)):.1f}"/>'
            )
            out.append(f'<circle cx="{at}" cy="{y(statistics.median(values)):.1f}" r="3" fill="{colour}"/>')
        out.append(f'<polyline fill="none" stroke-width="2" {pen} points="{path}"/>')
        line = bottom + 46 + 18 * place
        out.append(f'<line stroke-width="2" {pen} x1="{LEFT}" x2="{LEFT + 34}" y1="{line - 4}" y2="{line - 4}"/>')
        out.append(f'<text x="{LEFT + 42}" y="{line}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
