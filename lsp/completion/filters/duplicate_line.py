"""Cuts from an answer what stands in the line below the cursor already."""

from __future__ import annotations

from lsp.documents.site import Site

_FEWEST_CHARS = 4
"""A shorter line, such as a lone bracket, may stand twice by right."""


def cut_line_below(text: str, site: Site) -> str:
    """The text before the first line that is the line below; nothing if it is the answer's first.

    The answer's first line is compared together with what stands before the cursor.
    """
    below = site.next_line.rstrip()
    if not below:
        return text
    first, *others = text.split("\n")
    if (site.line_prefix + first).rstrip() == below and not site.line_suffix.strip():
        return ""
    for at, line in enumerate(others):
        last = not any(other.strip() for other in others[at + 1 :])
        if line.rstrip() == below and (last or len(below.strip()) >= _FEWEST_CHARS):
            return "\n".join([first, *others[:at]])
    return text
