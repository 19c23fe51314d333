"""Where blocks and expert groups go: bytes and budgets in, devices out. Pure.

llama.cpp puts the last blocks and the output on the cards, in contiguous runs in the cards' order,
and the rest on the host (load_tensors in src/llama-model.cpp). Within that, expert groups may stand
on the host whatever their block does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_MOST_STEPS = 64


@dataclass(frozen=True, slots=True)
class Costs:
    """Bytes on one card.

    Attributes:
        blocks: of each block, what is not routed and its cache.
        experts: of each block's expert group; 0 where it has none.
        output: of the output matrix and its norm.
        fixed: once, if anything stands there (tensors that every device copies).
    """

    blocks: tuple[int, ...]
    experts: tuple[int, ...]
    output: int
    fixed: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Who stands where; cards by index.

    Attributes:
        starts: for each card its first block; the next card's start ends it. Blocks before
            `starts[0]` are on the host, and where `starts[0]` is the number of blocks plus one,
            so is the output.
        groups: blocks whose expert groups are on their own block's card.
    """

    starts: tuple[int, ...]
    groups: frozenset[int]

    def card(self, index: int) -> int:
        """The card of block `index` (the output counts as the last); -1 for the host."""
        return sum(1 for start in self.starts if start <= index) - 1


def place(costs: Sequence[Costs], budgets: Sequence[int]) -> Placement:
    """As much on the cards as their budgets hold: first blocks, then whole expert groups.

    Args:
        costs: one for each card. All have the same number of blocks.
        budgets: bytes that each card may take for them.
    """
    if not costs:
        return Placement((), frozenset())
    n_items = len(costs[0].blocks) + 1
    host = _fewest_on_host(costs, budgets, n_items)
    best = _first_fit(costs, budgets, host, n_items)
    groups = _groups(costs, budgets, best)
    for guess in (_even(costs, budgets, host, n_items, whole) for whole in (True, False)):
        if guess is None:
            continue
        found = _groups(costs, budgets, guess)
        if _weight(costs, found) > _weight(costs, groups):
            best, groups = guess, found
    best, groups = _climb(costs, budgets, best, groups)
    return Placement(best, frozenset(groups))


def _used(costs: Sequence[Costs], starts: Sequence[int], card: int) -> int:
    """Bytes of the blocks (and the output) of one card."""
    n_blocks = len(costs[card].blocks)
    first, last = starts[card], _end(starts, card, n_blocks)
    if first >= last:
        return 0
    total = costs[card].fixed + sum(costs[card].blocks[first : min(last, n_blocks)])
    return total + (costs[card].output if last > n_blocks else 0)


def _end(starts: Sequence[int], card: int, n_blocks: int) -> int:
    return starts[card + 1] if card + 1 < len(starts) else n_blocks + 1


def _first_fit(
    costs: Sequence[Costs], budgets: Sequence[int], host: int, n_items: int
) -> tuple[int, ...]:
    """Each card as full as can be; an impossible rest is left past the last card's budget."""
    starts = [host]
    for card in range(len(costs) - 1):
        at, left = starts[-1], budgets[card] - costs[card].fixed
        while at < n_items and left >= (cost := _item(costs[card], at)):
            left -= cost
            at += 1
        starts.append(at)
    return tuple(starts)


def _item(costs: Costs, index: int) -> int:
    return costs.blocks[index] if index < len(costs.blocks) else costs.output


def _feasible(costs: Sequence[Costs], budgets: Sequence[int], starts: Sequence[int]) -> bool:
    return all(_used(costs, starts, card) <= max(budgets[card], 0) for card in range(len(costs)))


def _fewest_on_host(costs: Sequence[Costs], budgets: Sequence[int], n_items: int) -> int:
    """How many leading blocks must stay on the host for the others to fit on the cards."""
    low, high = 0, n_items  # everything on the host always fits
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
    for card in range(len(costs)):
        n_blocks = len(costs[card].blocks)
        room = budgets[card] - _used(costs, starts, card)
        for index in reversed(range(starts[card], min(_end(starts, card, n_blocks), n_blocks))):
            size = costs[card].experts[index]
            if 0 < size <= room:
                room -= size
                found.append(index)
    return found


def _weight(costs: Sequence[Costs], groups: Sequence[int]) -> int:
    return sum(costs[0].experts[index] for index in groups)


def _even(
    costs: Sequence[Costs], budgets: Sequence[int], host: int, n_items: int, whole: bool
) -> tuple[int, ...] | None:
    """Blocks shared out in proportion to the budgets; `whole` counts their experts too."""
    sizes = [_item(costs[0], index) for index in range(n_items)]
    if whole:
        sizes = [
            size + (costs[0].experts[i] if i < n_items - 1 else 0) for i, size in enumerate(sizes)
        ]
    total, budget = sum(sizes[host:]), sum(max(item, 0) for item in budgets)
    if budget <= 0:
        return None
    starts, passed, share = [host], 0, 0
    at = host
    for card in range(len(costs) - 1):
        share += max(budgets[card], 0)
        while at < n_items and (passed + sizes[at] / 2) * budget <= share * total:
            passed += sizes[at]
            at += 1
        starts.append(at)
    return tuple(starts) if _feasible(costs, budgets, starts) else None


def _climb(
    costs: Sequence[Costs], budgets: Sequence[int], starts: tuple[int, ...], groups: list[int]
) -> tuple[tuple[int, ...], list[int]]:
    """Move one boundary at a time while more expert bytes come onto the cards."""
    n_items = len(costs[0].blocks) + 1
    for _ in range(_MOST_STEPS):
        better = None
        for card in range(1, len(starts)):
            for step in (-1, 1):
                moved = list(starts)
                moved[card] += step
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
