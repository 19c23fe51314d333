"""Update calls after a signature changed: a parameter added, removed, renamed or moved.

The signature before is read from the text with the newest hunks taken back. Calls in lines that
were edited after it count as updated, and calls with unpacked arguments are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import tree_sitter

from context.edits import EditKind, NextEdit, Scene
from context.edits.history import Hunk, reverted, tokens
from context.edits.names import Scopes, differ_in_number, scopes_of
from context.syntax.document import Source, read
from context.syntax.text import byte_offset, common_ends

_MOST_CALLS = 200
_UNPACKED = frozenset(
    ("list_splat", "dictionary_splat", "spread_element", "list_splat_pattern", "variadic_argument")
)
_NAMES = ("name", "pattern", "declarator")
_DEFAULTS = ("value",)
_PLAIN_DECORATORS = frozenset(
    ("staticmethod", "classmethod", "abstractmethod", "override", "final", "cache", "lru_cache",
     "wraps", "deprecated", "contextmanager", "asynccontextmanager")
)  # fmt: skip
"""Decorators after which a function is called with the arguments that it declares."""


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name, and whether a call may leave it out."""

    name: str
    optional: bool


@dataclass(frozen=True)
class Change:
    """How the arguments of a call follow from those it has.

    Attributes:
        order: for each position now, the position before, or the name of an added parameter.
        before, after: the number of parameters.
        names: keyword arguments' new names by old; None for those that are gone.
    """

    order: tuple[int | str, ...]
    before: int
    names: dict[str, str | None]


def find(scene: Scene) -> list[NextEdit]:
    """The calls that are left to update, in the order in which to offer them."""
    scopes = scopes_of(scene.source)
    if scopes is None:
        return []
    for at in range(len(scene.hunks) - 1, -1, -1):
        hunk = scene.hunks[at]
        for function in _changed_functions(scene, hunk, scene.hunks[at:]):
            found = list(_updated(scene, scopes, function, scene.hunks[at:]))
            if found:
                return scene.nearest(found)
    return []


@dataclass(frozen=True)
class _Function:
    name: str
    start: int
    body: int
    change: Change


def _changed_functions(scene: Scene, hunk: Hunk, later: Sequence[Hunk]) -> Iterator[_Function]:
    if hunk.stale or not hunk.new or not hunk.old:
        return
    for one in scene.source.outline.definitions:
        if one.body is not None and _changes_signature(scene.source, one.name, one.start):
            continue
        first = scene.line_of(one.start) if one.body else -1
        head_stop = one.body[0] if one.body else one.start
        if one.body is None or not first < hunk.stop or scene.line_of(head_stop) < hunk.first:
            continue
        now = _parameters_at(scene.source, one.name, one.start)
        before = _before(scene, later)
        if now is None or before is None:
            continue
        was = _parameters_named(before, one.name, first)
        if was is None or was == now:
            continue
        change = compared(was, now)
        if change is not None:
            yield _Function(one.name, one.start, head_stop, change)


def _changes_signature(source: Source, name: str, start: int) -> bool:
    """Whether a decorator may give a function other parameters than it declares."""
    parameters = _node_with_parameters(source, name, start)
    around = parameters.parent.parent if parameters is not None and parameters.parent else None
    if around is None or around.type != "decorated_definition":
        return False
    decorators = [_text(source, one) for one in around.children if one.type == "decorator"]
    names = [one.removeprefix("@").partition("(")[0].strip().split(".")[-1] for one in decorators]
    return any(one not in _PLAIN_DECORATORS for one in names)


def compared(was: Sequence[Parameter], now: Sequence[Parameter]) -> Change | None:
    """What happened to the parameters; None where it is not one clear thing."""
    old, new = [one.name for one in was], [one.name for one in now]
    if len(set(old)) != len(old) or len(set(new)) != len(new):
        return None
    gone = [name for name in old if name not in new]
    added = [one for one in now if one.name not in old]
    if len(gone) == 1 and len(added) == 1 and len(old) == len(new):
        if old.index(gone[0]) != new.index(added[0].name):
            return None
        if differ_in_number(gone[0], added[0].name):
            return None
        renamed = {gone[0]: added[0].name}
        if [renamed.get(name, name) for name in old] != new:
            return None
        return Change(tuple(range(len(old))), len(old), dict(renamed))
    if len(gone) + len(added) > 1:
        return None
    if added and (added[0].optional or [name for name in new if name in old] != old):
        return None
    if gone and [name for name in old if name in new] != new:
        return None
    order = tuple(old.index(name) if name in old else name for name in new)
    return Change(order, len(old), dict.fromkeys(gone))


