"""What was edited, and the edits that follow from it, by rules or by a model.

Here: what the rules see (a document with its edits, and the other files) and what they propose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from context.edits.history import Hunk
from context.index.open_file import read_text
from context.syntax.document import Document, Source, read_file
from context.syntax.syntax_tree import Kind
from context.syntax.text import line_start, terms

if TYPE_CHECKING:
    from context.index.project_index import Index
    from context.index.store import EntryRow

__all__ = [
    "MAX_FILE_BYTES",
    "EditKind",
    "IndexedFiles",
    "NextEdit",
    "OtherDefinition",
    "Problem",
    "Project",
    "Scene",
    "gate",
    "history",
    "imports",
    "model_edits",
    "names",
    "renames",
    "siblings",
    "signatures",
]

MAX_FILE_BYTES = 1_000_000
_MOST_PASSAGES = 60


class EditKind(StrEnum):
    """Where a next edit comes from."""

    RENAME = "rename"
    SIGNATURE = "signature"
    IMPORT = "import"
    SIBLING = "sibling"
    MODEL = "model"


@dataclass(frozen=True)
class NextEdit:
    """A proposed edit: characters `start:stop` of a file become `text`.

    Attributes:
        root, path: the file, if it is not the current document; else empty.
        confidence: how sure a rule is, 0 to 1; 1 for an edit of a model, which is judged by the
            probabilities of its tokens.
    """

    start: int
    stop: int
    text: str
    kind: EditKind
    root: str = ""
    path: str = ""
    confidence: float = 1.0


@dataclass(frozen=True)
class OtherDefinition:
    """A definition in another file; `top_level` if it is in no other one but a namespace of C#."""

    root: str
    path: str
    language: str
    name: str
    text: str
    top_level: bool


class Project(Protocol):
    """The other files of the workspace, as an index knows them."""

    def definitions(self, name: str) -> Sequence[OtherDefinition]:
        """Where a name is defined; none where there are too many."""
        ...

    def mentions(self, name: str) -> Sequence[tuple[str, str]]:
        """Root and path of a bounded number of files that contain a name, the best first."""
        ...

    def source(self, root: str, path: str) -> Source | None:
        """A file as it is now, parsed."""
        ...


class IndexedFiles:
    """The files of an index, as a `Project`.

    Args:
        open_texts: texts of open documents by path; they count instead of what is on disk.
    """

    def __init__(self, index: Index, open_texts: Mapping[Path, str]) -> None:
        self._index = index
        self._open = open_texts
        self._sources: dict[tuple[str, str], Source | None] = {}

    def definitions(self, name: str) -> Sequence[OtherDefinition]:
        """Where a name is defined; none where there are too many."""
        return [
            OtherDefinition(
                one.file.root,
                one.file.path,
                one.file.language,
                one.name,
                one.text,
                top_level=self._is_top_level(one),
            )
            for one in self._index.store.named([name])
            if not one.file.generated
        ]

    def _is_top_level(self, row: EntryRow) -> bool:
        """Whether a definition is in no other one; C#'s namespaces are none."""
        rows: dict[int, EntryRow] = {}
        while row.parent >= 0 and row.file.language == "csharp":
            rows = rows or {one.position: one for one in self._index.store.entries_of(row.file)}
            above = rows.get(row.parent)
            if above is None or above.kind != Kind.SCOPE:
                return False
            row = above
        return row.parent < 0

    def mentions(self, name: str) -> Sequence[tuple[str, str]]:
        """Root and path of the files whose chunks contain a name, the best first."""
        words = terms(name).split()
        found = self._index.store.search(words[-1:], _MOST_PASSAGES)
        return list(dict.fromkeys((one.file.root, one.file.path) for one in found))

    def source(self, root: str, path: str) -> Source | None:
        """A file as it is now, parsed; None if it is not in the index or cannot be read."""
        key = root, path
        if key not in self._sources:
            self._sources[key] = self._read(root, path)
        return self._sources[key]

    def _read(self, root: str, path: str) -> Source | None:
        if self._index.store.file(root, path) is None:
            return None
        full = Path(root, path)
        text = self._open.get(full)
        if text is None:
            text = read_text(full, MAX_FILE_BYTES, self._index.roots)
        if text is None:
            return None
        return read_file(path, text.replace("\r\n", "\n").replace("\r", "\n"))


@dataclass(frozen=True)
class Problem:
    """What another language server reports about a line, from 0."""

    line: int
    message: str


@dataclass(frozen=True)
class Scene:
    """A document at a moment, with what was edited in it.

    Attributes:
        source: the document, parsed.
        cursor: in characters.
        hunks: of this document, the newest last.
        project: the other files; None where they may not be read.
        problems: what the editor shows as wrong in the document.
        accepted: old and new lines of the edits of this document that the user accepted.
    """

    document: Document
    source: Source
    cursor: int
    hunks: tuple[Hunk, ...]
    project: Project | None = None
    problems: tuple[Problem, ...] = ()
    accepted: frozenset[tuple[str, str]] = frozenset()

    @property
    def text(self) -> str:
        return self.source.text

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the text, without their ends."""
        return self.text.split("\n")

    @cached_property
    def starts(self) -> list[int]:
        """Where each line starts, in characters."""
        found, at = [], 0
        for line in self.lines:
            found.append(at)
            at += len(line) + 1
        return found

    def line_of(self, offset: int) -> int:
        """The line of a character offset, from 0."""
        return self.text.count("\n", 0, offset)

    def in_hunk(self, offset: int, hunk: Hunk) -> bool:
        """Whether an offset is in a line that a hunk changed."""
        return not hunk.stale and hunk.first <= self.line_of(offset) < max(hunk.stop, 1)

    def nearest(self, edits: Sequence[NextEdit]) -> list[NextEdit]:
        """Edits of this document in the order in which to offer them: those after the cursor from
        its line on, then those before it from the top."""
        line = line_start(self.text, self.cursor)
        return sorted(edits, key=lambda one: (one.start < line, one.start))
