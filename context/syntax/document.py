"""Texts with their syntax trees: an open document, kept in step with the editor, and what trimming,
chunking and picking read of any text."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import PurePath
from typing import NamedTuple

import tree_sitter

from context.syntax.language import Language, language_for
from context.syntax.secrets import ShownText
from context.syntax.syntax_tree import (
    MAX_PARSED_BYTES,
    ByteMap,
    Outline,
    Reach,
    SyntaxTree,
    captures,
    only_reach,
    outline,
    reach,
)
from context.syntax.text import clean, common_ends

Position = tuple[int, int]
"""A line and a column. Both count from 0, and columns count characters."""

_BLOCK_BYTES = 4096
_AROUND_BYTES = 2_000
_LONG_TEXT_BYTES = 300_000
_LONG_TEXT_LINES = 12_000
"""A text past one of these is parsed around the cursor only."""


class TextEdit(NamedTuple):
    """The text between `start` and `end` becomes `text`.

    Positions past the end of a line mean its end, and past the last line the end of the text.
    """

    start: Position
    end: Position
    text: str


class Document:
    """The text of a file as the editor has it. Offsets named `_byte` are in its UTF-8.

    A language server passes on each change: `apply` for edits of ranges, `replace` for a whole new
    text. The tree is updated when it is next needed, and only what changed is parsed. A document
    is used from one thread at a time.

    Attributes:
        root, path: the workspace root it belongs to and its path from there with "/"; for a file
            outside of all roots, an empty root and its full path.
        view: which of several documents of one path this is, such as a notebook's cell; empty for
            the file itself.
        names: all names under which the file is reached, in the form of `path`; links have several.
        language_id: the editor's name for the language; it decides, and the path only without it.
        revision: grows with each change.
        edited_chars: characters changed since the document was opened.
    """

    def __init__(
        self,
        root: str,
        path: str,
        text: str,
        language_id: str = "",
        beside: Collection[str] = (),
    ) -> None:
        self.root = root
        self.path = path
        self.view = ""
        self.names: tuple[str, ...] = (path,)
        self.language_id = language_id
        self.text = clean(text)
        self.data = self.text.encode("utf-8")
        self.revision = 0
        self.edited_chars = 0
        self.language: Language | None = language_for(path, self.text, language_id, beside)
        self._focus_byte = 0
        self._tree: SyntaxTree | None = None
        self._source: tuple[int, Source] | None = None
        self._shown: ShownText | None = None
        self._shown_source: tuple[Source, Source] | None = None

    def apply(self, edits: Iterable[TextEdit]) -> None:
        """Apply edits in order, each to the text that the one before it left.

        Every line end in the inserted text becomes "\\n", which is the only one that counts here.
        Of two positions in the wrong order the first is the earlier one.
        """
        for start, end, text in edits:
            first, last = sorted((start, end))
            text = text.replace("\r\n", "\n").replace("\r", "\n")  # noqa: PLW2901
            self.edit(_byte_at(self.data, first), _byte_at(self.data, last), text)

    def edit(self, start_byte: int, old_stop_byte: int, new_text: str) -> None:
        """Replace bytes `start_byte:old_stop_byte` by `new_text`; offsets are clamped."""
        old = self.data
        start = _boundary(old, min(max(start_byte, 0), len(old)))
        stop = _boundary(old, min(max(old_stop_byte, start), len(old)))
        inserted = clean(new_text).encode("utf-8")
        self.data = old[:start] + inserted + old[stop:]
        self.text = self.data.decode("utf-8")
        self.revision += 1
        self.edited_chars += max(stop - start, len(inserted))
        if self.language is not None and self.language.other:
            self._look_again(start, start + len(inserted))
        if self._tree is not None:
            self._tree.edited(self.data, start, stop, start + len(inserted))
        if self._shown is not None:
            first, old_chars = _chars(old[:start]), _chars(old[start:stop])
            self._shown.edited(self.text, first, first + old_chars, first + _chars(inserted))

    def replace(self, text: str, equal: tuple[int, int] = (0, 0)) -> None:
        """Take a whole new text; what it has in common with the old at both ends stays parsed.

        Args:
            equal: how many characters at the start and at the end are known to be the same; only
                the rest is compared.
        """
        old, new = self.text, clean(text)
        shorter = min(len(old), len(new))
        start = min(equal[0], shorter)
        end = min(equal[1], shorter - start)
        more = common_ends(old[start : len(old) - end], new[start : len(new) - end])
        start, end = start + more[0], end + more[1]
        if start + end == len(old) == len(new):
            return
        start_byte = _utf8_bytes(old[:start])
        stop_byte = len(self.data) - _utf8_bytes(old[len(old) - end :])
        self.edit(start_byte, stop_byte, new[start : len(new) - end])

    def _look_again(self, start_byte: int, stop_byte: int) -> None:
        """Whether an edit makes this another language: what is around it is looked at first."""
        start = self.data.rfind(b"\n", 0, max(start_byte - _AROUND_BYTES, 0)) + 1
        stop = self.data.find(b"\n", stop_byte)
        around = self.data[start : stop if stop >= 0 else len(self.data)].decode("utf-8")
        if language_for(self.path, around, self.language_id) is self.language:
            return
        found = language_for(self.path, self.text, self.language_id)
        if found is not self.language:
            self.language, self._tree, self._source = found, None, None

    @property
    def shown_path(self) -> str:
        """The path as a model sees it: of a file outside of all roots only its name."""
        return shown_path(self.root, self.path)

    @property
    def source(self) -> Source | None:
        """The document parsed; None where its language is not known."""
        if self.language is None:
            return None
        if self._source is None or self._source[0] != self.revision:
            within = self._within()
            if within is not None:
                self._tree = None
                tree = SyntaxTree(self.language, only_reach(self.data, within))
            else:
                tree = self._tree = self._tree or SyntaxTree(self.language, self.data)
            source = Source(self.text, self.data, self.language, tree, within)
            self._source = self.revision, source
        return self._source[1]

    def _within(self) -> Reach | None:
        """The part to parse of a very long text; None for all of it, and where none is parsed."""
        size = len(self.data)
        if size > MAX_PARSED_BYTES or (
            size <= _LONG_TEXT_BYTES and self.data.count(b"\n") <= _LONG_TEXT_LINES
        ):
            return None
        within = reach(self.data, self._focus_byte)
        return None if within == (0, len(self.data)) else within

    def look_at(self, byte: int) -> None:
        """Say where the cursor is: of a very long text `source` has what is around it."""
        self._focus_byte = byte
        within = self._source[1].parsed_bytes if self._source is not None else None
        if within is None:
            return
        near = within[0] + _AROUND_BYTES if within[0] else 0
        if not near <= byte <= within[1] - _AROUND_BYTES * (within[1] < len(self.data)):
            self._source = None

    @property
    def shown_text(self) -> str:
        """What a prompt may be made of: `text` with HIDDEN for each character of a secret.

        It is as long as `text`; `secrets.masked_runs` makes what is cut out of it readable.
        """
        if self._shown is None:
            self._shown = ShownText(self.text)
        return self._shown.text

    @property
    def shown_source(self) -> Source | None:
        """`source` over `shown_text`."""
        source, text = self.source, self.shown_text
        if source is None or text == source.text:
            return source
        if self._shown_source is None or self._shown_source[0] is not source:
            self._shown_source = (source, source.with_text(text))
        return self._shown_source[1]


def shown_path(root: str, path: str) -> str:
    """A file's path as a model sees it: no absolute path, which names the user."""
    return path if root else PurePath(path).name


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _chars(data: bytes) -> int:
    return len(data) if data.isascii() else len(data.decode("utf-8"))


