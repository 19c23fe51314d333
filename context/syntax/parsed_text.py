"""A text with its syntax tree and its outline: what trimming, chunking and picking look at.

Where the syntax of a text is broken, as its grammar sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import tree_sitter

from context.syntax.language import Language, language_for
from context.syntax.syntax_tree import ByteMap, Outline, SyntaxTree, captures, outline
from context.syntax.text import clean


@dataclass(frozen=True)
class Source:
    """A text, parsed. Offsets are characters of `text`; `data` is its UTF-8."""

    text: str
    data: bytes
    language: Language
    tree: SyntaxTree
    _known: dict[str, dict[str, list[tuple[int, int]]]] = field(default_factory=dict, repr=False)

    @cached_property
    def at(self) -> ByteMap:
        """Turns the tree's byte offsets into characters."""
        return ByteMap(self.data)

    @cached_property
    def outline(self) -> Outline:
        """Definitions and imports; empty where there is no tree."""
        return outline(self.language, self.tree, self.data, self.text)

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


def broken_by(path: str, before: str, after: str) -> tuple[int, ...]:
    """The broken lines of `after`, if it is more broken than `before`; empty otherwise."""
    old, new = damage(path, before), damage(path, after)
    return new if old is not None and new is not None and len(new) > len(old) else ()


def _line(node: tree_sitter.Node) -> int:
    return node.start_point.row
