"""Finds what the cursor needs from other files, as candidates with scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from context.language import Language
from context.names import members, near_names, query_terms, shingles, similarity
from context.outline import Import, Kind, Outline
from context.rank import IMPORT_NEED, Candidate, Relation, best, score
from context.recent import Region
from context.resolve import closeness, places
from context.store import EntryRow, FileRow, Store

_MAX_NAMES = 48
_MAX_SEARCH_TERMS = 14
_MAX_SIMILAR = 8
_MODULE_MEMBERS = 12
_COMMON_SHARE = 0.08  # a term in more of all chunks than this tells nothing
_NEAR_DUPLICATE = 0.6
_SHORT_CHARS = 700
_FULL_NEED = 0.3  # below this a long definition is shown in short
_CALLED = re.compile(r"(?<![.\w])([^\W\d]\w*)\s*\(")
_CALLED_MEMBER = re.compile(r"(?:\.|->|::)([^\W\d]\w*)\s*\(")
_TYPE_LIKE = re.compile(r"\b[A-Z]\w*[a-z]\w*")
_PARTIAL = re.compile(r"[^\W\d]\w+$")  # the word being typed, of two letters at least
_OWNER = re.compile(r"([^\W\d]\w*)\s*(?:\.|::|->|:)$")  # its members are asked for
_HEADER_NEED = 0.4
_ASKED_NEED = 0.8
_COMMENT_LINE = re.compile(r"^\s*(?:#|//|--|/?\*)")


@dataclass(frozen=True)
class Place:
    """Where the cursor is: what picking may look at.

    Attributes:
        before, after: text near the cursor, a few dozen lines.
        header: first lines of the definitions around the cursor.
        present: all text that is in the prompt anyway, to drop duplicates of it.
    """

    root: str
    path: str
    language: Language | None
    outline: Outline
    before: str
    after: str
    header: str
    present: str


def candidates(store: Store, place: Place, recent: Sequence[Region] = ()) -> list[Candidate]:
    """What may be shown from other files, best first, without near-duplicates.

    Names that are imported come first, resolved through the import; then members and base classes;
    then files beside (where the language sees those unasked), names defined elsewhere, recent
    regions, and chunks that BM25 finds similar.
    """
    weights = near_names(place.before, place.after)
    for name in near_names(place.header, ""):
        weights[name] = max(weights.get(name, 0.0), _HEADER_NEED)
    weights = _Weights(weights, _PARTIAL.search(place.before))
    found: list[Candidate] = []
    if place.language is not None:
        found += _imported(store, place, weights)
        found += _beside(store, place, weights)
    found += _named(store, place, weights)
    found += _recent(place, recent)
    found += _similar(store, place, weights)
    return _without_duplicates(best(found), place)


class _Weights(dict[str, float]):
    """Weights of names; one that begins with the word being typed counts as much as that word."""

    def __init__(self, weights: dict[str, float], partial: re.Match[str] | None) -> None:
        super().__init__(weights)
        self._partial = partial.group() if partial else ""

    def of(self, name: str) -> float:
        known = self.get(name, 0.0)
        if self._partial and name.startswith(self._partial):
            return 1.0
        return known

    def holds(self, name: str) -> bool:
        return self.of(name) > 0.0


def _imported(store: Store, place: Place, weights: _Weights) -> list[Candidate]:
    found: list[Candidate] = []
    used_members = members(place.before + "\n" + place.after)
    for one in place.outline.imports:
        need = max(weights.of(one.local), weights.of(one.name)) if one.local else 0.0
        for file in _files(store, place, one)[:3]:
            rows = store.entries_of(file)
            wanted = _wanted(place, one, file, rows, weights, used_members)
            for row, relation, row_need in wanted:
                found.append(_candidate(place, rows, row, relation, max(row_need, need), weights))
    return found


def _wanted(  # noqa: PLR0917 - a private step of one caller
    place: Place,
    one: Import,
    file: FileRow,
    rows: list[EntryRow],
    weights: _Weights,
    used_members: dict[str, set[str]],
) -> list[tuple[EntryRow, Relation, float]]:
    """Definitions of a file that an import asks for, each with its need."""
    outer = _outermost(rows)
    named = [row for row in outer if row.name == one.name]
    if named:
        base = any(one.local in line for line in place.header.splitlines() if _is_class(line))
        relation = Relation.BASE if base else Relation.IMPORTED
        return [(row, relation, IMPORT_NEED) for row in named]
    # The module itself is imported: its members as they are used, or the first few.
    local = one.local or ""
    used = used_members.get(local, set())
    top = [row for row in outer if not row.name.startswith("_")]
    if place.language is not None and place.language.resolve.wildcard:
        used = {row.name for row in top if weights.holds(row.name)}
    chosen = [
        (row, Relation.MEMBER, max(weights.of(row.name), IMPORT_NEED))
        for row in top
        if row.name in used or weights.holds(row.name)
    ]
    owner = _OWNER.search(place.before)
    scopes = {row.name for row in rows if row.kind == Kind.SCOPE} | {local}
    asked = owner is not None and owner.group(1) in scopes
    others = [
        (row, Relation.MEMBER, _ASKED_NEED if asked else IMPORT_NEED * 0.5)
        for row in top
        if row.name not in used and not weights.holds(row.name)
    ]
    more = max(0, _MODULE_MEMBERS - len(chosen)) if not file.generated else 0
    return chosen + others[:more]


def _outermost(rows: list[EntryRow]) -> list[EntryRow]:
    """Definitions that lie in no other, scopes (namespaces) not counted."""
    scopes = {-1}
    found = []
    for row in rows:
        if row.parent in scopes:
            if row.kind == Kind.SCOPE:
                scopes.add(row.position)
            else:
                found.append(row)
    return found


def _is_class(line: str) -> bool:
    return re.match(r"\s*(?:\w+\s+)*(?:class|interface|struct|trait|impl)\b", line) is not None


def _files(store: Store, place: Place, one: Import) -> list[FileRow]:
    """Files of the workspace that an import may mean, the likeliest first."""
    if place.language is None or not one.module:
        return []
    where = places(place.language, one, place.path)
    exact = [file for path in where.exact if (file := store.file(place.root, path)) is not None]
    if exact:
        return _not_here(exact, place)
    for ending in where.endings:
        found = _not_here(store.files_ending(ending), place)
        if found:
            return sorted(found, key=lambda file: -closeness(place.path, file.path))
    for folder in where.folders:
        found = _not_here(store.files_in(folder), place)
        found = [file for file in found if file.language == place.language.name]
        if found:
            return sorted(found, key=lambda file: file.path)
    return []


def _not_here(files: list[FileRow], place: Place) -> list[FileRow]:
    return [file for file in files if (file.root, file.path) != (place.root, place.path)]


def _beside(store: Store, place: Place, weights: _Weights) -> list[Candidate]:
    """Definitions in the same folder, where the language needs no import for them."""
    if place.language is None or not place.language.resolve.same_folder:
        return []
    folder = place.path.rsplit("/", 1)[0] if "/" in place.path else ""
    found = []
    for file in _not_here(store.files_in(folder), place):
        if file.language != place.language.name or file.path.rsplit("/", 1)[0] != folder:
            continue
        rows = store.entries_of(file)
        found += [
            _candidate(place, rows, row, Relation.BESIDE, weights.of(row.name), weights)
            for row in rows
            if weights.holds(row.name) and row.kind != Kind.VALUE
        ]
    return found


def _named(store: Store, place: Place, weights: _Weights) -> list[Candidate]:
    """Definitions anywhere of names used near the cursor that this file does not define."""
    near = place.before + "\n" + place.after
    called = set(_CALLED.findall(near)) | set(_TYPE_LIKE.findall(near))
    called_members = set(_CALLED_MEMBER.findall(near))
    own = {one.name for one in place.outline.definitions}
    imported = {one.local for one in place.outline.imports}
    ordered = sorted(weights, key=lambda name: -weights[name])
    wanted = [name for name in ordered if name not in own | imported and len(name) > 3]
    found = []
    for row in store.named(wanted[:_MAX_NAMES], limit_each=4):
        if (row.file.root, row.file.path) == (place.root, place.path):
            continue
        if place.language is not None and row.file.language != place.language.name:
            continue
        member = row.parent >= 0
        if row.kind != Kind.VALUE and row.name in (called_members if member else called):
            need = weights[row.name]
            found.append(_candidate(place, (), row, Relation.NAMED, need, weights))
    return found


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


def _similar(store: Store, place: Place, weights: _Weights) -> list[Candidate]:
    terms = query_terms(weights)
    rarity = store.rarity(terms)
    chunks_in_all = max(1, store.count()[2])
    common = max(8, chunks_in_all * _COMMON_SHARE)
    telling = [term for term in terms if 0 < rarity.get(term, 0) <= common]
    rows = store.search(telling[:_MAX_SEARCH_TERMS], _MAX_SIMILAR * 2)
    rows = [row for row in rows if (row.file.root, row.file.path) != (place.root, place.path)]
    if not rows:
        return []
    top = rows[0].score
    return [
        Candidate(
            row.file.root,
            row.file.path,
            row.start,
            row.stop,
            row.text.rstrip(),
            Relation.SIMILAR,
            score(Relation.SIMILAR, row.score / top, closeness(place.path, row.file.path)),
        )
        for row in rows[:_MAX_SIMILAR]
    ]


def _candidate(  # noqa: PLR0917 - a private step of its callers
    place: Place,
    rows: Sequence[EntryRow],
    row: EntryRow,
    relation: Relation,
    need: float,
    weights: _Weights,
) -> Candidate:
    worth = score(relation, need, closeness(place.path, row.file.path))
    short = ""
    if row.kind == Kind.CLASS and len(row.text) > _SHORT_CHARS:
        short = _short_class(rows, row, weights)
    elif len(row.text) > _SHORT_CHARS:
        short = row.text[: row.text.rfind("\n", 0, _SHORT_CHARS)] if "\n" in row.text else ""
    text = row.text
    if need < _FULL_NEED and short:
        text, short = short, ""
    return Candidate(
        row.file.root,
        row.file.path,
        row.start,
        row.stop,
        text,
        relation,
        worth,
        name=row.name,
        short=short,
    )


def _short_class(rows: Sequence[EntryRow], row: EntryRow, weights: _Weights) -> str:
    """A class with its constructor and those members that are named near the cursor."""
    head = row.text.split("\n")
    lines = [head[0]]
    while not lines[-1].rstrip().endswith((":", "{")) and len(lines) < min(6, len(head)):
        lines.append(head[len(lines)])
    kept = 0
    for member in rows:
        wanted = weights.holds(member.name) or member.name in ("__init__", "constructor", row.name)
        if member.parent == row.position and wanted and len(member.text) < _SHORT_CHARS:
            lines.append(member.text)
            kept += 1
    return "\n".join(lines) if kept else ""


def _without_duplicates(found: list[Candidate], place: Place) -> list[Candidate]:
    """Each text once, and none that is in the prompt already."""
    present = shingles(place.present)
    kept: list[tuple[Candidate, set[str]]] = []
    for one in found:
        lines = {line for line in shingles(one.text) if not _COMMENT_LINE.match(line)}
        if not lines or len(lines & present) > _NEAR_DUPLICATE * len(lines):
            continue
        if any(_overlap(one, other) for other, _ in kept):
            continue
        if any(similarity(lines, other) > _NEAR_DUPLICATE for _, other in kept[:60]):
            continue
        kept.append((one, lines))
    return [one for one, _ in kept]


def _overlap(one: Candidate, other: Candidate) -> bool:
    same = (one.root, one.path) == (other.root, other.path)
    return same and one.start < other.stop and other.start < one.stop
