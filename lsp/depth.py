"""How long prompts should be here: as long as the user allows, unless this machine is slow. Pure.

At another place of a file most of a prompt has to be evaluated, and the user waits for that. On a
slow machine half of the context soon is worth more than all of it late.
"""

from __future__ import annotations

from collections import deque

from lsp.rhythm import median

PATIENCE_S = 2.0
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

    def tokens(self, allowed_tokens: int) -> int:
        """The most that a prompt should take of what it may take."""
        return max(int(allowed_tokens * self._share), min(allowed_tokens, _LEAST_TOKENS))
