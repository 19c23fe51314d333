"""Code that is like the code near the cursor: in other files, and elsewhere in this one.

BM25 finds chunks of other files by the rarer names near the cursor. Where one has lines like those
around the cursor, what stands there is what may come next here: an echo. Twins of a file (with and
without `async`, say), siblings of a class and code that is copied and changed are full of them. An
echo is shown from a little before the place at which it runs alongside.

Where code stands that runs alongside the code around the cursor, so that it may go on alike.

Each line near the cursor votes: a line like it, elsewhere, says at which row the cursor's twin
would be if the two ran alongside from there. Lines before the cursor count more than those after
it, near ones more than far ones. A few rows more or less in between do not matter much.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from context.index.store import FileRow, PassageRow, Store
from context.retrieval import Candidate, Place, Region, Relation, best, closeness, score
from context.retrieval.definition_lookup import asked
from context.syntax.text import line_end, query_terms, shingles, similarity

Words = frozenset[str]

_LIKE = 0.5  # words in common over all words, from which two lines are alike
_ALIGN_BEFORE, _ALIGN_AFTER = 10, 5
_AFTER_FACTOR = 0.5
_HALF_DISTANCE_LINES = 2
_SLACK_ROWS, _SLACK_COST = 2, 0.2
_APART_ROWS = 8  # nearer than this two twins are one
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Twin:
    """A row at which the cursor's twin would stand, and how much runs alongside: 0 to 1."""

    row: int
    share: float


@dataclass(frozen=True)
class Surroundings:
    """The lines around the cursor as words, the nearest first; lines of one word tell nothing."""

    before: tuple[Words, ...]
    after: tuple[Words, ...]

    @classmethod
    def of(cls, before: str, after: str) -> Surroundings:
        """Of the text before the cursor and that after it; the cursor's own line counts."""
        above = (line_words(line) for line in reversed(before.split("\n")))
        below = (line_words(line) for line in after.split("\n")[1:])
        return cls(_telling(above, _ALIGN_BEFORE), _telling(below, _ALIGN_AFTER))

    def twins(self, lines: Sequence[Words], limit: int) -> list[Twin]:
        """The best rows of `lines` for a twin, at most `limit`, none near another.

        share = sum of weight * likeness over the lines that vote for the row, over the weight of
        all lines before the cursor; weight = 0.5 ** (distance / 2), half of that after the cursor;
        likeness = common words over all words of two lines, where it is at least a half.
        """
        told = [row for row, words in enumerate(lines) if len(words) > 1]
        if not told or not self.before:
            return []
        found = _Lookup.of([lines[row] for row in told])
        totals: dict[int, float] = defaultdict(float)
        for distance, own, weight in self._weighted():
            for place, alike in _votes(found.alike(own), distance).items():
                totals[place] += weight * alike
        whole = sum(weight for distance, _, weight in self._weighted() if distance < 0)
        kept: list[Twin] = []
        for place in sorted(totals, key=lambda place: (-totals[place], place)):
            if len(kept) == limit:
                break
            row = told[min(max(place, 0), len(told) - 1)]
            if all(abs(row - other.row) >= _APART_ROWS for other in kept):
                kept.append(Twin(row, min(1.0, totals[place] / whole)))
        return kept

    def _weighted(self) -> Iterator[tuple[int, Words, float]]:
        for lines, side, factor in ((self.before, -1, 1.0), (self.after, 1, _AFTER_FACTOR)):
            for i, own in enumerate(lines):
                yield side * (i + 1), own, factor * 0.5 ** (i / _HALF_DISTANCE_LINES)