def _before(scene: Scene, hunks: Sequence[Hunk]) -> Source | None:
    """The text before some of the newest hunks, parsed; None where it cannot be known."""
    lines = reverted(scene.lines, hunks)
    return read("\n".join(lines), scene.source.language) if lines is not None else None


def _parameters_named(source: Source, name: str, line: int) -> list[Parameter] | None:
    """The parameters of the function of a name that starts at a line, or is the only one."""
    found = [one for one in source.outline.definitions if one.name == name and one.body]
    here = [one for one in found if source.text.count("\n", 0, one.start) == line]
    chosen = here or (found if len(found) == 1 else [])
    return _parameters_at(source, name, chosen[0].start) if len(chosen) == 1 else None


def _parameters_at(source: Source, name: str, start: int) -> list[Parameter] | None:
    """The parameters of the definition at an offset, without the object itself."""
    node = _node_with_parameters(source, name, start)
    if node is None or node.has_error:
        return None
    found: list[Parameter] = []
    language = source.language
    for one in node.named_children:
        if one.type == "comment":
            continue
        parameters = _parameter(one, source)
        if parameters is None:
            return None
        found += parameters
    if found and found[0].name in (*language.self_names, "self"):
        found = found[1:]
    return found


def _node_with_parameters(source: Source, name: str, start: int) -> tree_sitter.Node | None:
    root = source.tree.root
    at = byte_offset(source.text, start)
    node = root.descendant_for_byte_range(at, at) if root is not None else None
    for _ in range(12):
        if node is None:
            return None
        waiting = [node, *node.named_children]
        for one in waiting:
            named = one.child_by_field_name("name")
            found = one.child_by_field_name("parameters")
            if found is not None and named is not None and _text(source, named) == name:
                return found
        node = node.parent
    return None


def _parameter(node: tree_sitter.Node, source: Source) -> list[Parameter] | None:
    """The names that a node declares; None for what cannot be matched with arguments."""
    if node.type in {"identifier", "self_parameter"}:
        text = _text(source, node)
        return [Parameter("self" if node.type == "self_parameter" else text, optional=False)]
    named = next((n for f in _NAMES if (n := node.child_by_field_name(f)) is not None), None)
    if named is None and node.named_children and node.type == "typed_parameter":
        named = node.named_children[0]
    if named is None or named.type != "identifier":
        return None
    names = [n for n in node.children_by_field_name("name") if n.type == "identifier"] or [named]
    optional = node.type == "optional_parameter" or any(
        node.child_by_field_name(field) is not None for field in _DEFAULTS
    )
    return [Parameter(_text(source, one), optional) for one in names]


def _updated(
    scene: Scene, scopes: Scopes, function: _Function, later: Sequence[Hunk]
) -> Iterator[NextEdit]:
    bindings = scopes.binds(function.name)
    own = [one for one in bindings if function.start <= one.start < function.body]
    if not own:
        return
    binding = min(own, key=lambda one: one.start)
    same = [one for one in bindings if one.scope.id == binding.scope.id]
    if len(same) != 1:
        return
    uses = scopes.uses(function.name, binding.scope, member=binding.member)
    for use in uses[:_MOST_CALLS]:
        if any(scene.in_hunk(use.start, hunk) for hunk in later):
            continue
        arguments = _arguments(scopes.leaf_at(use.start, use.stop))
        if arguments is None or arguments.has_error:
            continue
        made = _rewritten(scene, scopes, arguments, function.change)
        if made is not None:
            start = scene.source.at.char(arguments.start_byte)
            stop = scene.source.at.char(arguments.end_byte)
            yield minimal(scene.text, NextEdit(start, stop, made, EditKind.SIGNATURE))


