"""Draws the budget over a minute in which a game takes the GPU's margin and gives it back.

    python tests/benchmarks/budget_plot.py > budget.svg

The free memory is made up; the budget is what the policy decides on it. Plain SVG, no library.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from assistant.daemon.budgets import BudgetState, Gauges, Memory, Policy, decide
from assistant.wire import BudgetNow

SECONDS = 90
STEP_S = 0.25
MARGIN_BYTES = 256 << 20
POLICY = Policy(full_tokens=1024)
WIDTH, HEIGHT, LEFT, TOP, GAP = 760, 120, 70, 30, 50


def free_share(at_s: float, noise: random.Random) -> float:
    """A game starts at 10 s, takes all at 25 s, ends at 40 s; a leak from 65 s on."""
    if at_s < 10:
        share = 1.3
    elif at_s < 25:
        share = 0.6
    elif at_s < 40:
        share = 0.05
    else:
        share = 1.3 - max(0.0, at_s - 65) * 0.05
    return max(0.0, share + noise.uniform(-0.03, 0.03))


def run() -> Iterator[tuple[float, float, BudgetNow]]:
    noise, state = random.Random(1), BudgetState()
    for index in range(int(SECONDS / STEP_S)):
        at_s = index * STEP_S
        share = free_share(at_s, noise)
        memory = Memory("GPU", int(share * MARGIN_BYTES), MARGIN_BYTES)
        gauges = Gauges(cells_free=8192, memories=(memory,))
        state, now = decide(POLICY, state, gauges, at_s)
        yield at_s, share, now


def panel(
    title: str, points: Sequence[tuple[float, float]], most: float, top: int, marks: Sequence[float]
) -> str:
    def xy(at_s: float, value: float) -> str:
        x = LEFT + at_s / SECONDS * WIDTH
        return f"{x:.1f},{top + HEIGHT * (1 - min(value, most) / most):.1f}"

    lines = []
    for mark in marks:
        left, right = xy(0, mark), xy(SECONDS, mark)
        (x1, y1), (x2, y2) = left.split(","), right.split(",")
        lines.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="mark"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{float(y1) + 4:.1f}" class="tick">{mark:g}</text>')
    line = " ".join(xy(*point) for point in points)
    return (
        f'<text x="{LEFT}" y="{top - 8}">{title}</text>{"".join(lines)}'
        f'<polyline points="{line}" class="line"/>'
    )


def main() -> None:
    looks = list(run())
    shares = [(at_s, share) for at_s, share, _ in looks]
    # a budget holds until the next look, so it is drawn as steps
    budgets = [
        point
        for (at_s, _, now), (then_s, _, _) in itertools.pairwise(looks)
        for point in ((at_s, now.tokens), (then_s, now.tokens))
    ]
    second = TOP + HEIGHT + GAP
    levels = sorted({POLICY.tokens(level) for level in range(POLICY.floor_level + 1)})
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} '
        f'{second + HEIGHT + 40}" font-family="sans-serif" font-size="12">'
        "<style>.line{fill:none;stroke:#06c;stroke-width:1.5}.mark{stroke:#ccc}"
        ".tick{text-anchor:end}</style>"
        '<rect width="100%" height="100%" fill="white"/>'
        + panel("free memory, as a share of the margin", shares, 1.5, TOP, POLICY.enter)
        + panel("prompt budget, tokens", budgets, 1100, second, levels)
        + f'<text x="{LEFT + WIDTH}" y="{second + HEIGHT + 24}" text-anchor="end">'
        f"{SECONDS} seconds</text></svg>"
    )


if __name__ == "__main__":
    main()
