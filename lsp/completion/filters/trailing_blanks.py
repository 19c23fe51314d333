"""Strips blanks that would be left at the ends of lines."""

from __future__ import annotations

from lsp.documents.site import Site

_MARKDOWN = {"markdown", "mdx"}


def strip_trailing_blanks(text: str, site: Site) -> str:
    """`text` without blanks at the ends of its lines, and without line ends at its own.

    A blank before the rest of the cursor's line parts two words and stays. So do two blanks at the
    end of a line in Markdown, where they break the line.
    """
    from context.syntax.language import canonical_id

    hard_breaks = canonical_id(site.language_id) in _MARKDOWN
    lines = [_stripped(line, hard_breaks=hard_breaks) for line in text.split("\n")]
    last = text.rpartition("\n")[2]
    if site.line_suffix.strip() and last.strip():
        lines[-1] = last
    return "\n".join(lines).rstrip("\n")


def _stripped(line: str, *, hard_breaks: bool) -> str:
    stripped = line.rstrip(" \t")
    return f"{stripped}  " if hard_breaks and stripped and line.endswith("  ") else stripped
