"""Filters of characters: control tokens, line ends, invisible characters, trailing blanks."""

from __future__ import annotations

from lsp import output
from lsp.documents.site import Site

_MARKDOWN = {"markdown", "mdx"}


def cut_control_tokens(text: str, site: Site) -> str:
    """The text before the first control token that the document does not spell as text."""
    at = first_control_token(text, site)
    return text if at is None else text[:at]


def first_control_token(text: str, site: Site) -> int | None:
    """Where the first control token begins, or None."""
    return output.first_control_token(
        text, site.prefix, site.suffix, site.control, site.language_id
    )


def unify_line_ends(text: str, _site: Site) -> str:
    """`text` with every other kind of line end as `\\n`.

    Editors hold a buffer's lines without their ends, or insert text with the file's own, so a
    carriage return would show as a stray character in the ghost text.
    """
    return output.with_line_feeds(text)


def remove_unsafe_characters(text: str, site: Site) -> str:
    """`text` without unsafe characters; what scripts, emoji and the document need stays."""
    return output.without_unsafe_characters(text, site.prefix, site.suffix)


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
