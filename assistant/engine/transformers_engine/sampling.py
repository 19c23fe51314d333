"""Chooses the next token from logits; the same order of steps as llama.cpp's usual chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from assistant.engine.types import Sampling

Floats = npt.NDArray[np.float32]


class Chooser:
    """For one request: its random numbers go on from token to token."""

    def __init__(self, wish: Sampling) -> None:
        self._wish = wish
        self._random = np.random.default_rng(wish.seed)

    def choose(
        self, logits: Any, last: Sequence[int], only: npt.NDArray[np.int32] | None = None
    ) -> int:
        """The next token.

        Args:
            logits: one a token of the vocabulary.
            last: tokens before it, for the repetition penalty.
            only: tokens to choose from; None for all.
        """
        values: Floats = np.array(logits, np.float32)
        if only is not None:
            kept = np.full_like(values, -np.inf)
            kept[only] = values[only]
            values = kept
        self._penalise(values, last)
        if self._wish.temperature <= 0:
            return int(values.argmax())
        order = np.argsort(-values)[: self._wish.top_k or len(values)]
        scaled = values[order] / self._wish.temperature
        shares = np.exp(scaled - scaled.max())
        shares /= shares.sum()
        keep = np.cumsum(shares) - shares < self._wish.top_p
        keep &= shares >= self._wish.min_p * shares[0]
        keep[0] = True
        shares = np.where(keep, shares, 0)
        return int(self._random.choice(order, p=shares / shares.sum()))

    def _penalise(self, values: Floats, last: Sequence[int]) -> None:
        penalty, count = self._wish.repeat_penalty, self._wish.repeat_last_n
        if penalty == 1.0 or count == 0:
            return
        seen = np.unique(np.array(last if count < 0 else last[-count:], np.int64))
        seen = seen[seen < len(values)]
        found = values[seen]
        values[seen] = np.where(found > 0, found / penalty, found * penalty)
