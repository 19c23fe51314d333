"""The text of an answer and the tokens that it is reported with (S14)."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from assistant.engine.types import Delta, GenerateRequest, StopReason
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
