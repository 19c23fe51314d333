"""What an edit costs: the tokens of the new prompt that no slot holds yet.

Slots are chosen as a server with prefix reuse does: the one that shares most with the prompt, if
that is at least half of it, else the one that was not used for longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import context
from assistant.engine.types import shared_length
from context.prompt import FimLayout

EVENTS = {
    "open": "the file is opened here: nothing is held",
    "typing": "one more character of the missing line",
    "enter": "the line is finished, the cursor stands in a new one",
    "step": "the cursor goes eight lines down",
    "back": "and comes back",
    "jump": "the cursor goes sixty lines down",
    "return": "and comes back",
    "above": "a line is put in forty lines above",
    "below": "a line is put in ten lines below",
}


class Missing(Protocol):
    """A file with something missing at a cursor."""

    @property
    def text(self) -> str: ...
    @property
    def cursor(self) -> int: ...
    @property
    def wanted(self) -> str: ...


class Slots:
    """Prompts held by a server with `count` sequences."""

    def __init__(self, count: int) -> None:
        self._held: list[tuple[int, ...]] = [() for _ in range(count)]

    def evaluate(self, prompt: tuple[int, ...]) -> int:
        """How many tokens are evaluated for `prompt`, which is held from now on."""
        shared = [shared_length(held, prompt) for held in self._held]
        best = max(range(len(shared)), key=shared.__getitem__)
        if shared[best] * 2 < len(prompt):
            best = 0  # the list stands in the order of use
        evaluated = len(prompt) - min(shared[best], len(prompt) - 1)
        self._held.append(prompt)
        del self._held[best]
        return evaluated


def cost_of_events(
    places: Sequence[Missing], fim: FimLayout, vocab: Any, budget_tokens: int, slots: int
) -> dict[str, float]:
    """Mean tokens evaluated for each of EVENTS, each place played through once."""
    seen: dict[str, list[int]] = {event: [] for event in EVENTS}
    for place in places:
        server = Slots(slots)

        def play(event: str, text: str, cursor: int, server: Slots = server) -> None:
            at = len(text[:cursor].encode())
            prompt = context.window(text, at, fim, vocab, vocab.control, budget_tokens, 0)
            seen[event].append(server.evaluate(prompt.ids))

        text, cursor = place.text, place.cursor
        play("open", text, cursor)
        for char in place.wanted:
            text, cursor = text[:cursor] + char + text[cursor:], cursor + 1
            play("typing", text, cursor)
        indent = " " * (len(place.wanted) - len(place.wanted.lstrip()))
        text = text[:cursor] + "\n" + indent + text[cursor:]
        cursor += 1 + len(indent)
        play("enter", text, cursor)
        play("step", text, _moved(text, cursor, 8))
        play("back", text, cursor)
        play("jump", text, _moved(text, cursor, 60))
        play("return", text, cursor)
        above = _moved(text, cursor, -40)
        line = "extra_line = 1\n"
        text, cursor = text[:above] + line + text[above:], cursor + len(line)
        play("above", text, cursor)
        below = _moved(text, cursor, 10)
        text = text[:below] + line + text[below:]
        play("below", text, cursor)
    return {event: round(sum(counts) / len(counts), 1) for event, counts in seen.items()}


def _moved(text: str, cursor: int, rows: int) -> int:
    """The start of the line `rows` away, as far as the text goes."""
    lines = text.split("\n")
    row = text.count("\n", 0, cursor) + rows
    return sum(len(line) + 1 for line in lines[: min(max(row, 0), len(lines) - 1)])
