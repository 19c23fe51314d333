"""Update calls after a signature changed: a parameter added, removed, renamed, moved, or made
keyword-only.

The signature before is read from the text with the newest hunks taken back. Calls in lines that
were edited after it count as updated, and calls with unpacked arguments are left alone. A
constructor is called by the name of its class.

After the file, calls in other files follow, where the change makes no difference to one that was
updated already: nobody knows what was edited there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import tree_sitter

from context.edits import EditKind, NextEdit, Scene
from context.edits.history import Hunk, is_identifier, reverted, tokens
from context.edits.names import Binding, Scopes, differ_in_number, other_files, scopes_of
from context.syntax.document import Source, read
from context.syntax.syntax_tree import Definition, Kind
from context.syntax.text import byte_offset, common_ends

_MOST_CALLS = 200
_UNPACKED = frozenset(
    ("list_splat", "dictionary_splat", "spread_element", "list_splat_pattern", "variadic_argument",
     "parameter_pack_expansion")
)  # fmt: skip
_NAMES = ("name", "pattern", "declarator", "left")
_DEFAULTS = ("value", "right", "default_value")
_RESTS = frozenset(
    ("list_splat_pattern", "rest_pattern", "variadic_parameter_declaration", "spread_parameter",
     "variadic_parameter")
)  # fmt: skip
_PATTERNS = frozenset(("object_pattern", "array_pattern", "this"))
_FUNCTIONS = ("function", "constructor", "type", "name")
_ARGUMENTS = frozenset(("argument_list", "arguments"))
_CONSTRUCTORS = frozenset(("__init__", "constructor"))
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
class Signature:
    """The parameters of a function.

    Attributes:
        positional: those that an argument without a name may stand for.
        keyword: those that are named in every call.
        rest: whether further arguments are taken, with a name or without.
    """

    positional: tuple[Parameter, ...]
    keyword: tuple[Parameter, ...] = ()
    rest: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class Change:
    """How the arguments of a call follow from those it has.

    Attributes:
        order: for each position now, the position before, or the name of an added parameter.
        before: the number of positions before.
        names: keyword arguments' new names by old; None for those that are gone.
        keyed: names of those that were positions and have to be named now, by position before.
        rest: whether a call may have more arguments than positions.
        exact: calls with fewer arguments than positions before are left alone.
    """

    order: tuple[int | str, ...]
    before: int
    names: dict[str, str | None]
    keyed: dict[int, str]
    rest: bool
    exact: bool = False


def find(scene: Scene) -> list[NextEdit]:
    """The calls that are left to update, in the order in which to offer them."""
    scopes = scopes_of(scene.source)
    if scopes is None:
        return []
    for at in range(len(scene.hunks) - 1, -1, -1):
        hunk = scene.hunks[at]
        for function in _changed_functions(scene, hunk, scene.hunks[at:]):
            binding = _called(scene, scopes, function)
            if binding is None:
                continue
            found = _updated(scene, scopes, binding, function.change)
            if found:
                return scene.nearest(found)
            in_other_files = list(_in_other_files(scene, binding, function))
            if in_other_files:
                return in_other_files
    return []


@dataclass(frozen=True)
class _Function:
    definition: Definition
    body: int
    change: Change


def _changed_functions(scene: Scene, hunk: Hunk, later: Sequence[Hunk]) -> Iterator[_Function]:
    last = max(hunk.stop, hunk.first + 1)
    if hunk.stale or hunk.first >= len(scene.starts):
        return
    start = scene.starts[hunk.first]
    stop = scene.starts[last] if last < len(scene.starts) else len(scene.text) + 1
    for one in scene.source.outline.definitions:
        if one.body is None or not one.start < stop or one.body[0] < start:
            continue
        first, head_stop = scene.line_of(one.start), one.body[0]
        if _changes_signature(scene.source, one.name, one.start) or _has_others(scene.source, one):
            continue
        now = _signature_at(scene.source, one.name, one.start)
        before = _before(scene, later)
        if now is None or before is None:
            continue
        was = _signature_named(before, one.name, first)
        if was is None or was == now:
            continue
        change = compared(was, now)
        if change is not None and not _is_in_use(scene, one, change):
            yield _Function(one, head_stop, change)


def _is_in_use(scene: Scene, one: Definition, change: Change) -> bool:
    """Whether a function still uses a parameter that it no longer has: then it is being edited."""
    gone = {name for name, new in change.names.items() if new is None}
    return bool(gone) and not gone.isdisjoint(_words(scene.text[one.start : one.stop]))


def _changes_signature(source: Source, name: str, start: int) -> bool:
    """Whether a decorator may give a function other parameters than it declares."""
    parameters = _node_with_parameters(source, name, start)
    around = parameters.parent.parent if parameters is not None and parameters.parent else None
    if around is None or around.type != "decorated_definition":
        return False
    decorators = [_text(source, one) for one in around.children if one.type == "decorator"]
    names = [one.removeprefix("@").partition("(")[0].strip().split(".")[-1] for one in decorators]
    return any(one not in _PLAIN_DECORATORS for one in names)


def _has_others(source: Source, one: Definition) -> bool:
    """Whether a function is declared several times, as with overloads."""
    around = [
        other for other in source.outline.definitions
        if other.name == one.name and other.parent == one.parent and other.body
    ]  # fmt: skip
    parameters = _node_with_parameters(source, one.name, one.start)
    node = parameters.parent if parameters is not None else None
    beside = node.parent.named_children if node is not None and node.parent is not None else []
    names = [other.child_by_field_name("name") for other in beside]
    same = [name for name in names if name is not None and _text(source, name) == one.name]
    return len(around) > 1 or len(same) > 1


def compared(was: Signature, now: Signature) -> Change | None:
    """What happened to the parameters; None where it is not one clear thing."""
    if was.rest != now.rest:
        return None
    old, new = _names(was.positional), _names(now.positional)
    before, after = old + _names(was.keyword), new + _names(now.keyword)
    if len(set(before)) != len(before) or len(set(after)) != len(after):
        return None
    gone = [name for name in before if name not in after]
    added = [one for one in (*now.positional, *now.keyword) if one.name not in before]
    if len(gone) == 1 and len(added) == 1:
        return _renamed(was, now, gone[0], added[0].name)
    if len(gone) + len(added) > 1 or any(one.name in _names(now.keyword) for one in added):
        return None
    keyed = {at: name for at, name in enumerate(old) if name in _names(now.keyword)}
    kept = [name for name in new if name in old]
    if any(name in _names(was.keyword) for name in new):
        return None
    if added and (added[0].optional or kept != old):
        return None
    if (gone or keyed) and kept != [name for name in old if name in new]:
        return None
    order = tuple(old.index(name) if name in old else name for name in new)
    return Change(order, len(old), dict.fromkeys(gone), keyed, was.rest[0])


def _renamed(was: Signature, now: Signature, gone: str, added: str) -> Change | None:
    """One parameter has another name; None if it is elsewhere too, or another one."""
    if differ_in_number(gone, added):
        return None
    for one, other in ((was.positional, now.positional), (was.keyword, now.keyword)):
        if [added if name == gone else name for name in _names(one)] != _names(other):
            return None
    count = len(was.positional)
    return Change(tuple(range(count)), count, {gone: added}, {}, was.rest[0])


def _names(parameters: Sequence[Parameter]) -> list[str]:
    return [one.name for one in parameters]


def _before(scene: Scene, hunks: Sequence[Hunk]) -> Source | None:
    """The text before some of the newest hunks, parsed; None where it cannot be known."""
    lines = reverted(scene.lines, hunks)
    return read("\n".join(lines), scene.source.language) if lines is not None else None


def _signature_named(source: Source, name: str, line: int) -> Signature | None:
    """The signature of the function of a name that starts at a line, or is the only one."""
    found = [
        one for one in source.outline.definitions
        if one.name == name and one.body and one.kind == Kind.FUNCTION
    ]  # fmt: skip
    here = [one for one in found if source.text.count("\n", 0, one.start) == line]
    chosen = here or (found if len(found) == 1 else [])
    return _signature_at(source, name, chosen[0].start) if len(chosen) == 1 else None


def _signature_at(source: Source, name: str, start: int) -> Signature | None:
    """The signature of the definition at an offset, without the object itself; None where a
    parameter cannot be matched with arguments."""
    node = _node_with_parameters(source, name, start)
    if node is None or node.has_error:
        return None
    positional: list[Parameter] = []
    keyword: list[Parameter] = []
    rest, others, named = False, False, False
    for one in node.named_children:
        inner = _inner(one)
        if one.type in {"comment", "positional_separator"}:
            continue
        if one.type in _RESTS or inner.type in _RESTS:
            rest = named = True
        elif one.type == "keyword_separator":
            named = True
        elif inner.type == "dictionary_splat_pattern":
            others = True
        else:
            found = _parameter(one, source)
            if found is None:
                return None
            (keyword if named else positional).extend(found)
    if positional and positional[0].name in (*source.language.self_names, "self"):
        positional = positional[1:]
    return Signature(tuple(positional), tuple(keyword), (rest, others))


def _inner(node: tree_sitter.Node) -> tree_sitter.Node:
    """What a parameter with a type or a pattern declares."""
    if node.type == "typed_parameter" and node.named_children:
        return node.named_children[0]
    return node.child_by_field_name("pattern") or node


def _node_with_parameters(source: Source, name: str, start: int) -> tree_sitter.Node | None:
    root = source.tree.root
    at = byte_offset(source.text, start)
    node = root.descendant_for_byte_range(at, at) if root is not None else None
    for _ in range(12):
        if node is None:
            return None
        for one in (node, *node.named_children):
            found = _parameters_of(one, source, name)
            if found is not None:
                return found
        node = node.parent
    return None


def _parameters_of(node: tree_sitter.Node, source: Source, name: str) -> tree_sitter.Node | None:
    """The parameters of the function of a name that a node defines."""
    named = node.child_by_field_name("name")
    value = node.child_by_field_name("value") if node.type == "variable_declarator" else None
    holder: tree_sitter.Node | None = value or node
    if named is None:  # C: the name stands in the declarator, which may be that of a pointer
        holder = node
        for _ in range(3):
            holder = holder.child_by_field_name("declarator") if holder is not None else None
            if holder is not None and holder.type == "function_declarator":
                named = holder.child_by_field_name("declarator")
                break
    if named is None or holder is None or _text(source, named) != name:
        return None
    return holder.child_by_field_name("parameters")


def _parameter(node: tree_sitter.Node, source: Source) -> list[Parameter] | None:
    """The names that a node declares; None for what cannot be matched with arguments."""
    if node.type in {"identifier", "self_parameter"} or node.type in _PATTERNS:
        text = _text(source, node)
        return [Parameter("self" if node.type == "self_parameter" else text, optional=False)]
    named = next((n for f in _NAMES if (n := node.child_by_field_name(f)) is not None), None)
    if named is None and node.named_children and node.type == "typed_parameter":
        named = node.named_children[0]
    for _ in range(4):  # C: pointers, references and arrays
        if named is None or not named.type.endswith("_declarator"):
            break
        deeper = named.child_by_field_name("declarator")
        named = deeper or (named.named_children[-1] if named.named_children else None)
    if named is None or not (named.type == "identifier" or named.type in _PATTERNS):
        return None
    names = [n for n in node.children_by_field_name("name") if n.type == "identifier"] or [named]
    optional = node.type == "optional_parameter" or any(
        node.child_by_field_name(field) is not None for field in _DEFAULTS
    )
    return [Parameter(_text(source, one), optional) for one in names]


def _updated(scene: Scene, scopes: Scopes, binding: Binding, change: Change) -> list[NextEdit]:
    """The calls of a function that have to change; those that share lines are one edit. A call of
    which a line was edited, before or after, is as the user wants it."""
    calls: list[tree_sitter.Node] = []
    for use in scopes.uses(binding.name, binding.scope, member=binding.member)[:_MOST_CALLS]:
        arguments = _arguments(scopes.leaf_at(use.start, use.stop))
        if arguments is None or arguments.has_error:
            continue
        first, last = scene.line_of(use.start), arguments.end_point[0]
        if not any(
            hunk.first <= last and first < max(hunk.stop, 1)
            for hunk in scene.hunks
            if not hunk.stale
        ):
            calls.append(arguments)
    return _edits(
        scene.source, calls, change, lambda name, call: _is_brought(scene, scopes, name, call)
    )


def _in_other_files(scene: Scene, binding: Binding, function: _Function) -> Iterator[NextEdit]:
    """The calls in other files of a function at the top of its file, of a class there, or of a
    member that is called by the name of its class."""
    change = _for_unknown_calls(function.change)
    name, owner = binding.name, ""
    if change is None or not (binding.member or binding.top_level):
        return
    if binding.member:
        parent = function.definition.parent
        around = scene.source.outline.definitions[parent] if parent >= 0 else None
        if around is None or around.parent >= 0 or _takes_object(scene, function.definition):
            return
        owner = around.name
    for other in other_files(scene, name, owner):
        found = [_arguments(other.scopes.leaf_at(one.start, one.stop)) for one in other.uses()]
        calls = [one for one in found if one is not None and not one.has_error][:_MOST_CALLS]
        for edit in _edits(other.source, calls, change, lambda *_: False):
            yield replace(edit, root=other.root, path=other.path)


def _takes_object(scene: Scene, one: Definition) -> bool:
    """Whether the first argument of a method that is called through its class is the object."""
    parameters = _node_with_parameters(scene.source, one.name, one.start)
    first = parameters.named_children[:1] if parameters is not None else []
    return [_text(scene.source, node) for node in first] in (["self"], ["&self"], ["&mut self"])


def _for_unknown_calls(change: Change) -> Change | None:
    """A change in the form that leaves alone a call that was updated before; None without one."""
    places = [one for one in change.order if isinstance(one, int)]
    if len(places) < len(change.order) or places != sorted(places):
        return None  # parameters were added, or others stand first
    if change.rest and len(places) != change.before:
        return None  # further arguments may have taken the places
    is_last = places == list(range(len(places)))
    return change if is_last else replace(change, exact=True)


def _edits(
    source: Source,
    calls: Sequence[tree_sitter.Node],
    change: Change,
    is_brought: Callable[[str, tree_sitter.Node], bool],
) -> list[NextEdit]:
    """The edits of some calls' arguments, the inner calls first."""
    made: list[tuple[int, int, str]] = []
    for arguments in sorted(calls, key=lambda one: one.end_byte - one.start_byte):
        text = _rewritten(source, arguments, change, made, is_brought)
        if text is not None:
            start, stop = arguments.start_byte, arguments.end_byte
            made = [one for one in made if not start <= one[0] < stop] + [(start, stop, text)]
    return _by_line(source, sorted(made))


