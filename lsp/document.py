r"""An open document: its text, version and positions.

The text is kept as lines in blocks, so the cost of an edit does not grow with the file.

A line ends at `\n`, `\r\n` or a lone `\r` and at nothing else (LSP 3.18, "Text Documents"):
form feed, U+0085, U+2028 and their like are ordinary characters. Every line keeps its end; the last
line is the one without an end, and may be empty.

LSP counts a position's `character` in the units that client and server agreed on at `initialize`
(LSP 3.18, "Position Encoding"). A text never holds lone surrogates here: `clean` replaces each by
U+FFFD, which takes as many units as the surrogate did in every encoding, so positions stay true.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from itertools import accumulate
from typing import NamedTuple

from lsp.site import Origin, Site

_SURROGATE = re.compile("[\ud800-\udfff]")


class Encoding(StrEnum):
    """What one unit of `character` is. The values are the protocol's names."""

    UTF8 = "utf-8"
    UTF16 = "utf-16"
    UTF32 = "utf-32"


class Place(NamedTuple):
    """A place in a document. Both count from 0; `column` counts characters (code points)."""

    line: int
    column: int


class Change(NamedTuple):
    """The text from `first` to `last` becomes `text`."""

    first: Place
    last: Place
    text: str


_START = Place(0, 0)
_CODEC = {Encoding.UTF8: ("utf-8", 1), Encoding.UTF16: ("utf-16-le", 2)}


