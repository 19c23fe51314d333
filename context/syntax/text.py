"""Plain text: offsets, lines and pieces, the identifiers in it, and its token ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

from context.types import CursorKind, TokenCounter

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


Text = TypeVar("Text", str, bytes, tuple[str, ...])


def common_ends(old: Text, new: Text) -> tuple[int, int]:
    """How long a start, and how long an end besides, two texts (or their lines) have in common.

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


_NAME = re.compile(r"[^\W\d][\w$]*")
# Each word is tried once, from its start: without the look-behind a long word costs its square.
_MEMBER = re.compile(r"(?<![\w$])([^\W\d][\w$]*+)\s*+(?:\.|::|->|:)\s*+(?=([^\W\d][\w$]*+))")
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_A-Za-z]+")
_HALF_DISTANCE_LINES = 8
_MAX_TERMS = 40
_LONGEST_NAME = 200


def near_names(before: str, after: str) -> dict[str, float]:
    """Weight of each identifier around a cursor: the nearest occurrence counts.

    1 on the cursor's line, half of it 8 lines away before it; after it, half as much from the
    start. Formula: 0.5 ** (lines / 8), times 0.5 after the cursor.
    """
    weights: dict[str, float] = {}
    for lines, factor in ((reversed(before.split("\n")), 1.0), (iter(after.split("\n")), 0.5)):
        for distance, line in enumerate(lines):
            weight = factor * 0.5 ** (distance / _HALF_DISTANCE_LINES)
            for name in _NAME.findall(line[:2000]):
                if weights.get(name, 0.0) < weight:
                    weights[name] = weight
    return weights


def members(text: str) -> dict[str, set[str]]:
    """For each `a.b` (also `a::b`, `a->b`, `a:b`) in the text: the members `b` of `a`."""
    found: dict[str, set[str]] = {}
    for owner, member in _MEMBER.findall(text):
        found.setdefault(owner, set()).add(member)
    return found


def words(name: str) -> list[str]:
    """`heightAt`, `height_at`, `HEIGHT_AT` -> height, at."""
    return [word.lower() for word in _WORDS.findall(name)]


def terms(text: str) -> str:
    """What the search index holds for a text: its identifiers and their words, blank-separated."""
    names = (name[:_LONGEST_NAME] for name in _NAME.findall(text))
    return " ".join(found for name in names if (found := _terms_of(name)))


@lru_cache(maxsize=1 << 14)
def _terms_of(name: str) -> str:
    parts = words(name)
    found = [part for part in parts if len(part) > 1]
    if len(parts) > 1:
        found.append("".join(parts))
    return " ".join(found)


def query_terms(weights: dict[str, float]) -> list[str]:
    """Search terms for weighted identifiers, the heaviest first, at most 40."""
    scored: dict[str, float] = {}
    for name, weight in weights.items():
        parts = words(name)
        for term in (*parts, "".join(parts)):
            if len(term) > 2:
                scored[term] = max(scored.get(term, 0.0), weight)
    return [term for term, _ in sorted(scored.items(), key=lambda one: -one[1])][:_MAX_TERMS]


def shingles(text: str) -> set[str]:
    """Lines without blanks, to compare texts by."""
    return {line for line in map(str.strip, text.split("\n")) if len(line) > 3}


def similarity(one: set[str], other: set[str]) -> float:
    """Share of common lines: twice the common ones over all, 0 to 1."""
    total = len(one) + len(other)
    return 2 * len(one & other) / total if total else 0.0


_CAPACITY = 32_768  # pieces; about 100 bytes each, so a few MB at most


class Encoder:
    """A TokenCounter in front of another one that remembers what it encoded.

    A prompt is the concatenation of pieces, and its ids are the concatenation of their ids: so
    what is counted is exactly what is sent. Pieces begin at the start of a non-blank line wherever
    that is possible: byte-level BPE split patterns (GPT-2 and all its children) never join a line
    end to a following non-blank line, so there the ids equal those of the text encoded at once.
    """

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._known: dict[str, tuple[int, ...]] = {}

    @classmethod
    def of(cls, counter: TokenCounter) -> Encoder:
        """`counter` itself if it already remembers, or an Encoder around it."""
        return counter if isinstance(counter, Encoder) else cls(counter)

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, plain text throughout."""
        known = self._known.get(text)
        if known is None:
            known = tuple(self._counter.encode(text)) if text else ()
            if len(self._known) >= _CAPACITY:
                self._known.clear()
            self._known[text] = known
        return known

    def encode(self, text: str) -> list[int]:
        return list(self.ids(text))

    def count(self, text: str) -> int:
        return len(self.ids(text))

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text of any length, piece by piece."""
        found: list[int] = []
        for piece in pieces(text):
            found.extend(self.ids(piece))
        return found

    def text_count(self, text: str) -> int:
        """`len(text_ids(text))`: the tokens that `text` takes as a section of a prompt."""
        return sum(len(self.ids(piece)) for piece in pieces(text))
