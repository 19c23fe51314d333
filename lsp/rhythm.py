"""How long to wait before asking the model: from the rhythm of typing and how long it takes. Pure
but for the clock it is given."""

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
