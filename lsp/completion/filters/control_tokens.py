"""Cuts an answer at a control token that leaked into its text."""

from __future__ import annotations

import re

from lsp.documents.site import Site

# Most families write them like these; what else a model has, the site names.
_BAR = "[|\uff5c]"
_LOOKS_LIKE_ONE = re.compile(rf"<{_BAR}[\w\u2581 ]{{2,40}}{_BAR}>|<fim_\w+>")


def cut_control_tokens(text: str, site: Site) -> str:
    """The text before the first control token."""
    at = first_control_token(text, site)
    return text if at is None else text[:at]


def first_control_token(text: str, site: Site) -> int | None:
    """Where the first control token stands. Those that the document itself spells out are text."""
    found = [at for token in site.control if token and (at := text.find(token)) >= 0]
    for match in _LOOKS_LIKE_ONE.finditer(text):
        if match[0] not in site.prefix and match[0] not in site.suffix:
            found.append(match.start())
            break
    return min(found, default=None)
