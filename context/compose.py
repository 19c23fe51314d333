"""From a head and a cursor to the whole prompt."""

from __future__ import annotations

from collections.abc import Mapping

from context.encoder import Encoder
from context.head import Head
from context.layout import assemble
from context.secrecy import masked
from context.types import CursorKind, FimLayout, Part, Prompt, Section
from context.window import prefix_window, suffix_window


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
    shown = masked(text)
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
