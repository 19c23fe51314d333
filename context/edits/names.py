"""Names in a file: where they are bound and used, by the language's `scopes.scm`; and where other
files use what a document defines, by what they import. Offsets: characters.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import tree_sitter

from context.edits import Scene
from context.retrieval.definition_lookup import places
from context.syntax.document import Source
from context.syntax.syntax_tree import Import, ancestors, matches
from context.syntax.text import byte_offset

_PLAIN = frozenset(("identifier", "type_identifier", "shorthand_property_identifier"))
_MEMBER = frozenset(("property_identifier", "field_identifier"))
_OWNERS = ("object", "value", "operand", "argument", "expression")
_MEMBER_FIELDS = ("attribute", "property", "field")
_MOST_USES = 400
_MOST_FILES = 20
_MOST_CHARS = 1_000_000
_PACKAGE = re.compile(r"^[ \t]*+package[ \t]++([\w.]++)", re.MULTILINE)
_NAMESPACE = re.compile(r"^[ \t]*+namespace[ \t]++([\w.]++)", re.MULTILINE)
_PART = re.compile(r"[\w$]+")
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

    def class_around(self, node: tree_sitter.Node) -> tree_sitter.Node | None:
        """The innermost class around a node."""
        return next((one for one in ancestors(node) if self.is_class(one)), None)

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


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case: `read_file` and `readFile` have the same."""
    return [word.lower() for word in _WORD.findall(name) if word != "_"]


def differ_in_number(one: str, other: str) -> bool:
    """Whether a word of one name stands in the other in the plural."""
    mine, theirs = set(words_of(one)), set(words_of(other))
    left, right = mine - theirs, theirs - mine
    return any(_is_plural(*pair) or _is_plural(*pair[::-1]) for pair in product(left, right))


def _is_plural(word: str, other: str) -> bool:
    return other in {f"{word}s", f"{word}es", f"{word[:-1]}ies"}


# Other files.


@dataclass(frozen=True)
class OtherFile:
    """A file that can use what a document defines.

    Attributes:
        imports: its statements that bring in the name itself, from the document or from a file that
            re-exports it.
        expressions: what it writes to use it, such as `load`, `module.load` or `Shape.area`.
    """

    root: str
    path: str
    source: Source
    scopes: Scopes
    imports: tuple[Import, ...]
    expressions: frozenset[str]

    def uses(self, *, by_import: bool = True) -> list[Use]:
        """Where it uses the name: the last part of an expression.

        Args:
            by_import: also where it does by a name that `imports` bring in.
        """
        root, text = self.source.tree.root, self.source.text
        if root is None:
            return []
        found = {}
        brought = set() if by_import else {one.local for one in self.imports}
        for expression in self.expressions - brought:
            head, *rest = _PART.findall(expression)
            last = rest[-1] if rest else head
            for use in self.scopes.uses(head, root, member=False):
                stop = use.start + len(expression)
                whole = text.startswith(expression, use.start)
                if whole and not re.match(r"[\w$]", text[stop : stop + 1]):
                    shorthand = use.shorthand and not rest
                    found[stop] = Use(stop - len(last), stop, shorthand)
        return [found[stop] for stop in sorted(found)]


def mentioning(scene: Scene, name: str) -> Iterator[tuple[str, str, Source]]:
    """Root, path and source of some other files of the language that contain a name, the best
    first."""
    project, document = scene.project, scene.document
    if project is None:
        return
    read = 0
    for root, path in list(project.mentions(name))[:_MOST_FILES]:
        if (root, path) == (document.root, document.path):
            continue
        source = project.source(root, path)
        if source is not None and source.language.sees(scene.source.language.name):
            yield root, path, source
        read += len(source.text) if source is not None else 0
        if read > _MOST_CHARS:
            return


def other_files(scene: Scene, name: str, owner: str = "") -> Iterator[OtherFile]:
    """The files of the project that can use a name of the document, the best first.

    Args:
        name: of a function, a class or a value at the top of the document, or of a member of
            the class `owner` there that is reached through the class.
    """
    sources = list(mentioning(scene, name))
    outer = owner or name
    targets = {scene.document.path}
    while more := {
        path
        for _, path, source in sources
        if path not in targets and _re_exports(source, path, outer, targets)
    }:
        targets |= more
    for root, path, source in sources:
        imports, expressions = _reached(source, path, outer, targets)
        if _is_beside(scene, source, path, outer):
            expressions.add(outer)
        scopes = scopes_of(source) if imports or expressions else None
        if scopes is None:
            continue
        clear = {one for one in expressions if _is_brought_in(scopes, _PART.findall(one)[0])}
        if owner:
            imports = []
            clear = {f"{one}{_separator(source)}{name}" for one in clear}
        if imports or clear:
            yield OtherFile(root, path, source, scopes, tuple(imports), frozenset(clear))


