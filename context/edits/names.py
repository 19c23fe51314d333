"""Names in a file: where they are bound and used, by the language's `scopes.scm`; and the rule that
finishes a rename, where the declaration of a name was changed and its uses were not.

A rename is proposed only where nothing else could be meant: the old name is no longer bound where
the new one is, and the new one neither has another meaning there nor was used there before. After
the file, files that import the name follow. Offsets: characters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import islice, product, takewhile

import tree_sitter

from context.edits import EditKind, NextEdit, Scene
from context.edits.history import Hunk, Renamed, is_identifier, renamed, tokens
from context.retrieval.definition_lookup import places
from context.syntax.document import Source
from context.syntax.syntax_tree import Import, Kind, ancestors, matches
from context.syntax.text import byte_offset

_PLAIN = frozenset(("identifier", "type_identifier", "shorthand_property_identifier"))
_MEMBER = frozenset(("property_identifier", "field_identifier"))
_OWNERS = ("object", "value", "operand", "argument", "expression")
_MEMBER_FIELDS = ("attribute", "property", "field")
_MOST_USES = 400
_SHORTEST_NAME = 2
_MOST_FILES = 20
_LARGEST_HUNK = 6
_MOST_RENAMES = 16
_RECENT = 4
_SURE_LINES = 3
_SAME_LETTERS = 0.75
_NAME = re.compile(r"[^\W\d][\w$]*+")
_WORD = re.compile(r"[A-Z]?[a-z]++|[A-Z]++|[^A-Za-z]")


@dataclass(frozen=True)
class Binding:
    """A place that gives a name its meaning.

    Attributes:
        scope: the node in which it holds: a function, a block, a class or the file.
        member: it is reached through an object: a method, or an attribute of `self`.
        top_level: it is bound in the file itself.
    """

    name: str
    start: int
    scope: tree_sitter.Node
    member: bool
    top_level: bool


@dataclass(frozen=True)
class Use:
    """A place that names something. `shorthand`: JavaScript's `{a}`, which means `{a: a}`."""

    start: int
    stop: int
    shorthand: bool = False