def minimal(text: str, edit: NextEdit) -> NextEdit:
    """An edit without what stays at both ends."""
    old, new = text[edit.start : edit.stop], edit.text
    head, tail = common_ends(old, new)
    return NextEdit(
        edit.start + head, edit.stop - tail, new[head : len(new) - tail], edit.kind,
        edit.root, edit.path,
    )  # fmt: skip


def _arguments(leaf: tree_sitter.Node | None) -> tree_sitter.Node | None:
    """The arguments of the call that a name is the function of."""
    node = leaf
    for _ in range(2):  # the name itself, or the member access that it ends
        parent = node.parent if node is not None else None
        if parent is None or node is None:
            return None
        arguments = parent.child_by_field_name("arguments")
        called = parent.child_by_field_name("function") or parent.child_by_field_name("name")
        if arguments is not None and called is not None and called.id == node.id:
            return arguments
        node = parent
    return None


def _is_brought(scene: Scene, scopes: Scopes, name: str, arguments: tree_sitter.Node) -> bool:
    """Whether a name is at hand in a call, and one of the edits brought it there or passed it on:
    else what stands for an added parameter is only guessed."""
    scope = scopes.scope_of(arguments)
    if not scopes.bound_within(name, scope):
        return False
    around = [one for one in scopes.binds(name) if one.scope.id == scope.id]
    if any(_is_new(scene, one.start, name) for one in around):
        return True
    return any(_is_new(scene, use.start, name) for use in scopes.uses(name, scope, member=False))


def _is_new(scene: Scene, offset: int, name: str) -> bool:
    """Whether one of the edits put a name where it stands."""
    return any(
        scene.in_hunk(offset, hunk) and not any(name in tokens(line) for line in hunk.old)
        for hunk in scene.hunks
    )


def _rewritten(
    scene: Scene, scopes: Scopes, arguments: tree_sitter.Node, change: Change
) -> str | None:
    """The new text of a call's arguments; None where it stays, or is not clear."""
    source = scene.source
    children = [one for one in arguments.named_children if one.type != "comment"]
    if any(one.type in _UNPACKED for one in children) or len(children) != len(
        arguments.named_children
    ):
        return None
    plain = [one for one in children if one.type != "keyword_argument"]
    keyed = children[len(plain) :]
    if any(one.type == "keyword_argument" for one in children[: len(plain)]):
        return None
    texts = [_text(source, one) for one in plain]
    keys = [_keyword(source, one) for one in keyed]
    names = [
        (change.names.get(key, key), value) if key in change.names else (key, value)
        for key, value in keys
    ]
    kept = [f"{key}={value}" for key, value in names if key is not None]
    moved = any(isinstance(one, str) or one != at for at, one in enumerate(change.order))
    shorter = len(change.order) < change.before
    if moved or shorter:
        added = next((one for one in change.order if isinstance(one, str)), "")
        if len(texts) + (len(keyed) if not added else 0) != change.before and not (
            shorter and len(texts) + len(keyed) <= change.before and len(keys) != len(kept)
        ):
            return None
        if len(texts) == change.before:
            made = [texts[one] if isinstance(one, int) else one for one in change.order]
            if added and not _is_brought(scene, scopes, added, arguments):
                return None
            texts = made
        elif len(keys) == len(kept):
            return None
    old_keys = [f"{key}={value}" for key, value in keys]
    if texts == [_text(source, one) for one in plain] and kept == old_keys:
        return None
    return f"({_spaced(source, arguments, [*texts, *kept])})"


def _spaced(source: Source, arguments: tree_sitter.Node, texts: list[str]) -> str:
    """Arguments in the form that they are written in: a line each, or on one line."""
    old = _text(source, arguments)[1:-1]
    if "\n" not in old or not texts:
        return ", ".join(texts)
    head = old[: len(old) - len(old.lstrip())]
    tail = old[len(old.rstrip()) :]
    comma = "," if old.rstrip().endswith(",") else ""
    between = f",{head}" if "\n" in head else ", "
    return head + between.join(texts) + comma + tail


def _keyword(source: Source, node: tree_sitter.Node) -> tuple[str, str]:
    name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
    return (
        _text(source, name) if name is not None else "",
        _text(source, value) if value is not None else "",
    )


def _text(source: Source, node: tree_sitter.Node) -> str:
    return source.data[node.start_byte : node.end_byte].decode("utf-8", "replace")
