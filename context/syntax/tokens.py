"""Exact token ids of small pieces of text, remembered."""

from __future__ import annotations

from context.syntax.text import pieces
from context.types import TokenCounter

_CAPACITY = 32_768  # pieces; about 100 bytes each, so a few MB at most


class Encoder:
    """A TokenCounter in front of another one that remembers what it encoded.

    A prompt is the concatenation of pieces, and its ids are the concatenation of their ids: so
    what is counted is exactly what is sent. Pieces begin at the start of a non-blank line wherever
    that is possible: byte-level BPE split patterns (GPT-2 and all its children) never join a line
    end to a following non-blank line, so there the ids equal those of the text encoded at once.
    """

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._known: dict[str, tuple[int, ...]] = {}

    @classmethod
    def of(cls, counter: TokenCounter) -> Encoder:
        """`counter` itself if it already remembers, or an Encoder around it."""
        return counter if isinstance(counter, Encoder) else cls(counter)

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, plain text throughout."""
        known = self._known.get(text)
        if known is None:
            known = tuple(self._counter.encode(text)) if text else ()
            if len(self._known) >= _CAPACITY:
                self._known.clear()
            self._known[text] = known
        return known

    def encode(self, text: str) -> list[int]:
        return list(self.ids(text))

    def count(self, text: str) -> int:
        return len(self.ids(text))

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text of any length, piece by piece."""
        found: list[int] = []
        for piece in pieces(text):
            found.extend(self.ids(piece))
        return found

    def text_count(self, text: str) -> int:
        """`len(text_ids(text))`: the tokens that `text` takes as a section of a prompt."""
        return sum(len(self.ids(piece)) for piece in pieces(text))
