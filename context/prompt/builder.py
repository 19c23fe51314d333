"""Builds the context of a prompt: for one cursor, or to explain, document or fix a piece of code.

For a cursor: picks passages of other files, cuts the current file, and divides the budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from context.index.file_record import signature
from context.index.read_policy import is_secret
from context.index.store import Store
from context.prompt import FimLayout, Part, Section
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
from context.retrieval import (
    UNUSED_NEED,
    Candidate,
    Place,
    Region,
    Relation,
    among_imports,
    best,
)
from context.retrieval.lexical_search import candidates
from context.retrieval.name_usage import missing, unused_definitions, unused_imports, waiting
from context.syntax.document import Document, shown_path
from context.syntax.language import Language, language_for
from context.syntax.secrets import masked, masked_runs
from context.syntax.syntax_tree import Outline
from context.syntax.text import (
    CursorKind,
    Encoder,
    char_offset,
    line_end,
    line_start,
    pieces,
    shingles,
)
from context.syntax.trim import Depth, apply, cuts, licence_end

_MIN_LATER_TOKENS = 48
_BEFORE_CHARS, _AFTER_CHARS = 2400, 800  # what counts as near the cursor when picking
_PRESENT_CHARS = 4000
_HEADER_CHARS = 600
_IMPORTED_WEIGHT = 0.3  # of the workspace's own names: their imports go before far outlines
_CHARS_A_TOKEN = 3  # at least, of source code
_SELECTION_SHARE = 0.6
_ENCLOSING_SHARE = 0.6  # of what the selection leaves
_NEAR_CHARS = 1200
_ASIDE_TOKENS = 2048
_ASIDE_CHARS = 4096  # of the file on each side, and of all passages together


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
            aside=self._aside(text, near_start, suffix.stop, found),
        )

    def _aside(
        self, text: str, near_start: int, suffix_stop: int, found: Sequence[Candidate]
    ) -> tuple[int, ...]:
        """What may be repeated and may not have fitted: the file around what is shown as it is,
        and the candidates, whether all of each is shown or not; best last."""
        parts = [text[suffix_stop : suffix_stop + _ASIDE_CHARS]]
        parts.append(text[max(0, near_start - _ASIDE_CHARS) : near_start])
        passages: list[str] = []
        room = _ASIDE_CHARS
        for one in found:
            if len(one.text) <= room:
                passages.append(one.text)
                room -= len(one.text)
        parts += reversed(passages)
        shown = masked_runs("\n".join(part for part in parts if part.strip()))
        return tuple(self.encoder.text_ids(shown)[-_ASIDE_TOKENS:])

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


class Topic(StrEnum):
    """What a section of an explanation is about."""

    FILE = "file"
    SELECTION = "selection"
    DIAGNOSTIC = "diagnostic"
    ENCLOSING = "enclosing"
    DEFINITION = "definition"


@dataclass(frozen=True)
class Passage:
    """A section: plain text for a chat prompt. `path` is empty for the current file."""

    topic: Topic
    text: str
    tokens: int
    reason: str
    path: str = ""


@dataclass(frozen=True)
class Explanation:
    """Sections in the order in which they are best read; `tokens` never exceeds the budget."""

    passages: Sequence[Passage]
    budget_tokens: int
    language: str = ""
    cut: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.passages)


def explain(
    store: Store,
    document: Document,
    span_bytes: tuple[int, int],
    encoder: Encoder,
    budget_tokens: int,
    *,
    diagnostic: str = "",
) -> Explanation:
    """The selection, the definition around it, what it uses, and the diagnostic.

    Args:
        span_bytes: the selection; empty (a cursor) means the lines of the definition around it.
        diagnostic: what a tool complains of, as text.
    """
    language = document.language.name if document.language is not None else ""
    if any(map(is_secret, document.names)):
        return Explanation((), budget_tokens, language, ("this file may hold secrets",))
    text = document.shown_text
    outline = document.source.outline if document.source is not None else Outline()
    start, stop = _selection(text, outline, span_bytes)
    room = max(0, budget_tokens)
    cut: list[str] = []
    found: list[Passage] = []
    if diagnostic:
        shown = _fitting(masked(diagnostic), room // 4, encoder)
        found.append(_passage(Topic.DIAGNOSTIC, shown, encoder, "what the tool says"))
        room -= found[-1].tokens
    share = 1.0 if not outline.definitions else _SELECTION_SHARE
    shown = _fitting(masked_runs(text[start:stop]), int(room * share), encoder)
    if len(shown) < stop - start:
        cut.append("the end of the selection")
    found.append(_passage(Topic.SELECTION, shown, encoder, "what was selected"))
    room -= found[-1].tokens
    enclosing = _enclosing(document, outline, start, stop, int(room * _ENCLOSING_SHARE), encoder)
    if enclosing is not None:
        found.append(enclosing)
        room -= enclosing.tokens
    place = Place(
        root=document.root,
        path=document.path,
        language=document.language,
        outline=outline,
        before=text[max(start, stop - 4 * _NEAR_CHARS) : stop],
        after="",
        header="\n".join(signature(text, one)[:400] for one in outline.enclosing(start)),
        present=text[start:stop],
    )
    for one in candidates(store, place):
        shown = masked_runs(f"{shown_path(one.root, one.path)}\n{one.text}\n")
        passage = _passage(Topic.DEFINITION, shown, encoder, one.reason, one.path)
        if passage.tokens > room:
            cut.append(f"{one.reason} ({one.path})")
            continue
        found.append(passage)
        room -= passage.tokens
    return Explanation(
        tuple(one for one in found if one.text), budget_tokens, language, tuple(cut[:8])
    )


def overview(document: Document, encoder: Encoder, budget_tokens: int) -> Explanation:
    """The whole file where it fits; else with the bodies of its definitions cut; else its start."""
    source = document.shown_source
    language = document.language.name if document.language is not None else ""
    if any(map(is_secret, document.names)):
        return Explanation((), budget_tokens, language, ("this file may hold secrets",))
    room = max(0, budget_tokens)
    cut = ""
    shown = masked_runs(document.shown_text)
    if encoder.text_count(shown) > room and source is not None:
        cut = "the bodies of definitions"
        shown = masked_runs(apply(source.text, cuts(source, Depth.BODIES)))
    fitting = _fitting(shown, room, encoder)
    if len(fitting) < len(shown):
        cut = "the end of the file"
    passage = _passage(Topic.FILE, fitting, encoder, "the file")
    found = (passage,) if passage.text else ()
    return Explanation(found, budget_tokens, language, (cut,) if cut else ())


def _selection(text: str, outline: Outline, span_bytes: tuple[int, int]) -> tuple[int, int]:
    """Whole lines of the selection; for an empty one the innermost definition, or the line."""
    start = char_offset(text, span_bytes[0])
    stop = char_offset(text, max(span_bytes))
    if start < stop:
        return line_start(text, start), line_end(text, stop - 1)
    around = outline.enclosing(start)
    if around:
        return line_start(text, around[-1].lead), line_end(text, around[-1].stop)
    return line_start(text, start), line_end(text, start)


def _enclosing(  # noqa: PLR0917 - a private step of one caller
    document: Document,
    outline: Outline,
    start: int,
    stop: int,
    room_tokens: int,
    encoder: Encoder,
) -> Passage | None:
    """The definition around the selection with all other bodies cut, if it fits."""
    source = document.shown_source
    around = [one for one in outline.enclosing(start) if one.start < start or one.stop > stop]
    if source is None or not around:
        return None
    made = cuts(source, Depth.BODIES, protect=(start, stop))
    for one in around:
        first, last = line_start(source.text, one.lead), line_end(source.text, one.stop)
        shown = masked_runs(apply(source.text, made, first, last))
        passage = _passage(Topic.ENCLOSING, shown, encoder, f"around the selection: {one.name}")
        if passage.tokens <= room_tokens:
            return passage
    return None


def _fitting(text: str, room_tokens: int, encoder: Encoder) -> str:
    """As many whole pieces from the start of `text` as fit."""
    kept, tokens = 0, 0
    for piece in pieces(text):
        tokens += encoder.count(piece)
        if tokens > room_tokens:
            break
        kept += len(piece)
    return text[:kept]


def _passage(topic: Topic, text: str, encoder: Encoder, reason: str, path: str = "") -> Passage:
    return Passage(topic, text, encoder.text_count(text), reason, path)
