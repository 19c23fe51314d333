"""A repeated answer continues where it was, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.daemon.retry import DivergedError, Replay, generate
from assistant.engine.types import Delta, Done, GenerateRequest, ModelInfo, StopReason
from assistant.errors import EngineError, UnderkeelError, WorkerDiedError


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


class Restarting:
    """An engine that dies in its first answer and gives these answers afterwards."""

    info: ModelInfo | None = None
    shape = edition = 0

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.requests: list[GenerateRequest] = []

    @asynccontextmanager
    async def attempt(
        self, request: GenerateRequest
    ) -> AsyncIterator[AsyncGenerator[Delta | Done, None]]:
        self.requests.append(request)
        yield self._answer(self.answers[len(self.requests) - 1])

    async def _answer(self, text: str) -> AsyncGenerator[Delta | Done, None]:
        yield Delta(id="r", text=text)
        if len(self.requests) == 1:
            raise WorkerDiedError("the engine's process ended")
        yield Done(id="r", reason=StopReason.EOS)

    def answered(self) -> None: ...

    async def recovered(self, error: UnderkeelError, shape: int) -> bool:  # noqa: ARG002
        return True

    def text(self) -> str:
        async def read() -> str:
            request = GenerateRequest(id="r", prompt=(1,), max_tokens=9)
            items = [item async for item in generate(self, request)]
            return "".join(item.text for item in items if isinstance(item, Delta))

        return asyncio.run(read())


def test_an_answer_that_diverged_is_repeated_from_what_was_sent() -> None:
    """A quantised cache may decide a near tie differently after a restart."""
    engine = Restarting("return a", "return b - c", "return a + c")
    assert engine.text() == "return a + c"
    assert [one.must_start_with for one in engine.requests] == ["", "", "return a"]


def test_an_answer_of_which_nothing_was_sent_may_differ() -> None:
    assert Restarting("", "return b").text() == "return b"


def test_an_answer_that_diverges_again_is_an_error_that_says_so() -> None:
    with pytest.raises(EngineError, match="differs from the part that was sent"):
        Restarting("return a", "return b", "return c").text()
