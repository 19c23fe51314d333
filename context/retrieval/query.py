"""Where the cursor is, as picking sees it, and what the names around it weigh.

Regions that were edited or visited lately, the newest first.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

from context.syntax.language import Language
from context.syntax.names import near_names, shingles, similarity
from context.syntax.outline import Outline
from context.syntax.text import line_end, line_start

_PARTIAL = re.compile(r"[^\W\d]\w+$")  # the word being typed, of two letters at least
_HEADER_NEED = 0.4
_LONGEST_PARTIAL = 200


@dataclass(frozen=True)
class Place:
    """Where the cursor is: what picking may look at.

    Attributes:
        before, after: text near the cursor, a few dozen lines.
        header: first lines of the definitions around the cursor.
        present: all text that is in the prompt anyway, to drop duplicates of it.
        text: the whole document.
        shown: the characters of `text` that are in the prompt for sure; None where the document is
            not to be searched for code like that here.
        among_imports: whether the cursor stands in an import, or next to one.
        unused: names that are imported, or defined here for use here, and used nowhere yet: they
            are likely to come next.
    """

    root: str
    path: str
    language: Language | None
    outline: Outline
    before: str
    after: str
    header: str
    present: str
    unused: frozenset[str] = frozenset()
    text: str = ""
    shown: tuple[int, int] | None = None
    among_imports: bool = False

    @cached_property
    def weights(self) -> Weights:
        """What each identifier near the cursor weighs."""
        weights = near_names(self.before, self.after)
        for name in near_names(self.header, ""):
            weights[name] = max(weights.get(name, 0.0), _HEADER_NEED)
        return Weights(weights, _PARTIAL.search(self.before[-_LONGEST_PARTIAL:]))


def among_imports(text: str, outline: Outline, cursor: int) -> bool:
    """Whether the cursor's line is one of an import, or next to one, blank lines not counted."""
    before = len(text[: line_start(text, cursor)].rstrip())
    below = line_end(text, cursor)
    after = len(text) - len(text[below:].lstrip())
    return any(one.start <= after and before <= one.stop for one in outline.imports)


class Weights(dict[str, float]):
    """Weights of names; one that begins with the word being typed counts as much as that word."""

    def __init__(self, weights: dict[str, float], partial: re.Match[str] | None) -> None:
        super().__init__(weights)
        self._partial = partial.group() if partial else ""

    def of(self, name: str) -> float:
        if self._partial and name.startswith(self._partial):
            return 1.0
        return self.get(name, 0.0)

    def holds(self, name: str) -> bool:
        return self.of(name) > 0.0


_CAPACITY = 24
_SAME = 0.9  # share of common lines from which two regions are one
MAX_REGION_CHARS = 2400


@dataclass(frozen=True)
class Region:
    """A piece of a file as it was when it was left."""

    root: str
    path: str
    start: int
    text: str


class Recent:
    """A ring of regions without near-duplicates."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._regions: OrderedDict[tuple[str, int, str], tuple[Region, set[str]]] = OrderedDict()

    def add(self, region: Region) -> None:
        """Note a region as the newest; a near-duplicate that is known gives way to it."""
        lines = shingles(region.text)
        if not lines:
            return
        for key, (known, known_lines) in list(self._regions.items()):
            if known.path == region.path and similarity(lines, known_lines) > _SAME:
                del self._regions[key]
        self._regions[region.path, region.start, region.text] = (region, lines)
        while len(self._regions) > self._capacity:
            self._regions.popitem(last=False)

    def newest(self) -> list[Region]:
        """All regions, the newest first."""
        return [region for region, _ in reversed(self._regions.values())]
