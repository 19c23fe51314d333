"""What a pull says of its progress where no terminal shows bars: an editor reads these lines."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from assistant.cli.models import Bars, Percentages


def test_shares_are_reported_in_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    with Bars(Console(file=out, width=40)) as bars:
        advance = bars.step("fetching m", 1000)
        for _ in range(1000):
            advance(1)
    lines = out.getvalue().splitlines()
    assert lines[:3] == ["fetching m 0 %", "fetching m 5 %", "fetching m 10 %"]
    assert lines[-1] == "fetching m 100 %"
    assert len(lines) == 21


@given(st.lists(st.integers(0, 500), max_size=50), st.integers(0, 5000))
def test_shares_only_grow_and_never_pass_the_whole(pieces: list[int], total: int) -> None:
    told: list[str] = []
    shares = Percentages("x", total, told.append)
    for piece in pieces:
        shares.advance(piece)
    percents = [int(line.split()[1]) for line in told]
    assert percents == sorted(set(percents))
    assert all(0 <= percent <= 100 and percent % 5 == 0 for percent in percents)
