"""Finish a rename: the declaration of a name was changed, its uses were not.

Proposed only where nothing else could be meant: the old name is no longer bound where the new one
is, and the new one neither has another meaning there nor was used there before. After the file,
files that import the name follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from context.edits import EditKind, NextEdit, Scene
from context.edits.history import alike, is_identifier, renamed, tokens
from context.edits.scopes import Binding, Scopes, Use, scopes_of
from context.retrieval.definition_lookup import places
from context.syntax.document import Source
from context.syntax.syntax_tree import Import

_SHORTEST_NAME = 2
_MOST_FILES = 20
_LARGEST_HUNK = 6
_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")


def find(scene: Scene) -> list[NextEdit]:
    """The uses that are left to rename, in the order in which to offer them."""
    scopes = scopes_of(scene.source)
    if scopes is None:
        return []
    for old, new, at in _declared(scene):
        binding = scopes.binding_at(new, at)
        if binding is None or not _is_clear(scopes, binding, old):
            continue
        if scopes.is_imported(scopes.leaf_at(at, at + len(new))):
            continue  # another name is brought in, which need not replace the first
        if _meant_before(scene, scopes, binding):
            continue
        found = _edits(scene, scopes.uses(old, binding.scope, member=binding.member), new)
        if found:
            return scene.nearest(found)
        if binding.top_level and scene.project is not None and not scopes.binds(old):
            others = list(_in_other_files(scene, old, new))
            if others:
                return others
    return []


def _declared(scene: Scene) -> Iterator[tuple[str, str, int]]:
    """Replaced names, the newest first: old, new, and the offset of the new one."""
    for hunk in reversed(scene.hunks):
        for line, old, new in hunk.pairs():
            if line >= len(scene.lines) or scene.lines[line] != new:
                continue
            if len(hunk.new) > _LARGEST_HUNK or not alike(old, new):
                continue
            if (_is_open(old) or _is_open(new)) and not alike(
                "\n".join(hunk.old), "\n".join(hunk.new)
            ):
                continue  # the statement goes on in other lines, and another one took its place
            head = tokens(old.strip())[:1], tokens(new.strip())[:1]
            for before, after, column in renamed(old, new):
                if head[0] != head[1] and head != ([before], [after]):
                    continue  # another kind of statement
                if after.startswith("_") and not before.startswith("_"):
                    continue  # it becomes private or unused; the old name often stays beside it
                if _has_other_type(old, new, before, after):
                    continue  # another parameter in its place
                if len(before) >= _SHORTEST_NAME and len(after) >= _SHORTEST_NAME:
                    yield before, after, scene.starts[line] + column


def _is_open(line: str) -> bool:
    """Whether a line has brackets that end in a later one."""
    signs = [token for token in tokens(line) if len(token) == 1]
    return sum(map(signs.count, _OPENING)) > sum(map(signs.count, _CLOSING))


def _has_other_type(old: str, new: str, before: str, after: str) -> bool:
    """Whether a name that is declared with a type has a type of other words now. One that was made
    wider, narrower or shorter is the same."""
    one, other = _type_after(old, before), _type_after(new, after)
    return bool(one and other) and not (one <= other or other <= one)


def _type_after(line: str, name: str) -> set[str]:
    """The names in the type of a declaration `name: type`; empty without one."""
    found = [token for token in tokens(line) if not token.isspace()]
    at = next((at for at, pair in enumerate(pairwise(found)) if pair == (name, ":")), -1)
    words: set[str] = set()
    depth = 0
    for token in found[at + 2 :] if at >= 0 else ():
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth < 0 or (depth == 0 and token in {",", "=", ";", "{"}):
            break
        if is_identifier(token):
            words.add(token)
    return words


def _is_clear(scopes: Scopes, binding: Binding, old: str) -> bool:
    """Whether the old name has no meaning left there, and the new one no other."""
    if binding.member:
        same = [one for one in scopes.binds(old) if one.member]
        others = [one for one in scopes.binds(binding.name) if one.member]
    else:
        same = [one for one in scopes.binds(old) if one.scope.id == binding.scope.id]
        others = [one for one in scopes.binds(binding.name) if one.scope.id == binding.scope.id]
        if scopes.bound_within(old, binding.scope):
            return False
    return not any(one.scope.id == binding.scope.id for one in same) and len(others) == 1


def _meant_before(scene: Scene, scopes: Scopes, binding: Binding) -> bool:
    """Whether the new name stands in its scope in lines that were not edited: then it meant
    something there before, a built-in or what an outer scope binds."""
    return not binding.member and any(
        not any(scene.in_hunk(use.start, hunk) for hunk in scene.hunks)
        for use in scopes.uses(binding.name, binding.scope, member=False)
    )


def _edits(scene: Scene, uses: list[Use], new: str) -> list[NextEdit]:
    """One edit for each line with uses."""
    by_line: dict[int, list[Use]] = {}
    for use in uses:
        by_line.setdefault(scene.line_of(use.start), []).append(use)
    return [
        NextEdit(*_replaced(scene.text, found, new), EditKind.RENAME) for found in by_line.values()
    ]


def _replaced(text: str, uses: list[Use], new: str) -> tuple[int, int, str]:
    """The uses of one line as a range and its new text."""
    start, stop = uses[0].start, uses[-1].stop
    made, at = "", start
    for use in uses:
        kept = f"{text[use.start : use.stop]}: " if use.shorthand else ""
        made += text[at : use.start] + kept + new
        at = use.stop
    return start, stop, made


def _in_other_files(scene: Scene, old: str, new: str) -> Iterator[NextEdit]:
    """The import of the old name, in each file that still has it."""
    project, document = scene.project, scene.document
    if project is None:
        return
    for root, path in list(project.mentions(old))[:_MOST_FILES]:
        if (root, path) == (document.root, document.path):
            continue
        source = project.source(root, path)
        if source is None or not source.language.sees(scene.source.language.name):
            continue
        for one in source.outline.imports:
            if one.name == old and leads_to(source, one, path, document.path):
                at = _name_in(source, one)
                if at is not None:
                    yield NextEdit(at, at + len(old), new, EditKind.RENAME, root, path)
                    break


def leads_to(source: Source, one: Import, path: str, target: str) -> bool:
    """Whether an import in the file `path` is about the file `target`."""
    where = places(source.language, one, path)
    return target in where.exact or any(
        target == ending or target.endswith(f"/{ending}") for ending in where.endings
    )


def _name_in(source: Source, one: Import) -> int | None:
    """Where the imported name stands in its statement."""
    scopes = scopes_of(source)
    text = source.text
    module = text.find(one.module, one.start, one.stop)
    if scopes is None or module < 0:
        return None
    at = one.start
    while (at := text.find(one.name, at, one.stop)) >= 0:
        node = scopes.leaf_at(at, at + len(one.name))
        outside = not module <= at < module + len(one.module)
        if outside and node is not None and not node.child_count:
            whole = source.data[node.start_byte : node.end_byte].decode("utf-8", "replace")
            if whole == one.name:
                return at
        at += len(one.name)
    return None
