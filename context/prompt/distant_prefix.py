"""The current file before the near prefix, cut down to a room in tokens.

What stands right before the near prefix stays as it is. Of the rest, each function is shown whole,
as its signature, or not at all, and what lies between functions whole or not at all: the best by
`value` first, until the room is spent. What is left out becomes a marker line.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

from context.syntax.document import Source
from context.syntax.syntax_tree import Definition, Kind
from context.syntax.text import Encoder, line_end, line_start, next_text_line, pieces_before
from context.syntax.trim import Cut, Depth, apply, cuts, licence_end

_VERBATIM_SHARE = 0.6
_MARKER_TOKENS = 4
_SHIELDED_CHARS = 400  # right before the near prefix nothing is cut
_HALF_DISTANCE_CHARS = 2400
_MAX_CHARS_A_TOKEN = 8  # beyond this a text is surely too long to be counted for nothing


@dataclass(frozen=True)
class Far:
    """The far prefix: its text, exact tokens, and how many lines of the file it leaves out."""

    text: str
    tokens: int
    cut_lines: int


@dataclass(frozen=True)
class _Segment:
    """Part of the file: where it is, what it may become, and what each form is worth."""

    start: int
    stop: int
    short: str
    short_value: float
    full_value: float


def far_prefix(
    text: str,
    source: Source | None,
    stop: int,
    room_tokens: int,
    *,
    encoder: Encoder,
    weights: Mapping[str, float],
    depth: Depth = Depth.DOCS,
) -> Far:
    """`text[:stop]` in at most `room_tokens`; `stop` is the start of a line.

    Args:
        source: the text parsed; None leaves only whole lines right before `stop`.
        weights: names used near the cursor, or expected there: their definitions are worth more.
        depth: how far what stays is trimmed.
    """
    if room_tokens <= 0 or stop <= 0:
        return Far("", 0, text.count("\n", 0, stop))
    if stop <= room_tokens * _MAX_CHARS_A_TOKEN:
        whole = _lightened(text, source, stop, weights)
        tokens = encoder.text_count(whole)
        if tokens <= room_tokens:
            return Far(whole, tokens, text.count("\n", 0, stop) - whole.count("\n"))
    structured = source is not None and bool(source.outline.definitions)
    verbatim_room = int(room_tokens * _VERBATIM_SHARE) if structured else room_tokens
    start, verbatim_tokens = _verbatim(text, stop, verbatim_room, encoder)
    if source is None or not structured or start <= 0:
        return Far(text[start:stop], verbatim_tokens, text.count("\n", 0, start))
    marker = source.language.cut_marker + "\n"
    begin = min(line_start(text, source.reach[0]), start)
    segments = _segments(source, (begin, start), stop, weights, depth)
    head = _chosen(text, segments, room_tokens - verbatim_tokens, encoder, marker)
    if begin > 0 and not head.startswith(marker):
        head = marker + head
    shown = head + text[start:stop]
    tokens = encoder.text_count(shown)
    if tokens > room_tokens:  # the seam merged otherwise than counted
        return Far(text[start:stop], verbatim_tokens, text.count("\n", 0, start))
    return Far(shown, tokens, max(0, text.count("\n", 0, stop) - shown.count("\n")))


def _lightened(text: str, source: Source | None, stop: int, weights: Mapping[str, float]) -> str:
    """All of `text[:stop]` but for boilerplate, which is not worth its evaluation even so."""
    if source is None:
        return text[:stop]
    near = max(line_start(text, max(0, stop - _SHIELDED_CHARS)), min(licence_end(source), stop))
    made = cuts(source, Depth.LIGHT, expected=weights, protect=(near, len(text)))
    left = apply(text, made, 0, stop)
    return left if any(map(str.isalnum, left)) else ""


def _verbatim(text: str, stop: int, room_tokens: int, encoder: Encoder) -> tuple[int, int]:
    """Where whole lines before `stop` begin that fit the room, and their tokens."""
    start, tokens, line_tokens = stop, 0, 0
    for at, piece in pieces_before(text, stop):
        tokens += encoder.count(piece)
        if tokens > room_tokens:
            break
        if at == 0 or text[at - 1] == "\n":
            start, line_tokens = at, tokens
    return start, line_tokens


def later_outline(
    source: Source,
    start: int,
    room_tokens: int,
    *,
    encoder: Encoder,
    weights: Mapping[str, float],
) -> Far:
    """What comes at or after `start`, far behind the cursor, chosen in the same way.

    It does not depend on where exactly the cursor stands, so it stays as it is over a jump.
    """
    text = source.text
    begin = min(
        (one.lead for one in source.outline.definitions if one.start >= start), default=len(text)
    )
    if room_tokens <= 0 or begin >= len(text):
        return Far("", 0, 0)
    begin = line_start(text, begin)
    end = line_start(text, source.reach[1]) if source.parsed_bytes is not None else len(text)
    segments = _segments(source, (begin, max(begin, end)), start, weights, Depth.DOCS)
    shown = _chosen(text, segments, room_tokens, encoder, source.language.cut_marker + "\n")
    if not shown.endswith("\n"):
        shown += "\n"
    tokens = encoder.text_count(shown)
    if tokens > room_tokens or not any(char.isalnum() for char in shown):
        return Far("", 0, text.count("\n", begin))
    return Far(shown, tokens, text.count("\n", begin) - shown.count("\n"))


def _segments(
    source: Source,
    span: tuple[int, int],
    cursor: int,
    weights: Mapping[str, float],
    depth: Depth,
) -> list[_Segment]:
    """The file between two line starts as functions and what lies between them."""
    made = cuts(source, depth, expected=weights)
    bodies = cuts(source, Depth.BODIES)
    around = source.outline.enclosing(cursor)
    found: list[_Segment] = []
    at, stop = span
    for one in _functions(source, at, stop):
        start = line_start(source.text, one.lead)
        if start < at:
            continue
        found += _gaps(source, at, start, made, around, weights)
        end = min(next_text_line(source.text, line_end(source.text, one.stop)), stop)
        found.append(_function(source, one, (start, end), (made, bodies), around, weights, cursor))
        at = end
    found += _gaps(source, at, stop, made, around, weights)
    return found


def _functions(source: Source, start: int, stop: int) -> Iterator[Definition]:
    """Functions that lie in `start:stop` and in no other function, in order."""
    end = start
    for one in source.outline.definitions:
        if one.kind is Kind.FUNCTION and one.body is not None and one.start >= end:
            if one.stop > stop:
                continue
            yield one
            end = one.stop


def _function(  # noqa: PLR0917 - a private step of one caller
    source: Source,
    one: Definition,
    span: tuple[int, int],
    made: tuple[list[Cut], list[Cut]],
    around: list[Definition],
    weights: Mapping[str, float],
    cursor: int,
) -> _Segment:
    """A function: worth more when its name is used near, and beside the cursor in its class."""
    need = weights.get(one.name, 0.0)
    definitions = source.outline.definitions
    sibling = one.parent >= 0 and definitions[one.parent] in around
    near = 0.5 ** (abs(cursor - span[1]) / _HALF_DISTANCE_CHARS)
    short_value = 0.2 + need + 0.4 * sibling + 0.1 * near
    full_value = 0.05 + 0.6 * need + 0.2 * sibling * near + 0.15 * near
    short = apply(source.text, _inside(made[1], *span), *span)
    return _Segment(*span, short, short_value, full_value)


def _gaps(  # noqa: PLR0917 - a private step of one caller
    source: Source,
    start: int,
    stop: int,
    made: list[Cut],
    around: list[Definition],
    weights: Mapping[str, float],
) -> list[_Segment]:
    """What lies between functions, class headers each by themselves."""
    if start >= stop or not source.text[start:stop].strip():
        return []
    definitions = _between(source.outline.definitions, start, stop)
    imports = _between(source.outline.imports, start, stop)
    edges = {start, stop}
    for one in definitions:
        if one.kind in (Kind.CLASS, Kind.SCOPE):
            edges.add(line_start(source.text, one.lead))
    for brought in imports:
        edges.add(line_start(source.text, brought.start))
        edges.add(next_text_line(source.text, line_end(source.text, brought.stop)))
    ordered = sorted(edge for edge in edges if start <= edge <= stop)
    found = []
    for first, last in pairwise(ordered):
        text = apply(source.text, _inside(made, first, last), first, last)
        holds = any(first <= one.start < last for one in around)
        names = [one.local for one in _between(imports, first, last)]
        brings = 0.3 * bool(names) + max((weights.get(name, 0.0) for name in names), default=0.0)
        outer = [
            one
            for one in _between(definitions, first, last)
            if one.parent < 0 or source.outline.definitions[one.parent].start < first
        ]
        defines = max((weights.get(one.name, 0.0) for one in outer), default=0.0)
        value = 0.25 + 1.2 * holds + brings + 0.8 * defines
        found.append(_Segment(first, last, text, value, -1.0))
    return found


class _Placed(Protocol):
    @property
    def start(self) -> int: ...


_P = TypeVar("_P", bound=_Placed)


def _between(ones: Sequence[_P], start: int, stop: int) -> Sequence[_P]:
    """Those of `ones`, ordered by their start, that begin in `start:stop`."""
    first = bisect_left(ones, start, key=lambda one: one.start)
    last = bisect_left(ones, stop, key=lambda one: one.start)
    return ones[first:last]


def _inside(made: Sequence[Cut], start: int, stop: int) -> Sequence[Cut]:
    return _between(made, start, stop)  # `apply` drops one that reaches past the end


def _chosen(
    text: str, segments: list[_Segment], room_tokens: int, encoder: Encoder, marker: str
) -> str:
    """Segments in order, the best chosen; runs of those left out as one marker line each."""
    short = [encoder.text_count(one.short) for one in segments]
    forms: dict[int, str] = {}
    left = room_tokens - _MARKER_TOKENS
    for i in sorted(range(len(segments)), key=lambda i: (-segments[i].short_value, i)):
        if short[i] + _MARKER_TOKENS <= left:
            forms[i] = segments[i].short
            left -= short[i] + _MARKER_TOKENS * (i - 1 not in forms)
    for i in sorted(forms, key=lambda i: (-segments[i].full_value, i)):
        one = segments[i]
        if one.full_value < 0:
            continue
        full = text[one.start : one.stop]
        more = encoder.text_count(full) - short[i] if len(full) <= left * 8 + 400 else left + 1
        if more <= left:
            forms[i] = full
            left -= more
    shown: list[str] = []
    for i in range(len(segments)):
        if i in forms:
            shown.append(forms[i])
        elif not shown or shown[-1] != marker:
            shown.append(marker)
    return "".join(shown)
