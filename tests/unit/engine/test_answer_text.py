"""The text of an answer and the tokens that it is reported with (S14)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import linear_steps, steps

from assistant.engine.types import Delta, GenerateRequest, StopReason, StopTexts
from assistant.engine.worker.job import AnswerText
from assistant.engine.worker.token_generation import Ending, take_token


@dataclass
class Bytes:
    """A vocabulary whose tokens are single bytes."""

    @property
    def ends(self) -> tuple[int, ...]:
        return (256,)

    def piece(self, token: int, *, special: bool = False) -> bytes:  # noqa: ARG002
        return bytes([token])


@dataclass
class Job:
    request: GenerateRequest
    answer_text: AnswerText
    must_start_with: bytes = b""
    said: list[Delta] = field(default_factory=list)


def generate(text: str, *stops: str) -> tuple[Job, Ending | None]:
    request = GenerateRequest(id="r", prompt=(1,), max_tokens=99, stop=stops)
    job = Job(request, AnswerText(stops))
    for token in text.encode():
        if ending := take_token(job, token, Bytes(), job.said.append):
            return job, ending
    return job, None


@given(st.text(), st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_no_token_is_lost_or_reported_twice(text: str, stops: list[str]) -> None:
    """S14: bytes of one character in several tokens, and text held back for a stop text."""
    job, _ = generate(text, *stops)
    told = [token for delta in job.said for token in delta.tokens]
    told += job.answer_text.take_tokens()
    assert told == list(text.encode())[: len(told)]
    assert len(told) == len(text.encode()) or any(stop in text for stop in stops)
    assert job.answer_text.take_tokens() == ()


def test_tokens_come_with_the_text_that_they_complete() -> None:
    """S14."""
    job, ending = generate("a\u20acb</s", "</s>")
    assert ending is None
    assert [(delta.text, len(delta.tokens)) for delta in job.said] == [
        ("a", 1),
        ("\u20ac", 3),
        ("b", 1),
    ]
    assert job.answer_text.take_tokens() == tuple(b"</s")
    job, ending = generate("ab</s>c", "</s>")
    assert ending == Ending(StopReason.STOP_TEXT, "</s>")
    assert job.answer_text.take_tokens() == tuple(b"</s>")


def by_search(stops: list[str], held: str) -> tuple[str, str, str]:
    """The same by looking for each text in all that is held: what is sure, the stop, the rest."""
    found = [(held.find(stop), stop) for stop in stops if stop in held]
    if found:
        at, stop = min(found)
        return held[:at], stop, ""
    sizes = [n for stop in stops for n in range(1, len(stop)) if held.endswith(stop[:n])]
    cut = len(held) - max(sizes, default=0)
    return held[:cut], "", held[cut:]


@given(
    st.lists(st.text("ab", min_size=1, max_size=6), max_size=8),
    st.lists(st.text("abc", max_size=6), max_size=8),
)
def test_stop_texts_are_found_where_a_search_finds_them(stops: list[str], parts: list[str]) -> None:
    texts, held = StopTexts(stops), ""
    for part in parts:
        sure, stop, held = by_search(stops, held + part)
        assert texts.add(part) == (sure, stop)
        if stop:
            break
    assert texts.rest() == held


HOSTILE = {
    "the same start": lambda n: ["a" * n + chr(0x4E00 + i) for i in range(256)],
    "starts in each other": lambda n: [("ab" * n)[i : i + n] + "!" for i in range(256)],
    "ends in each other": lambda n: ["a" * (n - i) + "b" for i in range(min(256, n))],
}


@pytest.mark.parametrize("stops", HOSTILE.values(), ids=HOSTILE)
def test_the_work_for_stop_texts_is_linear(stops: Callable[[int], list[str]]) -> None:
    """T1: 256 of the longest, all of them nearly said again and again."""

    def run(text: str) -> None:
        texts = StopTexts(stops(len(text) // 4))
        for start in range(0, len(text), 3):
            texts.add(text[start : start + 3])

    def make(size: int) -> str:
        return ("a" * (size // 4) + "ab" * (size // 8)) * 2

    assert linear_steps(run, make, 1024)
    assert steps(run, make(4096)) < 40 * 4096
