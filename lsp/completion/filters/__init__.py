"""What is done to an answer before it is shown: a chain of filters, each in its own file.

A filter takes the text and the site where it would stand, and returns the text to go on with; an
empty text drops the suggestion. Every filter leaves alone what it does not understand.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from lsp.completion.filters.brackets import balance_brackets
from lsp.completion.filters.control_characters import remove_unsafe_characters
from lsp.completion.filters.control_tokens import cut_control_tokens
from lsp.completion.filters.duplicate_line import cut_line_below
from lsp.completion.filters.indentation import fix_indentation
from lsp.completion.filters.line_ends import unify_line_ends
from lsp.completion.filters.repeated_lines import cut_loops
from lsp.completion.filters.suffix_overlap import cut_suffix_overlap
from lsp.completion.filters.trailing_blanks import strip_trailing_blanks
from lsp.completion.filters.worthless import drop_worthless
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
"""The filters in the order in which they run; a name is the name of the filter's file."""


def apply(text: str, site: Site) -> str:
    """`text` after the whole chain; empty if nothing worth showing is left."""
    for one in CHAIN.values():
        if not text:
            break
        text = one(text, site)
    return text