def _by_line(source: Source, made: Sequence[tuple[int, int, str]]) -> list[NextEdit]:
    """Edits of bytes as edits of characters, with all that touch the same lines as one."""
    text, at = source.text, source.at
    found: list[NextEdit] = []
    for first, last, new in made:
        start, stop = at.char(first), at.char(last)
        known = found[-1] if found else None
        if known is not None and "\n" not in text[known.stop : start]:
            whole = known.text + text[known.stop : start] + new
            found[-1] = NextEdit(known.start, stop, whole, EditKind.SIGNATURE)
        else:
            found.append(NextEdit(start, stop, new, EditKind.SIGNATURE))
    return [minimal(text, one) for one in found]


def _called(scene: Scene, scopes: Scopes, function: _Function) -> Binding | None:
    """The one binding of the name by which a function is called: of itself, or of its class."""
    one = function.definition
    head = one.start, function.body
    around = scene.source.outline.definitions[one.parent] if one.parent >= 0 else None
    name = one.name
    if (
        around is not None
        and around.kind == Kind.CLASS
        and around.body is not None
        and (name in _CONSTRUCTORS or name == around.name)
    ):
        name, head = around.name, (around.start, around.body[0])
    bindings = scopes.binds(name)
    own = [binding for binding in bindings if head[0] <= binding.start < head[1]]
    if not own:
        return None
    binding = min(own, key=lambda one: one.start)
    same = [other for other in bindings if other.scope.id == binding.scope.id]
    return binding if len(same) == 1 else None


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
        called = [parent.child_by_field_name(field) for field in _FUNCTIONS]
        if arguments is not None and any(one is not None and one.id == node.id for one in called):
            return arguments
        if parent.end_byte != node.end_byte:
            return None  # the object of a member that is called
        node = parent
    return None


