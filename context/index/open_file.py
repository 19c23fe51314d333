"""Opens files: the one way in which the text of a file is read, for every part of the program.

A file is read only if it is regular, not too large, text in an encoding that it declares, and,
where roots are given, inside of one of them with all links followed. A Jupyter notebook is read as
one text without its outputs: all lines of code cells in its language, and the first line of
Markdown cells as a comment (nbformat 4 and 3, nbformat.readthedocs.io).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

_BINARY_LOOK_BYTES = 8192
_MOST_LINKS = 40
_MOST_BESIDE = 2_000
_CLOSED = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)

# Longest first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


_CONVERT = "Convert it to UTF-8, or name another file"


class UnreadableError(ValueError):
    """Why the text of a file is not available, in plain words.

    Attributes:
        advice: what the user can do about it.
    """

    def __init__(self, message: str, advice: str = "Name another file") -> None:
        super().__init__(message)
        self.advice = advice


def decoded(data: bytes, errors: str = "strict") -> str:
    """The text of a file's bytes: UTF-8 with or without a byte order mark, UTF-16 or UTF-32 with
    one. The mark is no part of the text.

    Args:
        errors: how bytes that are not valid are decoded, as in `bytes.decode`.

    Raises:
        UnreadableError: it is in another encoding, which nobody could tell for sure, or no text.
    """
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:_BINARY_LOOK_BYTES]:
        raise UnreadableError("the file is binary, not text", "Name a text file")
    try:
        return data.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise UnreadableError("the file is not text in UTF-8", _CONVERT) from error


def open_text(path: Path, max_bytes: int, roots: Sequence[Path] = ()) -> str:
    """The text of a file.

    Args:
        roots: folders; a file whose links lead out of all of them is not read. None: any file.

    Raises:
        UnreadableError: it says why not.
    """
    return decoded(read_bytes(path, max_bytes, roots))


def read_bytes(path: Path, max_bytes: int, roots: Sequence[Path] = ()) -> bytes:
    """The bytes of a file; arguments and errors as of `open_text`."""
    target = path
    if roots:
        found = inside(path, roots)
        if found is None:
            raise UnreadableError("it leads out of the workspace")
        target = found
    # The last part has no link in it any more where roots are given: none may come in now.
    flags = os.O_RDONLY | _CLOSED | _NO_WAIT | (_NO_LINK if roots else 0)
    try:
        with os.fdopen(os.open(target, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableError("it is not a regular file")
            data = file.read(max_bytes + 1)
    except UnreadableError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name is not valid"
        raise UnreadableError(
            f"the file cannot be read ({reason})", "Check its name and its permissions"
        ) from error
    if len(data) > max_bytes:
        raise UnreadableError(
            f"the file is too large (more than {_size(max_bytes)})", "Name a smaller file"
        )
    return data


def read_text(path: Path, max_bytes: int, roots: Sequence[Path] = ()) -> str | None:
    """`open_text`; None where it raises."""
    try:
        return open_text(path, max_bytes, roots)
    except UnreadableError:
        return None


def inside(path: Path, roots: Sequence[Path]) -> Path | None:
    """The file or folder that `path` leads to, with all links followed, if it is in one of `roots`.

    It need not exist: then the nearest folder above that does decides.
    """
    try:
        target = path.resolve()
        resolved = [root.resolve() for root in roots]
    except (OSError, RuntimeError, ValueError):
        return None
    return target if any(target.is_relative_to(root) for root in resolved) else None


def names_of(path: Path) -> tuple[Path, ...]:
    """All names under which a file is reached: `path`, those of the links on the way, of folders
    too, and the last.

    What may not be read by one of them may not be read at all.
    """
    found = [path]
    at = path
    try:
        for _ in range(_MOST_LINKS):
            link = next((one for one in (at, *at.parents) if one.is_symlink()), None)
            if link is None:
                break
            at = link.parent / link.readlink() / at.relative_to(link)
            found.append(at)
        found.append(path.resolve())
    except (OSError, RuntimeError, ValueError):
        pass
    return tuple(dict.fromkeys(found))


def names_beside(path: Path) -> list[str]:
    """Names of other files in the folder of `path`, of a large folder only some; none if it cannot
    be read."""
    try:
        with os.scandir(path.parent) as found:
            names = [one.name for one in islice(found, _MOST_BESIDE)]
    except OSError:
        return []
    return [name for name in names if name != path.name]


def _size(size_bytes: int) -> str:
    return f"{size_bytes >> 20} MiB" if size_bytes >> 20 else f"{size_bytes} bytes"


MAX_NOTEBOOK_BYTES = 16 << 20  # pictures in outputs make the file large; its code is not
_MAX_CELLS = 5000


class _Cell(msgspec.Struct):
    cell_type: object = ""
    source: object = ""
    input: object = ""


class _Sheet(msgspec.Struct):
    cells: object = None


class _File(msgspec.Struct):
    cells: list[msgspec.Raw] | None = None
    worksheets: list[_Sheet | None] | None = None
    metadata: object = None


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
    """The notebook in the text of a `.ipynb` file; None where it is not one.

    A cell, and a field beside the cells, that has another form than it should is passed over.
    """
    text = text.removeprefix("\ufeff")
    file: _File | None
    try:
        file = msgspec.json.decode(text, type=_File)
    except (msgspec.MsgspecError, RecursionError):
        file = _lenient(text)
    if file is None:
        return None
    sheets = [sheet.cells for sheet in file.worksheets or () if sheet is not None]
    old = [cell for cells in sheets if isinstance(cells, list) for cell in cells]
    raw: list[object] = [*(file.cells or old)][:_MAX_CELLS]
    read = [cell for cell in map(_cell, raw) if cell is not None]
    if raw and not read:
        return None
    cells = [
        Cell(_joined(cell.source or cell.input), cell.cell_type == "code")
        for cell in read
        if cell.cell_type in ("code", "markdown")
    ]
    from context.syntax.language import cell_language_id

    language = _language(file.metadata)
    own = cell_language_id(language, "")
    cells = [one for one in cells if not one.code or cell_language_id(language, one.text) == own]
    return Notebook(joined(cells), language)


def _lenient(text: str) -> _File | None:
    """The same of JSON as Python writes it, with NaN and halves of surrogate pairs."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    cells = found.get("cells") if isinstance(found, dict) else None
    return _File([*cells], None, found.get("metadata")) if isinstance(cells, list) else None


def _cell(raw: object) -> _Cell | None:
    try:
        if isinstance(raw, msgspec.Raw):
            return msgspec.json.decode(raw, type=_Cell)
        return msgspec.convert(raw, _Cell)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _language(metadata: object) -> str:
    """The language that a notebook's metadata names; Python without one."""
    fields = metadata if isinstance(metadata, dict) else {}
    for section, field in (("language_info", "name"), ("kernelspec", "language")):
        named = fields.get(section)
        name = named.get(field) if isinstance(named, dict) else None
        if isinstance(name, str) and name:
            return name
    return "python"


def joined(cells: list[Cell], comment: str = "#") -> str:
    """Cells as one text, with a blank line after each."""
    parts = [cell.text if cell.code else _heading(cell.text, comment) for cell in cells]
    return "".join(f"{part.rstrip()}\n\n" for part in parts if part.strip())


def _heading(text: str, comment: str) -> str:
    first = next((line.strip(" #\t") for line in text.split("\n") if line.strip(" #\t")), "")
    return f"{comment} {first[:120]}" if first else ""


def _joined(source: object) -> str:
    parts = source if isinstance(source, list) else [source]
    text = "".join(part for part in parts if isinstance(part, str))
    return text.encode("utf-8", "replace").decode()
