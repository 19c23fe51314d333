"""Leaving a line that nobody wants: a model likes to say the line that stands below already.

While an answer says nothing but such a line, the best other token is noted at every place of it.
If the line comes to its end, the answer goes back to where the model was least sure, and goes on
with the other token there. So what comes is, token by token, what the model finds likeliest of what
is not that line; it costs one line more to decode, and only where the line came. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from assistant.llama.context import Logits
from assistant.llama.sampling import Tokens

MOST_BEHIND = 5.0
"""By how much the other token's logit may be behind: one of e^5 = 150 of the likelihood. What is
further behind is not worth showing, and nothing is."""

_LOOKED_AT = 24


class Stance(Enum):
    """How an answer stands to the unwanted line."""

    WITHIN = auto()
    LEFT = auto()
    WHOLE = auto()


@dataclass(frozen=True)
class Fork:
    """Another token to continue with after the answer's first `at` tokens."""

    at: int
    token: int
    behind: float


@dataclass
class Unlike:
    """An unwanted line, and an answer that says it so far.

    Attributes:
        line: its bytes, without a line end.
        piece: the bytes of a token; `ends`: the tokens that end an answer.
        tokens: the answer so far; held back, since it may have to be taken back.
    """

    line: bytes
    piece: Callable[[int], bytes]
    ends: Container[int]
    tokens: list[int] = field(default_factory=list)
    _said: bytes = b""
    _fork: Fork | None = None

    def weigh(self, token: int, logits: Logits, allowed: Tokens | None = None) -> None:
        """Note what could come instead of `token`, which is the next."""
        values = logits if allowed is None else logits[allowed]
        count = min(_LOOKED_AT, len(values))
        best = np.argpartition(values, -count)[-count:]
        for at in best[np.argsort(-values[best])]:
            other = int(at if allowed is None else allowed[at])
            behind = float(logits[token] - values[at])
            if self._leaves(other):
                nearest = self._fork.behind if self._fork else MOST_BEHIND
                if behind < nearest:
                    self._fork = Fork(len(self.tokens), other, behind)
                return

    def add(self, token: int) -> Stance:
        """The answer goes on with `token`."""
        self.tokens.append(token)
        if token in self.ends:
            return Stance.WHOLE if self._said.rstrip() == self.line else Stance.LEFT
        self._said += self.piece(token)
        if self.line.startswith(self._said):
            return Stance.WITHIN
        after = self._said[len(self.line) :]
        if not self._said.startswith(self.line) or after.split(b"\n")[0].strip(b" \t\r"):
            return Stance.LEFT
        return Stance.WHOLE if b"\n" in after else Stance.WITHIN

    def fork(self) -> Fork | None:
        """Where to leave the line, once it came whole; None where the model sees nothing else."""
        return self._fork

    def _leaves(self, token: int) -> bool:
        """Whether `token` says something, and not what the line goes on with."""
        piece = self.piece(token)
        if token in self.ends or not piece.strip() or piece[:1] in b"\r\n":
            return False
        rest = self.line[len(self._said) :]
        return not rest.startswith(piece) and not (rest and piece.startswith(rest))
