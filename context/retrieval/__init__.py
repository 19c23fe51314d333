"""Finds code elsewhere that helps at a cursor, and scores it.

Here: where the cursor is, the regions visited lately, and what a piece of context is worth to it.

    score = weight(relation) * need * (0.5 + 0.5 * closeness)

- `weight(relation)` says why the piece is a candidate at all (`Relation`, best first);
- `need` in 0..1 says how much the cursor needs it: for a definition the weight of its name near
  the cursor (`text.near_names`), for an echo the share of the lines before the cursor that it
  has too, for a similar chunk its BM25 score over that of the best one, for a recent region 0.85
  to the power of how many came after it;
- `closeness` in 0..1 is 1 in the same folder and halves with each step through the tree.
"""

from __future__ import annotations

import posixpath
import re
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from context.syntax.language import Language
from context.syntax.syntax_tree import Outline
from context.syntax.text import line_end, line_start, near_names, shingles, similarity

__all__ = [
    "ASKED_NEED",
    "IMPORT_NEED",
    "MAX_REGION_CHARS",
    "STRONG_SCORE",
    "UNUSED_NEED",
    "WEIGHTS",
    "Candidate",
    "Place",
    "Recent",
    "Region",
    "Relation",
    "Weights",
    "among_imports",
    "best",
    "closeness",
    "definition_lookup",
    "lexical_search",
    "name_usage",
    "score",
]

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


class Relation(StrEnum):
    """How a piece of context is tied to the cursor."""

    IMPORTED = "imported here"
    MEMBER = "member of what is imported here"
    BASE = "base of the enclosing class"
    ECHO = "goes on where code like that before the cursor stands"
    MISSING = "used below, defined nowhere"
    WAITING = "defined here, used nowhere yet"
    RECENT = "recently edited or visited"
    BESIDE = "definition of a file beside"
    NAMED = "definition of a name used near the cursor"
    SIMILAR = "similar to what is near the cursor"


WEIGHTS: dict[Relation, float] = {
    Relation.IMPORTED: 1.0,
    Relation.MEMBER: 0.95,
    Relation.BASE: 0.9,
    Relation.ECHO: 0.9,
    Relation.MISSING: 0.8,
    Relation.WAITING: 0.8,
    Relation.RECENT: 0.6,
    Relation.BESIDE: 0.6,
    Relation.NAMED: 0.5,
    Relation.SIMILAR: 0.25,
}

IMPORT_NEED = 0.2
"""The need of a name that is imported but not used near the cursor: it may come next."""

UNUSED_NEED = 0.85
"""The need of a name that is imported and used nowhere yet: it is likely to come next."""

ASKED_NEED = 0.8
"""The need of a module's members where the cursor stands behind its name."""

STRONG_SCORE = 0.1


def closeness(path: str, other: str) -> float:
    """How near two files are in the tree: 1 in one folder, halved for each step between."""
    one, two = posixpath.dirname(path).split("/"), posixpath.dirname(other).split("/")
    common = 0
    for a, b in zip(one, two, strict=False):
        if a != b:
            break
        common += 1
    return float(0.5 ** (len(one) + len(two) - 2 * common))


def score(relation: Relation, need: float, closeness: float) -> float:
    """The formula above."""
    return WEIGHTS[relation] * min(max(need, 0.0), 1.0) * (0.5 + 0.5 * closeness)


@dataclass(frozen=True)
class Candidate:
    """A piece of another file that may go into the prompt.

    Attributes:
        start, stop: where it stands in its file; pieces of one file keep their order.
        text: what would be shown, without a line end at its end.
        short: what would be shown where `text` is too long; may be empty.
    """

    root: str
    path: str
    start: int
    stop: int
    text: str
    relation: Relation
    score: float
    name: str = ""
    short: str = ""

    @property
    def strong(self) -> bool:
        """Whether it is worth room that this file could use; the others only fill what is left."""
        return self.score >= STRONG_SCORE and self.relation is not Relation.SIMILAR

    @property
    def reason(self) -> str:
        return f"{self.relation}: {self.name}" if self.name else str(self.relation)


def best(candidates: list[Candidate]) -> list[Candidate]:
    """Highest score first; ties by path and place, so that the order never depends on chance."""
    return sorted(candidates, key=lambda one: (-one.score, one.root, one.path, one.start))
