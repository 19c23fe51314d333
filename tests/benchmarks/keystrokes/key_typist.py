"""What is typed, where, and in which rhythm: the same keys for every assistant under test.

A place is a line of a real file whose text is taken away. The typist jumps there, types the
first part of the line, sometimes mistypes and corrects it, then rests and looks at the ghost text.
If its first line is what stood there, it is accepted; otherwise the line is restored in one
edit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MEDIAN_KEY_MS = 120.0
RHYTHM_SIGMA = 0.35
PAUSE_MS = 450.0
PAUSE_SHARE = 0.12
MISTYPE_SHARE = 0.35
TYPED_SHARE = 0.35


@dataclass(frozen=True)
class Place:
    """One line to be typed again. `line` counts from 0."""

    path: Path
    line: int
    indent: str
    text: str
    typed: int

    @property
    def rest(self) -> str:
        """What a right suggestion starts with."""
        return self.text[self.typed :]


@dataclass(frozen=True)
class Key:
    """One keystroke: a character, or a backspace where `character` is empty."""

    delay_ms: float
    character: str


def _worth_typing(line: str) -> bool:
    text = line.strip()
    if not 16 <= len(text) <= 90 or text[0] in "#\"'@)]}":
        return False
    return not text.startswith(("import ", "from ", "class ", "else", "try", "return None"))


def places(path: Path, count: int, rng: random.Random) -> list[Place]:
    """`count` lines of a file worth completing, at least 8 lines apart, in random order (jumps)."""
    lines = path.read_text(encoding="utf-8").split("\n")
    inside, docstring = False, set[int]()
    for number, line in enumerate(lines):
        marks = line.count('"""')
        if inside or marks:
            docstring.add(number)
        inside ^= marks % 2 == 1
    fitting = [
        n for n in range(20, len(lines) - 5) if n not in docstring and _worth_typing(lines[n])
    ]
    rng.shuffle(fitting)
    chosen: list[int] = []
    for number in fitting:
        if all(abs(number - other) >= 8 for other in chosen):
            chosen.append(number)
        if len(chosen) == count:
            break
    found = []
    for number in chosen:
        text = lines[number].strip()
        indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
        typed = max(2, round(len(text) * TYPED_SHARE))
        while typed < len(text) - 4 and text[typed - 1] == " ":
            typed += 1
        found.append(Place(path, number, indent, text.rstrip(), typed))
    return found


def keys(place: Place, rng: random.Random) -> Iterator[Key]:
    """The keystrokes of one place, with human delays, pauses and sometimes a corrected mistake."""

    def delay() -> float:
        value = MEDIAN_KEY_MS * rng.lognormvariate(0.0, RHYTHM_SIGMA)
        return value + (PAUSE_MS if rng.random() < PAUSE_SHARE else 0.0)

    mistake = rng.randrange(place.typed) if rng.random() < MISTYPE_SHARE else -1
    for index, character in enumerate(place.text[: place.typed]):
        if index == mistake:
            yield Key(delay(), rng.choice("etaoinsr"))
            yield Key(delay() + 150.0, "")
        yield Key(delay(), character)
