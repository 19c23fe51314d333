"""How long to wait before asking the model: from the rhythm of typing and how long it takes. Pure
but for the clock it is given.

How long prompts should be here: as long as the user allows, unless this machine is slow. Pure.

At another place of a file most of a prompt has to be evaluated, and the user waits for that. On a
slow machine half of the context soon is worth more than all of it late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

_LONGEST_GAP_S = 0.8
_KEYS = 12
_SHARE = 1.25
_MOST_S = 0.25


class Rhythm:
    """Typing in one document.

    A question asked between two keys of a burst is wasted, and its prefill is in the way of the
    next one; a wait after the last key is felt. So it waits a little longer than from one key to
    the next, and not at all where the model answers between two keys anyway.
    """

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=_KEYS)
        self._took: deque[float] = deque(maxlen=_KEYS)
        self._last = float("-inf")

    def key(self, now: float) -> None:
        """The text has changed."""
        gap = now - self._last
        self._last = now
        if 0 < gap < _LONGEST_GAP_S:
            self._gaps.append(gap)

    def answered(self, took_s: float) -> None:
        """The model has taken so long for an answer."""
        self._took.append(took_s)

    def wait_s(self, now: float, least_s: float) -> float:
        """How long from now to wait before asking.

        Args:
            least_s: the wait where nothing is known yet, and the least of one.
        """
        if len(self._gaps) < 3:
            return least_s
        gap = median(self._gaps)
        if self._took and median(self._took) < gap / 2:
            return 0.0
        return max(min(_SHARE * gap, _MOST_S) - max(now - self._last, 0.0), least_s)


def median(values: Iterable[float]) -> float:
    """The upper median; `statistics` would take longer to import than the rest of the server."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


PATIENCE_S = 2.0
SHORT_TOKENS = 256
_SHARES = (1.0, 0.75, 0.5)
_LEAST_TOKENS = 384
_FEWEST_TOKENS = 64
_KEPT = 5


class Depth:
    """The share of the allowed prompt that is used.

    It changes only when told to (`settle`): a prompt of another length is another prompt, of which
    little is in the cache.
    """

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=_KEPT)
        self._share = _SHARES[0]

    def evaluated(self, tokens: int, took_ms: float) -> None:
        """So many tokens of a prompt were evaluated in so long; few tell nothing."""
        if tokens >= _FEWEST_TOKENS and took_ms > 0:
            self._rates.append(tokens * 1000 / took_ms)

    def settle(self, allowed_tokens: int) -> None:
        """The cache has nothing to lose: choose the longest prompt that is evaluated in time."""
        if not self._rates:
            return
        in_time = median(self._rates) * PATIENCE_S
        fitting = (share for share in _SHARES if share * allowed_tokens <= in_time)
        self._share = next(fitting, _SHARES[-1])

    def first_tokens(self, allowed_tokens: int) -> int:
        """The most that the first prompt at a place should take, while somebody waits for its
        evaluation: a short one where the machine is slow, or its speed not known yet."""
        full = self.tokens(allowed_tokens)
        if self._rates and median(self._rates) * PATIENCE_S >= full:
            return full
        return min(full, SHORT_TOKENS)

    def tokens(self, allowed_tokens: int) -> int:
        """The most that a prompt should take of what it may take."""
        return max(int(allowed_tokens * self._share), min(allowed_tokens, _LEAST_TOKENS))
