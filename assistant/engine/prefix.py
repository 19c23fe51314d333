"""How much two token lists share at their start."""

from __future__ import annotations

from collections.abc import Sequence

_STRIDE = 256


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that both begin with. Whole strides are compared at C speed, the last one by token.

    Both must be the same type of sequence: a list never equals a tuple.
    """
    most = min(len(one), len(other))
    at = 0
    while at + _STRIDE <= most and one[at : at + _STRIDE] == other[at : at + _STRIDE]:
        at += _STRIDE
    while at < most and one[at] == other[at]:
        at += 1
    return at