def _reached(
    source: Source, path: str, name: str, targets: AbstractSet[str]
) -> tuple[list[Import], set[str]]:
    """The imports of a name from one of some files, and the expressions for it that imports make
    possible."""
    imports, expressions = [], set()
    for one in source.outline.imports:
        if not any(leads_to(source, one, path, target) for target in targets):
            continue
        if one.name == name:
            imports.append(one)
            if one.local:
                expressions.add(one.local)
        elif source.language.resolve.name_in_module:  # Java's `import a.b.Shape`
            expressions |= {name} if one.local == name else set()
        elif one.local and not _is_from(source, one, path, targets):
            owner = one.module if one.module.startswith(f"{one.local}.") else one.local
            expressions.add(f"{owner}{_separator(source)}{name}")
    return imports, expressions


def _is_from(source: Source, one: Import, path: str, targets: AbstractSet[str]) -> bool:
    """Whether an import brings in a name of the modules that it leads to, not one of them."""
    module = replace(one, name="")
    return bool(one.name) and not any(
        leads_to(source, one, path, target) and not leads_to(source, module, path, target)
        for target in targets
    )


def _re_exports(source: Source, path: str, name: str, targets: AbstractSet[str]) -> bool:
    """Whether a file is an index of a folder that brings in a name from one of some files."""
    stem = posixpath.splitext(posixpath.basename(path))[0]
    return stem in {"__init__", "index", "mod"} and any(
        one.name == one.local == name
        and any(leads_to(source, one, path, target) for target in targets)
        for one in source.outline.imports
    )


def _is_beside(scene: Scene, source: Source, path: str, name: str) -> bool:
    """Whether a file sees a name of the document without importing it: as part of the same package,
    or of a namespace that it is in or uses, where no other file defines the name."""
    rules = scene.source.language.resolve
    if not rules.same_folder or scene.project is None:
        return False
    if not rules.wildcard:
        return package_of(source, path) == package_of(scene.source, scene.document.path)
    defined = {one.path for one in scene.project.definitions(name) if one.top_level}
    mine, own = namespace_of(scene.source), namespace_of(source)
    used = not mine or f"{own}.".startswith(f"{mine}.")
    used = used or any(one.module == mine and not one.local for one in source.outline.imports)
    return used and defined == {scene.document.path}


def package_of(source: Source, path: str) -> str:
    """What the files of a package have in common, where they see each other's names; else empty."""
    if source.language.name == "java":
        found = _PACKAGE.search(source.text)
        return found[1] if found is not None else "."
    return posixpath.dirname(path) or "." if source.language.resolve.same_folder else ""


def namespace_of(source: Source) -> str:
    """The namespace that a file of C# declares; empty without one, and where there are several."""
    found = _NAMESPACE.findall(source.text)
    return found[0] if len(found) == 1 else ""


def _is_brought_in(scopes: Scopes, name: str) -> bool:
    """Whether a file gives a name no other meaning than that of its imports."""
    top = [one for one in scopes.binds(name) if one.top_level]
    return all(scopes.is_imported(scopes.leaf_at(one.start, one.start + len(name))) for one in top)


def _separator(source: Source) -> str:
    return "::" if source.language.resolve.separator == "::" else "."


def leads_to(source: Source, one: Import, path: str, target: str) -> bool:
    """Whether an import in the file `path` is about the file `target`."""
    rules = source.language.resolve
    if rules.name_in_module:  # Java: the file of a class, or the class of a static member
        parts = one.module.split(rules.separator)
        stem = "/" + posixpath.splitext(target)[0]
        return any(stem.endswith("/" + "/".join(found)) for found in (parts, parts[:-1]) if found)
    if rules.folder and not rules.wildcard:  # Go: the folder of a package
        folder = posixpath.dirname(target)
        return bool(folder) and f"/{one.module}".endswith(f"/{folder}")
    where = places(source.language, one, path)
    return target in where.exact or any(
        target == ending or target.endswith(f"/{ending}") for ending in where.endings
    )


def imported_file(scene: Scene, one: Import, names: Iterable[str]) -> Source | None:
    """The file that an import of the document is about, by its path, else as one that defines one
    of some names; None where it is not known."""
    project, document = scene.project, scene.document
    if project is None:
        return None
    for path in places(scene.source.language, one, document.path).exact:
        source = project.source(document.root, path)
        if source is not None and path != document.path:
            return source
    for found in (found for name in names for found in project.definitions(name)):
        if found.top_level and leads_to(scene.source, one, document.path, found.path):
            return project.source(found.root, found.path)
    return None


def name_in(scopes: Scopes, source: Source, one: Import) -> int | None:
    """Where the imported name stands in its statement."""
    text = source.text
    module = text.find(one.module, one.start, one.stop)
    if module < 0:
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
