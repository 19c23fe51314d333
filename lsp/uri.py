"""Documents, folders and notebooks by their URIs: the one place where a URI becomes a path, and is
compared; and the order of the cells in each open notebook.

Editors write the same URI in several ways (`file:///c%3A/x` and `file:///C:/x`), and a path may
hold every character that a URI escapes. So a URI is decoded once, here, and never a second time.

What comes before a cell is context for it. A client with `notebookDocument` synchronisation reports
the order and each change of it. Of another client only the opening of each cell is seen: the cells
that come before anything is edited are opened in the order of the notebook; where a later one was
inserted is not known.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from lsp.document import Document, one_line_end

_NOTEBOOK = ".ipynb"
_CELL_SCHEME = "vscode-notebook-cell"
_DRIVE = re.compile(r"^/([A-Za-z])[:|](?=[/\\]|$)")
_SAFE = "/:@!$&'()*+,;=-._~"  # what a path may hold as it is (RFC 3986, section 3.3)


def normal(uri: str) -> str:
    """One spelling for all spellings of a URI: scheme and drive letter in lower case, and only
    those characters escaped that must be. A text that is no URI stays as it is."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    if not parts.scheme:
        return uri
    scheme, place, name = parts.scheme.lower(), parts.netloc, parts.path
    if scheme == "file":
        place, name = _with_drive(place, name)
    path = _requoted(name, _SAFE)
    host = _requoted(place, _SAFE + "[]", bytes.lower)
    authority = "//" + host if host or scheme == "file" else ""
    query = f"?{_requoted(parts.query, _SAFE + '?')}" if parts.query else ""
    fragment = f"#{_requoted(parts.fragment, _SAFE + '?')}" if parts.fragment else ""
    return f"{scheme}:{authority}{path}{query}{fragment}"


def _requoted(part: str, safe: str, change: Callable[[bytes], bytes] = bytes) -> str:
    """A part with only those characters escaped that must be. Bytes that are no UTF-8, in the name
    of a file, stay what they are: two such names are two documents."""
    return quote(change(unquote_to_bytes(part.encode("utf-8", "surrogatepass"))), safe=safe)


def path_of(uri: str) -> Path | None:
    """The path of a `file` URI; None for any other, and for one without a path.

    A `file` URI has no query or fragment (RFC 8089), so a `?` or `#` in one is a character of the
    path that the client did not escape; the cells of a notebook are the exception.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    if parts.scheme.lower() != "file" or parts.path in ("", "/"):
        return None
    place, name = _with_drive(parts.netloc, parts.path)
    path = unquote(name).encode("utf-8", "replace").decode()
    if not is_notebook(path):
        path += f"?{unquote(parts.query)}" if parts.query else ""
        path += f"#{unquote(parts.fragment)}" if parts.fragment else ""
    if "\0" in path or not path.startswith("/"):
        return None
    path = posixpath.normpath(path)
    if _DRIVE.match(path):
        return Path(path[1:])
    host = place if place.lower() not in ("", "localhost") else ""
    return Path(f"//{host}{path}") if host else Path(path)


def is_notebook(path: str) -> bool:
    """Whether a path is that of a Jupyter notebook."""
    return path.lower().endswith(_NOTEBOOK)


def file_of(uri: str) -> tuple[Path, str]:
    """The path that a URI of any scheme names, and which document of this path it is.

    The second is empty for a file. It is the normal URI for a notebook's cell, a new text, or a
    version of a file in a diff view, which all may have the path of a file that is open too.
    """
    path = path_of(uri)
    try:
        parts = urlsplit(uri)
        if path is not None:
            view = normal(uri) if parts.fragment and is_notebook(unquote(parts.path)) else ""
            # Links are followed later, where every name counts.
            return path if path.is_absolute() else Path("/", path), view
        # Relative to no folder: the language server may run in one of the workspace.
        return Path("/", unquote(parts.path).replace("\0", "") or "untitled"), normal(uri)
    except (OSError, ValueError):  # no file has such a name
        return Path("/untitled"), normal(uri)


def notebook_of(uri: str) -> str:
    """What the URIs of the cells of one notebook share; empty for what is no cell."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return ""
    cell = parts.scheme.lower() == _CELL_SCHEME or is_notebook(unquote(parts.path))
    return normal(uri).partition("#")[0] if cell and parts.fragment else ""


def folders_of(uris: Iterable[str]) -> list[Path]:
    """The paths of workspace folders, each once, given their URIs as the client sent them."""
    return list(dict.fromkeys(path for uri in uris if (path := path_of(uri)) is not None))


def _with_drive(host: str, path: str) -> tuple[str, str]:
    """Host and path of a `file` URI, with a drive letter in lower case at the start of the path:
    `/c:/x` for `/C:/x`, and for what some editors send: `/C%3A%5Cx`, `/C|/x`, and `C:` as a host.
    Dot segments and repeated slashes are left out (RFC 3986, section 6.2.2.3)."""
    if _DRIVE.match(f"/{host}"):
        host, path = "", f"/{host}{path}"
    found = _DRIVE.match(unquote(path))
    if found is not None:
        path = unquote(path).replace("\\", "/")
        path = quote(f"/{found[1].lower()}:{path[3:]}", safe=_SAFE)
    clean = posixpath.normpath(path) if "/." in path or "//" in path[2:] else path
    return host, clean


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
    from context.syntax.language import cell_language_id, language_for

    own = cell_language_id(current.language, current.text)
    language = language_for("", "", own)
    chosen: list[Cell] = []
    chars = 0
    for uri, code in reversed(cells):
        document = document_of(uri)
        if document is None:
            continue
        same = cell_language_id(document.language, document.text) == own
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
