"""One completion request: built for a cursor, and its answer read until it should end."""

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
from lsp.documents.site import Site
from lsp.output import spelled_in

if TYPE_CHECKING:
    from assistant.settings import CompletionSettings

# The part of a word before the cursor, and the blank that its token starts with.
_HALF_TYPED = re.compile(r"(?<=\S) $|(?:(?<=\S) |_)?[^\W_]{1,12}$")

_LONGEST_UNLIKE_CHARS = 240


@dataclass(frozen=True)
class Answer:
    """What the model received, as far as it is worth.

    Attributes:
        text: what would follow the cursor; not yet filtered.
        whole: it ended by itself or by a stop condition, not by a limit.
    """

    text: str
    whole: bool
    timings: Timings | None = None
    budget: BudgetNow | None = None


def half_typed(site: Site) -> str:
    """The end of the text before the cursor that the prompt leaves out and the answer has to start
    with, so that a half-typed word is read as the tokens of the whole word."""
    found = _HALF_TYPED.search(site.line_prefix[-16:])
    return found[0] if found else ""


def unwanted_line(site: Site) -> str:
    """What an answer after the cursor should not be: the line below; empty if it cannot be that."""
    below = site.next_line.rstrip()
    if site.line_suffix.strip() or not below.startswith(site.line_prefix):
        return ""
    rest = below[len(site.line_prefix) :]
    return rest if rest.strip() and len(rest) <= _LONGEST_UNLIKE_CHARS else ""


def prompt_tokens(served: Served, settings: CompletionSettings) -> int:
    """The most tokens that a prompt may take now."""
    return served.prompt_tokens(settings.budget_tokens, settings.max_tokens)


def request(
    site: Site, served: Served, settings: CompletionSettings, document: str, *, ahead: bool
) -> CompletionRequest:
    """The daemon's request for a cursor, as yet without its prompt.

    Args:
        document: the daemon lets a new request of a document end the one before.
        ahead: nobody waits for the answer, and no word is half typed.
    """
    start = "" if ahead else half_typed(site)
    unlike = unwanted_line(site)
    return CompletionRequest(
        prompt=(),
        max_tokens=settings.max_tokens,
        temperature=0.0,
        stop=tuple(
            text
            for text in served.fim.layout.stop
            if not spelled_in(text, site.prefix, site.suffix)
        ),
        document=document,
        priority=Priority.BACKGROUND if ahead else Priority.INTERACTIVE,
        must_start_with=start,
        unlike=start + unlike if unlike else "",
        time_limit_ms=settings.time_limit_ms,
        budget_tokens=prompt_tokens(served, settings),
        prompt_model=served.info.name,
    )


@dataclass(frozen=True)
class Patience:
    """How long to wait for an answer, counted from the request.

    Attributes:
        line_s: after this, any whole line is enough.
        limit_s: at this point what has been received is the answer.
    """

    line_s: float
    limit_s: float


async def read(
    stream: AsyncGenerator[CompletionChunk, None],
    site: Site,
    start: str,
    patience: Patience,
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """Read an answer until it ends, by itself, by a stop condition or by the time.

    Closing the stream cancels the generation in the daemon.

    Args:
        start: the half-typed text that the answer has to start with; it is not part of the result.
    """
    started = clock()
    answer = Answer(text="", whole=False)
    received = ""
    try:
        async with aclosing(stream), asyncio.timeout(patience.limit_s):
            async for chunk in stream:
                received += chunk.content
                if not received.startswith(start):
                    if start.startswith(received) and not chunk.stop:
                        continue
                    return replace(answer, whole=True)  # it does not continue the user's word
                text = received[len(start) :]
                answer = replace(answer, text=text)
                if chunk.stop:
                    return _finished(answer, chunk, site)
                end = end_of(text, site)
                if end is not None:
                    return replace(answer, text=text[:end], whole=True)
                lines = _whole_lines(text)
                if lines and clock() - started > patience.line_s:
                    return replace(answer, text=lines)
    except TimeoutError:
        pass
    return replace(answer, text=_whole_lines(answer.text) or answer.text)


def _finished(answer: Answer, chunk: CompletionChunk, site: Site) -> Answer:
    end = end_of(answer.text, site)
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
    """The complete lines of `text`, or nothing if they are blank."""
    lines = text.rpartition("\n")[0]
    return lines if lines.strip() else ""
