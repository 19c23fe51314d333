"""Strips blanks that would be left at the ends of lines."""

from __future__ import annotations

from lsp.documents.site import Site


def strip_trailing_blanks(text: str, site: Site) -> str:
    """`text` without blanks at the ends of its lines, and without line ends at its own.

    A blank before the rest of the cursor's line parts two words and stays.
    """
    lines = [line.rstrip(" \t") for line in text.split("\n")]
    last = text.rpartition("\n")[2]
    if site.line_suffix.strip() and last.strip():
        lines[-1] = last
    return "\n".join(lines).rstrip("\n")
