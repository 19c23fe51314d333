"""How long a step is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.engine.worker.scheduler import (
    GPU_CHUNK,
    MOST_STEP_S,
    PREFILL_CHUNK,
    STEADY_CHUNK,
    most_rows,
)


def test_steps_grow_while_nothing_overtakes_them() -> None:
    evaluated, steps = 0, []
    while evaluated < 1000:
        steps.append(most_rows(gpu=False, decoding=False, evaluated=evaluated))
        evaluated += steps[-1]
    assert steps[:4] == [PREFILL_CHUNK, PREFILL_CHUNK, 2 * PREFILL_CHUNK, 4 * PREFILL_CHUNK]
    assert steps[-1] == STEADY_CHUNK


def test_the_next_token_of_an_answer_waits_for_a_short_step_only() -> None:
    assert most_rows(gpu=False, decoding=True, evaluated=5000) == PREFILL_CHUNK


@given(st.booleans(), st.integers(0, 10_000))
def test_gpus_get_whole_steps(decoding: bool, evaluated: int) -> None:
    assert most_rows(gpu=True, decoding=decoding, evaluated=evaluated) == GPU_CHUNK


@given(st.integers(0, 10_000))
def test_no_step_is_longer_than_what_came_before_it(evaluated: int) -> None:
    rows = most_rows(gpu=False, decoding=False, evaluated=evaluated)
    assert PREFILL_CHUNK <= rows <= max(PREFILL_CHUNK, evaluated)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("rate", [0.01, 0.5, 3.0, 1000.0])
def test_a_slow_model_gets_short_steps(rate: float, gpu: bool) -> None:
    """Case T19: no step is longer than the measured rate allows, and none is empty."""
    rows = most_rows(gpu=gpu, decoding=False, evaluated=5000, rate=rate)
    assert 1 <= rows <= max(1, rate * MOST_STEP_S)
    unknown = most_rows(gpu=gpu, decoding=False, evaluated=5000)
    assert rows == unknown if rate == 1000.0 else rows < unknown
