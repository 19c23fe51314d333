"""Text as pieces: line groups that are cut at places which stay where they are while one types.

Offsets named `_byte` are UTF-8 bytes; all others are characters. Only "\\n" ends a line here: what
an editor calls a line does not matter for a prompt, and form feeds or U+2028 stay inside theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from context.types import CursorKind

PIECE_CHARS = 256
"""A longer line (or run of blank lines) is cut every so many characters, counted from its start."""

_BLOCK = 4096  # characters or bytes that are compared at once


def clean(text: str) -> str:
    """`text` without lone surrogates, which no UTF-8 can hold; its length does not change."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


Text = TypeVar("Text", str, bytes)


def common_ends(old: Text, new: Text) -> tuple[int, int]:
    """How long a start, and how long an end besides, two texts have in common.

    So the change between them is `old[start : len(old) - end]` to `new[start : len(new) - end]`.
    """
    limit = min(len(old), len(new))
    start = _common(limit, lambda first, last: old[first:last] == new[first:last])
    end = _common(
        limit - start,
        lambda first, last: (
            old[len(old) - last : len(old) - first] == new[len(new) - last : len(new) - first]
        ),
    )
    return start, end


def _common(limit: int, equal: Callable[[int, int], bool]) -> int:
    """The largest `n <= limit` with `equal(0, n)`, found in blocks and then by halving."""
    at = 0
    while at < limit and equal(at, min(at + _BLOCK, limit)):
        at = min(at + _BLOCK, limit)
    low, high = at, min(at + _BLOCK, limit)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if equal(low, middle) else (low, middle - 1)
    return low


def char_offset(text: str, offset_byte: int) -> int:
    """The character that UTF-8 byte `offset_byte` lies in, clamped to the text."""
    if offset_byte <= 0:
        return 0
    if text.isascii():
        return min(offset_byte, len(text))
    if offset_byte >= len(text) * 4:
        return len(text)
    return len(text.encode("utf-8", "replace")[:offset_byte].decode("utf-8", "ignore"))


def byte_offset(text: str, offset: int) -> int:
    """How many UTF-8 bytes the first `offset` characters take."""
    return offset if text.isascii() else len(text[:offset].encode("utf-8", "replace"))


def line_start(text: str, offset: int) -> int:
    """Where the line that holds `offset` begins."""
    return text.rfind("\n", 0, offset) + 1


def line_end(text: str, offset: int) -> int:
    """Just past the line end of the line that holds `offset`, or the end of the text."""
    found = text.find("\n", offset)
    return len(text) if found < 0 else found + 1


def next_text_line(text: str, offset: int) -> int:
    """The first start of a non-blank line at or after the line start `offset`, or the end."""
    while offset < len(text):
        end = line_end(text, offset)
        if text[offset:end].strip():
            return offset
        offset = end
    return len(text)


def cursor_kind(text: str, cursor: int) -> CursorKind:
    """LINE_START where only blanks stand before the cursor in its line."""
    before = text[max(line_start(text, cursor), cursor - 4096) : cursor]
    return CursorKind.LINE_START if not before.strip() else CursorKind.MID_LINE


def pieces(text: str) -> list[str]:
    """All of `text` in pieces: joined they are the text, each at most PIECE_CHARS long.

    A piece is a line with the blank lines after it; blank lines at the very start are a piece of
    their own, and so is a last line without a line end. So every cut is at the start of a
    non-blank line, before an open last line, or inside something very long.
    """
    return list(pieces_after(text, 0))


def pieces_before(text: str, stop: int) -> Iterator[tuple[int, str]]:
    """Pieces of `text[:stop]`, last first, each with its offset; the line of `stop` is the first.

    The cuts do not depend on `stop`, except that the last piece ends there: so as one types at
    `stop`, all other pieces stay the same.
    """
    end = stop
    start = line_start(text, stop)
    while end > 0:
        cuts = range(start, end, PIECE_CHARS)
        for cut in reversed(cuts):
            yield cut, text[cut : min(cut + PIECE_CHARS, end)]
        end = start
        if end:
            start = _nonblank_line_before(text, end)


def _nonblank_line_before(text: str, end: int) -> int:
    """Start of the last non-blank line that ends at or before `end`; 0 if there is none."""
    while end > 0:
        start = text.rfind("\n", 0, end - 1) + 1
        if text[start:end].strip():
            return start
        end = start
    return 0


def pieces_after(text: str, start: int) -> Iterator[str]:
    """Pieces of `text[start:]` in order; the first is what is left of the line of `start`."""
    while start < len(text):
        stop = line_end(text, start)
        while stop < len(text):
            following = line_end(text, stop)
            if text[stop:following].strip() or text[following - 1] != "\n":
                break
            stop = following
        for cut in range(start, stop, PIECE_CHARS):
            yield text[cut : min(cut + PIECE_CHARS, stop)]
        start = stop
