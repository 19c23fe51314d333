"""The head of a prompt: other files and the far prefix, kept byte for byte while it serves.

The budget left after control tokens and the answer is shared out between the sections. The suffix
and the near prefix have fixed shares; what the rest of the file and other files do not use flows
on to each other, then to an outline of what comes later in the file, and then to the suffix. The
head stays in the KV cache while the user types and jumps, so it takes most of the space.

A head is built for one place and then kept. It is built again only for one of these reasons:

- `ROOM`: the budget or the order of sections changed;
- `NEAR_FULL`: so much was typed that the near prefix outgrew its share;
- `SETTLED`: after a jump or an edit elsewhere the cursor rests, or `SETTLE_CHARS` characters were
  changed at the new place. Until then the old head serves there too, since evaluating a new one
  would cost more than it helps;
- `INDEXED`: the cursor rests, and the workspace was indexed since, which it had not been at all;
- `IMPORTED`: the cursor rests, and what is imported near it refers to definitions that were not
  considered when the head was built: an import was typed, or a file that it names was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from context.prompt import FimLayout, Part, Prompt, Section
from context.prompt.window import assemble, overhead_tokens, prefix_window, suffix_window
from context.retrieval import Candidate
from context.syntax.document import Document, shown_path
from context.syntax.language import Language
from context.syntax.secrets import masked_runs
from context.syntax.text import CursorKind, Encoder

_MIN_SCORE = 0.03
_WIDE_SHARE = 0.4  # of the room for other files; what takes more is shown in short


@dataclass(frozen=True)
class Shares:
    """Parts of the room, 0 to 1. `repo` is a limit within the head; the far prefix has the rest.

    Attributes:
        near: most that the near prefix may grow to as one types, before the head is built again.
        near_at_first: what it has when the head is built. Under a fifth of the room the starter
            model often goes on with the suffix, which stands between far and near prefix.
        near_over_jump: what it has while an old head is kept over a jump; small, so that most of
            the prompt is what was evaluated before.
        suffix: text after the cursor, unless more is left over.
        suffix_over_jump: the same, while an old head is kept over a jump.
        repo: other files.
    """

    near: float = 0.33
    near_at_first: float = 0.24
    near_over_jump: float = 0.07
    suffix: float = 0.12
    suffix_over_jump: float = 0.055
    repo: float = 0.3


@dataclass(frozen=True)
class Rooms:
    """Tokens for each section; what stands around the cursor has less over a jump."""

    repo: int
    far: int
    suffix: int
    near: int
    near_at_first: int
    near_over_jump: int
    suffix_at_least: int
    suffix_over_jump: int


def rooms(
    room_tokens: int,
    shares: Shares,
    *,
    repo_tokens: int,
    far_tokens: int,
    suffix_tokens: int,
    has_repo: bool = True,
) -> Rooms:
    """Share out `room_tokens`, given how much each section could use at most.

    What the near prefix holds at first counts as part of the far prefix's need.
    """
    near = int(room_tokens * shares.near)
    suffix = min(int(room_tokens * shares.suffix), suffix_tokens)
    head = max(0, room_tokens - near - suffix)
    repo = min(repo_tokens, int(room_tokens * shares.repo)) if has_repo else 0
    far = min(far_tokens, head - repo)
    if has_repo:
        repo = min(repo_tokens, head - far)
    left = head - repo - far
    return Rooms(
        repo,
        far,
        suffix + min(left, suffix_tokens - suffix),
        near,
        near_at_first=int(room_tokens * shares.near_at_first),
        near_over_jump=int(room_tokens * shares.near_over_jump),
        suffix_at_least=suffix,
        suffix_over_jump=min(int(room_tokens * shares.suffix_over_jump), suffix),
    )


def repo_sections(
    chosen: Sequence[Candidate],
    room_tokens: int,
    encoder: Encoder,
    *,
    layout: FimLayout,
    each_overhead: int,
    languages: Mapping[str, Language | None],
) -> tuple[list[Section], list[str]]:
    """Candidates, best first, as sections of one file each that take at most `room_tokens`.

    The file with the best candidate stands last, nearest to the code; within a file pieces keep
    the file's order. Each section begins with the path: after a file separator as the family
    writes it, else as a comment.

    Returns:
        The sections, and what was cut, in words.
    """
    by_file: dict[tuple[str, str], list[Candidate]] = {}
    shown: dict[tuple[str, str], Section] = {}
    left_out: list[Candidate] = []
    spent = 0
    for one in chosen:
        key = (one.root, one.path)
        for text in (one.text, one.short):
            wide = one.short and encoder.text_count(text) > room_tokens * _WIDE_SHARE
            if not text.strip() or (text is one.text and wide):
                continue
            pieces = [*by_file.get(key, ()), _with_text(one, text)]
            section = _repo_section(pieces, layout, encoder, languages.get(one.path))
            before = shown[key].tokens if key in shown else -each_overhead
            if spent + section.tokens - before <= room_tokens:
                spent += section.tokens - before
                by_file[key], shown[key] = pieces, section
                break
        else:
            left_out.append(one)
    ordered = [shown[key] for key in reversed(list(shown))]
    cut = [f"{one.reason} ({one.path})" for one in left_out[:5]]
    if len(left_out) > len(cut):
        cut.append(f"{len(left_out) - len(cut)} more pieces of other files")
    return ordered, cut


def worth_showing(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those whose score says that they may help at all."""
    return [one for one in candidates if one.score >= _MIN_SCORE]


def _with_text(one: Candidate, text: str) -> Candidate:
    return replace(one, text=text)


def _repo_section(
    pieces: list[Candidate], layout: FimLayout, encoder: Encoder, language: Language | None
) -> Section:
    first = pieces[0]
    comment = language.line_comment if language is not None else "#"
    path = shown_path(first.root, first.path)
    header = path if Part.FILE_TOKEN in layout.tokens else f"{comment} {path}"
    ordered = sorted(pieces, key=lambda one: one.start)
    text = masked_runs(header + "\n" + "\n".join(one.text for one in ordered) + "\n")
    reasons = ", ".join(dict.fromkeys(one.reason for one in pieces))
    return Section(Part.REPO, text, encoder.text_count(text), reasons, first.path)


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
        aside: see `Prompt.aside`.
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
    aside: tuple[int, ...] = ()

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
    return Prompt(placed, ids, layout, kind, budget_tokens, tuple(cut), head.aside)


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
