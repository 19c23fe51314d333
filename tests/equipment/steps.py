"""Measures whether work grows in proportion to its input.

Each input is measured at one size and at four times that size: a quadratic part costs sixteen times
as much there, a linear one four. Steps are calls of functions, in Python and in C, which do not
depend on the machine. The engine of `re` runs a pattern in one call and counts nothing, so for
patterns the ratio of processor times is judged as well, never the time itself.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

MOST = 9.0
MOST_STEPS = 5.0  # a sort or a binary search costs a little more than in proportion
FIXED_STEPS = 500
NOISE_S = 0.02  # what takes less is not measured


def steps(run: Any, text: str) -> int:
    """How many functions `run` calls."""
    count = 0

    def called(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        run(text)
    finally:
        sys.setprofile(before)
    return count


def linear_steps(run: Any, make: Any, size: int) -> bool:
    """Whether the steps of `run` grow no more than in proportion."""
    run(make(4 * size))  # parsers, compiled patterns and the like are kept from here on
    return steps(run, make(4 * size)) <= MOST_STEPS * steps(run, make(size)) + FIXED_STEPS


def took(run: Any, text: str) -> Any:
    """The least processor time of some runs."""
    best = float("inf")
    gc.disable()
    try:
        for _ in range(3):
            started = time.process_time()
            run(text)
            best = min(best, time.process_time() - started)
            if best > 20 * NOISE_S:
                break
    finally:
        gc.enable()
    return best


def linear(run: Any, make: Any, size: int, most: int = 400_000) -> Any:
    """Whether `run` takes no more than in proportion; sizes grow until there is something to
    measure, or to `most`."""
    while took(run, make(4 * size)) < NOISE_S and size < most:
        size *= 4
    for _ in range(3):
        small, large = took(run, make(size)), took(run, make(4 * size))
        if large < NOISE_S or large <= MOST * max(small, NOISE_S / 4):
            return True
    return False
