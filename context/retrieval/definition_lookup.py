"""Definitions in other files that the cursor refers to: imported, beside, or named near it.

An import is turned into the paths where its file may be; the index looks these up.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from context.index.store import EntryRow, FileRow, Store
from context.retrieval import (
    ASKED_NEED,
    IMPORT_NEED,
    UNUSED_NEED,
    Candidate,
    Place,
    Relation,
    Weights,
    closeness,
    score,
)
from context.syntax.language import Language
from context.syntax.syntax_tree import Import, Kind
from context.syntax.text import members, words


@dataclass(frozen=True)
class Places:
    """Where a module may be.

    Attributes:
        exact: paths relative to the importing file's root, best first.
        endings: paths that may lie anywhere below a root, best first.
        folders: folders (relative, or endings) whose files all belong to the module.
    """

    exact: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def places(language: Language, one: Import, path: str) -> Places:
    """Where the module of an import may be, for a file at `path` (relative to its root)."""
    rules = language.resolve
    folder = posixpath.dirname(path)
    module = one.module
    relative = False
    if rules.relative_dots and module.startswith("."):
        dots = len(module) - len(module.lstrip("."))
        module = module[dots:]
        for _ in range(dots - 1):
            folder = posixpath.dirname(folder)
        relative = True
    elif module.startswith(("./", "../")):
        relative = True
    parts = [part for part in module.split(rules.separator) if part]
    while parts and parts[0] in rules.skip:
        parts = parts[1:]
    bases = ["/".join(parts)]
    source, ending = posixpath.splitext(bases[0])
    if ending and ending in rules.compiled:
        bases.append(source)
    if one.name and (rules.relative_dots or rules.parents):  # `from package import module`
        bases.append("/".join([*parts, one.name]))
    if rules.parents and len(parts) > 1:  # `use a::b::Item` may be in a.rs
        bases.append("/".join(parts[:-1]))
    if rules.name_in_module or rules.separator == "\\":
        bases.extend("/".join(parts[i:]) for i in range(1, len(parts)))
    exact: list[str] = []
    endings: list[str] = []
    for base in bases:
        for template in rules.templates:
            if not base and template.startswith("{}."):
                continue
            target = posixpath.normpath(template.format(base)).lstrip("/")
            if target.startswith("..") and not relative:
                continue
            exact.append(posixpath.normpath(posixpath.join(folder, target)))
            if not relative and target not in (".", ""):
                exact.append(target)
                endings.append(target)
    folders: tuple[str, ...] = ()
    if rules.folder and parts:
        folders = tuple("/".join(parts[i:]) for i in range(len(parts)))
    return Places(tuple(dict.fromkeys(exact)), tuple(dict.fromkeys(endings)), folders)


_MAX_NAMES = 48
_MAX_IMPORTS = 200  # so many are looked up, those that are used near the cursor first
_LONGEST_OWNER = 200
_MODULE_MEMBERS = 12
_UNNAMED_MEMBER = 0.25
_MAX_PASSED_ON = 3  # a name that more files define is no help
_SHORT_CHARS = 700
_FULL_NEED = 0.3  # below this a long definition is shown in short
_CALLED = re.compile(r"(?<![.\w])([^\W\d]\w*)\s*\(")
_CALLED_MEMBER = re.compile(r"(?:\.|->|::)([^\W\d]\w*)\s*\(")
_TYPE_LIKE = re.compile(r"(?<![.\w])[A-Z]\w*[a-z]\w*")
_OWNER = re.compile(r"([^\W\d]\w*)\s*(?:\.|::|->|:)$")  # its members are asked for
_PLAIN_MEMBER = 0.3  # what a member of one plain word, as `append`, is worth: it may be anybody's


def asked(store: Store, place: Place) -> list[Candidate]:
    """Definitions that the imports, the files beside and the names near the cursor lead to."""
    found = []
    if place.language is not None:
        found += _imported(store, place)
        found += _beside(store, place)
    return found + _named(store, place)


def _imported(store: Store, place: Place) -> list[Candidate]:
    found: list[Candidate] = []
    weights = place.weights
    used_members = members(place.before + "\n" + place.after)
    for one in _nearest(place):
        need = max(weights.of(one.local), weights.of(one.name)) if one.local else 0.0
        if one.local in place.unused:
            need = max(need, UNUSED_NEED)
        for file in _files(store, place, one)[:3]:
            rows = store.entries_of(file)
            wanted = _wanted(place, one, file, rows, used_members)
            if not wanted and one.name:
                wanted = _passed_on(store, one, file)
            for row, relation, row_need in wanted:
                worth = _need(relation, row_need, need)
                found.append(_candidate(place, rows, row, relation, worth))
    return found


def _nearest(place: Place) -> Sequence[Import]:
    """The imports in order; of very many, those whose names are near the cursor or unused."""
    imports = place.outline.imports
    if len(imports) <= _MAX_IMPORTS:
        return imports
    weights = place.weights
    best = sorted(
        imports,
        key=lambda one: (
            -max(weights.of(one.local), weights.of(one.name), one.local in place.unused)
        ),
    )[:_MAX_IMPORTS]
    return sorted(best, key=lambda one: one.start)


def _need(relation: Relation, row_need: float, import_need: float) -> float:
    """What a definition is needed, given what its import is: never less than for being imported,
    and more the more its import is; of a module, members that nobody names much less so."""
    if relation is not Relation.MEMBER:
        return row_need + (1 - row_need) * import_need
    return max(row_need, import_need * (1 if row_need >= IMPORT_NEED else _UNNAMED_MEMBER))


def _wanted(
    place: Place,
    one: Import,
    file: FileRow,
    rows: list[EntryRow],
    used_members: dict[str, set[str]],
) -> list[tuple[EntryRow, Relation, float]]:
    """Definitions of a file that an import asks for, each with its need."""
    weights = place.weights
    outer = _outermost(rows)
    named = [row for row in outer if row.name == one.name]
    if named:
        base = any(one.local in line for line in place.header.splitlines() if _is_class(line))
        relation = Relation.BASE if base else Relation.IMPORTED
        return [(row, relation, IMPORT_NEED) for row in named]
    if one.name and not _is_module(file, one.name):
        return []
    # The module itself is imported: its members as they are used, or the first few.
    local = one.local or ""
    used = used_members.get(local, set())
    taken = {name for owner, names in used_members.items() if owner != local for name in names}
    taken = (taken | {row.name for row in place.outline.definitions}) - {local}
    top = [row for row in outer if not row.name.startswith("_")]
    wildcard = place.language is not None and place.language.resolve.wildcard
    if wildcard:
        used = {row.name for row in top if weights.holds(row.name)}
    chosen = [
        (row, Relation.MEMBER, max(weights.of(row.name), IMPORT_NEED))
        for row in top
        if row.name in used or (weights.holds(row.name) and row.name not in taken)
    ]
    owner = _OWNER.search(place.before[-_LONGEST_OWNER:])
    scopes = {row.name for row in rows if row.kind == Kind.SCOPE} | {local}
    asked = owner is not None and owner.group(1) in scopes
    others = [
        (row, Relation.MEMBER, ASKED_NEED if asked else IMPORT_NEED * 0.5)
        for row in top
        if row.name not in used
        and not weights.holds(row.name)
        and (wildcard or asked or row.kind != Kind.VALUE)
    ]
    more = max(0, _MODULE_MEMBERS - len(chosen)) if not file.generated else 0
    return chosen + others[:more]


def _is_module(file: FileRow, name: str) -> bool:
    """Whether a file is the module `name` itself, and not one that should define it."""
    folder, _, tail = file.path.rpartition("/")
    return name in {tail.partition(".")[0], folder.rpartition("/")[2]}


def _passed_on(store: Store, one: Import, file: FileRow) -> list[tuple[EntryRow, Relation, float]]:
    """Definitions of an imported name that its file only passes on, from below its folder."""
    folder = file.path.rpartition("/")[0]
    below = f"{folder}/" if folder else ""
    return [
        (row, Relation.IMPORTED, IMPORT_NEED)
        for row in store.named([one.name], limit_each=_MAX_PASSED_ON)
        if row.parent < 0 and row.file.root == file.root and row.file.path.startswith(below)
    ]


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
    own = _within_root(place, one)
    tried = (*where.exact, *(places(place.language, own, place.path).exact if own else ()))
    exact = [file for path in tried if (file := store.file(place.root, path)) is not None]
    if exact:
        return _not_here(exact, place)
    for ending in where.endings:
        found = _not_here(store.files_ending(ending), place)
        if place.language.resolve.relative_dots and "/" not in ending:
            found = [file for file in found if not _in_package(store, file)]
        if found:
            return sorted(found, key=lambda file: -closeness(place.path, file.path))
    for folder in where.folders:
        found = _not_here(store.files_in(folder), place)
        found = [file for file in found if place.language.sees(file.language)]
        if found:
            return sorted(found, key=lambda file: file.path)
    return []


def _within_root(place: Place, one: Import) -> Import | None:
    """The import as seen from the root, where the root is the package that it names first."""
    separator = place.language.resolve.separator if place.language is not None else "/"
    head, _, rest = one.module.partition(separator)
    named = head and head == place.root.rstrip("/").rpartition("/")[2]
    return replace(one, module=rest) if named and (rest or one.name) else None


def _in_package(store: Store, file: FileRow) -> bool:
    """Whether a Python file lies in a package: then its bare name is no module's, and may well be
    that of the standard library."""
    folder = file.path.rpartition("/")[0]
    return store.file(file.root, f"{folder}/__init__.py".lstrip("/")) is not None


def _not_here(files: list[FileRow], place: Place) -> list[FileRow]:
    return [file for file in files if (file.root, file.path) != (place.root, place.path)]


def _beside(store: Store, place: Place) -> list[Candidate]:
    """Definitions in the same folder, where the language needs no import for them."""
    if place.language is None or not place.language.resolve.same_folder:
        return []
    folder = place.path.rsplit("/", 1)[0] if "/" in place.path else ""
    weights = place.weights
    found = []
    for file in _not_here(store.files_in(folder), place):
        if not place.language.sees(file.language) or file.path.rsplit("/", 1)[0] != folder:
            continue
        rows = store.entries_of(file)
        found += [
            _candidate(place, rows, row, Relation.BESIDE, weights.of(row.name))
            for row in rows
            if weights.holds(row.name) and row.kind != Kind.VALUE
        ]
    return found


def _named(store: Store, place: Place) -> list[Candidate]:
    """Definitions anywhere of names used near the cursor that this file does not define."""
    weights = place.weights
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
        if place.language is not None and not place.language.sees(row.file.language):
            continue
        member = row.parent >= 0
        if row.kind != Kind.VALUE and row.name in (called_members if member else called):
            need = weights[row.name]
            if member and len(words(row.name)) < 2:
                need *= _PLAIN_MEMBER
            found.append(_candidate(place, (), row, Relation.NAMED, need))
    return found


def _candidate(
    place: Place, rows: Sequence[EntryRow], row: EntryRow, relation: Relation, need: float
) -> Candidate:
    worth = score(relation, need, closeness(place.path, row.file.path))
    short = ""
    if row.kind == Kind.CLASS and len(row.text) > _SHORT_CHARS:
        short = _short_class(rows, row, place.weights, full=need >= _FULL_NEED)
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


def _short_class(rows: Sequence[EntryRow], row: EntryRow, weights: Weights, *, full: bool) -> str:
    """A class with its constructor and those members that are named near the cursor; where it is
    much needed, or has neither, with as many of the others, from the first, as make it not long."""
    head = row.text.split("\n")
    lines = [head[0]]
    while not lines[-1].rstrip().endswith((":", "{")) and len(lines) < min(6, len(head)):
        lines.append(head[len(lines)])
    members = [one for one in rows if one.parent == row.position and len(one.text) < _SHORT_CHARS]
    kept = {
        one.position
        for one in members
        if weights.holds(one.name) or one.name in ("__init__", "constructor", row.name)
    }
    spare = _SHORT_CHARS - sum(len(one.text) for one in members if one.position in kept)
    for one in members if full or not kept else ():
        if one.position not in kept and not one.name.startswith("_") and len(one.text) < spare:
            kept.add(one.position)
            spare -= len(one.text)
    shown = [one.text for one in members if one.position in kept]
    return "\n".join([*lines, *shown]) if shown else ""