def clean(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD.

    A client that works in UTF-16 may send half a pair; such text could not be encoded later.
    """
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def body(line: str) -> str:
    """The line without its end (`\\n`, `\\r\\n` or `\\r`)."""
    if line.endswith("\n"):
        return line[:-2] if line.endswith("\r\n") else line[:-1]
    return line.removesuffix("\r")


def to_column(line: str, units: int, encoding: Encoding) -> int:
    """The column that lies `units` into `line`.

    Past the end of the line it is the line's length without its end; inside a character it is
    that character's start.
    """
    limit = len(body(line))
    units = max(units, 0)
    if encoding is Encoding.UTF32 or line.isascii():
        return min(units, limit)
    codec, unit_bytes = _CODEC[encoding]
    # No character takes less than one unit, so nothing after the first `units` characters counts.
    head = line[: min(units, limit)].encode(codec)[: units * unit_bytes]
    return len(head.decode(codec, "ignore"))


def to_units(line: str, column: int, encoding: Encoding) -> int:
    """How many of the client's units the first `column` characters of `line` take."""
    if encoding is Encoding.UTF32 or line.isascii():
        return min(column, len(line))
    codec, unit_bytes = _CODEC[encoding]
    return len(line[:column].encode(codec)) // unit_bytes


BLOCK_LINES = 512


def split(text: str) -> list[str]:
    """The lines of `text`, each with its end. There is always at least one."""
    lines = list(io.StringIO(text, newline=""))
    if not lines or lines[-1].endswith(("\n", "\r")):
        lines.append("")
    return lines


class _Block:
    """A run of lines that remembers its own text and size until it is edited."""

    __slots__ = ("_text", "lines")

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self._text: str | None = None

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = "".join(self.lines)
        return self._text

    def replace(self, first: int, last: int, lines: Sequence[str]) -> None:
        self.lines[first : last + 1] = lines
        self._text = None


class Lines:
    """The lines of one document. Counts from 0."""

    def __init__(self, text: str) -> None:
        self._blocks = _blocks(split(text))
        self._starts: list[int] = []
        self._index()

    def __len__(self) -> int:
        return self._starts[-1] + len(self._blocks[-1].lines)

    def __getitem__(self, line: int) -> str:
        block = self.block_of(line)
        return self._blocks[block].lines[line - self._starts[block]]

    @property
    def chars(self) -> int:
        """Characters in all."""
        return sum(len(block.text) for block in self._blocks)

    def text(self) -> str:
        """The whole text."""
        return "".join([block.text for block in self._blocks])

    def block_text(self, first: int, last: int) -> tuple[str, int]:
        """The text of the blocks `first` to `last` (as far as they exist), and its first line."""
        first = max(first, 0)
        return "".join([b.text for b in self._blocks[first : last + 1]]), self._starts[first]

    def between(self, first: Place, last: Place) -> str:
        """The text from one place to a later one."""
        if first == _START and last == (len(self) - 1, len(self[len(self) - 1])):
            return self.text()
        if first.line == last.line:
            return self[first.line][first.column : last.column]
        whole = [self[line] for line in range(first.line + 1, last.line)]
        return "".join([self[first.line][first.column :], *whole, self[last.line][: last.column]])

    def block_of(self, line: int) -> int:
        """The number of the block that holds `line`."""
        return bisect_right(self._starts, line) - 1

    def chars_before(self, line: int) -> int:
        """Characters in the lines before `line`."""
        block = self.block_of(line)
        head = self._blocks[block].lines[: line - self._starts[block]]
        return sum(len(b.text) for b in self._blocks[:block]) + sum(map(len, head))

    def replace(self, first: int, last: int, text: str) -> None:
        """Put `text` in place of the lines from `first` to `last`, both replaced whole."""
        if first and text.startswith("\n") and self[first - 1].endswith("\r"):
            first -= 1  # the two halves of one line end have met
            text = self[first] + text
        lines = split(text)
        if last < len(self) - 1:
            # The text ended with the end of a line that has a successor: no empty line follows.
            lines.pop()
        self._put(first, last, lines)

    def _put(self, first: int, last: int, lines: list[str]) -> None:
        head, tail = self.block_of(first), self.block_of(last)
        start, end = first - self._starts[head], last - self._starts[tail]
        count = len(self._blocks[head].lines) - (end - start + 1) + len(lines)
        if head == tail and 0 < count <= 2 * BLOCK_LINES:
            self._blocks[head].replace(start, end, lines)
        else:
            before = self._blocks[head].lines[:start]
            after = self._blocks[tail].lines[end + 1 :]
            self._blocks[head : tail + 1] = _blocks(before + lines + after)
        if head != tail or last - first + 1 != len(lines):
            self._index()

    def _index(self) -> None:
        counts = [len(block.lines) for block in self._blocks]
        self._starts = [0, *accumulate(counts[:-1])]


def _blocks(lines: list[str]) -> list[_Block]:
    return [_Block(lines[at : at + BLOCK_LINES]) for at in range(0, len(lines), BLOCK_LINES)]


WHOLE_TEXT_CHARS = 1 << 20
"""A longer document is not handed on whole, but as the blocks of lines around the cursor."""

_NEIGHBOUR_BLOCKS = 4

_REMEMBERED_CHANGES = 256


class Document:
    """The text of one open file, edited as the client says.

    Attributes:
        uri: the client's name for it.
        language: LSP language id ("python"); may be empty.
        version: the client's version of the text held now.
        edited: where the last edit ended; the start of the file before the first.
    """

    def __init__(
        self,
        uri: str,
        text: str,
        *,
        encoding: Encoding = Encoding.UTF16,
        version: int = 0,
        language: str = "",
    ) -> None:
        self.uri = uri
        self.language = language
        self.version = version
        self.edited = _START
        self._encoding = encoding
        text = clean(text)
        self._lines = Lines(text)
        self._identity = object()
        self._revision = 0
        self._kept: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED_CHANGES)
        self._has_returns = "\r" in text

    def __len__(self) -> int:
        """How many lines there are; at least one."""
        return len(self._lines)

    def line(self, number: int) -> str:
        """A line with its end."""
        return self._lines[number]

    @property
    def text(self) -> str:
        return self._lines.text()

    def change(
        self, text: str, start: tuple[int, int] | None = None, end: tuple[int, int] | None = None
    ) -> Change:
        """What it means to put `text` between two client positions (line, units), in any order.

        Without positions `text` is the whole new text. A change of several lines is narrowed to
        where the text becomes another one: many clients send more than what was edited.
        """
        text = clean(text)
        if start is None or end is None:
            return self._narrowed(Change(_START, self.place(len(self), 0), text))
        first, last = sorted((self.place(*start), self.place(*end)))
        change = Change(first, last, text)
        return change if first.line == last.line else self._narrowed(change)

    def apply(self, change: Change) -> None:
        """Make a change of the text as it is now."""
        first, last, text = change
        if first == last and not text:
            return
        self._note(change)
        head = self._lines[first.line][: first.column]
        tail = self._lines[last.line][last.column :]
        self._lines.replace(first.line, last.line, f"{head}{text}{tail}")
        self.edited = self.clamp(_end_of(first, text))

    def place(self, line: int, units: int) -> Place:
        """The place of a client position. One past the end of a line is the line's end; one past
        the last line is the end of the document."""
        if line >= len(self._lines):
            last = len(self._lines) - 1
            return Place(last, len(self._lines[last]))
        line = max(line, 0)
        return Place(line, to_column(self._lines[line], units, self._encoding))

    def position(self, place: Place) -> tuple[int, int]:
        """The client position (line, units) of a place."""
        return place.line, to_units(self._lines[place.line], place.column, self._encoding)

    def offset(self, place: Place) -> int:
        """How many characters of `text` stand before a place."""
        return self._lines.chars_before(place.line) + place.column

    def units(self, text: str) -> int:
        """How many of the client's units `text` takes on one line."""
        return to_units(text, len(text), self._encoding)

    def clamp(self, place: Place) -> Place:
        """The nearest place that exists."""
        line = min(max(place.line, 0), len(self._lines) - 1)
        return Place(line, min(max(place.column, 0), len(body(self._lines[line]))))

    def site(self, place: Place) -> Site:
        """The text around `place` as it is now."""
        text, start = self._around(place.line)
        cursor = self.offset(place) - start
        first, last = max(cursor - WHOLE_TEXT_CHARS, 0), cursor + WHOLE_TEXT_CHARS
        prefix, suffix = one_line_end(text[first:cursor]), one_line_end(text[cursor:last])
        after = self._lines.chars - start - min(last, len(text))
        return Site(
            uri=self.uri,
            version=self.version,
            language_id=self.language,
            prefix=prefix,
            suffix=suffix,
            origin=Origin(
                document=self._identity,
                revision=self._revision,
                kept=tuple(self._kept),
                left_out=(start + first, after),
                before=len(prefix),
                after=len(suffix),
            ),
        )

    def _note(self, change: Change) -> None:
        """Note what a change that is about to be made leaves as it is: see `Origin.kept`."""
        first, last, text = change
        start, end = self.offset(first), self._lines.chars - self.offset(last)
        self._has_returns = self._has_returns or "\r" in text
        if self._has_returns:
            # A line end may be two characters here, and is one in a site. The first of the end may
            # join a carriage return that is inserted before it.
            start, end = start - first.line, end - (len(self._lines) - last.line)
        self._kept.append((max(start, 0), max(end, 0)))
        self._revision += 1

    def _narrowed(self, change: Change) -> Change:
        """The same change without what its old and its new text share at both ends."""
        from context.syntax.text import common_ends

        first, last, new = change
        old = self._lines.between(first, last)
        start, end = common_ends(old, new)
        # A carriage return and the line feed after it are one line end: it is not parted.
        if (
            start
            and old[start - 1] == "\r"
            and "\n" in (old[start : start + 1], new[start : start + 1])
        ):
            start -= 1
        before_end = (
            old[len(old) - end - 1 : len(old) - end],
            new[len(new) - end - 1 : len(new) - end],
        )
        if end and old[len(old) - end] == "\n" and "\r" in before_end:
            end -= 1
        return Change(
            _end_of(first, old[:start]),
            _end_of(first, old[: len(old) - end]),
            new[start : len(new) - end],
        )

    def _around(self, line: int) -> tuple[str, int]:
        """The text around a line, and how many characters of the document lie before it.

        Of a huge document only the blocks near the line: their borders stay where they are while
        the user types, and so does the start of the prompt.
        """
        if self._lines.chars <= WHOLE_TEXT_CHARS:
            return self._lines.text(), 0
        block = self._lines.block_of(line)
        text, first = self._lines.block_text(block - _NEIGHBOUR_BLOCKS, block + _NEIGHBOUR_BLOCKS)
        return text, self._lines.chars_before(first)


def _end_of(start: Place, text: str) -> Place:
    """Where a text that starts at `start` ends."""
    lines = split(text)
    last = len(lines) - 1
    return Place(start.line + last, len(lines[-1]) + (0 if last else start.column))


def one_line_end(text: str) -> str:
    """`text` with `\\n` for every line end."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
