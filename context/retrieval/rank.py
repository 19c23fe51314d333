"""What a piece of context is worth: one formula over plain facts.

    score = weight(relation) * need * (0.5 + 0.5 * closeness)

- `weight(relation)` says why the piece is a candidate at all (`Relation`, best first);
- `need` in 0..1 says how much the cursor asks for it: for a definition the weight of its name near
  the cursor (`names.near_names`), for an echo the share of the lines before the cursor that it
  has too, for a similar chunk its BM25 score over that of the best one, for a recent region 0.85
  to the power of how many came after it;
- `closeness` in 0..1 is 1 in the same folder and halves with each step through the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
