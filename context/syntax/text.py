"""Plain text: offsets, lines and pieces, the identifiers in it, its token ids, and the characters
of it that a reader cannot see."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from enum import StrEnum
from functools import lru_cache
from typing import Protocol, TypeVar

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


class CursorKind(StrEnum):
    """Where the cursor stands in its line; the best layout may differ."""

    LINE_START = "line_start"
    MID_LINE = "mid_line"


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


class TokenCounter(Protocol):
    """Counts and encodes text as the model will. `context` never loads a vocabulary itself."""

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; control tokens written in it are ordinary text."""
        ...

    def count(self, text: str) -> int: ...


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


_ANSI = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,32}[ -/]{0,8}[@-~]"  # control sequences
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]{0,256}(?:\x07|\x1b\\|\x9c)"  # operating system commands
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]{0,256}(?:\x07|\x1b\\|\x9c)"  # strings
    r"|\x1b[#%(-/][0-~]|\x1b[@-OQ-WYZ\\c78=>]"
)
"""Terminal escape sequences (ECMA-48, also in their 8-bit forms): removed whole, since their
visible rest is noise."""

_INTRODUCERS = re.compile("[\x1b\x90\x98\x9b\x9d-\x9f]")
"""What a terminal escape sequence begins with."""

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
"""Everything that some language or editor takes for the end of a line."""

_SUSPECT = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    # Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties.txt)
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\u2800"  # the braille pattern without dots
    "\u2028\u2029\ufff9-\uffff"  # line separators, annotations, replacement of broken bytes
    "\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\U000f0000-\U0010ffff"  # surrogates, private use
    "]"
)
_ZWSP, _ZWNJ, _ZWJ = "\u200b", "\u200c", "\u200d"
_NO_DOTS = "\u2800"
_EMOJI_STYLE, _TEXT_STYLE = "\ufe0f", "\ufe0e"
_KEYCAP, _BLACK_FLAG, _CANCEL_TAG = "\u20e3", "\U0001f3f4", "\U000e007f"
_LOOK_CHARS = 1 << 18  # of the document on either side that are searched for a character


def with_line_feeds(text: str, kept: Collection[str] = ()) -> str:
    """`text` with every kind of line end but those `kept` as `\\n`."""
    return _LINE_ENDS.sub(lambda found: found[0] if found[0] in kept else "\n", text)


def without_unsafe_characters(
    text: str, before: str = "", after: str = "", kept: Collection[str] = ()
) -> str:
    """`text` without characters that a reader cannot see and that may deceive.

    Bidirectional controls can make code read otherwise than it runs (CVE-2021-42574), other
    invisible characters change names, and controls can drive a terminal. What scripts need
    stays: joiners between letters and within emoji, variation selectors after emoji, tags in flags.
    Private use characters (icons) and other variation selectors stay where the document has them.

    Args:
        before, after: the document around the place where `text` goes; both are searched within a
            bounded distance.
        kept: characters that stay wherever they are, such as those of a text that this one
            replaces.
    """
    if _INTRODUCERS.search(text):
        text = _ANSI.sub(lambda found: found[0] if found[0][0] in kept else "", text)
    if not _SUSPECT.search(text):
        return text
    made: list[str] = []
    for at, char in enumerate(text):
        if not _SUSPECT.match(char) or char in kept:
            made.append(char)
            continue
        left = made[-1] if made else before[-1:]
        right = text[at + 1 : at + 2] or after[:1]
        if _needed(char, left, right, before[-1:], made) or _in_document(char, before, after):
            made.append(char)
    return "".join(made)


def _needed(char: str, left: str, right: str, before: str, made: list[str]) -> bool:
    """Whether a script or an emoji needs the invisible `char` between its neighbours.

    Args:
        before: the character before the text; `made` is what the text has before `char`.
    """
    if char in {_ZWJ, _ZWNJ}:
        if _joins(left) and (_joins(right) or _shapes_alone(char, left)):
            return True
        if char == _ZWNJ and (
            _is_arabic(left) or _is_arabic(right)
        ):  # a suffix after a number or name
            return left.isalnum() and right.isalnum()
        return char == _ZWJ and _pictorial(left) and _pictorial(right)
    if char in {_EMOJI_STYLE, _TEXT_STYLE}:
        return _pictorial(left) or (left != "" and left in "#*0123456789" and right == _KEYCAP)
    if char == _ZWSP:
        return _breaks_words(left) and _breaks_words(right)
    if char == _NO_DOTS:
        return "\u2800" < left <= "\u28ff" or "\u2800" < right <= "\u28ff"
    if "\u180b" <= char <= "\u180d" or char == "\u180f":  # Mongolian variation selectors
        return "\u1820" <= left <= "\u18aa"
    if char == "\u180e":  # the Mongolian vowel separator
        return "\u1820" <= left <= "\u18aa" and "\u1820" <= right <= "\u18aa"
    if "\U000e0020" <= char <= _CANCEL_TAG:
        return left == _BLACK_FLAG or (
            "\U000e0020" <= left < _CANCEL_TAG and _BLACK_FLAG in (before, *made)[-16:]
        )
    return False


