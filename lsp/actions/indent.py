"""Puts code where it belongs: at the indentation of the lines that it replaces. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lsp.site import leading_blanks, width

_UNIT = 4


def fitted(code: str, like: str) -> str:
    """`code` moved as a whole to where `like` stands, in the blanks that `like` is written in.

    Models answer from the first column, or from where the code stood, or begin with the first line
    at the first column and go on where the code stood.
    """
    lines, old = code.split("\n"), like.split("\n")
    if _uses_tabs(old) and not _uses_tabs(lines):
        unit = _step(lines)
        lines = [_with_tabs(line, unit) for line in lines]
    target = _least(old)
    first = _blanks_of_first(old)
    if _first_stands_out(lines, old):
        return "\n".join([first + lines[0].lstrip(), *lines[1:]])
    base = _least(lines)
    return "\n".join(target + line[len(base) :] if line.strip() else "" for line in lines)


def place_for(lines: Sequence[str], at: int) -> str:
    """A line such as might stand in the blank line `at`: its own blanks, or those of the nearest
    line above that says something."""
    if lines[at]:
        return f"{lines[at]}x"
    above = next((line for line in reversed(lines[:at]) if line.strip()), "")
    return f"{leading_blanks(above)}x"


def _first_stands_out(lines: list[str], old: list[str]) -> bool:
    """The first line lost its indentation, the others kept theirs."""
    if len(lines) < 2 or len(old) < 2 or not _blanks_of_first(old):
        return False
    return not leading_blanks(lines[0]) and _least(lines[1:]) == _least(old[1:]) != ""


def _blanks_of_first(lines: list[str]) -> str:
    return next((leading_blanks(line) for line in lines if line.strip()), "")


def _least(lines: list[str]) -> str:
    """The shortest indentation of the lines that say something."""
    return min((leading_blanks(line) for line in lines if line.strip()), key=len, default="")


def _uses_tabs(lines: list[str]) -> bool:
    return any(line.startswith("\t") for line in lines)


def _step(lines: list[str]) -> int:
    """Columns of one level: the least step from one line to a deeper one."""
    widths = [width(leading_blanks(line)) for line in lines if line.strip()]
    return min((b - a for a, b in pairwise(widths) if 1 < b - a <= 8), default=_UNIT)


def _with_tabs(line: str, unit: int) -> str:
    blanks = leading_blanks(line)
    tabs, rest = divmod(width(blanks), unit)
    return "\t" * tabs + " " * rest + line[len(blanks) :]
