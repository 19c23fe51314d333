"""What a model should see to explain, document or fix a piece of code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from context.index.read_policy import is_secret
from context.index.store import Store
from context.retrieval.lexical_search import candidates
from context.retrieval.query import Place
from context.syntax.chunk import signature
from context.syntax.document import Document, shown_path
from context.syntax.secrets import masked, masked_runs
from context.syntax.syntax_tree import Outline
from context.syntax.text import Encoder, char_offset, line_end, line_start, pieces
from context.syntax.trim import Depth, apply, cuts

_SELECTION_SHARE = 0.6
_ENCLOSING_SHARE = 0.6  # of what the selection leaves
_NEAR_CHARS = 1200


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
