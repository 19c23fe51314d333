"""An answer that is told again goes on where it was, or not at all."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.daemon.supervisor.retry import DivergedError, Replay
from assistant.engine.types import Delta


def tell(replay: Replay, text: str, cuts: list[int]) -> str:
    """Tell `text` in pieces; returns what is news of it."""
    replay.begin()
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[start:stop] for start, stop in pairwise(places)]
    found = [replay.new_part(Delta(id="r", text=piece)) for piece in pieces if piece]
    return "".join(delta.text for delta in found if delta is not None)


cut_lists = st.lists(st.integers(0, 100), max_size=6)


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(0, 40), cut_lists), max_size=5))
def test_however_often_it_breaks_off_all_of_it_is_passed_on_once(
    text: str, attempts: list[tuple[int, list[int]]]
) -> None:
    replay = Replay()
    passed = "".join(tell(replay, text[:length], cuts) for length, cuts in attempts)
    passed += tell(replay, text, [])
    replay.end()
    assert passed == text


@given(st.lists(st.tuples(st.text("ab", max_size=2), st.integers(0, 2)), max_size=8), st.data())
def test_each_token_is_passed_on_once(pieces: list[tuple[str, int]], data: st.DataObject) -> None:
    """S14: also those of pieces without text, and after the answer began again."""
    ids = iter(range(100))
    deltas = [Delta(id="r", text=t, tokens=tuple(next(ids) for _ in range(n))) for t, n in pieces]
    replay, passed = Replay(), []
    for stop in (data.draw(st.integers(0, len(deltas))), len(deltas)):
        replay.begin()
        new = [replay.new_part(delta) for delta in deltas[:stop]]
        passed += [token for delta in new if delta for token in delta.tokens]
    assert passed == [token for delta in deltas for token in delta.tokens]


def test_another_answer_cannot_go_on() -> None:
    replay = Replay()
    assert tell(replay, "return a + b", []) == "return a + b"
    with pytest.raises(DivergedError):
        tell(replay, "return a - b", [9])
    shorter = Replay()
    tell(shorter, "return a", [])
    tell(shorter, "return", [])
    with pytest.raises(DivergedError):
        shorter.end()
