"""Syntax trees that follow edits, and the definitions and imports found in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import tree_sitter

from context.syntax.language import Language
from context.syntax.text import line_start

MAX_PARSED_BYTES = 4_000_000
"""Larger texts are treated as lines."""

MAX_LINE_BYTES = 20_000
"""So are texts with a longer line: minified code and data, which cost seconds to parse and help
nobody."""

_CONTINUATION = bytes(range(0x80, 0xC0))
_BLOCK = 1024


class ByteMap:
    """Turns UTF-8 byte offsets of a text into character offsets, a microsecond each."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._ascii = data.isascii()
        self._blocks: list[int] = []
        if not self._ascii:
            total = 0
            for start in range(0, len(data) + 1, _BLOCK):
                self._blocks.append(total)
                total += self._characters(start, start + _BLOCK)

    def _characters(self, start: int, stop: int) -> int:
        return len(self._data[start:stop].translate(None, _CONTINUATION))

    def char(self, byte: int) -> int:
        """How many characters begin before `byte`."""
        byte = max(0, min(byte, len(self._data)))
        if self._ascii:
            return byte
        block = byte // _BLOCK
        return self._blocks[block] + self._characters(block * _BLOCK, byte)


def _point(data: bytes, byte: int) -> tuple[int, int]:
    return data.count(b"\n", 0, byte), byte - (data.rfind(b"\n", 0, byte) + 1)


def _has_long_line(data: bytes) -> bool:
    at = 0
    while len(data) - at > MAX_LINE_BYTES:
        end = data.rfind(b"\n", at, at + MAX_LINE_BYTES + 1)
        if end < 0:
            return True
        at = end + 1
    return False


_FEWEST_STEPS = 2_000
_BYTES_A_STEP = 8  # code takes a step for 20 bytes or more
_BYTES_A_READ = 4  # code is read again from a place for 10 bytes or more
_PIECE_BYTES = 1 << 10
_EDITS_BETWEEN = 20


def parsed(
    parser: tree_sitter.Parser, data: bytes, old: tree_sitter.Tree | None = None
) -> tree_sitter.Tree | None:
    """The tree of a text; None where the parser gives up.

    Its recovery from errors takes more than linear time on some texts that are no code of the
    language, such as `<!--` over and over in Python, or `\\)` in a string of Lua: its steps are
    counted, and bounded, and so is what it reads again.

    Args:
        old: the earlier tree, moved along with the edits since.
    """
    left = _FEWEST_STEPS + len(data) // _BYTES_A_STEP
    reads_left = _FEWEST_STEPS + len(data) // _BYTES_A_READ

    def gives_up(_offset: int, _has_error: bool) -> bool:
        nonlocal left
        left -= 1
        return left < 0 or reads_left < 0

    def read(at: int, _point: object) -> bytes:
        nonlocal reads_left
        reads_left -= 1
        return data[at : at + _PIECE_BYTES] if reads_left >= 0 else b""

    try:
        if old is None:
            tree = parser.parse(read, progress_callback=gives_up)
        else:
            tree = parser.parse(read, old, progress_callback=gives_up)
    except ValueError:
        tree = None
    if tree is None or reads_left < 0:
        parser.reset()
        return None
    return tree


_LONG_LINES = 3_000
_LONG_BYTES = 192_000
_START_BYTES = 16_000
_INDENTED_LINES = 1_000

Reach = tuple[int, int]
"""Bytes of a text, from the first to just past the last."""


def reach(data: bytes, focus_byte: int) -> Reach:
    """The lines of a text around `focus_byte` that are parsed: some thousand on either side.

    They begin with one that is not indented, where there is one near. A text that is not parsed for
    its long lines has no such part: it is the whole.
    """
    if _has_long_line(data):
        return 0, len(data)
    focus = min(max(focus_byte, 0), len(data))
    first = _lines_back(data, focus, _LONG_LINES, max(focus - _LONG_BYTES, 0))
    for _ in range(_INDENTED_LINES):
        if not first or data[first : first + 1] not in b" \t\r\n})]":
            break
        first = _lines_back(data, first, 1, 0)
    stop, at = min(focus + _LONG_BYTES, len(data)), focus
    for _ in range(_LONG_LINES):
        at = data.find(b"\n", at, stop) + 1
        if not at:
            return first, len(data) if stop == len(data) else data.rfind(b"\n", focus, stop) + 1
    return first, at


def _lines_back(data: bytes, at: int, lines: int, least: int) -> int:
    """Where the line begins that is `lines` above that of `at`, or the first from `least` on."""
    start = data.rfind(b"\n", least, at) + 1
    for _ in range(lines):
        if start <= least:
            break
        start = data.rfind(b"\n", least, start - 1) + 1
    return start if start or not least else data.find(b"\n", least) + 1


