"""Where names are bound and used in a file, by the language's `scopes.scm`. Offsets: characters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import tree_sitter

from context.syntax.document import Source
from context.syntax.syntax_tree import matches
from context.syntax.text import byte_offset

_PLAIN = frozenset(("identifier", "type_identifier", "shorthand_property_identifier"))
_MEMBER = frozenset(("property_identifier", "field_identifier"))
_OWNERS = ("object", "value", "operand")
_MEMBER_FIELDS = ("attribute", "property", "field")
_MOST_USES = 400


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
        around = {scope.id}
        node = scope.parent
        while node is not None:
            around.add(node.id)
            node = node.parent
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
        return (
            parent.type == "method_invocation"
            and parent.child_by_field_name("object") is not None
            and _same(parent.child_by_field_name("name"), node)
        )

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
        while node is not None:
            if "import" in node.type or node.type == "use_declaration":
                return True
            node = node.parent
        return False

    def leaf_at(self, start: int, stop: int) -> tree_sitter.Node | None:
        """The smallest node over a range of characters."""
        text = self._source.text
        first = byte_offset(text, start)
        last = first + len(text[start:stop].encode())
        return self._root.descendant_for_byte_range(first, last)

    def scope_of(self, node: tree_sitter.Node) -> tree_sitter.Node:
        """The innermost scope around a node."""
        at = node.parent
        while at is not None and at.id not in self._scopes:
            at = at.parent
        return at if at is not None else self._root

    def is_class(self, scope: tree_sitter.Node) -> bool:
        """Whether a scope is a class."""
        return self._scopes.get(scope.id, False)

    def class_around(self, node: tree_sitter.Node) -> tree_sitter.Node | None:
        """The innermost class around a node."""
        at = node.parent
        while at is not None and not self._scopes.get(at.id, False):
            at = at.parent
        return at

    def _binding(self, node: tree_sitter.Node, capture: str, owner: str) -> Binding | None:
        scope = self.scope_of(node)
        if capture == "outer":
            scope = self.scope_of(scope) if scope.id != self._root.id else scope
        if capture == "member":
            around = self.class_around(node)
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
        """The name of an argument (`f(a=1)`), or the last part of a path (`a::b`)."""
        parent = node.parent
        if parent is None:
            return False
        named = _same(parent.child_by_field_name("name"), node)
        return named and parent.type in {
            "keyword_argument", "scoped_identifier", "scoped_type_identifier", "qualified_type",
        }  # fmt: skip

    def _inside(self, node: tree_sitter.Node, shadowed: set[int], scope: tree_sitter.Node) -> bool:
        """Whether a scope between a use and `scope` binds the name itself. Methods do not see the
        names of their class where they need the object for that."""
        in_function = False
        at = node.parent
        while at is not None and at.id != scope.id:
            is_class = self.is_class(at)
            hidden = is_class and in_function and not self._source.language.implicit_self
            if at.id in shadowed and not hidden:
                return True
            in_function = in_function or (at.id in self._scopes and not is_class)
            at = at.parent
        return False

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
