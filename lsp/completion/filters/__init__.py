"""What is done to an answer before it is shown: a chain of filters, one function each.

A filter takes the text and the site where it would be inserted, and returns the text for the next
filter; an empty text drops the suggestion. Every filter leaves alone what it does not understand.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from lsp.completion.filters.brackets import balance_brackets
from lsp.completion.filters.layout import (
    cut_control_tokens,
    fix_indentation,
    remove_unsafe_characters,
    strip_trailing_blanks,
    unify_line_ends,
)
from lsp.completion.filters.repetition import (
    cut_line_below,
    cut_loops,
    cut_suffix_overlap,
    drop_worthless,
)
from lsp.documents.site import Site

Filter = Callable[[str, Site], str]

CHAIN: MappingProxyType[str, Filter] = MappingProxyType(
    {
        "control_tokens": cut_control_tokens,
        "line_ends": unify_line_ends,
        "control_characters": remove_unsafe_characters,
        "repeated_lines": cut_loops,
        "indentation": fix_indentation,
        "duplicate_line": cut_line_below,
        "suffix_overlap": cut_suffix_overlap,
        "brackets": balance_brackets,
        "trailing_blanks": strip_trailing_blanks,
        "worthless": drop_worthless,
    }
)
"""The filters in the order in which they run; a name is the name of its golden file."""


def apply(text: str, site: Site) -> str:
    """`text` after the whole chain; empty if nothing worth showing is left."""
    for one in CHAIN.values():
        if not text:
            break
        text = one(text, site)
    return text