def _inside_character(data: bytes, at: int) -> bool:
    return 0 < at < len(data) and data[at] & 0xC0 == 0x80


def _boundary(data: bytes, at: int) -> int:
    """`at`, or the start of the character that it is in."""
    while _inside_character(data, at):
        at -= 1
    return at


def _byte_at(data: bytes, position: Position) -> int:
    """The byte offset of a position in UTF-8 `data`."""
    line, column = position
    if line < 0:
        return 0
    start = _line_byte(data, line)
    if start is None:
        return len(data)
    found = data.find(b"\n", start)
    content = data[start : len(data) if found < 0 else found]
    column = max(column, 0)
    if content.isascii():
        return start + min(column, len(content))
    return start + len(content.decode("utf-8")[:column].encode("utf-8"))


def _line_byte(data: bytes, line: int) -> int | None:
    """Where line `line` begins; None past the last. Reads each byte about once, at C speed."""
    start, stop, left = 0, len(data), line
    while left and stop - start > _BLOCK_BYTES:
        middle = (start + stop) // 2
        lines = data.count(b"\n", start, middle)
        if lines < left:
            start, left = middle, left - lines
        else:
            stop = middle
    while left:
        found = data.find(b"\n", start)
        if found < 0:
            return None
        start, left = found + 1, left - 1
    return start


