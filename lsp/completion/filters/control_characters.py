"""Removes characters that a reader cannot see and that may deceive; see `lsp.output`."""

from __future__ import annotations

from lsp.documents.site import Site
from lsp.output import without_unsafe_characters


def remove_unsafe_characters(text: str, site: Site) -> str:
    """`text` without unsafe characters; what scripts, emoji and the document need stays."""
    return without_unsafe_characters(text, site.prefix, site.suffix)
