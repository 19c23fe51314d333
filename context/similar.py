"""Code that is like the code near the cursor: in other files, and elsewhere in this one.

BM25 finds chunks of other files by the rarer names near the cursor. Where one has lines like those
around the cursor, what stands there is what may come next here: an echo. Twins of a file (with and
without `async`, say), siblings of a class and code that is copied and changed are full of them. An
echo is shown from a little before the place at which it runs alongside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from context.echo import Surroundings, line_words
from context.names import query_terms
from context.place import Place
from context.rank import Candidate, Relation, score
from context.resolve import closeness
from context.store import FileRow, PassageRow, Store
from context.text import line_end

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
