"""Plots of text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from assistant.cli.terminal import area, bar


@given(
    values=st.lists(st.floats(0, 1e12), max_size=200),
    width=st.integers(1, 120),
    height=st.integers(1, 6),
    top=st.floats(0, 1e12),
)
def test_area_fills_its_frame(values: list[float], width: int, height: int, top: float) -> None:
    lines = area(values, width=width, height=height, top=top)
    assert [len(line) for line in lines] == [width] * height
    for column, value in enumerate(reversed(values[-width:])):
        cells = "".join(line[width - 1 - column] for line in lines)
        assert (cells.strip() != "") == (value > 0)


def test_area_of_a_ramp() -> None:
    assert area([0, 1, 2, 3, 4], width=5, height=2, top=4) == ["   ▄█", " ▄███"]
    assert area([4, 2], width=4, height=1) == ["  █▄"]


def test_bar() -> None:
    assert [bar(share, width=4) for share in (0, 0.5, 1, 7, -1)] == [
        "░░░░",
        "██░░",
        "████",
        "████",
        "░░░░",
    ]
