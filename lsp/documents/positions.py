"""Positions in a line: between the client's code units and Python's characters.

LSP counts a position's `character` in the units that client and server agreed on at `initialize`
(LSP 3.18, "Position Encoding"). A text never holds lone surrogates here: `clean` replaces each by
U+FFFD, which takes as many units as the surrogate did in every encoding, so positions stay true.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

_SURROGATE = re.compile("[\ud800-\udfff]")


class Encoding(StrEnum):
    """What one unit of `character` is. The values are the protocol's names."""

    UTF8 = "utf-8"
    UTF16 = "utf-16"
    UTF32 = "utf-32"


class Place(NamedTuple):
    """A place in a document. Both count from 0; `column` counts characters (code points)."""

    line: int
    column: int


_CODEC = {Encoding.UTF8: ("utf-8", 1), Encoding.UTF16: ("utf-16-le", 2)}


def clean(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD.

    A client that works in UTF-16 may send half a pair; such text could not be encoded later.
    """
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def body(line: str) -> str:
    """The line without its end (`\\n`, `\\r\\n` or `\\r`)."""
    if line.endswith("\n"):
        return line[:-2] if line.endswith("\r\n") else line[:-1]
    return line.removesuffix("\r")


def to_column(line: str, units: int, encoding: Encoding) -> int:
    """The column that lies `units` into `line`.

    Past the end of the line it is the line's length without its end; inside a character it is
    that character's start.
    """
    limit = len(body(line))
    units = max(units, 0)
    if encoding is Encoding.UTF32 or line.isascii():
        return min(units, limit)
    codec, unit_bytes = _CODEC[encoding]
    # No character takes less than one unit, so nothing after the first `units` characters counts.
    head = line[: min(units, limit)].encode(codec)[: units * unit_bytes]
    return len(head.decode(codec, "ignore"))


def to_units(line: str, column: int, encoding: Encoding) -> int:
    """How many of the client's units the first `column` characters of `line` take."""
    if encoding is Encoding.UTF32 or line.isascii():
        return min(column, len(line))
    codec, unit_bytes = _CODEC[encoding]
    return len(line[:column].encode(codec)) // unit_bytes
