"""How many tokens the next batch may hold. Pure.

On a CPU the abort flag ends a batch early, so its length does not bound the wait of what overtakes
it; it bounds what is evaluated in vain then. Rates and the time that a batch goes on after it was
told to stop are measured by length (tests/benchmarks/results/threads_batches.json).
"""

from __future__ import annotations

PREFILL_CHUNK = 32
"""Most prompt tokens of a first step on a CPU: a prompt that is overtaken soon has lost little."""

STEADY_CHUNK = 256
"""The same once so many have been evaluated undisturbed: a step is never more than what came before
it. Still larger ones are hardly faster, and take memory."""

CARD_CHUNK = 256
"""The same on cards, where a step is not ended early and a long one costs little more."""


def most_rows(*, cards: bool, decoding: bool, evaluated: int) -> int:
    """The most tokens of the next batch.

    Args:
        cards: the model, or part of it, stands on cards.
        decoding: an answer is in the batch, whose next token should not wait for a long prompt.
        evaluated: the fewest prompt tokens that a request in the batch has evaluated so far.
    """
    if cards:
        return CARD_CHUNK
    if decoding:
        return PREFILL_CHUNK
    return max(PREFILL_CHUNK, min(STEADY_CHUNK, evaluated))
