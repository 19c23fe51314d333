"""The order of the cells in each open notebook: what comes before a cell is context for it.

A client with `notebookDocument` synchronisation reports the order and each change of it. Of another
client only the opening of each cell is seen: the cells that come before anything is edited are
opened in the order of the notebook; where one that comes later was put in is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lsp.documents.document import Document, one_line_end
from lsp.documents.uri import normal, notebook_of

_MOST_CELLS = 5000
_MOST_CHARS = 1 << 17
_MARKUP = "markdown"


@dataclass
class _Notebook:
    """The normal URIs of its cells, in order; `code` has those that are known to be (no) code."""

    reported: bool
    cells: list[str] = field(default_factory=list)
    code: dict[str, bool] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    edited: bool = False


class Notebooks:
    """The notebooks of one editor."""

    def __init__(self) -> None:
        self._notebooks: dict[str, _Notebook] = {}
        self._of_cell: dict[str, str] = {}  # the notebook of each reported cell

    def opened(self, uri: str, cells: Sequence[tuple[str, bool]]) -> None:
        """The client has opened a notebook with these cells: URI, and whether it is code."""
        self.closed(uri)
        self._notebooks[normal(uri)] = _Notebook(reported=True)
        self.spliced(uri, 0, 0, cells)

    def spliced(
        self, uri: str, start: int, delete_count: int, cells: Sequence[tuple[str, bool]]
    ) -> None:
        """Cells of an open notebook were replaced by others. Counts from 0."""
        key = normal(uri)
        found = self._notebooks.get(key)
        if found is None:
            return
        start = max(start, 0)
        removed = found.cells[start : start + max(delete_count, 0)]
        added = [(normal(cell), code) for cell, code in cells]
        found.cells[start : start + len(removed)] = [cell for cell, _ in added]
        del found.cells[_MOST_CELLS:]
        for cell in removed:
            self._of_cell.pop(cell, None)
            found.code.pop(cell, None)
        found.code.update(added)
        self._of_cell.update((cell, key) for cell, _ in added)

    def changed_kinds(self, uri: str, cells: Iterable[tuple[str, bool]]) -> None:
        """Cells of an open notebook became code, or no code."""
        found = self._notebooks.get(normal(uri))
        if found is not None:
            kinds: Mapping[str, bool] = {normal(cell): code for cell, code in cells}
            found.code.update((cell, kinds[cell]) for cell in kinds if cell in found.code)

    def closed(self, uri: str) -> None:
        """The client has closed a notebook."""
        found = self._notebooks.pop(normal(uri), None)
        for cell in found.cells if found is not None else ():
            self._of_cell.pop(cell, None)

    def opened_cell(self, uri: str) -> None:
        """A document was opened. It is a cell if its URI says so."""
        cell, name = normal(uri), notebook_of(uri)
        if not name or cell in self._of_cell:
            return
        found = self._notebooks.setdefault(_unreported(name), _Notebook(reported=False))
        found.open.add(cell)
        if cell not in found.cells and not found.edited and len(found.cells) < _MOST_CELLS:
            found.cells.append(cell)

    def edited_cell(self, uri: str) -> None:
        """A document was edited: a cell that is opened after that may be anywhere."""
        found = self._notebooks.get(_unreported(notebook_of(uri)))
        if found is not None:
            found.edited = True

    def closed_cell(self, uri: str) -> None:
        """A document was closed. Its place is kept until the last cell of the notebook is."""
        key = _unreported(notebook_of(uri))
        found = self._notebooks.get(key)
        if found is not None:
            found.open.discard(normal(uri))
            if not found.open:
                del self._notebooks[key]

    def before(self, uri: str) -> list[tuple[str, bool | None]]:
        """The normal URIs of the cells before a cell, in order, and whether each is code (None if
        the client did not report that). Empty where the place of the cell is not known."""
        cell = normal(uri)
        found = self._notebooks.get(self._of_cell.get(cell) or _unreported(notebook_of(uri)))
        if found is None or cell not in found.cells:
            return []
        earlier = found.cells[: found.cells.index(cell)]
        return [(one, found.code.get(one)) for one in earlier]


def earlier_text(
    cells: Sequence[tuple[str, bool | None]],
    document_of: Callable[[str], Document | None],
    current: Document | None,
) -> str:
    """What a model should see of the cells before the current one.

    Cells of the same language are taken whole. Of Markdown before code the first line stays, as a
    comment, if the form of comments is known; cells of other languages are left out. Of a very
    long notebook the last cells count.

    Args:
        cells: as of `Notebooks.before`.
        document_of: the open document of a URI.
    """
    if current is None or not cells:
        return ""
    from context.index.open_file import Cell, joined
    from context.syntax.language import language_for

    language = language_for("", "", current.language)
    chosen: list[Cell] = []
    chars = 0
    for uri, code in reversed(cells):
        document = document_of(uri)
        if document is None:
            continue
        same = document.language == current.language
        markup = code is False or document.language == _MARKUP
        if not same and not (markup and language is not None):
            continue
        text = one_line_end(document.text)
        chars += len(text)
        if chars > _MOST_CHARS:
            break
        chosen.append(Cell(text, code=same))
    return joined(chosen[::-1], language.line_comment if language is not None else "#")


def _unreported(name: str) -> str:
    """The key of a notebook of which only cells are seen; no URI looks like it."""
    return f"cells of {name}" if name else ""
