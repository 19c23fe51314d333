"""How many tokens the next batch may hold. Pure.

On a CPU the abort flag ends a batch early, between two nodes of its graph. A longer batch evaluates
more in vain then, and its nodes are longer: what overtakes it waits for one of them. Rates by
length, and how long a batch continues after it was cancelled, are measured
(tests/benchmarks/results/threads_batches.json).

Decides which slot a prompt goes to and who works next. Pure: knows tokens, not llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from assistant.engine.types import Priority, shared_length

PREFILL_CHUNK = 32
"""Most prompt tokens of a first step on a CPU: a prompt that is overtaken soon has lost little."""

STEADY_CHUNK = 256
"""The same once so many have been evaluated undisturbed: a step is never more than what came before
it. Steps of 256 tokens are a seventh to a fifth faster than those of 64, and stopped within 20 ms;
those of 512 are 2 % faster still, but took up to 66 ms to stop, and twice the memory."""

GPU_CHUNK = 256
"""The same on a GPU, where a step is not ended early and a long one costs little more."""

MOST_STEP_S = 10.0
"""No step is meant to take longer: a worker that is silent for long is taken for one that hangs."""


def most_rows(*, gpu: bool, decoding: bool, evaluated: int, rate: float = 0.0) -> int:
    """The most tokens of the next batch: at least 1, and no more than `MOST_STEP_S` are enough for.

    Args:
        gpu: the model, or part of it, is on a GPU.
        decoding: an answer is in the batch, whose next token should not wait for a long prompt.
        evaluated: the fewest prompt tokens that a request in the batch has evaluated so far.
        rate: measured prompt tokens per second; 0 before the first measurement.
    """
    if gpu:
        most = GPU_CHUNK
    elif decoding:
        most = PREFILL_CHUNK
    else:
        most = max(PREFILL_CHUNK, min(STEADY_CHUNK, evaluated))
    return max(1, min(most, int(rate * MOST_STEP_S))) if rate > 0 else most


_ORDER = (Priority.INTERACTIVE, Priority.EXPLAIN, Priority.BACKGROUND)

KEEP_SHARE = 0.5
"""A slot that would lose more than this share of its tokens is left alone while one is empty."""


@dataclass(frozen=True)
class SlotView:
    """A slot as the scheduler sees it.

    Attributes:
        used_at: counts requests; higher is more recent.
        checkpoints: lengths that a sequence can be cut to where it cannot be cut anywhere.
        shortest: the least length that it can be cut to without one.
    """

    number: int
    tokens: Sequence[int]
    busy: bool
    used_at: int
    checkpoints: Sequence[int] = ()
    shortest: int = 0


@dataclass(frozen=True)
class Placement:
    """Where a prompt goes.

    Attributes:
        slot: the slot to use.
        kept: tokens of the prompt that the slot holds already; the rest of it is forgotten.
        source: another slot to share the first `kept` tokens from; None where `slot` holds them.
    """

    slot: int
    kept: int
    source: int | None = None


def place(
    slots: Sequence[SlotView], prompt: Sequence[int], *, shares: bool = True
) -> Placement | None:
    """The slot for a prompt, or None while all are busy.

    The longest common start wins. At least one token is left to evaluate, since its logits are
    needed. A sequence that cannot be cut there is of use if it has a checkpoint in what it shares
    with the prompt.

    Args:
        shares: a slot can take over the start of another one (not the state of recurrent layers).
    """
    free = [slot for slot in slots if not slot.busy]
    if not free:
        return None
    most = len(prompt) - 1

    def direct(slot: SlotView) -> int:
        shared = min(shared_length(slot.tokens, prompt), most)
        return shared if shared >= slot.shortest else 0

    def common(slot: SlotView) -> int:
        if kept := direct(slot):
            return kept
        shared = min(shared_length(slot.tokens, prompt), most)
        return max((one for one in slot.checkpoints if one <= shared), default=0)

    best = max(free, key=lambda slot: (common(slot), slot.used_at))
    empty = next((slot for slot in free if not slot.tokens), None)
    donor = max(slots, key=direct)
    lent = direct(donor) if shares else 0
    if common(best) and common(best) >= KEEP_SHARE * len(best.tokens):
        if lent <= common(best):
            return Placement(best.number, common(best))
        return Placement(best.number, lent, donor.number)
    target = empty or min(free, key=lambda slot: slot.used_at)
    if lent > common(target) and donor.number != target.number:
        return Placement(target.number, lent, donor.number)
    return Placement(target.number, common(target))


def is_under_way(
    prompt: Sequence[int], held: Iterable[Sequence[int]], coming: Iterable[Sequence[int]]
) -> bool:
    """Whether to place a prompt later, because another request evaluates what both begin with.

    Later it is shared, so that several answers to one prompt cost one evaluation. That is worth the
    wait where it saves more than what the other request evaluates besides, and this is less than a
    step.

    Args:
        held: tokens of the slots now.
        coming: prompts that are being evaluated.
    """
    prompt = list(prompt)
    there = max((shared_length(list(one), prompt) for one in held), default=0)
    for other in coming:
        shared = shared_length(list(other), prompt)
        needless = len(other) - shared
        saved = min(shared, len(prompt) - 1) - there
        if needless < PREFILL_CHUNK and needless < saved:
            return True
    return False


@dataclass(frozen=True)
class Demand:
    """What a request wants of the next batch: `sure` tokens, and `drafted` ones after them."""

    id: str
    sure: int
    drafted: int = 0


@dataclass(frozen=True)
class Portion:
    """What a request gets of it. `outputs`: rows whose logits are kept, the last ones."""

    id: str
    sure: int
    drafted: int
    outputs: int


def divide_batch(demands: Sequence[Demand], rows: int, outputs: int) -> list[Portion]:
    """Who gets how much of a batch of `rows` tokens, of which `outputs` may keep logits.

    The shortest request comes first, so that decoding never waits for a prompt. Drafts get what is
    left once everybody has what is sure.
    """
    served: list[tuple[Demand, int]] = []
    for demand in sorted(demands, key=lambda demand: demand.sure):
        if not rows or len(served) == outputs:
            break
        served.append((demand, min(demand.sure, rows)))
        rows -= min(demand.sure, rows)
    spare = outputs - len(served)
    portions = []
    for demand, sure in served:
        ends = sure == demand.sure
        drafted = min(demand.drafted, rows, spare) if ends else 0
        rows, spare = rows - drafted, spare - drafted
        portions.append(Portion(demand.id, sure, drafted, (1 + drafted) if ends else 0))
    return portions


def working(priorities: Sequence[Priority]) -> Priority | None:
    """The class that works in the next step: everything below it waits."""
    return next((priority for priority in _ORDER if priority in priorities), None)


def yielding(priorities: Sequence[Priority]) -> int:
    """Which of several requests gives its cells back where they do not suffice for all: the newest
    (last) of the lowest class. So a request that is computed never waits for one that needs its
    cells."""
    ranks = [_ORDER.index(priority) for priority in priorities]
    return max(range(len(ranks)), key=lambda index: (ranks[index], index))
