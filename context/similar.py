"""Chunks of other files that are like the code near the cursor.

BM25 finds them by the rarer names near the cursor. Where one has lines like those right before the
cursor, what stands behind those lines there is what may come next here: an echo. Twins of a file
(with and without `async`, say), siblings of a class and code that is copied and changed are full
of them. An echo is shown from a little before the place at which it runs alongside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from context.names import query_terms
from context.place import Place
from context.rank import Candidate, Relation, score
from context.resolve import closeness
from context.store import PassageRow, Store

_MAX_SEARCH_TERMS = 14
_MAX_SIMILAR = 8
_COMMON_SHARE = 0.08  # a term in more of all chunks than this tells nothing
_NEAR_LINES = 10
_HALF_DISTANCE_LINES = 3
_LIKE = 0.5  # words in common over all words, from which two lines are alike
_MIN_ECHO = 0.3
_MAX_ECHOES = 3
_LINES_BEFORE, _LINES_AFTER = 4, 10
_WORD = re.compile(r"\w+")


def similar(store: Store, place: Place) -> list[Candidate]:
    """Echoes and other similar chunks, as candidates."""
    rows = _searched(store, place)
    if not rows:
        return []
    near = _Near.of(place.before)
    echoes = sorted(
        (echo for row in rows if (echo := _echo(store, place, near, row)) is not None),
        key=lambda one: -one.score,
    )[:_MAX_ECHOES]
    top = rows[0].score
    plain = [
        _candidate(place, row, Relation.SIMILAR, row.score / top, (row.start, row.stop), row.text)
        for row in rows[:_MAX_SIMILAR]
    ]
    return echoes + plain


def _searched(store: Store, place: Place) -> list[PassageRow]:
    terms = query_terms(place.weights)
    rarity = store.rarity(terms)
    chunks_in_all = max(1, store.count()[2])
    common = max(8, chunks_in_all * _COMMON_SHARE)
    telling = [term for term in terms if 0 < rarity.get(term, 0) <= common]
    rows = store.search(telling[:_MAX_SEARCH_TERMS], _MAX_SIMILAR * 2)
    return [row for row in rows if (row.file.root, row.file.path) != (place.root, place.path)]


@dataclass(frozen=True)
class _Near:
    """The last lines before the cursor as words, the last one first, and what each weighs."""

    lines: tuple[frozenset[str], ...]

    @classmethod
    def of(cls, before: str) -> _Near:
        lines = (_words(line) for line in reversed(before.split("\n")))
        telling = [line for line in lines if len(line) > 1]
        return cls(tuple(telling[:_NEAR_LINES]))

    def alongside(self, lines: Sequence[frozenset[str]]) -> tuple[float, int]:
        """How much of these lines `lines` have too, 0 to 1, and where the nearest of them is."""
        found = total = 0.0
        at = -1
        for distance, own in enumerate(self.lines):
            weight = 0.5 ** (distance / _HALF_DISTANCE_LINES)
            total += weight
            alike, where = max(
                ((_alike(own, other), row) for row, other in enumerate(lines)), default=(0.0, -1)
            )
            if alike >= _LIKE:
                found += weight * alike
                at = where if at < 0 else at
        return (found / total if total else 0.0), at


def _echo(store: Store, place: Place, near: _Near, row: PassageRow) -> Candidate | None:
    """What follows in a chunk, and right after it, the lines that are like those of the cursor."""
    lines = row.text.split("\n")
    share, at = near.alongside([_words(line) for line in lines])
    if share < _MIN_ECHO:
        return None
    following = store.passage_after(row.file, row.stop)
    text, start = row.text, row.start
    if following is not None:
        text += following.text
    lines = text.split("\n")
    first = max(0, at - _LINES_BEFORE)
    shown = "\n".join(lines[first : at + 1 + _LINES_AFTER])
    start += sum(len(line) + 1 for line in lines[:first])
    span = (start, start + len(shown))
    return _candidate(place, row, Relation.ECHO, share, span, shown)


def _candidate(  # noqa: PLR0917 - a private step of its callers
    place: Place,
    row: PassageRow,
    relation: Relation,
    need: float,
    span: tuple[int, int],
    text: str,
) -> Candidate:
    worth = score(relation, need, closeness(place.path, row.file.path))
    return Candidate(row.file.root, row.file.path, *span, text.rstrip(), relation, worth)


def _words(line: str) -> frozenset[str]:
    return frozenset(_WORD.findall(line[:400]))


def _alike(one: frozenset[str], other: frozenset[str]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common) if common else 0.0