def _is_brought(scene: Scene, scopes: Scopes, name: str, arguments: tree_sitter.Node) -> bool:
    """Whether a name is at hand in a call, and one of the edits brought it there or passed it on:
    else what stands for an added parameter is only guessed."""
    scope = scopes.scope_of(arguments)
    if not is_identifier(name) or not scopes.bound_within(name, scope):
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
    source: Source,
    arguments: tree_sitter.Node,
    change: Change,
    made: Sequence[tuple[int, int, str]],
    is_brought: Callable[[str, tree_sitter.Node], bool],
) -> str | None:
    """The new text of a call's arguments; None where it stays, or is not clear.

    Args:
        made: bytes of other calls and their new text, for those inside of this one.
        is_brought: whether a name may stand for an added parameter in a call.
    """
    children = arguments.named_children
    if arguments.type not in _ARGUMENTS:
        return None
    if any(one.type in _UNPACKED or one.type == "comment" for one in children):
        return None
    plain = [one for one in children if not _is_keyed(one)]
    keyed = children[len(plain) :]
    if any(map(_is_keyed, children[: len(plain)])):
        return None
    texts = [_with_edits(source, one, made) for one in plain]
    keys = [_keyword(source, one, made) for one in keyed]
    if any(key is None for key in keys):
        return None
    given = [key for key in keys if key is not None]
    kept = [
        (change.names[key], value) if key in change.names else (key, value) for key, value in given
    ]
    moved = _placed(change, texts, lambda name: is_brought(name, arguments))
    if moved is None:
        return None
    named = [(name, texts[at]) for at, name in sorted(change.keyed.items()) if at < len(texts)]
    listed = [f"{key}={value}" for key, value in (*named, *kept) if key is not None]
    if moved == texts and listed == [f"{key}={value}" for key, value in given]:
        return None
    if any(key in change.names and key in _words(value) for key, value in given):
        return None  # what is passed has the old name too, and may get another one
    spaced = _spaced(source, arguments, [*moved, *listed])
    return f"({spaced})" if spaced is not None else None