def only_reach(data: bytes, within: Reach) -> bytes:
    """`data` with line ends for what is outside of `within` and not at its start, where the imports
    are. Offsets stay."""
    first, stop = within
    head = data.rfind(b"\n", 0, min(_START_BYTES, first)) + 1
    return data[:head] + b"\n" * (first - head) + data[first:stop] + b"\n" * (len(data) - stop)


class SyntaxTree:
    """The tree of one document; it is parsed, and parsed again after edits, when asked for.

    `root` is None where the text is too large or the parser gave up: then lines have to do.
    """

    def __init__(self, language: Language, data: bytes) -> None:
        self.language = language
        self._parser = tree_sitter.Parser(language.parser_language)
        self._data = data
        self._tree: tree_sitter.Tree | None = None
        self._current = False
        self._edits_to_wait = 0  # before a text on which the parser gave up is tried again

    def edited(self, data: bytes, start: int, old_stop: int, new_stop: int) -> None:
        """Follow one edit: bytes `start:old_stop` became `start:new_stop` of `data`."""
        if self._tree is not None:
            self._tree.edit(
                start,
                old_stop,
                new_stop,
                _point(self._data, start),
                _point(self._data, old_stop),
                _point(data, new_stop),
            )
        self._data = data
        self._current = False
        self._edits_to_wait -= 1

    @property
    def root(self) -> tree_sitter.Node | None:
        if not self._current:
            self._parse()
            self._current = True
        return self._tree.root_node if self._tree is not None else None

    def _parse(self) -> None:
        if len(self._data) > MAX_PARSED_BYTES or _has_long_line(self._data):
            self._tree = None
            return
        if self._edits_to_wait > 0:
            return
        self._tree = parsed(self._parser, self._data, self._tree)
        self._edits_to_wait = 0 if self._tree is not None else _EDITS_BETWEEN


_MOST_ANCESTORS = 400