@dataclass(frozen=True)
class _Lookup:
    """Lines by their words."""

    lines: Sequence[Words]
    rows: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, lines: Sequence[Words]) -> _Lookup:
        rows: dict[str, list[int]] = defaultdict(list)
        for row, words in enumerate(lines):
            for word in words:
                rows[word].append(row)
        return cls(lines, rows)

    def alike(self, own: Words) -> dict[int, float]:
        """Lines like `own`, with their likeness.

        Of two lines that have half of all their words in common, each has half of its words in
        the other: so only lines with one of the rarer half need be compared.
        """
        by_rarity = sorted(own, key=lambda word: (len(self.rows.get(word, ())), word))
        rarer = by_rarity[: len(own) - -(-len(own) // 2) + 1]
        near = {row for word in rarer for row in self.rows.get(word, ())}
        found = {row: likeness(own, self.lines[row]) for row in near}
        return {row: alike for row, alike in found.items() if alike >= _LIKE}


def line_words(line: str) -> Words:
    """The words of a line, as lines are compared by."""
    return frozenset(_WORD.findall(line[:400]))


def likeness(one: Words, other: Words) -> float:
    """Words in common over all words (Jaccard's index), 0 to 1."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if common else 0.0


def _telling(lines: Iterator[Words], limit: int) -> tuple[Words, ...]:
    return tuple(line for line in lines if len(line) > 1)[:limit]


def _votes(alike: Mapping[int, float], distance: int) -> dict[int, float]:
    """Rows that lines like one `distance` rows from the cursor speak for, and how much."""
    votes: dict[int, float] = {}
    for row, share in alike.items():
        for slack in range(-_SLACK_ROWS, _SLACK_ROWS + 1):
            place = row - distance + slack
            worth = share * (1 - _SLACK_COST * abs(slack))
            votes[place] = max(votes.get(place, 0.0), worth)
    return votes


_MAX_SEARCH_TERMS = 14
_MAX_SIMILAR = 8
_COMMON_SHARE = 0.08  # a term in more of all chunks than this tells nothing
_MIN_ECHO = 0.25
_MAX_ECHOES = 3
_MAX_OWN_ECHOES = 1
_OWN_LINES = 3000  # of this file, on either side of the cursor
_LINES_BEFORE, _LINES_AFTER = 5, 9
_SHORT_BEFORE, _SHORT_AFTER = 2, 5

_File = FileRow | Place  # of the index, or the one at hand


def similar(store: Store, place: Place) -> list[Candidate]:
    """Echoes and other similar chunks, as candidates."""
    around = Surroundings.of(place.before, place.after)
    own = _own_echoes(place, around)
    rows = _searched(store, place)
    if not rows:
        return own
    echoes = sorted(
        (echo for row in rows if (echo := _echo(store, place, around, row)) is not None),
        key=lambda one: -one.score,
    )[:_MAX_ECHOES]
    top = rows[0].score
    plain = [
        _candidate(
            place, row.file, Relation.SIMILAR, row.score / top, (row.start, row.stop), row.text
        )
        for row in rows[:_MAX_SIMILAR]
    ]
    return own + echoes + plain


def _own_echoes(place: Place, around: Surroundings) -> list[Candidate]:
    """Echoes in the file itself, where it is not shown anyway."""
    if place.shown is None:
        return []
    start, stop = place.shown[0], line_end(place.text, place.shown[1])
    found: list[Candidate] = []
    for text, offset in ((place.text[:start], 0), (place.text[stop:], stop)):
        lines = text.split("\n")
        first = max(0, len(lines) - _OWN_LINES) if not offset else 0
        words = [line_words(line) for line in lines[first : first + _OWN_LINES]]
        found += [
            _echo_at(place, place, lines, first + twin.row, twin.share, offset)
            for twin in around.twins(words, _MAX_OWN_ECHOES)
            if twin.share >= _MIN_ECHO
        ]
    return sorted(found, key=lambda one: -one.score)[:_MAX_OWN_ECHOES]


def _echo_at(  # noqa: PLR0917 - a private step of its callers
    place: Place, file: _File, lines: Sequence[str], row: int, share: float, offset: int
) -> Candidate:
    """An echo: what stands around a row of `lines`, which begin at character `offset` of a file."""
    begin, shown, short = _excerpts(lines, row)
    span = (offset + begin, offset + begin + len(shown))
    return replace(_candidate(place, file, Relation.ECHO, share, span, shown), short=short)


def _excerpts(lines: Sequence[str], row: int) -> tuple[int, str, str]:
    """Lines around a row: where they begin, they themselves, and fewer of them."""
    first = max(0, row - _LINES_BEFORE)
    begin = sum(len(line) + 1 for line in lines[:first])
    shown = "\n".join(lines[first : row + _LINES_AFTER])
    short = "\n".join(lines[max(0, row - _SHORT_BEFORE) : row + _SHORT_AFTER])
    return begin, shown.rstrip(), short.rstrip()


def _searched(store: Store, place: Place) -> list[PassageRow]:
    terms = query_terms(place.weights)
    rarity = store.rarity(terms)
    chunks_in_all = max(1, store.count()[2])
    common = max(8, chunks_in_all * _COMMON_SHARE)
    telling = [term for term in terms if 0 < rarity.get(term, 0) <= common]
    rows = store.search(telling[:_MAX_SEARCH_TERMS], _MAX_SIMILAR * 2)
    return [
        row
        for row in rows
        if (row.file.root, row.file.path) != (place.root, place.path)
        and (place.among_imports or not row.imports)
    ]


def _echo(store: Store, place: Place, around: Surroundings, row: PassageRow) -> Candidate | None:
    """What stands in a chunk, and right after it, where it runs alongside the cursor."""
    text = row.text
    following = store.passage_after(row.file, row.stop)
    if following is not None:
        text += following.text
    lines = text.split("\n")
    twins = around.twins([line_words(line) for line in lines], 1)
    if not twins or twins[0].share < _MIN_ECHO:
        return None
    return _echo_at(place, row.file, lines, twins[0].row, twins[0].share, row.start)


def _candidate(  # noqa: PLR0917 - a private step of its callers
    place: Place, file: _File, relation: Relation, need: float, span: tuple[int, int], text: str
) -> Candidate:
    worth = score(relation, need, closeness(place.path, file.path))
    return Candidate(file.root, file.path, *span, text.rstrip(), relation, worth)


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
