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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from context.chunk import signature
from context.document import Document
from context.encoder import Encoder
from context.far import far_prefix, later_outline
from context.language import Language, language_for
from context.layout import overhead_tokens, repo_section_overhead
from context.names import near_names
from context.outline import Outline
from context.pack import Rooms, Shares, repo_sections, rooms, worth_showing
from context.pick import candidates
from context.place import Place, unused_imports
from context.rank import Candidate, Relation
from context.recent import Region
from context.secrecy import masked
from context.store import Store
from context.text import line_start
from context.types import CursorKind, FimLayout, Part, Section
from context.window import prefix_window, suffix_window

SETTLE_CHARS = 48
JUMP_CHARS = 400  # a smaller move that overfills the near prefix is no jump
_MIN_LATER_TOKENS = 48
_BEFORE_CHARS, _AFTER_CHARS = 2400, 800  # what counts as near the cursor when picking
_PRESENT_CHARS = 4000
_HEADER_CHARS = 600


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
    if head.continues_to(document.text, cursor):
        near = document.text[head.near_start : cursor]
        if len(near) <= head.rooms.near * 16 and encoder.text_count(near) <= head.rooms.near:
            unread = not head.index_version and index_version
            return Reason.INDEXED if rest and unread else Reason.KEPT
        if jumped_at is None and moved_chars <= JUMP_CHARS:
            return Reason.NEAR_FULL
    changed = 0 if jumped_at is None else document.edited_chars - jumped_at
    if rest or changed >= SETTLE_CHARS:
        return Reason.SETTLED
    return Reason.KEPT_OVER_JUMP