class Scopes:
    """The bindings of one parsed file. Use `scopes_of`."""

    def __init__(self, source: Source, root: tree_sitter.Node) -> None:
        self._source = source
        self._root = root
        self._scopes: dict[int, bool] = {root.id: False}
        """By node id: whether the scope is a class."""
        raw: list[tuple[tree_sitter.Node, str, str]] = []
        for match in matches(source.language, "scopes", root):
            for capture, is_class in (("scope", False), ("class", True)):
                self._scopes.update((node.id, is_class) for node in match.get(capture, ()))
            owner = match["self"][0] if "self" in match else None
            raw += [
                (node, capture, self._text(owner) if owner is not None else "")
                for capture in ("name", "outer", "member")
                for node in match.get(capture, ())
            ]
        self._bindings: dict[str, dict[int, Binding]] = {}
        for node, capture, owner_text in raw:
            found = self._binding(node, capture, owner_text)
            if found is not None:
                self._bindings.setdefault(found.name, {})[found.start] = found

    def binds(self, name: str) -> list[Binding]:
        """All bindings of a name."""
        return list(self._bindings.get(name, {}).values())

    @cached_property
    def names(self) -> frozenset[str]:
        """All names that are bound anywhere in the file."""
        return frozenset(self._bindings)

    def binding_at(self, name: str, start: int) -> Binding | None:
        """The binding of a name at an offset."""
        return self._bindings.get(name, {}).get(start)

    def bound_within(self, name: str, scope: tree_sitter.Node) -> bool:
        """Whether a name is bound in a scope or in one around it."""
        around = {scope.id, self._root.id, *(one.id for one in ancestors(scope))}
        return any(one.scope.id in around for one in self.binds(name))

    def uses(self, name: str, scope: tree_sitter.Node, *, member: bool) -> list[Use]:
        """Where a name that was bound in `scope` is used there, its bindings not included.

        A scope inside that binds the name itself is left out. Of members only those of the
        language's `self_names` count.
        """
        shadowed = {one.scope.id for one in self.binds(name)} - {scope.id}
        bound = self._bindings.get(name, {})
        found = []
        for node, start in self._leaves(name, scope):
            is_member = self.is_member(node)
            implicit = member and not is_member and self._source.language.implicit_self
            if start in bound or (is_member != member and not implicit):
                continue
            if is_member and self.owner(node) not in self._source.language.self_names:
                continue
            if not is_member and (node.type not in _PLAIN or self._is_label(node)):
                continue
            if not is_member and self._inside(node, shadowed, scope):
                continue
            shorthand = node.type == "shorthand_property_identifier"
            found.append(Use(start, start + len(name), shorthand))
        return found

    def is_member(self, node: tree_sitter.Node) -> bool:
        """Whether a leaf is the member in `object.member`."""
        parent = node.parent
        if parent is None:
            return False
        if node.type in _MEMBER:
            return any(parent.child_by_field_name(field) is not None for field in _OWNERS)
        if any(_same(parent.child_by_field_name(field), node) for field in _MEMBER_FIELDS):
            return True
        owned = parent.type == "member_access_expression" or (
            parent.type == "method_invocation" and parent.child_by_field_name("object") is not None
        )
        return owned and _same(parent.child_by_field_name("name"), node)

    def owner(self, node: tree_sitter.Node) -> str:
        """The text of the object of a member."""
        parent = node.parent
        for field in _OWNERS:
            found = parent.child_by_field_name(field) if parent is not None else None
            if found is not None:
                return self._text(found)
        return ""

    def is_imported(self, node: tree_sitter.Node | None) -> bool:
        """Whether a leaf is in a statement that brings in names."""
        return node is not None and any(
            "import" in one.type or one.type == "use_declaration"
            for one in (node, *ancestors(node))
        )

    def leaf_at(self, start: int, stop: int) -> tree_sitter.Node | None:
        """The smallest node over a range of characters."""
        text = self._source.text
        first = byte_offset(text, start)
        last = first + len(text[start:stop].encode())
        return self._root.descendant_for_byte_range(first, last)

    def scope_of(self, node: tree_sitter.Node) -> tree_sitter.Node:
        """The innermost scope around a node."""
        return next((one for one in ancestors(node) if one.id in self._scopes), self._root)

    def is_class(self, scope: tree_sitter.Node) -> bool:
        """Whether a scope is a class."""
        return self._scopes.get(scope.id, False)

    def classancestors(self, node: tree_sitter.Node) -> tree_sitter.Node | None:
        """The innermost class around a node."""
        return next((one for one in ancestors(node) if self.is_class(one)), None)

    def _binding(self, node: tree_sitter.Node, capture: str, owner: str) -> Binding | None:
        scope = self.scope_of(node)
        if capture == "outer":
            scope = self.scope_of(scope) if scope.id != self._root.id else scope
        if capture == "member":
            around = self.classancestors(node)
            if owner not in self._source.language.self_names or around is None:
                return None
            scope = around
        member = capture == "member" or self.is_class(scope)
        start = self._source.at.char(node.start_byte)
        return Binding(self._text(node), start, scope, member, scope.id == self._root.id)

    def _leaves(self, name: str, scope: tree_sitter.Node) -> Iterator[tuple[tree_sitter.Node, int]]:
        text = self._source.text
        start = self._source.at.char(scope.start_byte)
        stop = self._source.at.char(scope.end_byte)
        pattern = re.compile(rf"(?<![\w$]){re.escape(name)}(?![\w$])")
        for count, found in enumerate(pattern.finditer(text, start, stop)):
            if count >= _MOST_USES:
                return
            node = self.leaf_at(found.start(), found.end())
            if node is not None and not node.child_count and self._text(node) == name:
                yield node, found.start()

    def _is_label(self, node: tree_sitter.Node) -> bool:
        """The name of an argument (`f(a=1)`), of a property that is set where an object is made
        (C#'s `new A { a = 1 }`), or the last part of a path (`a::b`)."""
        parent = node.parent
        if parent is None:
            return False
        if parent.type == "assignment_expression" and parent.parent is not None:
            left = _same(parent.child_by_field_name("left"), node)
            return left and parent.parent.type == "initializer_expression"
        named = _same(parent.child_by_field_name("name"), node)
        return named and parent.type in {
            "keyword_argument", "argument", "scoped_identifier", "scoped_type_identifier",
            "qualified_identifier", "qualified_type",
        }  # fmt: skip

    def _inside(self, node: tree_sitter.Node, shadowed: set[int], scope: tree_sitter.Node) -> bool:
        """Whether a scope between a use and `scope` binds the name itself. Methods do not see the
        names of their class where they need the object for that. A use that is too deep to tell
        counts as inside."""
        in_function, at = False, node
        for at in ancestors(node):
            if at.id == scope.id:
                return False
            is_class = self.is_class(at)
            hidden = is_class and in_function and not self._source.language.implicit_self
            if at.id in shadowed and not hidden:
                return True
            in_function = in_function or (at.id in self._scopes and not is_class)
        return at.parent is not None

    def _text(self, node: tree_sitter.Node) -> str:
        return self._source.data[node.start_byte : node.end_byte].decode("utf-8", "replace")


