"""How many tokens the next batch may hold. Pure.

On a CPU the abort flag ends a batch early, between two nodes of its graph. A longer batch evaluates
more in vain then, and its nodes are longer: what overtakes it waits for one of them. Rates by
length, and how long a batch goes on after it was told to stop, are measured
(tests/benchmarks/results/threads_batches.json).
"""

from __future__ import annotations

PREFILL_CHUNK = 32
"""Most prompt tokens of a first step on a CPU: a prompt that is overtaken soon has lost little."""

STEADY_CHUNK = 256
"""The same once so many have been evaluated undisturbed: a step is never more than what came before
it. Steps of 256 tokens are a seventh to a fifth faster than those of 64, and stopped within 20 ms;
those of 512 are 2 % faster still, but took up to 66 ms to stop, and twice the memory."""

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
