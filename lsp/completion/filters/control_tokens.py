"""Cuts an answer at a control token that leaked into its text; see `lsp.output`."""

from __future__ import annotations

from lsp import output
from lsp.documents.site import Site


def cut_control_tokens(text: str, site: Site) -> str:
    """The text before the first control token that the document does not spell as text."""
    at = first_control_token(text, site)
    return text if at is None else text[:at]


def first_control_token(text: str, site: Site) -> int | None:
    """Where the first control token begins, or None."""
    return output.first_control_token(
        text, site.prefix, site.suffix, site.control, site.language_id
    )
