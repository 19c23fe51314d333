"""The head of a prompt: other files and the far prefix, kept byte for byte while it serves.

A head is built for one place and then kept, because everything in it stays in the KV cache. It is
built anew only when a reason outweighs that:

- `ROOM`: the budget or the order of sections is another;
- `NEAR_FULL`: so much was typed that the near prefix outgrew its room;
- `SETTLED`: after a jump or an edit elsewhere the cursor rests, or `SETTLE_CHARS` characters were
  changed at the new place. Until then the old head serves there too, since evaluating a new one
  would cost more than it helps;
- `INDEXED`: the cursor rests, and the workspace has been read since, which it had not been at all;
- `IMPORTED`: the cursor rests, and what is imported near it asks for definitions that were not
  thought of when the head was built: an import was typed, or a file that it names was written.

From a head and a cursor to the whole prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from context.prompt.layout import assemble, overhead_tokens
from context.prompt.pack import Rooms
from context.prompt.window import prefix_window, suffix_window
from context.syntax.document import Document
from context.syntax.secrets import masked_runs
from context.syntax.tokens import Encoder
from context.types import CursorKind, FimLayout, Part, Prompt, Section

SETTLE_CHARS = 48
JUMP_CHARS = 400  # a smaller move that overfills the near prefix is no jump


class Reason(StrEnum):
    """Why a head is built, or kept."""

    FIRST = "first prompt for this document"
    ROOM = "another budget or order of sections"
    NEAR_FULL = "the near prefix outgrew its room"
    SETTLED = "the cursor came to rest at another place"
    INDEXED = "the workspace was read since"
    IMPORTED = "imports near the cursor ask for more"
    KEPT = "nothing outweighs keeping it"
    KEPT_OVER_JUMP = "kept over a jump until the cursor rests"


Asked = tuple[str, str, str]
"""A definition by root, path and name."""


@dataclass(frozen=True)
class Head:
    """What stands before the text around the cursor.

    Attributes:
        near_start: character where the near prefix began when it was built; the head shows the
            text before it.
        before: that text as it was, to tell whether it still is.
        edited_chars: the document's count at the time.
        index_version: the index's (`Index.version`) at the time.
        imported: what the imports near the cursor asked for, shown or not.
        reason: why it was built.
    """

    repo: tuple[Section, ...]
    far: Section | None
    rooms: Rooms
    room_tokens: int
    order: tuple[Part, ...]
    near_start: int
    before: str
    edited_chars: int
    index_version: int
    imported: frozenset[Asked]
    reason: Reason
    cut: tuple[str, ...]

    def continues_to(self, text: str, cursor: int) -> bool:
        """Whether the near prefix at `cursor` still goes on where the head ends."""
        return cursor >= self.near_start and text.startswith(self.before)


def verdict(
    head: Head | None,
    document: Document,
    cursor: int,
    *,
    room_tokens: int,
    order: tuple[Part, ...],
    encoder: Encoder,
    rest: bool,
    index_version: int,
    moved_chars: int,
    jumped_at: int | None,
) -> Reason:
    """Whether `head` serves at `cursor`.

    Args:
        moved_chars: how far the cursor moved since the last prompt, besides what was typed.
        jumped_at: `edited_chars` at the jump over which the head is kept; None if it is not.
    """
    if head is None:
        return Reason.FIRST
    if head.room_tokens != room_tokens or head.order != order:
        return Reason.ROOM
    if head.continues_to(document.shown_text, cursor):
        near = document.shown_text[head.near_start : cursor]
        if len(near) <= head.rooms.near * 16 and encoder.text_count(near) <= head.rooms.near:
            unread = not head.index_version and index_version
            return Reason.INDEXED if rest and unread else Reason.KEPT
        if jumped_at is None and moved_chars <= JUMP_CHARS:
            return Reason.NEAR_FULL
    changed = 0 if jumped_at is None else document.edited_chars - jumped_at
    if rest or changed >= SETTLE_CHARS:
        return Reason.SETTLED
    return Reason.KEPT_OVER_JUMP


def room_for(
    layout: FimLayout, kind: CursorKind, budget_tokens: int, max_answer_tokens: int
) -> int:
    """Tokens left for text once control tokens and the answer have theirs; may be negative."""
    return budget_tokens - max(0, max_answer_tokens) - overhead_tokens(layout, kind)


def compose(
    head: Head,
    text: str,
    cursor: int,
    *,
    layout: FimLayout,
    kind: CursorKind,
    control: Mapping[str, int],
    encoder: Encoder,
    budget_tokens: int,
) -> Prompt:
    """The prompt at character `cursor`: the head, and the text around the cursor in its rooms.

    `text` is what may be shown of the document (`Document.shown_text`).
    Where the head does not go on to the cursor, or the near prefix outgrew its room, the text
    around it has the little room that is kept for a jump.
    """
    start = head.near_start
    near_tokens = -1
    if head.continues_to(text, cursor) and cursor - start <= head.rooms.near * 16:
        near_tokens = encoder.text_count(text[start:cursor])
    suffix_room = head.rooms.suffix
    if not 0 <= near_tokens <= head.rooms.near:
        start = prefix_window(text, cursor, encoder, head.rooms.near_over_jump).start
        suffix_room = min(suffix_room, head.rooms.suffix_over_jump)
    suffix = suffix_window(text, cursor, encoder, suffix_room)
    sections = [*head.repo]
    if head.far is not None:
        sections.append(head.far)
    after, before = text[cursor : suffix.stop], text[start:cursor]
    sections.append(_section(Part.SUFFIX, after, encoder, "after the cursor"))
    sections.append(_section(Part.PREFIX, before, encoder, "before the cursor"))
    cut = [*head.cut]
    if suffix.stop < len(text):
        cut.append(f"{text.count(chr(10), suffix.stop) + 1} lines later in this file")
    if Part.FAR_PREFIX not in head.order:
        sections = _merged(sections, encoder)
    shown = [one for one in sections if one.text]
    placed, ids = assemble(shown, layout, kind, control, encoder)
    return Prompt(placed, ids, layout, kind, budget_tokens, tuple(cut))


def _section(part: Part, text: str, encoder: Encoder, reason: str) -> Section:
    shown = masked_runs(text)
    return Section(part, shown, encoder.text_count(shown), reason)


def _merged(sections: list[Section], encoder: Encoder) -> list[Section]:
    """Far and near prefix as one section, for a layout that knows only one."""
    far = "".join(one.text for one in sections if one.part is Part.FAR_PREFIX)
    if not far:
        return sections
    near = "".join(one.text for one in sections if one.part is Part.PREFIX)
    others = [one for one in sections if one.part not in (Part.FAR_PREFIX, Part.PREFIX)]
    text = far + near
    return [*others, Section(Part.PREFIX, text, encoder.text_count(text), "before the cursor")]
