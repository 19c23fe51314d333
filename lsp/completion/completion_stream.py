"""One completion request: built for a cursor, and its answer read until it should end.

An answer can be shown before its end: its first line, while the rest of the block is decoded.
"""

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
    """What the model wrote, as far as it is of use.

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
        line_s: after this, any whole line can be shown.
        limit_s: at this point what was received is shown.
        grow_s: how much longer to decode what follows the part that is shown; 0 ends there.
    """

    line_s: float
    limit_s: float
    grow_s: float = 0.0


class Reading:
    """An answer that is read until it ends, by itself, by a stop condition or by the time.

    It is read in a task of its own. Ending that task closes the stream, which cancels the
    generation in the daemon.

    Attributes:
        answer: the answer as far as it can be shown.
    """

    def __init__(
        self,
        stream: AsyncGenerator[CompletionChunk, None],
        site: Site,
        start: str,
        patience: Patience,
        *,
        usable: Callable[[str], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`start`: the half-typed text that the answer has to start with; it is not part of the
        result. `usable`: whether a text would be shown once it is filtered."""
        self.answer = Answer(text="", whole=False)
        self._site, self._start, self._patience = site, start, patience
        self._usable, self._clock = usable, clock
        self._received = ""
        self._text = ""  # what was received after `start`
        self._shown = asyncio.Event()
        self._grown = asyncio.Event()
        self._task = asyncio.create_task(self._read(stream))
        self._task.add_done_callback(self._ended)

    @property
    def ended(self) -> bool:
        """Whether the answer does not grow any more."""
        return self._task.done()

    async def first(self) -> Answer:
        """The answer once it can be shown; it may grow after that.

        Raises:
            UnderkeelError: there is no answer.
        """
        try:
            await self._shown.wait()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if self._task.done() and not self._task.cancelled() and not self.answer.text:
            self._task.result()
        self._grown.clear()
        return self.answer

    async def grown(self) -> Answer:
        """The answer once it is longer than the one returned last, or has ended."""
        if not self.ended:
            await self._grown.wait()
        self._grown.clear()
        return self.answer

    async def aclose(self) -> None:
        """Stop reading."""
        self._task.cancel()
        await asyncio.wait({self._task})

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._shown.set()
        self._grown.set()
        if not task.cancelled():
            task.exception()  # retrieved: nobody may wait for an answer that has grown

    async def _read(self, stream: AsyncGenerator[CompletionChunk, None]) -> None:
        started, patience = self._clock(), self._patience
        limit = asyncio.get_running_loop().call_later(patience.limit_s, self._at_limit)
        try:
            async with aclosing(stream), asyncio.timeout(patience.limit_s + patience.grow_s):
                async for chunk in stream:
                    if self._take(chunk):
                        return
                    due = self._shown.is_set() or self._clock() - started > patience.line_s
                    if due and self._show(_whole_lines(self._text)) and not patience.grow_s:
                        return
        except TimeoutError:
            pass
        finally:
            limit.cancel()

    def _take(self, chunk: CompletionChunk) -> bool:
        """Add a chunk; whether the answer has ended with it."""
        self._received += chunk.content
        if not self._received.startswith(self._start):
            if self._start.startswith(self._received) and not chunk.stop:
                return False
            self.answer = replace(self.answer, whole=True)  # it does not continue the user's word
            return True
        self._text = self._received[len(self._start) :]
        if chunk.stop:
            self.answer = _finished(replace(self.answer, text=self._text), chunk, self._site)
            return True
        end = end_of(self._text, self._site)
        if end is not None:
            self.answer = replace(self.answer, text=self._text[:end], whole=True)
        return end is not None

    def _at_limit(self) -> None:
        """Show what there is; an answer with nothing to show ends."""
        text = _whole_lines(self._text) or self._text
        if not self._shown.is_set() and not self._show(text):
            self._task.cancel()

    def _show(self, text: str) -> bool:
        """Have a text shown, if it is new and would be of use."""
        if not text or text == self.answer.text or not self._usable(text):
            return False
        self.answer = replace(self.answer, text=text)
        self._shown.set()
        self._grown.set()
        return True


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
