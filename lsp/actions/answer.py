"""The model's answer to a conversation: requested, retried where that helps, and the code or the
words taken out of it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from assistant.engine.types import StopReason
from assistant.errors import (
    ContextFullError,
    DaemonError,
    UnderkeelError,
    WorkerDiedError,
)
from lsp.site import leading_blanks, width

if TYPE_CHECKING:
    from assistant.wire import ChatMessage, CompletionChunk
    from lsp.backend import Backend
    from lsp.served_model import Served

_log = logging.getLogger(__name__)

_TRIES = 3
_LEAST_TOKENS = 64

MessageBuilder = Callable[["Served", int], Awaitable[Sequence["ChatMessage"]]]
"""Builds the messages for a model within a number of tokens.

Raises:
    UnderkeelError: they do not fit.
"""


@dataclass(frozen=True)
class Limits:
    """Limits of one request, in tokens.

    Attributes:
        context_tokens: for the messages, within the budget; answer_tokens: for the answer.
    """

    context_tokens: int
    answer_tokens: int


async def stream_chat(
    backend: Backend, make: MessageBuilder, limits: Limits, name: str
) -> AsyncGenerator[CompletionChunk, None]:
    """Stream an answer; closing the stream cancels it.

    If the budget has fallen, the messages are built again, smaller. If the daemon or its worker
    died before any text arrived, the request is sent again.

    Args:
        name: a new request with the same name cancels the earlier one.

    Raises:
        UnderkeelError: no answer is available.
    """
    context_tokens = limits.context_tokens
    for attempt in range(_TRIES):
        served = await backend.needed()
        room = served.explain_tokens(context_tokens, limits.answer_tokens)
        if room < _LEAST_TOKENS:
            raise ContextFullError(
                f"{room} tokens are left for the prompt, too few for this",
                advice="Try again when memory is free: underkeel status says why it is not",
            )
        messages = await make(served, room)
        has_text = False
        try:
            answer = backend.chat(
                messages,
                max_tokens=limits.answer_tokens,
                document=f"{os.getpid()}:{name}",
                budget_tokens=room,
            )
            async with aclosing(answer) as stream:
                async for chunk in stream:
                    has_text = has_text or bool(chunk.content)
                    yield chunk
            return
        except (ContextFullError, DaemonError, WorkerDiedError) as error:
            if has_text or attempt + 1 == _TRIES:
                raise
            _log.info("retrying after an error of kind %s", error.code)
            backend.forget()
            if isinstance(error, ContextFullError):
                context_tokens = room // 2


@dataclass(frozen=True)
class ChatAnswer:
    """A complete answer."""

    text: str
    reason: StopReason | None


async def complete_chat(
    backend: Backend, make: MessageBuilder, limits: Limits, name: str, limit_s: float = 300.0
) -> ChatAnswer:
    """The complete answer.

    Raises:
        UnderkeelError: no answer is available, or not within `limit_s`.
    """
    text, reason = "", None
    try:
        async with (
            asyncio.timeout(limit_s),
            aclosing(stream_chat(backend, make, limits, name)) as stream,
        ):
            async for chunk in stream:
                text += chunk.content
                reason = chunk.stop_reason or reason
    except TimeoutError as error:
        raise UnderkeelError(
            f"no answer came within {limit_s:.0f} s", advice="Try again with a shorter selection"
        ) from error
    return ChatAnswer(text, reason)


_FENCE = re.compile(r"^(?P<blanks>[ \t]*)(?P<marks>`{3,}|~{3,})[^`\n]*$")


@dataclass(frozen=True)
class Block:
    """A fenced block; `closed` if its end was said too."""

    code: str
    closed: bool


def blocks(answer: str) -> list[Block]:
    """The fenced blocks of an answer, in order. One in a longer fence is part of the code."""
    found: list[Block] = []
    lines: list[str] = []
    marks, blanks = "", ""
    for line in answer.split("\n"):
        fence = _FENCE.match(line)
        if not marks:
            if fence is not None:
                marks, blanks, lines = fence["marks"], fence["blanks"], []
        elif line.strip() and set(line.strip()) == {marks[0]} and len(line.strip()) >= len(marks):
            found.append(Block("\n".join(lines), closed=True))
            marks = ""
        else:
            lines.append(line.removeprefix(blanks))
    if marks and any(line.strip() for line in lines):
        found.append(Block("\n".join(lines), closed=False))
    return [one for one in found if one.code.strip()]


def code_of(answer: str, like: str) -> str:
    """The code of an answer: of several blocks that which is most like the code to change.

    Returns:
        The code without blank lines at its ends, or nothing where the answer has no fence and
        shares no line with `like`: then it is words.
    """
    found = blocks(answer)
    if found:
        best = max(found, key=lambda one: (_shared(one.code, like), -found.index(one)))
        return _without_blank_ends(best.code)
    return _without_blank_ends(answer) if _shared(answer, like) >= 0.3 else ""


def words_of(answer: str) -> str:
    """The text of a documentation comment in an answer, whatever it was wrapped in."""
    found = blocks(answer)
    text = found[0].code if found else answer
    for form in (_DOCSTRING, _BLOCK_COMMENT):
        match = form.search(text)
        if match is not None:
            return _unmarked(next(part for part in match.groups() if part is not None))
    lines = text.strip().split("\n")
    marked = [line for line in lines if _LINE_MARK.match(line)]
    if marked and (found or len(marked) == len([line for line in lines if line.strip()])):
        return _unmarked("\n".join(_LINE_MARK.sub("", line, count=1) for line in marked))
    return "" if found and len(lines) > 1 and _looks_like_code(lines) else _unmarked(text)


_DOCSTRING = re.compile(r'"""(.*?)"""|\'\'\'(.*?)\'\'\'', re.DOTALL)
_BLOCK_COMMENT = re.compile(r"/\*+(.*?)\*/", re.DOTALL)
_LINE_MARK = re.compile(r"^[ \t]*(?:///?!?|#+|---?)(?:[ \t]|$)")
_CODE_LINE = re.compile(r"[{};]$|^\s*(?:def|class|fn|func|function|return|public|private)\b")


def _looks_like_code(lines: list[str]) -> bool:
    return sum(bool(_CODE_LINE.search(line)) for line in lines) * 3 >= len(lines)


def _unmarked(text: str) -> str:
    """Without stars at the start of lines, quotes around it, and the indentation it had."""
    lines = [re.sub(r"^[ \t]*\*(?: |$)", "", line).rstrip() for line in text.strip().split("\n")]
    rest = [line for line in lines[1:] if line.strip()]
    indent = min((len(line) - len(line.lstrip()) for line in rest), default=0)
    made = [lines[0].strip(), *(line[indent:] for line in lines[1:])]
    return "\n".join(made).strip().strip("\"'`").strip()


def _shared(code: str, like: str) -> float:
    """How many of the lines of both are in both, in any order, 0 to 1."""
    wanted = Counter(line.strip() for line in like.split("\n") if line.strip())
    said = Counter(line.strip() for line in code.split("\n") if line.strip())
    lines = wanted.total() + said.total()
    return 2 * (wanted & said).total() / lines if wanted and said else 0.0


def _without_blank_ends(code: str) -> str:
    lines = code.split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    return "\n".join(lines)


_UNIT = 4


def fitted(code: str, like: str) -> str:
    """`code` moved as a whole to where `like` stands, in the blanks that `like` is written in.

    Models answer from the first column, or from where the code stood, or begin with the first line
    at the first column and go on where the code stood.
    """
    lines, old = code.split("\n"), like.split("\n")
    if _uses_tabs(old) and not _uses_tabs(lines):
        unit = _step(lines)
        lines = [_with_tabs(line, unit) for line in lines]
    target = _least(old)
    first = _blanks_of_first(old)
    if _first_stands_out(lines, old):
        return "\n".join([first + lines[0].lstrip(), *lines[1:]])
    base = _least(lines)
    return "\n".join(target + line[len(base) :] if line.strip() else "" for line in lines)


def place_for(lines: Sequence[str], at: int) -> str:
    """A line such as might stand in the blank line `at`: its own blanks, or those of the nearest
    line above that says something."""
    if lines[at]:
        return f"{lines[at]}x"
    above = next((line for line in reversed(lines[:at]) if line.strip()), "")
    return f"{leading_blanks(above)}x"


def _first_stands_out(lines: list[str], old: list[str]) -> bool:
    """The first line lost its indentation, the others kept theirs."""
    if len(lines) < 2 or len(old) < 2 or not _blanks_of_first(old):
        return False
    return not leading_blanks(lines[0]) and _least(lines[1:]) == _least(old[1:]) != ""


def _blanks_of_first(lines: list[str]) -> str:
    return next((leading_blanks(line) for line in lines if line.strip()), "")


def _least(lines: list[str]) -> str:
    """The shortest indentation of the lines that say something."""
    return min((leading_blanks(line) for line in lines if line.strip()), key=len, default="")


def _uses_tabs(lines: list[str]) -> bool:
    return any(line.startswith("\t") for line in lines)


def _step(lines: list[str]) -> int:
    """Columns of one level: the least step from one line to a deeper one."""
    widths = [width(leading_blanks(line)) for line in lines if line.strip()]
    return min((b - a for a, b in pairwise(widths) if 1 < b - a <= 8), default=_UNIT)


def _with_tabs(line: str, unit: int) -> str:
    blanks = leading_blanks(line)
    tabs, rest = divmod(width(blanks), unit)
    return "\t" * tabs + " " * rest + line[len(blanks) :]
