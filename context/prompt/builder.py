"""Builds the head of a prompt for one place: picks from other files, cuts this one, shares out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from context.index.store import Store
from context.prompt.distant_prefix import far_prefix, later_outline
from context.prompt.head import (
    Asked,
    Head,
    Reason,
    Rooms,
    Shares,
    repo_sections,
    rooms,
    worth_showing,
)
from context.prompt.window import prefix_window, repo_section_overhead, suffix_window
from context.retrieval.lexical_search import candidates
from context.retrieval.name_usage import missing, unused_definitions, unused_imports, waiting
from context.retrieval.query import (
    UNUSED_NEED,
    Candidate,
    Place,
    Region,
    Relation,
    among_imports,
    best,
)
from context.syntax.chunk import signature
from context.syntax.document import Document
from context.syntax.language import Language, language_for
from context.syntax.secrets import masked_runs
from context.syntax.syntax_tree import Outline
from context.syntax.text import Encoder, line_start, shingles
from context.syntax.trim import licence_end
from context.types import CursorKind, FimLayout, Part, Section

_MIN_LATER_TOKENS = 48
_BEFORE_CHARS, _AFTER_CHARS = 2400, 800  # what counts as near the cursor when picking
_PRESENT_CHARS = 4000
_HEADER_CHARS = 600
_IMPORTED_WEIGHT = 0.3  # of the workspace's own names: their imports go before far outlines
_CHARS_A_TOKEN = 3  # at least, of source code


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
        text = document.shown_text
        near_room = int(room_tokens * self.shares.near_at_first)
        near_start = prefix_window(text, cursor, self.encoder, near_room).start
        licence = licence_end(document.shown_source) if document.shown_source is not None else 0
        if licence <= line_start(text, cursor):
            near_start = max(near_start, licence)
        sure = (near_start, cursor + int(room_tokens * self.shares.suffix) * _CHARS_A_TOKEN)
        place = self._place(document, cursor, sure)
        weights = dict(place.weights)
        for name in place.unused:
            weights[name] = max(weights.get(name, 0.0), UNUSED_NEED)
        found: list[Candidate] = []
        if Part.REPO in order:
            elsewhere = worth_showing(candidates(self.store, place, recent))
            own = waiting(document, place.unused, cursor, sure)
            found = best([*elsewhere, *own, *missing(document, cursor, sure[1])])
            for _, _, name in _imported(found):
                weights[name] = max(weights.get(name, 0.0), _IMPORTED_WEIGHT)
        each = repo_section_overhead(self.layout, kind)
        shared = rooms(
            room_tokens,
            self.shares,
            repo_tokens=self._need([one for one in found if one.strong], each, room_tokens),
            far_tokens=self._far_need(text, near_start, room_tokens),
            suffix_tokens=suffix_window(text, cursor, self.encoder, room_tokens).tokens,
            has_repo=Part.REPO in order,
        )
        far = far_prefix(
            text,
            document.shown_source,
            near_start,
            shared.far,
            encoder=self.encoder,
            weights=weights,
        )
        found = [one for one in found if not _within(document, one, far.text, licence)]
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
                document.shown_source,
                near_start,
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
            near_start=near_start,
            before=text[:near_start],
            edited_chars=document.edited_chars,
            index_version=index_version,
            imported=_imported(found),
            reason=reason,
            cut=tuple(cut),
        )

    def imported(self, document: Document, cursor: int) -> frozenset[Asked]:
        """What the imports near `cursor` ask for now; costs look-ups in the index."""
        place = self._place(document, cursor)
        return _imported(worth_showing(candidates(self.store, place)))

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
        source, text = document.shown_source, document.shown_text
        spare = shared.suffix - shared.suffix_at_least - each
        if source is None or Part.REPO not in order or suffix_stop >= len(text):
            return None
        own = suffix_window(text, cursor, self.encoder, shared.suffix_at_least)
        header = _header(self.layout, document, " (later)")
        room = spare - self.encoder.text_count(header)
        if room < _MIN_LATER_TOKENS:
            return None
        later = later_outline(source, own.stop, room, encoder=self.encoder, weights=weights)
        if not later.text:
            return None
        shown = masked_runs(header + later.text)
        tokens = self.encoder.text_count(shown)
        if tokens > spare:
            return None
        return Section(Part.REPO, shown, tokens, "later in this file, trimmed", document.path)

    def _far_section(self, text: str) -> Section | None:
        if not text:
            return None
        shown = masked_runs(text)
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

    def _place(
        self, document: Document, cursor: int, shown: tuple[int, int] | None = None
    ) -> Place:
        text = document.shown_text
        source = document.shown_source
        outline = source.outline if source is not None else Outline()
        around = outline.enclosing(cursor)
        header = "\n".join(signature(text, one)[:_HEADER_CHARS] for one in around)
        return Place(
            root=document.root,
            path=document.path,
            language=document.language,
            outline=outline,
            before=text[_near_start(text, cursor) : cursor],
            after=text[cursor : cursor + _AFTER_CHARS],
            header=header,
            present=text[max(0, cursor - _PRESENT_CHARS) : cursor + _AFTER_CHARS],
            unused=unused_imports(text, outline) | unused_definitions(text, outline),
            text=text,
            shown=shown,
            among_imports=among_imports(text, outline, cursor),
        )


def _near_start(text: str, cursor: int) -> int:
    """Where the text begins that is near the cursor: a line, unless that is very long."""
    start = max(0, cursor - _BEFORE_CHARS)
    return max(line_start(text, start), start - _BEFORE_CHARS)


def _header(layout: FimLayout, document: Document, remark: str) -> str:
    comment = document.language.line_comment if document.language is not None else "#"
    path = f"{document.shown_path}{remark}\n"
    return path if Part.FILE_TOKEN in layout.tokens else f"{comment} {path}"


def _within(document: Document, one: Candidate, far: str, licence_stop: int) -> bool:
    """Whether a piece of this very file is in the far prefix anyway, or of the licence header."""
    own = (one.root, one.path) == (document.root, document.path)
    return own and (one.start < licence_stop or shingles(one.text) <= shingles(far))


def _imported(found: Sequence[Candidate]) -> frozenset[Asked]:
    return frozenset(
        (one.root, one.path, one.name)
        for one in found
        if one.relation in {Relation.IMPORTED, Relation.BASE}
    )


def _languages(found: Sequence[Candidate]) -> Mapping[str, Language | None]:
    return {one.path: language_for(one.path) for one in found}
