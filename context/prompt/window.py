"""The plain prompt, a window of text around the cursor, and the order of sections as token ids.

A window begins at an anchor, a row that is a multiple of a step, and not at a distance from the
cursor. So typing changes only the end of the near prefix; everything before it keeps its bytes
until the window is full and its start moves on by a whole step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from context.prompt import FimLayout, Part, Prompt, Section
from context.syntax.secrets import ShownText, masked_runs
from context.syntax.text import (
    CursorKind,
    Encoder,
    TokenCounter,
    char_offset,
    clean,
    cursor_kind,
    pieces_after,
    pieces_before,
)

TOKEN_PARTS = frozenset(
    {
        Part.PREFIX_TOKEN,
        Part.SUFFIX_TOKEN,
        Part.MIDDLE_TOKEN,
        Part.REPO_TOKEN,
        Part.FILE_TOKEN,
    }
)


def order_of(layout: FimLayout, kind: CursorKind) -> tuple[Part, ...]:
    """The order for `kind`; a family that tells only one order uses it for both kinds.

    Raises:
        ValueError: the family has no order at all.
    """
    if kind in layout.order:
        return layout.order[kind]
    for order in layout.order.values():
        return order
    raise ValueError(f"the FIM layout of {layout.family!r} has no order")


def control_ids(layout: FimLayout, control: Mapping[str, int]) -> dict[Part, int]:
    """The id of each control token that the layout uses.

    Raises:
        ValueError: a control token has no id in `control`, so the layout is not this model's.
    """
    found: dict[Part, int] = {}
    for part, text in layout.tokens.items():
        if text not in control:
            raise ValueError(f"{layout.family}: the vocabulary has no control token {text!r}")
        found[part] = control[text]
    return found


def overhead_tokens(layout: FimLayout, kind: CursorKind) -> int:
    """How many tokens a prompt has besides its text and those before each repository section."""
    order = order_of(layout, kind)
    each = repo_section_overhead(layout, kind)
    written = sum(len(layout.ids.get(part, ())) for part in order)
    return written + sum(part in layout.tokens for part in order if part in TOKEN_PARTS) - each


def repo_section_overhead(layout: FimLayout, kind: CursorKind) -> int:
    """How many control tokens stand before each repository section: 1 for a file separator."""
    return int(_file_token_before_repo(layout, order_of(layout, kind)))


def _file_token_before_repo(layout: FimLayout, order: Sequence[Part]) -> bool:
    pairs = pairwise(order)
    return Part.FILE_TOKEN in layout.tokens and (Part.FILE_TOKEN, Part.REPO) in set(pairs)


def assemble(
    sections: Sequence[Section],
    layout: FimLayout,
    kind: CursorKind,
    control: Mapping[str, int],
    encoder: Encoder,
) -> tuple[tuple[Section, ...], tuple[int, ...]]:
    """Put sections into the layout's order and encode them.

    Sections of one part keep their order. A FILE_TOKEN that stands right before REPO in the order
    is written before each of the repository's sections. Sections of a part that the order does
    not have are left out.

    Returns:
        The sections in prompt order and the ids of the whole prompt.
    """
    by_part: dict[Part, list[Section]] = {}
    for section in sections:
        by_part.setdefault(section.part, []).append(section)
    codes = control_ids(layout, control)
    order = order_of(layout, kind)
    file_before_each = _file_token_before_repo(layout, order)
    placed: list[Section] = []
    ids: list[int] = []
    for part, following in zip(order, (*order[1:], None), strict=True):
        if part in TOKEN_PARTS:
            separator = file_before_each and part is Part.FILE_TOKEN and following is Part.REPO
            if part in codes and not separator:
                ids.append(codes[part])
            ids.extend(layout.ids.get(part, ()))
            continue
        for section in by_part.get(part, ()):
            if part is Part.REPO and file_before_each:
                ids.append(codes[Part.FILE_TOKEN])
            ids.extend(encoder.text_ids(section.text))
            placed.append(section)
    return tuple(placed), tuple(ids)


_PREFIX_SHARE = 0.75
_NEAR_SHARE = 0.3  # of the prefix: at least this much stands behind the suffix
_LONGEST_TOKEN_CHARS = 64  # at least so many characters of a budget's text are searched for keys
_TOKENS_A_ROW = 10  # typical of source code; only decides how far apart anchors are


def window(  # noqa: PLR0917 - the order in which one thinks of them
    text: str,
    cursor_byte: int,
    layout: FimLayout,
    counter: TokenCounter,
    control: Mapping[str, int],
    budget_tokens: int,
    max_answer_tokens: int,
) -> Prompt:
    """The prompt from the current file alone: the text before and after the cursor.

    Args:
        cursor_byte: UTF-8 byte offset of the cursor; clamped to the text.
        control: id of each control token's text, for those that `layout` names.
        budget_tokens: most tokens that prompt and answer may take together.
        max_answer_tokens: kept free for the answer; pass 0 where the budget is the prompt's alone.

    Returns:
        A prompt with `len(ids) + max_answer_tokens <= budget_tokens`. Where not even the control
        tokens fit, it is empty.

    Raises:
        ValueError: `control` lacks a token of `layout`, so the layout is not this model's.
    """
    text = clean(text)
    cursor = char_offset(text, cursor_byte)
    kind = cursor_kind(text, cursor)
    encoder = Encoder.of(counter)
    room = budget_tokens - max(max_answer_tokens, 0) - overhead_tokens(layout, kind)
    if room < 0:
        return Prompt((), (), layout, kind, budget_tokens, ("the budget holds no prompt at all",))
    first = max(0, cursor - room * _LONGEST_TOKEN_CHARS)
    near = ShownText(text[first : cursor + room * _LONGEST_TOKEN_CHARS]).text
    shown = text[:first] + near + text[first + len(near) :]
    found = windows(shown, cursor, encoder, room, order_of(layout, kind))
    sections, ids = assemble(found.sections, layout, kind, control, encoder)
    return Prompt(sections, ids, layout, kind, budget_tokens, found.cut)


@dataclass(frozen=True)
class Windows:
    """Sections of the current file, and what was left out of them."""

    sections: tuple[Section, ...]
    cut: tuple[str, ...]


def windows(
    text: str, cursor: int, encoder: Encoder, room_tokens: int, order: tuple[Part, ...]
) -> Windows:
    """Far prefix, near prefix and suffix of `text` around character `cursor`.

    The suffix's room does not follow every token of the prefix but steps of an eighth of the
    room, so that it too stays as it is while one types.
    """
    has_suffix = Part.SUFFIX in order
    suffix_room = room_tokens - int(room_tokens * _PREFIX_SHARE) if has_suffix else 0
    unspent = suffix_room - suffix_window(text, cursor, encoder, suffix_room).tokens
    prefix_room = room_tokens - suffix_room + unspent
    prefix = prefix_window(text, cursor, encoder, prefix_room)
    step = max(1, room_tokens // 8)
    reserved = min(-(-(prefix.tokens + 1) // step) * step, prefix_room)
    suffix = suffix_window(text, cursor, encoder, room_tokens - reserved if has_suffix else 0)
    near = prefix.near if Part.FAR_PREFIX in order else prefix.start
    found = (
        _section(Part.FAR_PREFIX, text[prefix.start : near], encoder, "earlier in this file"),
        _section(Part.SUFFIX, text[cursor : suffix.stop], encoder, "after the cursor"),
        _section(Part.PREFIX, text[near:cursor], encoder, "before the cursor"),
    )
    cut = []
    if prefix.start:
        cut.append(f"{text.count(chr(10), 0, prefix.start)} lines before the window")
    if has_suffix and suffix.stop < len(text):
        cut.append(f"{text.count(chr(10), suffix.stop) + 1} lines after the window")
    return Windows(tuple(section for section in found if section.text), tuple(cut))


def _section(part: Part, text: str, encoder: Encoder, reason: str) -> Section:
    shown = masked_runs(text)
    tokens = encoder.text_count(shown)
    if shown != text and tokens > encoder.text_count(text):
        return Section(part, "", 0, reason)  # a mask may not cost what was not counted
    return Section(part, shown, tokens, reason)


@dataclass(frozen=True)
class PrefixWindow:
    """Where the text before the cursor begins, and where its near part does."""

    start: int
    near: int
    tokens: int


def prefix_window(text: str, cursor: int, encoder: Encoder, room_tokens: int) -> PrefixWindow:
    """The longest window that begins at an anchor, ends at `cursor` and fits `room_tokens`.

    Where no anchor fits (very long lines, little room) it begins at the earliest piece that does,
    and where not even the last piece fits, inside that.
    """
    step = max(4, room_tokens // (4 * _TOKENS_A_ROW))
    near_step = max(2, step // 4)
    near_tokens = int(room_tokens * _NEAR_SHARE)
    row = text.count("\n", 0, cursor)
    finest = anchored = PrefixWindow(cursor, cursor, 0)
    near: int | None = None
    pending: tuple[PrefixWindow, int] | None = None  # the last line started, and its row
    tokens = 0
    for start, piece in pieces_before(text, cursor):
        row -= piece.count("\n")
        if pending is not None:
            # An anchor is the first non-blank line at or after a row that is a multiple of a step.
            line, line_row = pending
            if line_row // step != row // step:
                anchored = line
            if line_row // near_step != row // near_step and line.tokens >= near_tokens:
                near = line.start if near is None else near
        count = encoder.count(piece)
        if tokens + count > room_tokens:
            if not finest.tokens:
                return _inside_piece(piece, cursor, encoder, room_tokens)
            break
        tokens += count
        finest = PrefixWindow(start, start, tokens)
        begins_line = start == 0 or text[start - 1] == "\n"
        pending = (finest, row) if begins_line else None
    found = anchored if finest.start and anchored.tokens * 2 >= finest.tokens else finest
    return PrefixWindow(found.start, max(near or 0, found.start), found.tokens)


def _inside_piece(piece: str, cursor: int, encoder: Encoder, room_tokens: int) -> PrefixWindow:
    """The longest tail of the last piece that fits."""
    best = 0
    for length in range(1, len(piece) + 1):
        if encoder.count(piece[-length:]) > room_tokens:
            break
        best = length
    tokens = encoder.count(piece[len(piece) - best :])
    return PrefixWindow(cursor - best, cursor - best, tokens)


@dataclass(frozen=True)
class SuffixWindow:
    """Where the text after the cursor ends."""

    stop: int
    tokens: int


def suffix_window(text: str, cursor: int, encoder: Encoder, room_tokens: int) -> SuffixWindow:
    """The longest run of whole pieces after `cursor` that fits `room_tokens`."""
    stop, tokens = cursor, 0
    for piece in pieces_after(text, cursor):
        count = encoder.count(piece)
        if tokens + count > room_tokens:
            break
        stop += len(piece)
        tokens += count
    return SuffixWindow(stop, tokens)
