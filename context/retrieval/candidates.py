"""Finds what the cursor needs besides the text around it, as candidates with scores."""

from __future__ import annotations

import re
from collections.abc import Sequence

from context.index.store import Store
from context.retrieval.definition_lookup import asked
from context.retrieval.lexical_search import similar
from context.retrieval.query import Candidate, Place, Region, Relation, best, closeness, score
from context.syntax.text import shingles, similarity

_NEAR_DUPLICATE = 0.6
_COMPARED = 60  # candidates that the others are compared with
_COMMENT_LINE = re.compile(r"^\s*(?:#|//|--|/?\*)")


def candidates(store: Store, place: Place, recent: Sequence[Region] = ()) -> list[Candidate]:
    """What may be shown from other files, and from elsewhere in this one, best first, without
    near-duplicates.

    Names that are imported come first, resolved through the import; then members and base classes;
    code that goes on as the code before the cursor may; then files beside (where the language sees
    those unasked), names defined elsewhere, recent regions, and chunks that BM25 finds similar.
    """
    found = [*asked(store, place), *_recent(place, recent), *similar(store, place)]
    return _without_duplicates(best(found), place)


def _recent(place: Place, recent: Sequence[Region]) -> list[Candidate]:
    return [
        Candidate(
            one.root,
            one.path,
            one.start,
            one.start + len(one.text),
            one.text.rstrip(),
            Relation.RECENT,
            score(Relation.RECENT, 0.85**age, closeness(place.path, one.path)),
        )
        for age, one in enumerate(recent)
        if (one.root, one.path) != (place.root, place.path)
    ]


def _without_duplicates(found: list[Candidate], place: Place) -> list[Candidate]:
    """Each text once, and none that is in the prompt already."""
    present = shingles(place.present)
    kept: list[tuple[Candidate, set[str]]] = []
    for one in found:
        lines = {line for line in shingles(one.text) if not _COMMENT_LINE.match(line)}
        own = (one.root, one.path) == (place.root, place.path)
        needed = 1 if one.relation is Relation.ECHO else fresh_lines(lines)
        if not own and len(lines - present) < needed:
            continue
        if any(_overlap(one, other) for other, _ in kept):
            continue
        if any(similarity(lines, other) > _NEAR_DUPLICATE for _, other in kept[:_COMPARED]):
            continue
        kept.append((one, lines))
    return [one for one, _ in kept]


def fresh_lines(lines: set[str]) -> float:
    """How many of its lines have to be new for a text to be worth showing."""
    return max(1.0, (1 - _NEAR_DUPLICATE) * len(lines))


def _overlap(one: Candidate, other: Candidate) -> bool:
    same = (one.root, one.path) == (other.root, other.path)
    return same and one.start < other.stop and other.start < one.stop
