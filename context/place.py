"""Where the cursor is, as picking sees it, and what the names around it weigh."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from context.language import Language
from context.names import near_names
from context.outline import Outline

_PARTIAL = re.compile(r"[^\W\d]\w+$")  # the word being typed, of two letters at least
_HEADER_NEED = 0.4
_FEW = 6


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
        unused: names that are imported and used nowhere yet: they are likely to come next.
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

    @cached_property
    def weights(self) -> Weights:
        """What each identifier near the cursor weighs."""
        weights = near_names(self.before, self.after)
        for name in near_names(self.header, ""):
            weights[name] = max(weights.get(name, 0.0), _HEADER_NEED)
        return Weights(weights, _PARTIAL.search(self.before))


def unused_imports(text: str, outline: Outline) -> frozenset[str]:
    """Names that `text` imports and uses nowhere; none where they are many, as in a file that only
    passes names on."""
    found = set()
    for name in {one.local for one in outline.imports if one.local}:
        if text.count(name) <= _FEW and all(_in_import(outline, at) for at in _uses(text, name)):
            found.add(name)
    return frozenset(found) if len(found) <= _FEW else frozenset()


def _uses(text: str, name: str) -> Iterator[int]:
    """Where `name` stands as a word of its own. A search for plain text is a hundred times faster
    than one by a pattern, and files are long."""
    at = text.find(name)
    while at >= 0:
        around = text[max(0, at - 1) : at], text[at + len(name) : at + len(name) + 1]
        if not any(char.isalnum() or char == "_" for char in around):
            yield at
        at = text.find(name, at + 1)


def _in_import(outline: Outline, at: int) -> bool:
    return any(one.start <= at < one.stop for one in outline.imports)


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
