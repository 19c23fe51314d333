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
    authority = "//" + parts.netloc.lower() if parts.netloc or parts.scheme == "file" else ""
    query = f"?{parts.query}" if parts.query else ""
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return f"{parts.scheme.lower()}:{authority}{path}{query}{fragment}"


def path_of(uri: str) -> Path | None:
    """The path of a `file` URI; None for any other, and for one without a path."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    if parts.scheme.lower() != "file" or parts.path in ("", "/") or "\0" in unquote(parts.path):
        return None
    path = _with_drive(posixpath.normpath(unquote(parts.path)))
    if _DRIVE.match(path):
        return Path(path[1:])
    host = parts.netloc if parts.netloc.lower() not in ("", "localhost") else ""
    return Path(f"//{host}{path}") if host else Path(path)


def folders_of(uris: Iterable[str]) -> list[Path]:
    """The paths of workspace folders, each once, given their URIs as the client sent them."""
    return list(dict.fromkeys(path for uri in uris if (path := path_of(uri)) is not None))


def _with_drive(path: str) -> str:
    """A path with its drive letter in lower case: `/c:/x` for `/C:/x`."""
    found = _DRIVE.match(path)
    return f"/{found[1].lower()}:{path[3:]}" if found else path