def _joins(char: str) -> bool:
    """Whether `char` is a letter or a mark of a script that is written with joiners."""
    if "\U0001e900" <= char <= "\U0001e94b":  # Adlam has two cases
        return True
    return char > "\u05ff" and unicodedata.category(char) in {"Lo", "Mn", "Mc", "Lm"}


def _is_arabic(char: str) -> bool:
    return "\u0620" <= char <= "\u08ff" and char.isalpha()


def _shapes_alone(char: str, left: str) -> bool:
    """Whether a joiner changes the letter before it at the end of a word: after a virama (a half
    form or a chillu), and a ZWJ after an Arabic letter (its joined form, as in abbreviations)."""
    virama = unicodedata.combining(left) == 9
    return virama or (char == _ZWJ and "\u0620" <= left <= "\u08ff")


def _breaks_words(char: str) -> bool:
    """Whether `char` is of a script without blanks, in which a zero-width space may end a word:
    Thai, Lao, Myanmar, Khmer, Tai Lue, Tai Tham, Balinese or Javanese."""
    return any(first <= char <= last for first, last in _WITHOUT_BLANKS)


_WITHOUT_BLANKS = (
    *(("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"), ("\u1980", "\u19ff")),
    *(("\u1a20", "\u1aad"), ("\u1b00", "\u1b7f"), ("\ua980", "\ua9fe"), ("\uaa60", "\uaa7f")),
)


def _pictorial(char: str) -> bool:
    """Whether `char` can be part of an emoji: a symbol, a skin tone or an emoji style selector."""
    if char in {_EMOJI_STYLE, "\u203c", "\u2049", "\u2139", "\u3030", "\u303d", "\u00a9", "\u00ae"}:
        return True
    return char > "\u20ff" and unicodedata.category(char) in {"So", "Sk", "Sm"}


def _in_document(char: str, before: str, after: str) -> bool:
    """Whether `char` is one that is allowed where the document has it, and the document has it."""
    category = unicodedata.category(char)
    selector = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    if not (category == "Co" or selector or char in {"\ufffd", _NO_DOTS}):
        return False
    return char in before[-_LOOK_CHARS:] or char in after[:_LOOK_CHARS]


def rewritten(text: str, old: str = "") -> str:
    """What a model wrote for a file, in place of `old`: with line feeds, and without unsafe
    characters that `old` has not."""
    kept = frozenset(_SUSPECT.findall(old))
    return without_unsafe_characters(with_line_feeds(text, kept), old, kept=kept)


class CharacterStream:
    """Removes unsafe characters from a text that comes in pieces, and makes its line ends one.

    It holds back what a later piece may turn into a longer escape sequence or line end.
    """

    _HELD_CHARS = 320

    def __init__(self, document: str = "") -> None:
        """`document`: what the text is about, as `before` of `without_unsafe_characters`."""
        self._document = document
        self._raw = ""
        self._last = "\n"

    def feed(self, piece: str) -> str:
        """The text that is sure now."""
        self._raw += piece
        return self._cleaned(self._clear_length())

    def finish(self) -> str:
        """The rest of the text, at its end."""
        return self._cleaned(len(self._raw))

    def _clear_length(self) -> int:
        """How much of the raw text does not depend on what follows."""
        text = self._raw
        least = max(len(text) - self._HELD_CHARS, 0)
        # A sequence that ends the text may be the start of a longer one.
        start = _INTRODUCERS.search(text)
        while start is not None:
            sequence = _ANSI.match(text, start.start())
            if sequence is None or sequence.end() == len(text):
                break
            start = _INTRODUCERS.search(text, sequence.end())
        length = len(text) if start is None else start.start()
        # A joiner, and the half of a line end, are judged by what follows.
        while length and (text[length - 1] == "\r" or _SUSPECT.match(text[length - 1])):
            length -= 1
        return max(length, least)

    def _cleaned(self, length: int) -> str:
        """The first `length` characters of the raw text, cleaned; the rest stays raw."""
        text, self._raw = self._raw[:length], self._raw[length:]
        if _SUSPECT.search(text):
            text = with_line_feeds(_ANSI.sub("", text))
            text = without_unsafe_characters(text, self._document + self._last, self._raw)
        self._last = text[-1:] or self._last
        return text
