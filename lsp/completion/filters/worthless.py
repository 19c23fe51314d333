"""Drops an answer that is not worth a reader's glance."""

from __future__ import annotations

from lsp.documents.site import Site


def drop_worthless(text: str, site: Site) -> str:
    """Nothing, if `text` is empty, only comments, or says what stands after the cursor anyway.

    A comment is worth something where the cursor stands in one.
    """
    if not text.strip():
        return ""
    if text.strip() == site.line_suffix.strip():
        return ""
    if site.language.is_comment(site.line_prefix):
        return text
    first, *others = text.split("\n")
    lines = [line for line in (site.line_prefix + first, *others) if line.strip()]
    if all(site.language.is_comment(line) for line in lines):
        return ""
    return text
