"""Makes every line of an answer end with a line feed.

Editors hold a buffer's lines without their ends, or turn what is inserted into the file's own, so a
carriage return would show as a stray character in the ghost text.
"""

from __future__ import annotations

from lsp.documents.site import Site


def unify_line_ends(text: str, _site: Site) -> str:
    """`text` with `\\r\\n` and lone `\\r` as `\\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
