"""Where code stands that runs alongside the code around the cursor, so that it may go on alike.

Each line near the cursor votes: a line like it, elsewhere, says at which row the cursor's twin
would be if the two ran alongside from there. Lines before the cursor count more than those after
it, near ones more than far ones. A few rows more or less in between do not matter much.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Words = frozenset[str]

_LIKE = 0.5  # words in common over all words, from which two lines are alike
_LINES_BEFORE, _LINES_AFTER = 10, 5
_AFTER_FACTOR = 0.5
_HALF_DISTANCE_LINES = 2
_SLACK_ROWS, _SLACK_COST = 2, 0.2
_APART_ROWS = 8  # nearer than this two twins are one
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Twin:
    """A row at which the cursor's twin would stand, and how much runs alongside: 0 to 1."""

    row: int
    share: float


@dataclass(frozen=True)
class Surroundings:
    """The lines around the cursor as words, the nearest first; lines of one word tell nothing."""

    before: tuple[Words, ...]
    after: tuple[Words, ...]

    @classmethod
    def of(cls, before: str, after: str) -> Surroundings:
        """Of the text before the cursor and that after it; the cursor's own line counts."""
        above = (line_words(line) for line in reversed(before.split("\n")))
        below = (line_words(line) for line in after.split("\n")[1:])
        return cls(_telling(above, _LINES_BEFORE), _telling(below, _LINES_AFTER))

    def twins(self, lines: Sequence[Words], limit: int) -> list[Twin]:
        """The best rows of `lines` for a twin, at most `limit`, none near another.

        share = sum of weight * likeness over the lines that vote for the row, over the weight of
        all lines before the cursor; weight = 0.5 ** (distance / 2), half of that after the cursor;
        likeness = common words over all words of two lines, where it is at least a half.
        """
        told = [row for row, words in enumerate(lines) if len(words) > 1]
        if not told or not self.before:
            return []
        found = _Lookup.of([lines[row] for row in told])
        totals: dict[int, float] = defaultdict(float)
        for distance, own, weight in self._weighted():
            for place, alike in _votes(found.alike(own), distance).items():
                totals[place] += weight * alike
        whole = sum(weight for distance, _, weight in self._weighted() if distance < 0)
        kept: list[Twin] = []
        for place in sorted(totals, key=lambda place: (-totals[place], place)):
            if len(kept) == limit:
                break
            row = told[min(max(place, 0), len(told) - 1)]
            if all(abs(row - other.row) >= _APART_ROWS for other in kept):
                kept.append(Twin(row, min(1.0, totals[place] / whole)))
        return kept

    def _weighted(self) -> Iterator[tuple[int, Words, float]]:
        for lines, side, factor in ((self.before, -1, 1.0), (self.after, 1, _AFTER_FACTOR)):
            for i, own in enumerate(lines):
                yield side * (i + 1), own, factor * 0.5 ** (i / _HALF_DISTANCE_LINES)


@dataclass(frozen=True)
class _Lookup:
    """Lines by their words."""

    lines: Sequence[Words]
    rows: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, lines: Sequence[Words]) -> _Lookup:
        rows: dict[str, list[int]] = defaultdict(list)
        for row, words in enumerate(lines):
            for word in words:
                rows[word].append(row)
        return cls(lines, rows)

    def alike(self, own: Words) -> dict[int, float]:
        """Lines like `own`, with their likeness.

        Of two lines that have half of all their words in common, each has half of its words in
        the other: so only lines with one of the rarer half need be compared.
        """
        by_rarity = sorted(own, key=lambda word: (len(self.rows.get(word, ())), word))
        rarer = by_rarity[: len(own) - -(-len(own) // 2) + 1]
        near = {row for word in rarer for row in self.rows.get(word, ())}
        found = {row: likeness(own, self.lines[row]) for row in near}
        return {row: alike for row, alike in found.items() if alike >= _LIKE}


def line_words(line: str) -> Words:
    """The words of a line, as lines are compared by."""
    return frozenset(_WORD.findall(line[:400]))


def likeness(one: Words, other: Words) -> float:
    """Words in common over all words (Jaccard's index), 0 to 1."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if common else 0.0


def _telling(lines: Iterator[Words], limit: int) -> tuple[Words, ...]:
    return tuple(line for line in lines if len(line) > 1)[:limit]


def _votes(alike: Mapping[int, float], distance: int) -> dict[int, float]:
    """Rows that lines like one `distance` rows from the cursor speak for, and how much."""
    votes: dict[int, float] = {}
    for row, share in alike.items():
        for slack in range(-_SLACK_ROWS, _SLACK_ROWS + 1):
            place = row - distance + slack
            worth = share * (1 - _SLACK_COST * abs(slack))
            votes[place] = max(votes.get(place, 0.0), worth)
    return votes
