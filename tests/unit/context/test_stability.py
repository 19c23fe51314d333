"""Prompts stay: as shares of their tokens that an engine need not evaluate again.

The shipped layout and the real vocabulary are measured by `tests/benchmarks/context_stability.py`;
this holds the same bounds with fewer keys.
"""

from __future__ import annotations

import ast
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

import context
from context import FimLayout, TokenCounter

PLACES = 4
KEYS = 90


def common(one: Any, other: Any) -> Any:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def functions(text: str) -> Any:
    """Where bodies of functions begin, well inside the file."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    rows = [
        node.body[0].lineno - 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [starts[row] for row in rows if len(lines) // 10 < row < len(lines) * 9 // 10]


@pytest.mark.parametrize("budget", [512, 1024, 2048])
def test_typing_and_jumps_leave_most_of_a_prompt(
    budget: int, counter: TokenCounter, layout: FimLayout, control: dict[str, int]
) -> None:
    path = Path(httpx.__file__).with_name("_client.py")
    text = path.read_text(encoding="utf-8")
    workspace = context.Workspace([path.parent], counter, layout, control)
    workspace.index.refresh()
    document = workspace.open(path, text)
    typed: list[tuple[int, int]] = []
    jumped: list[tuple[int, int]] = []
    before: tuple[int, ...] = ()
    for at in random.Random(budget).sample(functions(text), PLACES):
        document.replace(text)
        made = [workspace.prompt(document, at, budget).ids]
        if before:
            jumped.append((common(before, made[0]), len(made[0])))
        for step, char in enumerate(text[at : at + KEYS]):
            document.edit(at + step, at + step, char)
            made.append(workspace.prompt(document, at + step + 1, budget).ids)
        typed += [(common(one, two), len(two)) for one, two in pairwise(made)]
        before = workspace.prompt(document, at + KEYS, budget, rest=True).ids
    for shares, least in ((typed, 0.97), (jumped, 0.8)):
        assert sum(same for same, _ in shares) / sum(size for _, size in shares) >= least
