"""When to ask the model: the rhythm of typing."""

from __future__ import annotations

import pytest

from lsp.completion.completer import Rhythm

LEAST_S = 0.06


def typed(gap_s: float, keys: int = 8) -> tuple[Rhythm, float]:
    rhythm = Rhythm()
    for key in range(keys):
        rhythm.key(key * gap_s)
    return rhythm, (keys - 1) * gap_s


def test_nothing_known_waits_the_least() -> None:
    assert Rhythm().wait_s(5.0, LEAST_S) == LEAST_S


@pytest.mark.parametrize("gap_s", [0.08, 0.12, 0.18])
def test_a_burst_is_waited_out(gap_s: float) -> None:
    rhythm, now = typed(gap_s)
    assert gap_s < rhythm.wait_s(now, LEAST_S) <= 0.25


def test_time_since_the_last_key_counts() -> None:
    rhythm, now = typed(0.15)
    assert rhythm.wait_s(now + 0.1, LEAST_S) < rhythm.wait_s(now, LEAST_S)
    assert rhythm.wait_s(now + 9.0, LEAST_S) == LEAST_S


def test_a_model_that_answers_between_two_keys_is_asked_at_once() -> None:
    rhythm, now = typed(0.2)
    for _ in range(4):
        rhythm.answered(0.05)
    assert rhythm.wait_s(now, LEAST_S) == 0.0
    for _ in range(20):
        rhythm.answered(0.5)
    assert rhythm.wait_s(now, LEAST_S) > 0.2


def test_pauses_are_no_part_of_the_rhythm() -> None:
    rhythm, now = typed(0.1)
    for pause in range(1, 30):
        rhythm.key(now + 5.0 * pause)
    assert rhythm.wait_s(now + 145.0, LEAST_S) == pytest.approx(0.125)
