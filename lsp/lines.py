"""Text as lines, kept in blocks, so that an edit costs its neighbourhood and not the whole file.

A line ends at `\\n`, `\\r\\n` or a lone `\\r` and at nothing else (LSP 3.18, "Text Documents"):
form feed, U+0085, U+2028 and their like are ordinary characters. Every line keeps its end; the last
line is the one without an end, and may be empty.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

BLOCK_LINES = 512


def split(text: str) -> list[str]:
    """The lines of `text`, each with its end. There is always at least one."""
    lines = list(io.StringIO(text, newline=""))
    if not lines or lines[-1].endswith(("\n", "\r")):
        lines.append("")
    return lines


class _Block:
    """A run of lines that remembers its own text and size until it is edited."""

    __slots__ = ("_bytes", "_text", "lines")

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self._text: str | None = None
        self._bytes: int | None = None

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = "".join(self.lines)
        return self._text

    @property
    def utf8_bytes(self) -> int:
        if self._bytes is None:
            text = self.text
            self._bytes = len(text) if text.isascii() else len(text.encode())
        return self._bytes

    def replace(self, first: int, last: int, lines: Sequence[str]) -> None:
        self.lines[first : last + 1] = lines
        self._text = self._bytes = None


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

    def block_of(self, line: int) -> int:
        """The number of the block that holds `line`."""
        return bisect_right(self._starts, line) - 1

    def chars_before(self, line: int) -> int:
        """Characters in the lines before `line`."""
        block = self.block_of(line)
        head = self._blocks[block].lines[: line - self._starts[block]]
        return sum(len(b.text) for b in self._blocks[:block]) + sum(map(len, head))

    def bytes_before(self, line: int) -> int:
        """UTF-8 bytes in the lines before `line`."""
        block = self.block_of(line)
        head = self._blocks[block].lines[: line - self._starts[block]]
        return sum(b.utf8_bytes for b in self._blocks[:block]) + len("".join(head).encode())

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
