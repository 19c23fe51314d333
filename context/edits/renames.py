"""Finish a rename: the declaration of a name was changed, and its uses were not.

A rename is proposed only where nothing else could be meant: the old name is no longer bound where
the new one is, and the new one neither has another meaning there nor was used there before. After
the file, files that import the name follow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import islice, takewhile

from context.edits import EditKind, NextEdit, Scene
from context.edits.history import Hunk, Renamed, is_identifier, renamed, tokens
from context.edits.names import (
    Binding,
    Scopes,
    Use,
    differ_in_number,
    imported_file,
    name_in,
    other_files,
    scopes_of,
    words_of,
)
from context.syntax.document import Source
from context.syntax.syntax_tree import Kind, ancestors
from context.syntax.text import line_start

_SHORTEST_NAME = 2
_LARGEST_HUNK = 6
_MOST_RENAMES = 16
_RECENT = 4
_SURE_LINES = 3
_SAME_LETTERS = 0.75
_NAME = re.compile(r"[^\W\d][\w$]*+")


def find(scene: Scene) -> list[NextEdit]:
    """The uses that are left to rename, in the order in which to offer them."""
    scopes = scopes_of(scene.source)
    if scopes is None:
        return []
    clear = list(islice(_clear(scene, scopes), _MOST_RENAMES))
    for at, (one, uses, all_uses) in enumerate(clear):
        lines = {scene.line_of(use.start) for use, _ in uses}
        others = [pair for _, found, _ in (*clear[:at], *clear[at + 1 :]) for pair in found]
        found = _edits(
            scene.text, [*uses, *(pair for pair in others if scene.line_of(pair[0].start) in lines)]
        )
        if found:
            return scene.nearest(found)
        old, new = one.old, one.binding.name
        is_alone = one.binding.top_level and not all_uses and not scopes.binds(old)
        if is_alone and scene.project is not None:
            in_other_files = list(_in_other_files(scene, old, new))
            if in_other_files:
                return in_other_files
    return []


@dataclass(frozen=True)
class _Rename:
    """An old name and the binding that replaced it.

    Attributes:
        hunk: which changed the binding.
        lines: how many lines got the new name so.
        edits: in how many edits.
    """

    old: str
    binding: Binding
    hunk: Hunk
    lines: int
    edits: int


def _clear(
    scene: Scene, scopes: Scopes
) -> Iterator[tuple[_Rename, list[tuple[Use, str]], list[Use]]]:
    """The renames that can mean nothing else, the newest first, with the uses to offer, each with
    its new name, and with all uses that are left."""
    for one in _declared(scene, scopes):
        old, binding = one.old, one.binding
        new, at = binding.name, binding.start
        if not _is_clear(scopes, binding, old) or _is_kept(scene, one):
            continue
        imported = scopes.is_imported(scopes.leaf_at(at, at + len(new)))
        if imported and not _was_renamed_there(scene, one):
            continue  # another name is brought in, which need not replace the first
        if _meant_before(scene, scopes, binding) or _is_by_hand(scene, scopes, one):
            continue
        if _is_injected(scopes, scene.source, binding):
            continue
        uses = scopes.uses(old, binding.scope, member=binding.member)
        if not _is_confirmed(scene, one) and not _is_certain(scene, one, uses):
            continue
        offered = _clear_uses(scene, one, uses)
        wide = bool(offered) and _is_wider(scene, scopes, one)
        offered = [use for use in offered if not _has_another_role(scene, one, use, uses, wide)]
        yield one, [(use, new) for use in offered], uses


def _declared(scene: Scene, scopes: Scopes) -> Iterator[_Rename]:
    """What was renamed where it is bound, the newest first."""
    named = [
        (hunk, [(one, _bound_at(scene, scopes, one)) for one in renamed(hunk)])
        for hunk in scene.hunks
        if len(hunk.new) <= _LARGEST_HUNK
    ]
    known = {
        (one.old, one.new, _is_member_at(scene, scopes, one))
        for _, pairs in named
        for one, binding in pairs
        if binding
    }
    lines = {(one.old, one.new, one.line) for _, pairs in named for one, _ in pairs}
    counts = Counter((old, new) for old, new, _ in lines)
    edits = Counter(pair for _, pairs in named for pair in {(one.old, one.new) for one, _ in pairs})
    for hunk, pairs in reversed(named):
        if any(
            (one.old, one.new, _is_member_at(scene, scopes, one)) not in known for one, _ in pairs
        ):
            continue  # it names something else too, so it is another statement
        for one, binding in pairs:
            if binding is not None and _is_same_thing(one.old, one.new):
                pair = one.old, one.new
                yield _Rename(one.old, binding, hunk, counts[pair], edits[pair])


def _was_renamed_there(scene: Scene, rename: _Rename) -> bool:
    """Whether the file that a name is imported from defines the new name, and not the old one."""
    new = rename.binding.name
    for one in scene.source.outline.imports:
        if one.name == one.local == new:
            source = imported_file(scene, one, (new, rename.old))
            names = {other.name for other in source.outline.definitions} if source else {""}
            return new in names and rename.old not in names
    return False


def _is_confirmed(scene: Scene, rename: _Rename) -> bool:
    """Whether the user gave the new name at another place than the declaration too."""
    return rename.edits > 1 or _was_accepted(scene, rename)


def _is_certain(scene: Scene, rename: _Rename, uses: list[Use]) -> bool:
    """Whether the declaration alone says that its uses follow: nothing but names was edited in the
    file, or the name is only spelled in another way and the old one stands nowhere else in the
    file, not even in a text. Where more is edited, the lines with the uses may become others
    altogether.
    """
    if all(map(renamed, scene.hunks)):
        return True
    left = re.finditer(rf"(?<![\w$]){re.escape(rename.old)}(?![\w$])", scene.text)
    return _is_respelled(rename.old, rename.binding.name) and sum(1 for _ in left) == len(uses)


def _is_respelled(old: str, new: str) -> bool:
    """Whether two names have most of their letters in common, whatever their case."""
    mine, theirs = ("".join(one.lower().split("_")) for one in (old, new))
    return SequenceMatcher(None, mine, theirs, autojunk=False).ratio() >= _SAME_LETTERS


def _is_kept(scene: Scene, rename: _Rename) -> bool:
    """Whether later edits wrote the old name, or removed it other than by the new one."""
    for hunk in scene.hunks:
        if hunk.number > rename.hunk.number:
            before, after = (
                Counter(token for line in lines for token in tokens(line))
                for lines in (hunk.old, hunk.new)
            )
            written = after[rename.old] - before[rename.old]
            if written > 0 or after[rename.binding.name] - before[rename.binding.name] < -written:
                return True
    return False


def _is_by_hand(scene: Scene, scopes: Scopes, rename: _Rename) -> bool:
    """Whether uses in the lines right beside the declaration have the new name too: then these
    lines are rewritten by hand, and what happens to the other uses is open until three lines have
    the new name or the user accepted a line with it."""
    binding = rename.binding
    if rename.lines >= _SURE_LINES or _was_accepted(scene, rename):
        return False
    declared = scene.line_of(binding.start)
    return any(
        scene.in_hunk(use.start, rename.hunk) and scene.line_of(use.start) != declared
        for use in scopes.uses(binding.name, binding.scope, member=binding.member)
    )


def _was_accepted(scene: Scene, rename: _Rename) -> bool:
    """Whether the user accepted an edit that put the new name in the place of the old one."""
    return any(
        rename.old in tokens(old) and rename.binding.name in set(tokens(new)) - set(tokens(old))
        for old, new in scene.accepted
    )


def _is_injected(scopes: Scopes, source: Source, binding: Binding) -> bool:
    """Whether the name of a parameter says what is passed, as in pytest's tests and fixtures:
    another name is another thing."""
    leaf = scopes.leaf_at(binding.start, binding.start + len(binding.name))
    function = binding.scope
    around = takewhile(lambda one: one.id != function.id, ancestors(leaf)) if leaf else ()
    if source.language.name != "python" or not any("parameters" in one.type for one in around):
        return False
    parent = function.parent
    decorators = [one for one in parent.children if one.type == "decorator"] if parent else []
    named = function.child_by_field_name("name")
    heads = [source.data[one.start_byte : one.end_byte] for one in (named, *decorators) if one]
    return any(head.startswith(b"test") or b"fixture" in head.split(b"(")[0] for head in heads)


def _is_wider(scene: Scene, scopes: Scopes, rename: _Rename) -> bool:
    """Whether another edit gives more than uses the new name: another declaration, the
    documentation, the name of an argument, a note that the old name is deprecated."""
    old, binding = rename.old, rename.binding
    uses = {use.start for use in scopes.uses(binding.name, binding.scope, member=binding.member)}
    for hunk in scene.hunks:
        before, after = (set(_NAME.findall("\n".join(lines))) for lines in (hunk.old, hunk.new))
        if (
            hunk.number == rename.hunk.number
            or binding.name not in after
            or old not in before | after
        ):
            continue
        pairs = [one for one in renamed(hunk) if one.old == old]
        if not pairs or any(scene.starts[one.line] + one.column not in uses for one in pairs):
            return True
    return False


def _has_another_role(scene: Scene, rename: _Rename, use: Use, uses: list[Use], wide: bool) -> bool:
    """Whether the line of a use has another name that may get a new name too: one that is derived
    from an old name of several words, and in a wide rename any with the words that it takes away,
    such as a keyword argument."""
    old = rename.old
    gone = set(words_of(old)) - set(words_of(rename.binding.name))
    starts = {one.start for one in uses}
    line = scene.line_of(use.start)
    at = scene.starts[line]
    for token in tokens(scene.lines[line]):
        shares = _is_derived(token, old) or (wide and gone and gone <= set(words_of(token)))
        if shares and is_identifier(token) and at not in starts:
            return True
        at += len(token)
    return False


def _is_derived(name: str, old: str) -> bool:
    """Whether a name has the words of another one, of which there are several, and more."""
    mine, theirs = (words_of(one) for one in (name, old))
    size = len(theirs)
    starts = range(len(mine) - size + 1) if 1 < size < len(mine) else ()
    return any(mine[at : at + size] == theirs for at in starts)


def _clear_uses(scene: Scene, rename: _Rename, uses: list[Use]) -> list[Use]:
    """The uses that are still the same: not in lines that were edited later, and not in a function
    that is being rewritten, unless the new name is in several lines already."""
    later = [hunk for hunk in scene.hunks if hunk.number > rename.hunk.number]
    rewritten = []
    if rename.lines < _SURE_LINES:
        around = [hunk for hunk in scene.hunks if hunk.number <= rename.hunk.number]
        rewritten = [
            hunk
            for hunk in [*around[-_RECENT:], *later]
            if not hunk.stale and not renamed(hunk) and not _is_comment(hunk)
        ]
    found = []
    for use in uses:
        if any(scene.in_hunk(use.start, hunk) for hunk in later):
            continue
        lines = _function_around(scene, use.start)
        if not any(hunk.first < lines.stop and hunk.stop >= lines.start for hunk in rewritten):
            found.append(use)
    return found


def _is_comment(hunk: Hunk) -> bool:
    """Whether only comments and blank lines were changed."""
    return all(
        not line.strip() or line.strip().startswith(("#", "//", "*", "/*"))
        for line in (*hunk.old, *hunk.new)
    )


def _function_around(scene: Scene, offset: int) -> range:
    """The lines of the innermost function around an offset; empty outside of all."""
    around = [
        one
        for one in scene.source.outline.definitions
        if one.kind == Kind.FUNCTION and one.start <= offset < one.stop
    ]
    if not around:
        return range(0)
    inner = min(around, key=lambda one: one.stop - one.start)
    return range(scene.line_of(inner.start), scene.line_of(inner.stop) + 1)


def _bound_at(scene: Scene, scopes: Scopes, one: Renamed) -> Binding | None:
    return scopes.binding_at(one.new, scene.starts[one.line] + one.column)


def _is_member_at(scene: Scene, scopes: Scopes, one: Renamed) -> bool:
    at = scene.starts[one.line] + one.column
    leaf = scopes.leaf_at(at, at + len(one.new))
    return leaf is not None and scopes.is_member(leaf)


def _is_same_thing(old: str, new: str) -> bool:
    """Whether a name may stand for what another one stood for: not one thing for several, and not
    a private thing for a public one, other than by its underscore."""
    if min(len(old), len(new)) < _SHORTEST_NAME:
        return False
    if new.startswith("_") and not old.startswith("_"):
        return False  # it becomes private or unused; the old name often stays beside it
    if old.startswith("_") and not new.startswith("_") and old.lstrip("_") != new:
        return False
    return not differ_in_number(old, new)


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


def _edits(text: str, uses: list[tuple[Use, str]]) -> list[NextEdit]:
    """One edit for each line with uses, which each get a new name."""
    by_line: dict[int, list[tuple[Use, str]]] = {}
    for use, new in sorted(uses, key=lambda one: one[0].start):
        by_line.setdefault(line_start(text, use.start), []).append((use, new))
    return [NextEdit(*_replaced(text, found), EditKind.RENAME) for found in by_line.values()]


def _replaced(text: str, uses: list[tuple[Use, str]]) -> tuple[int, int, str]:
    """The uses of one line as a range and its new text."""
    start, stop = uses[0][0].start, uses[-1][0].stop
    made, at = "", start
    for use, new in uses:
        kept = f"{text[use.start : use.stop]}: " if use.shorthand else ""
        made += text[at : use.start] + kept + new
        at = use.stop
    return start, stop, made


def _in_other_files(scene: Scene, old: str, new: str) -> Iterator[NextEdit]:
    """For each file that still has the old name: its import, and what it uses through the module or
    without an import. What it uses by its import follows there when that has the new name.

    Nothing where the file is called like what it defines (Java): it would need another name too.
    """
    if scene.source.language.resolve.name_in_module:
        return
    for other in other_files(scene, old):
        places = [name_in(other.scopes, other.source, one) for one in other.imports]
        found = [Use(at, at + len(old)) for at in places if at is not None]
        found += other.uses(by_import=False)
        for one in _edits(other.source.text, [(use, new) for use in found]):
            yield replace(one, root=other.root, path=other.path)
