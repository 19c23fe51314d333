"""An open document: its text, kept in step with the editor, and its syntax tree."""

from __future__ import annotations

from context.syntax.language import Language, language_for
from context.syntax.parsed_text import Source
from context.syntax.parser import SyntaxTree
from context.syntax.text import clean


class Document:
    """The text of a file as the editor has it. Offsets named `_byte` are in its UTF-8.

    A language server feeds it each change as it comes, `edit(start_byte, old_stop_byte, text)`
    for a range and `replace(text)` for a whole new text; the tree follows when it is asked for,
    parsing only what changed. A document is used from one thread at a time.

    Attributes:
        root, path: the workspace root it belongs to and its path from there with "/"; for a file
            outside of all roots, an empty root and its full path.
        revision: grows with each change.
        edited_chars: characters changed since the document was opened.
    """

    def __init__(self, root: str, path: str, text: str) -> None:
        self.root = root
        self.path = path
        self.text = clean(text)
        self.data = self.text.encode("utf-8")
        self.revision = 0
        self.edited_chars = 0
        self.language: Language | None = language_for(path, self.text)
        self._tree: SyntaxTree | None = None
        self._source: tuple[int, Source] | None = None

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
        if self._tree is not None:
            self._tree.edited(self.data, start, stop, start + len(inserted))

    def replace(self, text: str) -> None:
        """Take a whole new text; what it has in common with the old at both ends stays parsed."""
        new = clean(text).encode("utf-8")
        if new == self.data:
            return
        start = _common_prefix(self.data, new)
        stop = _common_suffix(self.data, new, start)
        start = min(_boundary(self.data, start), _boundary(new, start))
        while stop and _inside_character(new, len(new) - stop):
            stop -= 1
        self.edit(start, len(self.data) - stop, new[start : len(new) - stop].decode("utf-8"))

    @property
    def source(self) -> Source | None:
        """The document parsed; None where its language is not known."""
        if self.language is None:
            return None
        if self._source is None or self._source[0] != self.revision:
            if self._tree is None:
                self._tree = SyntaxTree(self.language, self.data)
            self._source = (
                self.revision,
                Source(self.text, self.data, self.language, self._tree),
            )
        return self._source[1]


def _inside_character(data: bytes, at: int) -> bool:
    return 0 < at < len(data) and data[at] & 0xC0 == 0x80


def _boundary(data: bytes, at: int) -> int:
    """`at`, or the start of the character that it lies in."""
    while _inside_character(data, at):
        at -= 1
    return at


_STEP = 4096


def _common_prefix(one: bytes, other: bytes) -> int:
    at, limit = 0, min(len(one), len(other))
    while at < limit and one[at : at + _STEP] == other[at : at + _STEP]:
        at += _STEP
    at = min(at, limit)
    while at < limit and one[at] == other[at]:
        at += 1
    return at


def _common_suffix(one: bytes, other: bytes, prefix: int) -> int:
    limit = min(len(one), len(other)) - prefix
    count = 0
    while count < limit and one[-1 - count] == other[-1 - count]:
        count += 1
    return count