def ancestors(node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    """The nodes around a node, the innermost first. Each is searched for from the root on, so of
    very deep nesting only the inner part is looked at."""
    at = node.parent
    for _ in range(_MOST_ANCESTORS):
        if at is None:
            return
        yield at
        at = at.parent


Match = dict[str, list[tree_sitter.Node]]

# A query over a damaged tree can hold very many unfinished matches; past this it drops some.
_MATCH_LIMIT = 4096


def matches(
    language: Language, query: str, node: tree_sitter.Node, span: tuple[int, int] | None = None
) -> list[Match]:
    """Matches of one of the language's queries under `node`, or in the byte range `span` of it."""
    cursor = tree_sitter.QueryCursor(language.query(query), match_limit=_MATCH_LIMIT)
    if span is not None:
        cursor.set_byte_range(*span)
    return [found for _, found in cursor.matches(node)]


def captures(
    language: Language, query: str, node: tree_sitter.Node
) -> dict[str, list[tree_sitter.Node]]:
    """All nodes that one of the language's queries captures under `node`, by capture."""
    cursor = tree_sitter.QueryCursor(language.query(query), match_limit=_MATCH_LIMIT)
    return cursor.captures(node)


_WORD = re.compile(r"[^\W\d][\w$]*[?!=]?|\$\w+")


class Kind(StrEnum):
    """What a definition is. A SCOPE (namespace, module) only holds others."""

    FUNCTION = "function"
    CLASS = "class"
    VALUE = "value"
    SCOPE = "scope"


@dataclass(frozen=True)
class Definition:
    """Something that has a name.

    Attributes:
        start, stop: the whole of it, decorators and `export` included.
        body: where its body lies; None where it has none.
        lead: start of the comments right above it, or `start`.
        parent: index of the definition around it, or -1.
    """

    name: str
    kind: Kind
    start: int
    stop: int
    body: tuple[int, int] | None
    lead: int
    parent: int = -1


@dataclass(frozen=True)
class Import:
    """A name that a file brings in.

    Attributes:
        start, stop: the statement (or the part of it that is about this module).
        module: text of the module as written.
        name: what it is called there; empty for the module itself.
        local: what it is called here; empty where the whole module is brought in.
    """

    start: int
    stop: int
    module: str
    name: str
    local: str


@dataclass(frozen=True)
class Outline:
    """Definitions by their start, and imports by theirs."""

    definitions: tuple[Definition, ...] = ()
    imports: tuple[Import, ...] = ()

    @cached_property
    def starts(self) -> tuple[int, ...]:
        return tuple(definition.start for definition in self.definitions)

    def enclosing(self, offset: int) -> list[Definition]:
        """Definitions around `offset`, outermost first."""
        return [one for one in self.definitions if one.start <= offset <= one.stop and one.body]

    def children(self, index: int) -> list[Definition]:
        """Definitions right inside definition `index` (-1: those of the file)."""
        return [one for one in self.definitions if one.parent == index]


def outline(language: Language, tree: SyntaxTree, data: bytes, text: str) -> Outline:
    """The outline of a text; empty where there is no tree."""
    root = tree.root
    if root is None:
        return Outline()
    at = ByteMap(data)
    return Outline(
        _definitions(language, root, at, text),
        _imports(language, root, at, data),
    )


def _definitions(
    language: Language, root: tree_sitter.Node, at: ByteMap, text: str
) -> tuple[Definition, ...]:
    found: dict[tuple[int, int], Definition] = {}
    for match in matches(language, "definitions", root):
        definition = _definition(language, match, at, text)
        if definition is None:
            continue
        key = (definition.start, definition.stop)
        known = found.get(key)
        if known is None or (known.body is None and definition.body is not None):
            found[key] = definition
    ordered = sorted(found.values(), key=lambda one: (one.start, -one.stop))
    nested: list[Definition] = []
    stack: list[int] = []
    for one in ordered:
        while stack and nested[stack[-1]].stop < one.stop:
            stack.pop()
        parent = stack[-1] if stack else -1
        nested.append(
            Definition(one.name, one.kind, one.start, one.stop, one.body, one.lead, parent)
        )
        stack.append(len(nested) - 1)
    return tuple(nested)


def _definition(language: Language, match: Match, at: ByteMap, text: str) -> Definition | None:
    kind = next((kind for kind in Kind if kind in match), None)
    if kind is None or "name" not in match:
        return None
    node = match[kind][0]
    name_node = match["name"][0]
    while node.parent is not None and node.parent.type in language.wrappers:
        node = node.parent
    name = last_word(text[at.char(name_node.start_byte) : at.char(name_node.end_byte)])
    if not name:
        return None
    start, stop = at.char(node.start_byte), at.char(node.end_byte)
    body = None
    if "body" in match:
        inner = match["body"][0]
        body = (at.char(inner.start_byte), at.char(inner.end_byte))
    return Definition(name, kind, start, stop, body, _lead(text, start, language.line_comment))


def last_word(text: str) -> str:
    """The name in a qualified or generic one: `b` of `a::b<T>`, `a.b`, `a:b`."""
    words = _WORD.findall(text.split("<", 1)[0][:200])
    return words[-1] if words else ""


def _lead(text: str, start: int, line_comment: str) -> int:
    """Where the comments begin that stand right above `start`, with nothing between."""
    lead = line_start(text, start)
    if text[lead:start].strip():
        return start
    at = lead
    while at > 0:
        above = line_start(text, at - 1)
        line = text[above : min(at, above + 400)].strip()
        if not line.startswith((line_comment, "/*", "*", "///")):
            break
        at = above
    return at if at < lead else start


def _imports(
    language: Language, root: tree_sitter.Node, at: ByteMap, data: bytes
) -> tuple[Import, ...]:
    found: dict[Import, None] = {}
    for match in matches(language, "imports", root):
        if "import" not in match:
            continue
        node = match["import"][0]
        start, stop = at.char(node.start_byte), at.char(node.end_byte)
        module = _text(match, "module", data).strip(language.resolve.strip + "\"' ")
        if "names" in match:
            found.update(
                (Import(start, stop, module, name, local), None)
                for name, local in _listed(match["names"][0], data)
            )
            continue
        names = [_decoded(node, data) for node in match.get("name", ())] or [""]
        alias = _text(match, "alias", data)
        found.update(
            (Import(start, stop, module, name, alias or name or _head(language, module)), None)
            for name in names
        )
    return tuple(sorted(found, key=lambda one: one.start))


def _listed(names: tree_sitter.Node, data: bytes) -> Iterator[tuple[str, str]]:
    """The names in a list, and what they are called here.

    A query that matched each of many names before their module would keep all of them waiting.
    """
    for node in names.named_children:
        name = node.child_by_field_name("name") or node.child_by_field_name("key") or node
        local = node.child_by_field_name("alias") or node.child_by_field_name("value") or name
        if name.child_count == 0 and local.child_count == 0 and name.type != "comment":
            yield _decoded(name, data), _decoded(local, data)


def _head(language: Language, module: str) -> str:
    """The local name of a module brought in whole: `a` for Python's `import a.b`, `b` else."""
    parts = [part for part in module.split(language.resolve.separator) if part]
    if not parts or language.resolve.wildcard:
        return ""
    return parts[0] if language.resolve.relative_dots else parts[-1]


def _text(match: Match, capture: str, data: bytes) -> str:
    return _decoded(match[capture][0], data) if capture in match else ""


def _decoded(node: tree_sitter.Node, data: bytes) -> str:
    return data[node.start_byte : node.end_byte].decode("utf-8", "replace")
