"""What happened to headroom, budget and rungs over time: as CSV, and as a plain SVG picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT, LEFT, TOP, GAP = 860, 110, 90, 60, 46
_STYLE = (
    ".line{fill:none;stroke:#06c;stroke-width:1.5}.others{fill:#e9b44c}.ours{fill:#5b8e7d}"
    ".mark{stroke:#bbb;stroke-dasharray:3 3}.grid{stroke:#ddd}.limit{stroke:#c00}"
    ".tick{text-anchor:end;fill:#555}.says{fill:#555;font-size:10px}"
)


@dataclass(frozen=True)
class Row:
    """One moment: bytes of the GPU, and what the service was like."""

    at_s: float
    others_bytes: int
    ours_bytes: int
    free_bytes: int
    budget_tokens: int
    level: int
    rung: int
    rung_name: str
    state: str


def write_csv(target: Path, rows: Sequence[Row]) -> None:
    """One line a change, under the names of `Row`."""
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row.__dataclass_fields__)
        before: list[object] = []
        for row in rows:
            at_s, *now = vars(row).values()
            if now != before:
                writer.writerow([round(at_s, 2), *now])
            before = now


def svg(
    title: str,
    rows: Sequence[Row],
    marks: Sequence[tuple[float, str]],
    total_bytes: int,
    rungs: Sequence[str],
) -> str:
    """Three panels under each other: the GPU, the budget, the ladder."""
    end_s = max((row.at_s for row in rows), default=1.0)
    tops = [TOP + panel * (HEIGHT + GAP) for panel in range(3)]

    def x(at_s: float) -> float:
        return LEFT + WIDTH * at_s / end_s

    def steps(values: Sequence[float], most: float, top: int) -> str:
        points, last = [], None
        for row, value in zip(rows, values, strict=True):
            y = top + HEIGHT * (1 - min(value, most) / most)
            if y == last and row is not rows[-1]:
                continue
            if last is not None:
                points.append(f"{x(row.at_s):.1f},{last:.1f}")
            points.append(f"{x(row.at_s):.1f},{y:.1f}")
            last = y
        return " ".join(points)

    def filled(values: Sequence[float], style: str) -> str:
        floor = tops[0] + HEIGHT
        edge = steps(values, total_bytes * 1.25, tops[0])
        return f'<polygon class="{style}" points="{LEFT},{floor} {edge} {LEFT + WIDTH},{floor}"/>'

    def line(values: Sequence[float], most: float, top: int) -> str:
        return f'<polyline class="line" points="{steps(values, most, top)}"/>'

    def above(panel: int, text: str) -> str:
        return f'<text x="{LEFT}" y="{tops[panel] - 8}">{text}</text>'

    def label(y: float, text: str) -> str:
        return f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}">{text}</text>'

    others = [float(row.others_bytes) for row in rows]
    both = [float(row.others_bytes + row.ours_bytes) for row in rows]
    limit_y = tops[0] + HEIGHT * (1 - 1 / 1.25)
    most_tokens = max((row.budget_tokens for row in rows), default=1) * 1.1 or 1.0
    deepest = max(len(rungs) - 1, 1)
    parts = [
        f'<text x="{LEFT}" y="22" font-size="14">{title}</text>',
        above(0, "the GPU: others (yellow), ours (green), its size"),
        filled(both, "ours"),
        filled(others, "others"),
        f'<line class="limit" x1="{LEFT}" y1="{limit_y}" x2="{LEFT + WIDTH}" y2="{limit_y}"/>',
        label(limit_y, f"{total_bytes >> 20} MiB"),
        above(1, "prompt budget, tokens"),
        line([float(row.budget_tokens) for row in rows], most_tokens, tops[1]),
        above(2, "rung of the ladder"),
        line([float(deepest - row.rung) for row in rows], deepest, tops[2]),
    ]
    shown = sorted({row.budget_tokens for row in rows if row.budget_tokens})[-5:]
    parts += [label(tops[1] + HEIGHT * (1 - tokens / most_tokens), str(tokens)) for tokens in shown]
    for index in sorted({row.rung for row in rows}):
        name = rungs[index] if index < len(rungs) else str(index)
        parts.append(label(tops[2] + HEIGHT * index / deepest, name))
    bottom = tops[2] + HEIGHT
    said_s = -1e9
    for at_s, says in marks:
        here = f"{x(at_s):.1f}"
        parts.append(f'<line class="mark" x1="{here}" y1="{tops[0]}" x2="{here}" y2="{bottom}"/>')
        if at_s - said_s > end_s / 12:
            late = at_s > 0.75 * end_s
            place = f'x="{x(at_s) + (-2 if late else 2):.1f}" y="{bottom + 12}"'
            anchor = ' text-anchor="end"' if late else ""
            parts.append(f'<text class="says" {place}{anchor}>{says}</text>')
            said_s = at_s
    parts.append(
        f'<text x="{LEFT + WIDTH}" y="{bottom + 28}" text-anchor="end">{end_s:.0f} seconds</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {bottom + 40}" '
        f'font-family="sans-serif" font-size="12"><style>{_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )
