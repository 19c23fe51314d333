"""Documents and folders by their URIs: the one place where a URI becomes a path, and is compared.

Editors write the same URI in several ways (`file:///c%3A/x` and `file:///C:/x`), and a path may
hold every character that a URI escapes. So a URI is decoded once, here, and never a second time.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

_NOTEBOOK = ".ipynb"
_CELL_SCHEME = "vscode-notebook-cell"
_DRIVE = re.compile(r"^/([A-Za-z]):(?=/|$)")
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
    path = quote(_with_drive(unquote(parts.path)), safe=_SAFE)
    host = quote(unquote(parts.netloc).lower(), safe=_SAFE + "[]")
    authority = "//" + host if host or parts.scheme == "file" else ""
    query = f"?{quote(unquote(parts.query), safe=_SAFE + '?')}" if parts.query else ""
    fragment = f"#{quote(unquote(parts.fragment), safe=_SAFE + '?')}" if parts.fragment else ""
    return f"{parts.scheme.lower()}:{authority}{path}{query}{fragment}"


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
    path = unquote(parts.path)
    if not is_notebook(path):
        path += f"?{unquote(parts.query)}" if parts.query else ""
        path += f"#{unquote(parts.fragment)}" if parts.fragment else ""
    if "\0" in path:
        return None
    path = _with_drive(posixpath.normpath(path))
    if _DRIVE.match(path):
        return Path(path[1:])
    host = parts.netloc if parts.netloc.lower() not in ("", "localhost") else ""
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
            return path.absolute(), view  # links are followed later, where every name counts
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


def _with_drive(path: str) -> str:
    """A path with its drive letter in lower case: `/c:/x` for `/C:/x`."""
    found = _DRIVE.match(path)
    return f"/{found[1].lower()}:{path[3:]}" if found else path
