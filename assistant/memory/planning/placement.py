"""Where blocks and expert groups go: bytes and budgets in, devices out. Pure.

llama.cpp puts the last blocks and the output on the GPUs, in contiguous runs in the GPUs' order,
and the rest in host memory (load_tensors in src/llama-model.cpp). An expert group may be in host
memory wherever its block is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_MOST_STEPS = 64


@dataclass(frozen=True, slots=True)
class Costs:
    """Bytes on one GPU.

    Attributes:
        blocks: of each block, what is not routed and its cache.
        experts: of each block's expert group; 0 where it has none.
        output: of the output matrix and its norm.
        fixed: once, if anything is there (tensors that every device copies).
    """

    blocks: tuple[int, ...]
    experts: tuple[int, ...]
    output: int
    fixed: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Which block is on which device; GPUs by index.

    Attributes:
        starts: for each GPU its first block; the next GPU's start ends it. Blocks before
            `starts[0]` are in host memory, and where `starts[0]` is the number of blocks plus one,
            so is the output.
        groups: blocks whose expert groups are on their own block's GPU.
    """

    starts: tuple[int, ...]
    groups: frozenset[int]

    def gpu(self, index: int) -> int:
        """The GPU of block `index` (the output counts as the last); -1 for host memory."""
        return sum(1 for start in self.starts if start <= index) - 1


def place(costs: Sequence[Costs], budgets: Sequence[int]) -> Placement:
    """As much on the GPUs as their budgets hold: first blocks, then whole expert groups.

    Args:
        costs: one for each GPU. All have the same number of blocks.
        budgets: bytes that each GPU may take for them.
    """
    if not costs:
        return Placement((), frozenset())
    n_items = len(costs[0].blocks) + 1
    host_memory = _fewest_in_host_memory(costs, budgets, n_items)
    best = _first_fit(costs, budgets, host_memory, n_items)
    groups = _groups(costs, budgets, best)
    for guess in (_even(costs, budgets, host_memory, n_items, whole) for whole in (True, False)):
        if guess is None:
            continue
        found = _groups(costs, budgets, guess)
        if _weight(costs, found) > _weight(costs, groups):
            best, groups = guess, found
    best, groups = _climb(costs, budgets, best, groups)
    return Placement(best, frozenset(groups))


def _used(costs: Sequence[Costs], starts: Sequence[int], gpu: int) -> int:
    """Bytes of the blocks (and the output) of one GPU."""
    n_blocks = len(costs[gpu].blocks)
    first, last = starts[gpu], _end(starts, gpu, n_blocks)
    if first >= last:
        return 0
    total = costs[gpu].fixed + sum(costs[gpu].blocks[first : min(last, n_blocks)])
    return total + (costs[gpu].output if last > n_blocks else 0)


def _end(starts: Sequence[int], gpu: int, n_blocks: int) -> int:
    return starts[gpu + 1] if gpu + 1 < len(starts) else n_blocks + 1


def _first_fit(
    costs: Sequence[Costs], budgets: Sequence[int], host_memory: int, n_items: int
) -> tuple[int, ...]:
    """Each GPU as full as can be; an impossible rest is left past the last GPU's budget."""
    starts = [host_memory]
    for gpu in range(len(costs) - 1):
        at, left = starts[-1], budgets[gpu] - costs[gpu].fixed
        while at < n_items and left >= (cost := _item(costs[gpu], at)):
            left -= cost
            at += 1
        starts.append(at)
    return tuple(starts)


def _item(costs: Costs, index: int) -> int:
    return costs.blocks[index] if index < len(costs.blocks) else costs.output


def _feasible(costs: Sequence[Costs], budgets: Sequence[int], starts: Sequence[int]) -> bool:
    return all(_used(costs, starts, gpu) <= max(budgets[gpu], 0) for gpu in range(len(costs)))


def _fewest_in_host_memory(costs: Sequence[Costs], budgets: Sequence[int], n_items: int) -> int:
    """How many leading blocks must stay in host memory for the others to fit on the GPUs."""
    low, high = 0, n_items  # everything in host memory always fits
    while low < high:
        middle = (low + high) // 2
        if _feasible(costs, budgets, _first_fit(costs, budgets, middle, n_items)):
            high = middle
        else:
            low = middle + 1
    return low


def _groups(costs: Sequence[Costs], budgets: Sequence[int], starts: Sequence[int]) -> list[int]:
    """The expert groups that fit beside the blocks, last blocks first."""
    found = []
    for gpu in range(len(costs)):
        n_blocks = len(costs[gpu].blocks)
        left = budgets[gpu] - _used(costs, starts, gpu)
        for index in reversed(range(starts[gpu], min(_end(starts, gpu, n_blocks), n_blocks))):
            size = costs[gpu].experts[index]
            if 0 < size <= left:
                left -= size
                found.append(index)
    return found


def _weight(costs: Sequence[Costs], groups: Sequence[int]) -> int:
    return sum(costs[0].experts[index] for index in groups)


def _even(
    costs: Sequence[Costs], budgets: Sequence[int], host_memory: int, n_items: int, whole: bool
) -> tuple[int, ...] | None:
    """Blocks shared out in proportion to the budgets; `whole` counts their experts too."""
    sizes = [_item(costs[0], index) for index in range(n_items)]
    if whole:
        sizes = [
            size + (costs[0].experts[i] if i < n_items - 1 else 0) for i, size in enumerate(sizes)
        ]
    total, budget = sum(sizes[host_memory:]), sum(max(item, 0) for item in budgets)
    if budget <= 0:
        return None
    starts, passed, share = [host_memory], 0, 0
    at = host_memory
    for gpu in range(len(costs) - 1):
        share += max(budgets[gpu], 0)
        while at < n_items and (passed + sizes[at] / 2) * budget <= share * total:
            passed += sizes[at]
            at += 1
        starts.append(at)
    return tuple(starts) if _feasible(costs, budgets, starts) else None


def _climb(
    costs: Sequence[Costs], budgets: Sequence[int], starts: tuple[int, ...], groups: list[int]
) -> tuple[tuple[int, ...], list[int]]:
    """Move one boundary at a time while more expert bytes come onto the GPUs."""
    n_items = len(costs[0].blocks) + 1
    for _ in range(_MOST_STEPS):
        better = None
        for gpu in range(1, len(starts)):
            for step in (-1, 1):
                moved = list(starts)
                moved[gpu] += step
                ordered = moved == sorted(moved) and moved[-1] <= n_items
                if not ordered or not _feasible(costs, budgets, moved):
                    continue
                found = _groups(costs, budgets, moved)
                if _weight(costs, found) > _weight(costs, groups):
                    better, groups = tuple(moved), found
        if better is None:
            break
        starts = better
    return starts, groups
