"""What can be done under one cache: placements, with what each would take. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from assistant.memory.model.architecture import CacheParams
from assistant.memory.planning.footprint import (
    ModelBreakdown,
    Work,
    estimate,
    gpu_budget,
    gpu_costs,
    usages,
    work_of,
)
from assistant.memory.planning.placement import Placement, place
from assistant.memory.planning.plan import HOST_MEMORY, Choice, Plan, Requirements

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

    What a GPU computes depends on what is there, and what can are there on what it
    computes: so place under the largest buffers it could need, then again under the real ones.
    """
    costs = gpu_costs(breakdown, cache)
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


def _buffer(
    breakdown: ModelBreakdown, choice: Choice, device: str, work: Work, corrections: Corrections
) -> int:
    size = estimate(breakdown.model, choice.cache, work, choice.n_outputs_max)
    return max(size + corrections.get(device, 0), 0)


def _widest(breakdown: ModelBreakdown, choice: Choice, *, rest: bool) -> Work:
    """All that a GPU could have to compute."""
    moved = rest and choice.op_offload and not choice.repack
    return Work(
        layers=True,
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
