"""Syntax trees of documents, kept up to date by incremental parsing."""

from __future__ import annotations

import tree_sitter

from context.syntax.language import Language

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
        try:
            if self._tree is None:
                self._tree = self._parser.parse(self._data)
            else:
                self._tree = self._parser.parse(self._data, self._tree)
        except ValueError:  # the parser has no tree to give
            self._tree = None


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
