"""Jupyter notebooks: code and Markdown of a `.ipynb` file as one text; outputs are never read.

Of code cells all lines are taken, in order; of Markdown cells the first line, as a comment
(nbformat 4 and 3, nbformat.readthedocs.io).
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

MAX_NOTEBOOK_BYTES = 16 << 20  # pictures in outputs make the file large; its code is not
_MAX_CELLS = 5000


class _Cell(msgspec.Struct):
    cell_type: str = ""
    source: str | list[str] = ""
    input: str | list[str] = ""


class _Sheet(msgspec.Struct):
    cells: list[_Cell] = []


class _Named(msgspec.Struct):
    name: str = ""
    language: str = ""


class _Metadata(msgspec.Struct):
    language_info: _Named = msgspec.field(default_factory=_Named)
    kernelspec: _Named = msgspec.field(default_factory=_Named)


class _File(msgspec.Struct):
    cells: list[_Cell] = []
    worksheets: list[_Sheet] = []
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


@dataclass(frozen=True)
class Notebook:
    """A notebook as text. `language_id` is the one that its metadata names; Python without one."""

    text: str
    language_id: str


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and whether it is code (else Markdown)."""

    text: str
    code: bool = True


def is_notebook(path: str) -> bool:
    return path.lower().endswith(".ipynb")


def parsed(text: str) -> Notebook | None:
    """The notebook in the text of a `.ipynb` file; None where it is not one."""
    try:
        file = msgspec.json.decode(text, type=_File)
    except (msgspec.MsgspecError, RecursionError):
        return None
    raw = file.cells or [cell for sheet in file.worksheets for cell in sheet.cells]
    cells = [
        Cell(_joined(cell.source or cell.input), cell.cell_type == "code")
        for cell in raw[:_MAX_CELLS]
        if cell.cell_type in {"code", "markdown"}
    ]
    meta = file.metadata
    language = meta.language_info.name or meta.kernelspec.language or "python"
    return Notebook(joined(cells), language)


def joined(cells: list[Cell], comment: str = "#") -> str:
    """Cells as one text, with a blank line after each."""
    parts = [cell.text if cell.code else _heading(cell.text, comment) for cell in cells]
    return "".join(f"{part.rstrip()}\n\n" for part in parts if part.strip())


def _heading(text: str, comment: str) -> str:
    first = next((line.strip(" #\t") for line in text.split("\n") if line.strip(" #\t")), "")
    return f"{comment} {first[:120]}" if first else ""


def _joined(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)