@dataclass(frozen=True)
class Builder:
    """Builds heads for one model."""

    store: Store
    encoder: Encoder
    layout: FimLayout
    shares: Shares

    def build(
        self,
        document: Document,
        cursor: int,
        kind: CursorKind,
        room_tokens: int,
        *,
        recent: Sequence[Region],
        order: tuple[Part, ...],
        index_version: int,
        reason: Reason,
    ) -> Head:
        """The best head for `cursor` in `room_tokens` (control tokens already taken off)."""
        text = document.text
        near_room = int(room_tokens * self.shares.near_at_first)
        near = prefix_window(text, cursor, self.encoder, near_room)
        weights = near_names(
            text[max(0, cursor - _BEFORE_CHARS) : cursor], text[cursor : cursor + _AFTER_CHARS]
        )
        found = self._found(document, cursor, recent) if Part.REPO in order else []
        each = repo_section_overhead(self.layout, kind)
        shared = rooms(
            room_tokens,
            self.shares,
            repo_tokens=self._need([one for one in found if one.strong], each, room_tokens),
            far_tokens=self._far_need(text, near.start, room_tokens),
            suffix_tokens=suffix_window(text, cursor, self.encoder, room_tokens).tokens,
            has_repo=Part.REPO in order,
        )
        far = far_prefix(
            text,
            document.source,
            near.start,
            shared.far,
            encoder=self.encoder,
            weights=weights,
        )
        repo, repo_cut = repo_sections(
            found,
            shared.repo + shared.far - far.tokens,
            self.encoder,
            layout=self.layout,
            each_overhead=each,
            languages=_languages(found),
        )
        spent = sum(section.tokens + each for section in repo)
        if far.cut_lines and shared.repo > spent:
            far = far_prefix(
                text,
                document.source,
                near.start,
                shared.far + shared.repo - spent,
                encoder=self.encoder,
                weights=weights,
            )
        suffix = suffix_window(text, cursor, self.encoder, shared.suffix)
        later = self._later(document, cursor, shared, suffix.stop, weights, each, order)
        if later is not None:
            repo.append(later)
            shared = replace(shared, suffix=shared.suffix - later.tokens - each)
        cut = [*repo_cut]
        if far.cut_lines:
            cut.append(f"{far.cut_lines} lines earlier in this file")
        return Head(
            repo=tuple(repo),
            far=self._far_section(far.text),
            rooms=shared,
            room_tokens=room_tokens,
            order=order,
            near_start=near.start,
            before=text[: near.start],
            edited_chars=document.edited_chars,
            index_version=index_version,
            imported=_imported(found),
            reason=reason,
            cut=tuple(cut),
        )

    def imported(self, document: Document, cursor: int) -> frozenset[Asked]:
        """What the imports near `cursor` ask for now; costs look-ups in the index."""
        return _imported(self._found(document, cursor, ()))

    def _found(self, document: Document, cursor: int, recent: Sequence[Region]) -> list[Candidate]:
        return worth_showing(candidates(self.store, self._place(document, cursor), recent))

    def _later(  # noqa: PLR0917 - a private step of `build`
        self,
        document: Document,
        cursor: int,
        shared: Rooms,
        suffix_stop: int,
        weights: Mapping[str, float],
        each: int,
        order: tuple[Part, ...],
    ) -> Section | None:
        """What comes later in the file, where more is left over than the suffix's share.

        Where all that is left of the file fits as it is, that is better than an outline.
        """
        source, text = document.source, document.text
        spare = shared.suffix - shared.suffix_over_jump - each
        if source is None or Part.REPO not in order or suffix_stop >= len(text):
            return None
        own = suffix_window(text, cursor, self.encoder, shared.suffix_over_jump)
        header = _header(self.layout, document, " (later)")
        room = spare - self.encoder.text_count(header)
        if room < _MIN_LATER_TOKENS:
            return None
        later = later_outline(source, own.stop, room, encoder=self.encoder, weights=weights)
        if not later.text:
            return None
        shown = masked(header + later.text)
        tokens = self.encoder.text_count(shown)
        if tokens > spare:
            return None
        return Section(Part.REPO, shown, tokens, "later in this file, trimmed", document.path)

    def _far_section(self, text: str) -> Section | None:
        if not text:
            return None
        shown = masked(text)
        return Section(
            Part.FAR_PREFIX, shown, self.encoder.text_count(shown), "earlier in this file, trimmed"
        )

    def _need(self, found: Sequence[Candidate], each: int, room_tokens: int) -> int:
        """Tokens that all candidates would take; counting stops where there is surely enough."""
        needed = 0
        for one in found:
            needed += self.encoder.text_count(one.text) + each + 8
            if needed >= room_tokens:
                break
        return needed

    def _far_need(self, text: str, stop: int, room_tokens: int) -> int:
        if stop > room_tokens * 12:
            return room_tokens
        return self.encoder.text_count(text[:stop])

    def _place(self, document: Document, cursor: int) -> Place:
        text = document.text
        source = document.source
        outline = source.outline if source is not None else Outline()
        around = outline.enclosing(cursor)
        header = "\n".join(signature(text, one)[:_HEADER_CHARS] for one in around)
        return Place(
            root=document.root,
            path=document.path,
            language=document.language,
            outline=outline,
            before=text[line_start(text, max(0, cursor - _BEFORE_CHARS)) : cursor],
            after=text[cursor : cursor + _AFTER_CHARS],
            header=header,
            present=text[max(0, cursor - _PRESENT_CHARS) : cursor + _AFTER_CHARS],
            unused=unused_imports(text, outline),
        )


def _header(layout: FimLayout, document: Document, remark: str) -> str:
    comment = document.language.line_comment if document.language is not None else "#"
    path = f"{document.path}{remark}\n"
    return path if Part.FILE_TOKEN in layout.tokens else f"{comment} {path}"


def _imported(found: Sequence[Candidate]) -> frozenset[Asked]:
    return frozenset(
        (one.root, one.path, one.name)
        for one in found
        if one.relation in {Relation.IMPORTED, Relation.BASE}
    )


def _languages(found: Sequence[Candidate]) -> Mapping[str, Language | None]:
    return {one.path: language_for(one.path) for one in found}


def room_for(
    layout: FimLayout, kind: CursorKind, budget_tokens: int, max_answer_tokens: int
) -> int:
    """Tokens left for text once control tokens and the answer have theirs; may be negative."""
    return budget_tokens - max(0, max_answer_tokens) - overhead_tokens(layout, kind)