def scopes_of(source: Source) -> Scopes | None:
    """The scopes of a file; None where its language has none, or it was not parsed."""
    root = source.tree.root
    if root is None or not source.language.has_query("scopes"):
        return None
    return Scopes(source, root)


def _same(one: tree_sitter.Node | None, other: tree_sitter.Node) -> bool:
    return one is not None and one.id == other.id


# The rule.


def find_renames(scene: Scene) -> list[NextEdit]:
    """The uses that are left to rename, in the order in which to offer them."""
    scopes = scopes_of(scene.source)
    if scopes is None:
        return []
    clear = list(islice(_clear(scene, scopes), _MOST_RENAMES))
    for at, (one, uses, all_uses) in enumerate(clear):
        lines = {scene.line_of(use.start) for use, _ in uses}
        others = [pair for _, found, _ in (*clear[:at], *clear[at + 1 :]) for pair in found]
        found = _edits(
            scene, [*uses, *(pair for pair in others if scene.line_of(pair[0].start) in lines)]
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
        if scopes.is_imported(scopes.leaf_at(at, at + len(new))):
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
    gone = _words(old) - _words(rename.binding.name)
    starts = {one.start for one in uses}
    line = scene.line_of(use.start)
    at = scene.starts[line]
    for token in tokens(scene.lines[line]):
        shares = _is_derived(token, old) or (wide and gone and gone <= _words(token))
        if shares and is_identifier(token) and at not in starts:
            return True
        at += len(token)
    return False


def _is_derived(name: str, old: str) -> bool:
    """Whether a name has the words of another one, of which there are several, and more."""
    mine, theirs = (
        [word.lower() for word in _WORD.findall(one) if word != "_"] for one in (name, old)
    )
    size = len(theirs)
    starts = range(len(mine) - size + 1) if 1 < size < len(mine) else ()
    return any(mine[at : at + size] == theirs for at in starts)


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(name)} - {"_"}


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


def differ_in_number(one: str, other: str) -> bool:
    """Whether a word of one name stands in the other in the plural."""
    mine, theirs = _words(one), _words(other)
    left, right = mine - theirs, theirs - mine
    return any(_is_plural(*pair) or _is_plural(*pair[::-1]) for pair in product(left, right))


def _is_plural(word: str, other: str) -> bool:
    return other in {f"{word}s", f"{word}es", f"{word[:-1]}ies"}


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


def _edits(scene: Scene, uses: list[tuple[Use, str]]) -> list[NextEdit]:
    """One edit for each line with uses, which each get a new name."""
    by_line: dict[int, list[tuple[Use, str]]] = {}
    for use, new in sorted(uses, key=lambda one: one[0].start):
        by_line.setdefault(scene.line_of(use.start), []).append((use, new))
    return [NextEdit(*_replaced(scene.text, found), EditKind.RENAME) for found in by_line.values()]


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
