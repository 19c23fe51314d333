"""One completion request: built for a cursor, and its answer read until it should end.

An answer can be shown before its end: its first line, while the rest of the block is decoded.

A model seldom stops by itself: syntax, indentation and the suffix end an answer. `end_of` judges
the answer as far as it has come, so that generation can be cancelled at once. Whether one line or a
block is wanted depends on what the cursor's line opens once it is complete, and on what follows the
cursor. A block ends where its indentation falls back, unless that line closes the block or is a
further branch of it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assistant.engine.types import Priority, StopReason, Timings
from assistant.wire import BudgetNow, CompletionChunk, CompletionRequest
from lsp.completion.brackets import closes_more, is_escaped, statements, unclosed
from lsp.completion.filters import (
    deeper_indent,
    first_control_token,
    loop_start,
    opens_what_follows,
)
from lsp.output import spelled_in
from lsp.served_model import Served
from lsp.site import Shape, Site, leading_blanks, width

_MOST_CHARS = 1 << 14
_SHORTEST_SUFFIX_CHARS = 4
_CLOSING = re.compile(r"[ \t]*[\])}]+[;,]?")
_FIRST_WORD = re.compile(r"[\s\])}]*([^\W\d_]*)")
_BRANCHES = frozenset(
    {
        *("else", "elif", "elsif", "elseif", "except", "finally", "catch", "rescue", "ensure"),
        *("case", "when", "default"),
    }
)
"""Words that begin a further branch of a statement, in any language."""
_CLOSERS = frozenset({"end", "fi", "done", "esac", "endif", "endwhile", "endfor", "until", "while"})
"""Words that close a block, in any language."""
_FILLERS = ("", "\n{indent}    pass", "\n{indent}end", "\n{indent}fi", "\n{indent}esac")
"""What may complete a statement whose last line begins a branch, besides closing brackets."""
_MAY_STAY = re.compile(
    r"[\w\s]*?\b(?:switch|select|namespace|class|struct|module|extern)\b.*\{\s*$"
)
"""Lines whose body, or its labels, some styles do not indent."""
_LONG_QUOTES = ('"""', "'''")


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


def body_start(site: Site) -> str:
    """What the answer should begin with where the cursor's line opens a block that is not there
    yet: a line end, and the body's indentation where that is sure; else empty.

    Models often go on behind such a line with a comment instead, above all where the text below is
    read before the text above.
    """
    line = site.line_prefix
    if site.line_suffix.strip() or half_typed(site) or not site.language.body_is_below(line):
        return ""
    if _least_indent("", site) is None:
        return ""
    missing = unclosed(line.lstrip(), site.code_language_id)
    if missing and not (missing[-1] == "}" and line.rstrip().endswith("{")):
        return ""
    if site.language.in_comment(site.prefix) or site.language.in_text(site.prefix):
        return ""
    return "\n" if _MAY_STAY.match(line) else f"\n{deeper_indent(site)}"


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
    first = body_start(site) or start
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
        must_start_with=first,
        unlike=start + unlike if unlike and first == start else "",
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


def end_of(answer: str, site: Site) -> int | None:
    """How many characters of `answer` to keep, once it is known to have ended; None before that.

    A later call with a longer answer may know an end that an earlier one did not.
    """
    ends = [end for rule in _RULES if (end := rule(answer, site)) is not None]
    return min(ends, default=None)


def _least_indent(answer: str, site: Site) -> int | None:
    """The columns by which a block's further lines are indented at least; None for a single line.

    A block is wanted where the cursor's line is blank, or opens a block once the answer's first
    line completes it, and the lines below the cursor are not its body already.
    """
    if site.shape is Shape.MIDDLE or site.line_suffix.strip():
        return None
    indent = width(site.indent)
    first = answer.partition("\n")[0]
    below = width(leading_blanks(site.next_line)) if site.next_line else 0
    if site.line_prefix.strip():
        opens = site.language.opens_block(site.line_prefix + first)
        return indent + 1 if opens and below <= indent else None
    start = site.line_prefix + (answer.lstrip("\n") if not first.strip() else first)
    indent = indent or width(leading_blanks(start))
    if below > indent and site.language.opens_block(site.line_prefix + first):
        return None  # the line goes around code that exists
    return indent


def _at_line_end(answer: str, site: Site) -> int | None:
    """A single line ends with its first line end; blank lines before it do not count."""
    start = 0 if site.shape is Shape.MIDDLE else len(answer) - len(answer.lstrip())
    end = answer.find("\n", start)
    return end if end >= 0 and _least_indent(answer, site) is None else None