def _placed(
    change: Change, texts: Sequence[str], is_brought: Callable[[str], bool]
) -> list[str] | None:
    """The arguments without a name as they have to stand now; None where that is not clear."""
    count = len(texts)
    if (count > change.before and not change.rest) or (count < change.before and change.exact):
        return None
    added = next((one for one in change.order if isinstance(one, str)), "")
    if added:
        if count < change.before or not is_brought(added):
            return None
        found = [texts[one] if isinstance(one, int) else one for one in change.order]
        return found + list(texts[change.before :])
    places = [one for one in change.order if isinstance(one, int)]
    there = next((at for at, one in enumerate(places) if one >= count), len(places))
    if any(one < count for one in places[there:]):
        return None  # one that was left out stands before one that was not
    return [texts[one] for one in places[:there]] + list(texts[change.before :])


def _with_edits(
    source: Source, node: tree_sitter.Node, made: Sequence[tuple[int, int, str]]
) -> str:
    """The text of a node with the edits inside of it made."""
    found, at = "", node.start_byte
    for start, stop, text in sorted(made):
        if at <= start and stop <= node.end_byte:
            found += source.data[at:start].decode("utf-8", "replace") + text
            at = stop
    return found + source.data[at : node.end_byte].decode("utf-8", "replace")


def _words(text: str) -> list[str]:
    return [one for one in tokens(text) if is_identifier(one)]


