"""Cuts an answer at a character that a reader cannot see and that may deceive.

Bidirectional controls can make code read otherwise than it runs (CVE-2021-42574), and others change
names invisibly; C0 and C1 controls can drive a terminal.
"""

from __future__ import annotations

import re

from lsp.documents.site import Site

_UNSAFE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    "\u00ad\u061c\u180e"  # soft hyphen, Arabic letter mark, Mongolian vowel separator
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # zero width, line separators, bidi, isolates
    "\ufeff\ufff9-\ufffd"  # byte order mark, annotations, replacement of broken bytes
    "\ud800-\udfff\ue000-\uf8ff"  # surrogates, private use
    "\U000e0000-\U000e007f"  # tags
    "]"
)


def cut_unsafe_characters(text: str, _site: Site) -> str:
    """The text before the first unsafe character."""
    found = _UNSAFE.search(text)
    return text[: found.start()] if found else text
