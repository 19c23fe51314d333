"""One question to the model, and its answer, read until it should end."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assistant.client import CompletionChunk, CompletionRequest
from assistant.engine.types import Priority, StopReason, Timings
from assistant.wire import BudgetNow
from lsp.completion.stopping import end_of
from lsp.daemon.model import Served
from lsp.documents.document import Snapshot
from lsp.documents.site import Site
from lsp.output import spelled_in

if TYPE_CHECKING:
    from assistant.settings import CompletionSettings

# What stands before the cursor of the word that it is in, and the blank that a token of it has.
_BEGUN = re.compile(r"(?<=\S) $|(?:(?<=\S) |_)?[^\W_]{1,12}$")

_LONGEST_UNLIKE_CHARS = 240


@dataclass(frozen=True)
class Question:
    """What to ask the model.

    Attributes:
        snapshot: the document and the cursor.
        site: the same, as stop conditions and filters see it.
        begun: the end of the text before the cursor that the prompt leaves out and the answer has
            to begin with, so that a word half typed is read as the tokens of the whole word.
        document: the daemon lets a new question of a document end the one before.
        imagined: the text is not what the editor shows, but what it may come to be.
        temperature, seed: 0 asks for the likeliest answer.
    """

    snapshot: Snapshot
    site: Site
    begun: str = ""
    document: str = ""
    priority: Priority = Priority.INTERACTIVE
    temperature: float = 0.0
    seed: int = 0
    imagined: bool = False

    @property
    def prompt_text(self) -> str:
        """The document as the prompt shows it: without what was begun."""
        head = self.snapshot.prefix
        return head[: len(head) - len(self.begun)] + self.snapshot.suffix

    @property
    def unlike(self) -> str:
        """What the answer should not be: the line below once more, where it could be that."""
        site = self.site
        below = site.next_line.rstrip()
        if site.line_suffix.strip() or not below.startswith(site.line_prefix):
            return ""
        rest = below[len(site.line_prefix) :]
        return self.begun + rest if rest.strip() and len(rest) <= _LONGEST_UNLIKE_CHARS else ""

    @property
    def prompt_cursor_byte(self) -> int:
        """Where the cursor is in `prompt_text`, in bytes of UTF-8."""
        return self.snapshot.cursor_byte - len(self.begun.encode())


@dataclass(frozen=True)
class Answer:
    """What the model said, as far as it is worth.

    Attributes:
        text: what would stand after the cursor; not yet filtered.
        whole: it ended by itself or by a stop condition, not by a limit.
    """

    text: str
    whole: bool
    timings: Timings | None = None
    budget: BudgetNow | None = None


def question(
    snapshot: Snapshot,
    *,
    control: tuple[str, ...] = (),
    document: str = "",
    ahead: bool = False,
) -> Question:
    """The question for the cursor of `snapshot`.

    Args:
        ahead: nobody waits for the answer, and no word is half typed.
    """
    site = Site(
        prefix=snapshot.prefix,
        suffix=snapshot.suffix,
        language_id=snapshot.language,
        control=control,
    )
    begun = None if ahead else _BEGUN.search(site.line_prefix[-16:])
    return Question(
        snapshot=snapshot,
        site=site,
        begun=begun[0] if begun else "",
        document=document,
        priority=Priority.BACKGROUND if ahead else Priority.INTERACTIVE,
        imagined=ahead,
    )


def prompt_tokens(served: Served, settings: CompletionSettings) -> int:
    """The most that a prompt may take now."""
    return served.prompt_tokens(settings.budget_tokens, settings.max_tokens)


def request(
    asked: Question, prompt: tuple[int, ...], served: Served, settings: CompletionSettings
) -> CompletionRequest:
    """The daemon's request for a question whose prompt was built."""
    return CompletionRequest(
        prompt=prompt,
        n_predict=settings.max_tokens,
        temperature=asked.temperature,
        seed=asked.seed,
        stop=tuple(
            text
            for text in served.fim.layout.stop
            if not spelled_in(text, asked.site.prefix, asked.site.suffix)
        ),
        document=asked.document,
        priority=asked.priority,
        must_start_with=asked.begun,
        unlike=asked.unlike,
        t_max_predict_ms=settings.time_limit_ms,
        budget_tokens=prompt_tokens(served, settings),
        of_model=served.info.name,
    )


@dataclass(frozen=True)
class Patience:
    """How long to wait for an answer, counted from the question.

    Attributes:
        line_s: from then on, any whole line is answer enough.
        limit_s: then whatever has come is the answer.
    """

    line_s: float
    limit_s: float


async def read(
    stream: AsyncGenerator[CompletionChunk, None],
    asked: Question,
    patience: Patience,
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """Read an answer until it ends, by itself, by a stop condition or by the time.

    Closing the stream cancels the generation in the daemon.
    """
    started = clock()
    answer = Answer(text="", whole=False)
    said = ""
    try:
        async with aclosing(stream), asyncio.timeout(patience.limit_s):
            async for chunk in stream:
                said += chunk.content
                if not said.startswith(asked.begun):
                    if asked.begun.startswith(said) and not chunk.stop:
                        continue
                    return replace(answer, whole=True)  # it does not go on with the user's word
                text = said[len(asked.begun) :]
                answer = replace(answer, text=text)
                if chunk.stop:
                    return _finished(answer, chunk, asked)
                end = end_of(text, asked.site)
                if end is not None:
                    return replace(answer, text=text[:end], whole=True)
                lines = _whole_lines(text)
                if lines and clock() - started > patience.line_s:
                    return replace(answer, text=lines)
    except TimeoutError:
        pass
    return replace(answer, text=_whole_lines(answer.text) or answer.text)


def _finished(answer: Answer, chunk: CompletionChunk, asked: Question) -> Answer:
    end = end_of(answer.text, asked.site)
    whole = end is not None or chunk.stop_reason in {StopReason.EOS, StopReason.STOP_TEXT}
    text = answer.text[:end] if whole else _whole_lines(answer.text) or answer.text
    return replace(
        answer,
        text=text,
        whole=whole,
        timings=chunk.timings,
        budget=chunk.budget,
    )


def _whole_lines(text: str) -> str:
    """The lines of `text` that have ended, or nothing if none of them says anything."""
    lines = text.rpartition("\n")[0]
    return lines if lines.strip() else ""