def _spaced(source: Source, arguments: tree_sitter.Node, texts: list[str]) -> str | None:
    """Arguments in the form that they are written in: a line each, or on one line; None where
    their lines were broken in another way, which may be done again."""
    old = _text(source, arguments)[1:-1]
    if "\n" not in old or not texts:
        return ", ".join(texts)
    children = arguments.named_children
    lines = {one.start_point[0] for one in children} | {arguments.start_point[0]}
    if len(lines) <= len(children) or any("\n" in _text(source, one) for one in children):
        return None
    head = old[: len(old) - len(old.lstrip())]
    tail = old[len(old.rstrip()) :]
    comma = "," if old.rstrip().endswith(",") else ""
    between = f",{head}" if "\n" in head else ", "
    return head + between.join(texts) + comma + tail


def _is_keyed(node: tree_sitter.Node) -> bool:
    """Whether an argument is given by the name of its parameter."""
    named = node.type == "argument" and node.child_by_field_name("name") is not None
    return node.type == "keyword_argument" or named


def _keyword(
    source: Source, node: tree_sitter.Node, made: Sequence[tuple[int, int, str]]
) -> tuple[str, str] | None:
    """Name and value of a named argument; None where they are written otherwise than `a=b`."""
    name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
    if node.type != "keyword_argument" or name is None or value is None:
        return None
    return _text(source, name), _with_edits(source, value, made)


def _text(source: Source, node: tree_sitter.Node) -> str:
    return source.data[node.start_byte : node.end_byte].decode("utf-8", "replace")
