"""A text with its syntax tree and its outline: what trimming, chunking and picking look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from context.language import Language, language_for
from context.outline import Outline, outline
from context.syntax import ByteMap, SyntaxTree, captures
from context.text import clean


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
