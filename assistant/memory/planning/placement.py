"""The best placement under one cache: what goes on which device, and what it would take. Pure.

llama.cpp puts the last blocks and the output on the GPUs, in contiguous runs in the GPUs' order,
and the rest in host memory (load_tensors in src/llama-model.cpp). An expert group may be in host
memory wherever its block is. `place` decides from bytes and budgets alone; `best_candidate` gives
it a model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from assistant.memory.model.architecture import CacheParams, layer_bytes
from assistant.memory.planning import HOST_MEMORY, Choice, Plan, Requirements
from assistant.memory.planning.footprint import (
    ModelBreakdown,
    Work,
    estimate,
    gpu_budget,
    usages,
    work_of,
)

_MOST_STEPS = 64
_MOST_PASSES = 3
_KEEP_OFFLOAD = 0.9  # the share of expert groups on GPUs that op_offload may cost

Corrections = Mapping[str, int]
"""By device: bytes by which its compute buffer was measured above the estimate."""


@dataclass(frozen=True, slots=True)
class PlanCandidate:
    """A choice and what it would take."""

    plan: Plan

    @property
    def shortfall_bytes(self) -> int:
        """What is missing in all; 0 where it fits."""
        return sum(max(-usage.spare_bytes, 0) for usage in self.plan.usages)

    @property
    def blocks_in_host_memory(self) -> int:
        return self.plan.choice.layers.count(HOST_MEMORY) + (self.plan.choice.output == HOST_MEMORY)


def best_candidate(
    breakdown: ModelBreakdown,
    requirements: Requirements,
    corrections: Corrections,
    cache: CacheParams,
) -> PlanCandidate:
    """The best placement under one cache."""
    if not breakdown.machine.gpus:
        choice = _in_host_memory(breakdown, requirements, cache)
        choice = replace(choice, repack=not requirements.disk)
        return _settle(breakdown, requirements, corrections, choice)
    whole = _on_gpus(
        breakdown, requirements, corrections, cache, op_offload=True, repack=False, rest=False
    )
    if (
        whole.plan.fits
        and HOST_MEMORY not in whole.plan.choice.experts
        and not whole.blocks_in_host_memory
    ):
        return whole
    if requirements.experts_on_gpu:
        return whole
    offload = _on_gpus(breakdown, requirements, corrections, cache, op_offload=True, repack=False)
    repack = _on_gpus(breakdown, requirements, corrections, cache, op_offload=False, repack=True)
    if not offload.plan.fits or not repack.plan.fits:
        return min(offload, repack, key=lambda found: found.shortfall_bytes)
    if offload.blocks_in_host_memory != repack.blocks_in_host_memory:
        return min(offload, repack, key=lambda found: found.blocks_in_host_memory)
    kept = offload.plan.expert_layers_on_gpu
    return offload if kept >= _KEEP_OFFLOAD * repack.plan.expert_layers_on_gpu else repack


def _in_host_memory(
    breakdown: ModelBreakdown, requirements: Requirements, cache: CacheParams
) -> Choice:
    blocks = range(breakdown.model.n_layer)
    has = breakdown.experts[HOST_MEMORY]
    return Choice(
        cache=cache,
        layers=(HOST_MEMORY,) * breakdown.model.n_layer,
        output=HOST_MEMORY,
        experts=tuple(HOST_MEMORY if has[index] else "" for index in blocks),
        n_batch=requirements.n_batch,
        n_outputs_max=max(requirements.n_outputs_max, requirements.n_seq_max),
    )


def _on_gpus(
    breakdown: ModelBreakdown,
    requirements: Requirements,
    corrections: Corrections,
    cache: CacheParams,
    *,
    op_offload: bool,
    repack: bool,
    rest: bool = True,
) -> PlanCandidate:
    """Place blocks and groups; `rest` says that some experts are expected to stay in host memory.

    What a GPU computes depends on what is placed there, and what has space there on the buffers
    for what it computes: so place under the largest buffers it could need, then again under the
    real ones.
    """
    costs = _gpu_costs(breakdown, cache)
    empty = replace(
        _in_host_memory(breakdown, requirements, cache), op_offload=op_offload, repack=repack
    )
    works = [_widest(breakdown, empty, rest=rest and gpu == 0) for gpu in range(len(costs))]
    best: PlanCandidate | None = None
    for _ in range(_MOST_PASSES):
        budgets = [
            gpu_budget(gpu, _buffer(breakdown, empty, gpu.name, work, corrections), requirements)
            for gpu, work in zip(breakdown.machine.gpus, works, strict=True)
        ]
        choice = _with(breakdown, empty, place(costs, budgets))
        found = _settle(breakdown, requirements, corrections, choice)
        if best is None or _better(found, best):
            best = found
        real = [work_of(breakdown, choice, gpu.name) for gpu in breakdown.machine.gpus]
        if not found.plan.fits:
            real = [
                replace(new, copied_bytes=max(new.copied_bytes, old.copied_bytes))
                for new, old in zip(real, works, strict=True)
            ]
        if real == works:
            break
        works = real
    assert best is not None
    return best


def _gpu_costs(breakdown: ModelBreakdown, cache: CacheParams) -> tuple[Costs, ...]:
    """What blocks, experts and output cost on each GPU under a cache."""
    kept = layer_bytes(breakdown.model.memory, cache)
    return tuple(
        Costs(
            blocks=tuple(
                weights + cells
                for weights, cells in zip(breakdown.dense[gpu.name], kept, strict=True)
            ),
            experts=breakdown.experts[gpu.name],
            output=breakdown.output[gpu.name],
            fixed=breakdown.copied[gpu.name],
        )
        for gpu in breakdown.machine.gpus
    )


def _buffer(
    breakdown: ModelBreakdown, choice: Choice, device: str, work: Work, corrections: Corrections
) -> int:
    size = estimate(breakdown.model, choice.cache, work, choice.n_outputs_max)
    return max(size + corrections.get(device, 0), 0)


def _widest(breakdown: ModelBreakdown, choice: Choice, *, rest: bool) -> Work:
    """All that a GPU could have to compute."""
    moved = rest and choice.op_offload and not choice.repack
    return Work(
        layers=len(choice.layers),
        experts=True,
        output=True,
        copied_bytes=breakdown.largest_expert if moved else 0,
        pipelined=not rest and len(breakdown.machine.gpus) > 1,
    )


def _better(new: PlanCandidate, old: PlanCandidate) -> bool:
    if new.plan.fits != old.plan.fits:
        return new.plan.fits
    if new.blocks_in_host_memory != old.blocks_in_host_memory:
        return new.blocks_in_host_memory < old.blocks_in_host_memory
    return new.plan.expert_layers_on_gpu > old.plan.expert_layers_on_gpu


def _with(breakdown: ModelBreakdown, choice: Choice, placement: Placement) -> Choice:
    names = [gpu.name for gpu in breakdown.machine.gpus]
    n_layer = breakdown.model.n_layer
    devices = [
        names[gpu] if (gpu := placement.gpu(index)) >= 0 else HOST_MEMORY
        for index in range(n_layer + 1)
    ]
    experts = tuple(
        (devices[index] if index in placement.groups else HOST_MEMORY)
        if choice.experts[index]
        else ""
        for index in range(n_layer)
    )
    return replace(
        choice, layers=tuple(devices[:n_layer]), output=devices[n_layer], experts=experts
    )


def _settle(
    breakdown: ModelBreakdown, requirements: Requirements, corrections: Corrections, choice: Choice
) -> PlanCandidate:
    plan = Plan(breakdown.model, choice, usages(breakdown, choice, requirements, corrections))
    if requirements.experts_on_gpu and plan.gpu_usages and HOST_MEMORY in choice.experts:
        # What is left over goes to the roomiest GPU, which then says by how much it is too small.
        largest = max(plan.gpu_usages, key=lambda usage: usage.spare_bytes).device.name
        experts = tuple(largest if name == HOST_MEMORY else name for name in choice.experts)
        choice = replace(choice, experts=experts)
        plan = Plan(breakdown.model, choice, usages(breakdown, choice, requirements, corrections))
    return PlanCandidate(plan)


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
