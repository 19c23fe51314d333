"""How long prompts are on machines of different speed."""

from __future__ import annotations

import pytest

from lsp.completion.completer import PATIENCE_S, Depth


def measured(tokens_per_s: float) -> Depth:
    depth = Depth()
    for _ in range(3):
        depth.evaluated(500, 500 / tokens_per_s * 1000)
    return depth


@pytest.mark.parametrize(
    ("seconds", "tokens"), [(0.5, 1024), (1.0, 1024), (1.3, 768), (1.9, 512), (9.0, 512)]
)
def test_a_slow_machine_gets_shorter_prompts(seconds: float, tokens: int) -> None:
    """`seconds`: what the whole prompt would take, as a multiple of the patience."""
    depth = measured(1024 / (seconds * PATIENCE_S))
    depth.settle(1024)
    assert depth.tokens(1024) == tokens


def test_nothing_changes_but_where_that_costs_nothing() -> None:
    depth = measured(10.0)
    assert depth.tokens(1024) == 1024
    depth.settle(1024)
    assert depth.tokens(1024) == 512
    for _ in range(9):
        depth.evaluated(500, 1.0)
    assert depth.tokens(1024) == 512


def test_unknown_speed_and_little_room_take_all() -> None:
    depth = Depth()
    depth.evaluated(3, 1000.0)  # a few tokens tell nothing
    depth.settle(1024)
    assert depth.tokens(1024) == 1024
    slow = measured(1.0)
    slow.settle(300)
    assert slow.tokens(300) == 300