@dataclass(frozen=True)
class Source:
    """A text, parsed. Offsets are characters of `text`; `data` is its UTF-8.

    Attributes:
        parsed_bytes: the part of a very long text that the tree has, besides the text's start; None
            for all of it.
    """

    text: str
    data: bytes
    language: Language
    tree: SyntaxTree
    parsed_bytes: Reach | None = None
    _known: dict[str, dict[str, list[tuple[int, int]]]] = field(default_factory=dict, repr=False)

    @cached_property
    def at(self) -> ByteMap:
        """Turns the tree's byte offsets into characters."""
        return ByteMap(self.data)

    @cached_property
    def outline(self) -> Outline:
        """Definitions and imports; empty where there is no tree."""
        return outline(self.language, self.tree, self.data, self.text)

    @property
    def reach(self) -> tuple[int, int]:
        """The characters in which all definitions, comments and bodies are known."""
        first, stop = self.parsed_bytes or (0, len(self.data))
        return self.at.char(first), self.at.char(stop)

    def with_text(self, text: str) -> Source:
        """The same with another text of the same length; outline and spans stay."""
        other = replace(self, text=text)
        other.__dict__["outline"] = self.outline
        return other

    def spans(self, query: str, capture: str) -> list[tuple[int, int]]:
        """What a query of the language captures, in order, without the blanks around it."""
        known = self._known.get(query)
        if known is None:
            known = self._known[query] = {}
            root = self.tree.root
            found = captures(self.language, query, root) if root is not None else {}
            for name, nodes in found.items():
                spans = (self._stripped(node.start_byte, node.end_byte) for node in nodes)
                known[name] = sorted(set(spans))
        return known.get(capture, [])

    def _stripped(self, start_byte: int, stop_byte: int) -> tuple[int, int]:
        start, stop = self.at.char(start_byte), self.at.char(stop_byte)
        inner = self.text[start:stop]
        start += len(inner) - len(inner.lstrip())
        return start, start + len(inner.strip())


def read(text: str, language: Language) -> Source:
    """Parse `text` as `language`. Never fails: broken syntax gives a tree with errors in it."""
    text = clean(text)
    data = text.encode("utf-8")
    return Source(text, data, language, SyntaxTree(language, data))


def read_file(path: str, text: str) -> Source | None:
    """`read` with the language told by the file's name or first line; None if it is unknown."""
    language = language_for(path, text)
    return read(text, language) if language is not None else None


def damage(path: str, text: str) -> tuple[int, ...] | None:
    """The lines, counted from 0, that the grammar cannot read, one for each place.

    Returns:
        None where no grammar is known, or where the text is too large for one.
    """
    source = read_file(path, text)
    root = source.tree.root if source is not None else None
    if root is None:
        return None
    found: list[int] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node.is_error or node.is_missing:
            found.append(_line(node))
        elif node.has_error:
            waiting.extend(reversed(node.children))
    return tuple(sorted(found))


_known_damage = lru_cache(maxsize=2)(damage)
"""Of a text from which several edits start."""


def broken_by(path: str, before: str, after: str) -> tuple[int, ...]:
    """The broken lines of `after`, if it is more broken than `before`; empty otherwise."""
    old, new = _known_damage(path, before), damage(path, after)
    return new if old is not None and new is not None and len(new) > len(old) else ()


def _line(node: tree_sitter.Node) -> int:
    return node.start_point.row
