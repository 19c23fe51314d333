"""The other files of a workspace for the rules: its index, and the texts that are open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from context.edits.types import OtherDefinition
from context.index.open_file import read_text
from context.index.project_index import Index
from context.syntax.document import Source, read_file
from context.syntax.text import terms

MAX_FILE_BYTES = 1_000_000
_MOST_PASSAGES = 60


class IndexedFiles:
    """Files of an index.

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
                top_level=one.parent < 0,
            )
            for one in self._index.store.named([name])
            if not one.file.generated
        ]

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
