"""Lines as tokens, and what changed between two of them. Pure, linear in the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

LONGEST_LINE = 400
"""Characters; a longer line is not compared."""

_TOKEN = re.compile(r"[^\W\d][\w$]*+|\d[\w.]*+|\"[^\"\\\n]*+\"|'[^'\\\n]*+'|\s++|.", re.DOTALL)
_IDENTIFIER = re.compile(r"[^\W\d][\w$]*+\Z")


@dataclass(frozen=True)
class Replacement:
    """Tokens of a line that became other tokens; `column` counts characters of the new line."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    column: int


def tokens(line: str) -> list[str]:
    """The tokens of a line; joined they are the line."""
    return _TOKEN.findall(line)


def is_identifier(token: str) -> bool:
    """Whether a token has the form of a name."""
    return _IDENTIFIER.match(token) is not None


def replacements(old: str, new: str) -> list[Replacement]:
    """What changed between two lines, token by token; nothing for very long ones."""
    if max(len(old), len(new)) > LONGEST_LINE:
        return []
    before, after = tokens(old), tokens(new)
    found = []
    for tag, i1, i2, j1, j2 in opcodes(before, after):
        if tag != "equal":
            column = sum(map(len, after[:j1]))
            found.append(Replacement(tuple(before[i1:i2]), tuple(after[j1:j2]), column))
    return found


def opcodes(before: Sequence[str], after: Sequence[str]) -> list[tuple[str, int, int, int, int]]:
    """`SequenceMatcher`'s, after the common start and end are taken off."""
    limit = min(len(before), len(after))
    head = 0
    while head < limit and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < limit - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    matcher = SequenceMatcher(
        None, before[head : len(before) - tail], after[head : len(after) - tail], autojunk=False
    )
    return [
        (tag, i1 + head, i2 + head, j1 + head, j2 + head)
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
    ]


def renamed(old: str, new: str) -> list[tuple[str, str, int]]:
    """Names that were replaced one by one: old name, new name, column in the new line."""
    return [
        (one.old[0], one.new[0], one.column)
        for one in replacements(old, new)
        if len(one.old) == len(one.new) == 1
        and is_identifier(one.old[0])
        and is_identifier(one.new[0])
    ]


def alike(old: str, new: str) -> bool:
    """Whether a line was changed in at most three places, and most of it stayed: then it is the
    same statement, not another one in its place."""
    if max(len(old), len(new)) > LONGEST_LINE:
        return False
    before, after = tokens(old.strip()), tokens(new.strip())
    found = opcodes(before, after)
    changed = [one for one in found if one[0] != "equal"]
    size = sum(max(i2 - i1, j2 - j1) for _, i1, i2, j1, j2 in changed)
    return len(changed) <= 3 and 2 * size <= max(len(before), len(after))
