"""Drops an answer that is not worth a reader's glance."""

from __future__ import annotations

from lsp.documents.site import Site

_LOOK_CHARS = 1 << 14


def drop_worthless(text: str, site: Site) -> str:
    """Nothing, if `text` is empty, only comments, or says what stands after the cursor anyway.

    A comment is worth something where the cursor stands in one.
    """
    if not text.strip():
        return ""
    if text.strip() == site.line_suffix.strip():
        return ""
    language = site.language
    above = site.prefix[: len(site.prefix) - len(site.line_prefix)]
    if site.line_prefix.strip() and language.only_comments(site.line_prefix, above):
        return text
    if language.in_comment(site.prefix[-_LOOK_CHARS:]):
        return text
    return "" if language.only_comments(site.line_prefix + text, above) else text
