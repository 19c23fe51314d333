"""Leaving a line that nobody wants: where, for what, and when not at all."""

from __future__ import annotations

import numpy as np
import pytest

from assistant.engine.worker.job import MOST_BEHIND, Fork, Stance, Unlike

WORDS = [b"", b"a", b"b", b"ab", b"c", b"\n", b" ", b"abc", b"cd", b"ac"]
END, A, B, AB, C, LINE_END, BLANK, ABC, CD, AC = range(len(WORDS))


def unlike(line: bytes = b"abc") -> Unlike:
    return Unlike(line, WORDS.__getitem__, {END})


def logits(**values: float) -> np.ndarray:
    made = np.full(len(WORDS), -20.0, np.float32)
    for name, value in values.items():
        made[globals()[name]] = value
    return made


def follow(one: Unlike, *tokens: int) -> list[Stance]:
    return [one.add(token) for token in tokens]


def test_the_line_is_whole_once_it_has_ended() -> None:
    assert follow(unlike(), AB, C, LINE_END) == [Stance.WITHIN, Stance.WITHIN, Stance.WHOLE]
    assert follow(unlike(), A, B, C, BLANK, END)[-1] is Stance.WHOLE


def test_what_says_more_or_less_than_the_line_has_left_it() -> None:
    assert follow(unlike(), AB, CD) == [Stance.WITHIN, Stance.LEFT]
    assert follow(unlike(), AB, C, A)[-1] is Stance.LEFT
    assert follow(unlike(), AB, END)[-1] is Stance.LEFT
    assert follow(unlike(), AC) == [Stance.LEFT]


def test_it_is_left_where_the_model_was_least_sure() -> None:
    one = unlike()
    one.weigh(A, logits(A=9, C=7))
    one.add(A)
    one.weigh(B, logits(B=9, AC=8))
    one.add(B)
    one.weigh(C, logits(C=9, A=5))
    one.add(C)
    assert one.fork() == Fork(at=1, token=AC, behind=1.0)


@pytest.mark.parametrize("other", ["AB", "ABC", "END", "LINE_END", "BLANK"])
def test_the_same_line_in_other_tokens_or_less_of_it_is_no_way_out(other: str) -> None:
    one = unlike()
    one.weigh(A, logits(A=9, **{other: 8.5}))
    assert one.fork() is None
    one.weigh(A, logits(A=9, CD=8, **{other: 8.5}))
    assert one.fork() == Fork(0, CD, 1.0)


def test_what_is_far_behind_is_not_said() -> None:
    one = unlike()
    one.weigh(A, logits(A=9, CD=9 - MOST_BEHIND))
    assert one.fork() is None


def test_of_allowed_tokens_alone_one_is_chosen() -> None:
    one = unlike()
    one.weigh(A, logits(A=9, CD=8, AC=7), np.array([A, AC], np.int32))
    assert one.fork() == Fork(0, AC, 2.0)