def _at_block_end(answer: str, site: Site) -> int | None:
    """A block ends before a line that is indented less than it should be, and at a blank line where
    no inner block is open.

    A line that closes what the cursor's line has opened belongs to the block and is its last; one
    that begins a further branch belongs to it too.
    """
    least = _least_indent(answer, site)
    if least is None:
        return None
    end = answer.find("\n")
    last = site.line_prefix + answer[: end if end >= 0 else None]  # the last line with text
    has_text = bool(answer[: end if end >= 0 else None].strip())
    blank_at: int | None = None  # where blank lines began, if an inner block may go on after them
    while end >= 0:
        start = end + 1
        line, line_end, _ = answer[start:].partition("\n")
        if line.strip() and not _in_text(site, answer[:start]):
            columns = width(leading_blanks(line))
            if columns < least:
                stop = _dedented(answer, start, line, site, ended=bool(line_end))
                if stop is None:
                    return None
                if stop == 0:
                    return blank_at if blank_at is not None else end
                if stop > 0:
                    return stop
            elif blank_at is not None and columns <= least and not site.line_prefix.strip():
                return blank_at
            has_text, blank_at, last = True, None, line
        elif has_text and line_end and not line.strip() and not _in_text(site, answer[:start]):
            if blank_at is None and not _inside(last, least, site):
                return end
            blank_at = end if blank_at is None else blank_at
        end = answer.find("\n", start)
    return None


def _inside(line: str, least: int, site: Site) -> bool:
    """Whether a block is open after `line`, one of a block indented by `least` columns."""
    deeper = width(leading_blanks(line)) > least or bool(site.line_prefix.strip())
    return deeper or site.language.opens_block(line)


def _in_text(site: Site, answer: str) -> bool:
    """Whether a string of several lines or a comment of the answer is open at its end."""
    text = site.line_prefix + answer
    quoted = any(text.count(quote) % 2 for quote in _LONG_QUOTES if quote in text)
    return quoted or site.language.in_comment(text)


def _dedented(answer: str, start: int, line: str, site: Site, *, ended: bool) -> int | None:
    """What a line that is indented less than the block means for it.

    Returns:
        The characters of `answer` up to the end of the block, if the line closes it; 0 if the block
        ends before the line; -1 if the block goes on with it; None if that is not known yet.
    """
    before = answer[: start - 1]
    closing = _CLOSING.match(line)
    stop = start + closing.end() if closing else 0
    word = _FIRST_WORD.match(line)
    named = word[1].lower() if word else ""
    if not ended:
        rest = line[word.end() :] if word else ""
        known = _BRANCHES | _CLOSERS
        if not rest.strip() and any(one.startswith(named) for one in known if named or closing):
            return None
        if named in known:
            return None
    elif closes(site.line_prefix, before, line, site.code_language_id):
        return start + len(line.rstrip())
    elif named in _BRANCHES and continues(site.line_prefix, before, line, site.code_language_id):
        return -1
    if not closing or closes_more(
        site.line_prefix + answer[:stop], language_id=site.code_language_id
    ):
        return 0
    return stop


def closes(opening: str, body: str, line: str, language_id: str) -> bool:
    """Whether `line` ends the block that `opening` began and `body` goes on with.

    It does if the piece is whole syntax with it, and broken without it. False also where that
    cannot be known: for a language without a grammar here, and for a piece that is never whole by
    itself, such as an `else` without its `if`.
    """
    before = f"{opening.lstrip()}{body}\n"
    if len(before) > _MOST_CHARS:
        return False
    return statements(f"{before}{line}\n", language_id) > 0 >= statements(before, language_id)


def continues(opening: str, body: str, line: str, language_id: str) -> bool:
    """Whether `line` begins a further branch of the statement that `opening` began: the piece is
    one statement once the branch is complete.

    True where no grammar can say.
    """
    piece = f"{opening.lstrip()}{body}\n{line}"
    if len(piece) > _MOST_CHARS:
        return False
    indent = leading_blanks(line)
    brackets = "".join(reversed(unclosed(piece, language_id)))
    found = {
        statements(f"{piece}{filler.format(indent=indent)}{brackets}\n", language_id)
        for filler in _FILLERS
    }
    return bool(found & {1, -1})


def _at_suffix(answer: str, site: Site) -> int | None:
    """The answer ends where it begins to say what stands after the cursor already."""
    rest = site.line_suffix.rstrip()
    if len(rest.strip()) >= _SHORTEST_SUFFIX_CHARS:
        at = answer.find(rest)
        while at >= 0 and opens_what_follows(answer[:at], rest, site):
            at = answer.find(rest, at + 1)
        if at >= 0:
            return at + is_escaped(answer, at, site)
    below = site.next_line.rstrip()
    if len(below.strip()) < _SHORTEST_SUFFIX_CHARS:
        return None
    # The whole line must have come: the right answer may begin like the line below.
    at = answer.find(f"\n{below}\n")
    return None if at < 0 else at


def _at_control_token(answer: str, site: Site) -> int | None:
    return first_control_token(answer, site)


def _at_loop(answer: str, _site: Site) -> int | None:
    return loop_start(answer)


_RULES: tuple[Callable[[str, Site], int | None], ...] = (
    _at_line_end,
    _at_block_end,
    _at_suffix,
    _at_control_token,
    _at_loop,
)
