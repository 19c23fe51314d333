"""What can be done under one cache: placements, with what each would take. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from assistant.memory.model.kv_cache import CacheWish
from assistant.memory.planning.compute_buffers import Work, estimate
from assistant.memory.planning.footprint import Sheet, card_budget, card_costs, usages, work_of
from assistant.memory.planning.placement import Placement, place
from assistant.memory.planning.plan import HOST, Choice, Plan, Wishes

_MOST_PASSES = 3
_KEEP_OFFLOAD = 0.9  # the share of expert groups on cards that op_offload may cost

Corrections = Mapping[str, int]
"""By device: bytes by which its compute buffer was measured above the estimate."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A choice and what it would take."""

    plan: Plan

    @property
    def shortfall_bytes(self) -> int:
        """What is missing in all; 0 where it fits."""
        return sum(max(-usage.spare_bytes, 0) for usage in self.plan.usages)

    @property
    def blocks_on_host(self) -> int:
        return self.plan.choice.layers.count(HOST) + (self.plan.choice.output == HOST)


def best_candidate(
    sheet: Sheet, wishes: Wishes, corrections: Corrections, cache: CacheWish
) -> Candidate:
    """The best placement under one cache."""
    if not sheet.machine.gpus:
        return _settle(sheet, wishes, corrections, _on_host(sheet, wishes, cache))
    whole = _on_cards(sheet, wishes, corrections, cache, op_offload=True, repack=False, rest=False)
    if whole.plan.fits and HOST not in whole.plan.choice.experts and not whole.blocks_on_host:
        return whole
    if wishes.experts_on_gpu:
        return whole
    offload = _on_cards(sheet, wishes, corrections, cache, op_offload=True, repack=False)
    repack = _on_cards(sheet, wishes, corrections, cache, op_offload=False, repack=True)
    if not offload.plan.fits or not repack.plan.fits:
        return min(offload, repack, key=lambda found: found.shortfall_bytes)
    if offload.blocks_on_host != repack.blocks_on_host:
        return min(offload, repack, key=lambda found: found.blocks_on_host)
    kept = offload.plan.expert_layers_on_gpu
    return offload if kept >= _KEEP_OFFLOAD * repack.plan.expert_layers_on_gpu else repack


def _on_host(sheet: Sheet, wishes: Wishes, cache: CacheWish) -> Choice:
    blocks = range(sheet.model.n_layer)
    has = sheet.experts[HOST]
    return Choice(
        cache=cache,
        layers=(HOST,) * sheet.model.n_layer,
        output=HOST,
        experts=tuple(HOST if has[index] else "" for index in blocks),
        n_batch=wishes.n_batch,
        n_outputs_max=max(wishes.n_outputs_max, wishes.n_seq_max),
    )


def _on_cards(
    sheet: Sheet,
    wishes: Wishes,
    corrections: Corrections,
    cache: CacheWish,
    *,
    op_offload: bool,
    repack: bool,
    rest: bool = True,
) -> Candidate:
    """Place blocks and groups; `rest` says that some experts are expected to stay on the host.

    What a card computes depends on what stands there, and what can stand there on what it
    computes: so place under the largest buffers it could need, then again under the real ones.
    """
    costs = card_costs(sheet, cache)
    empty = replace(_on_host(sheet, wishes, cache), op_offload=op_offload, repack=repack)
    works = [_widest(sheet, empty, rest=rest and card == 0) for card in range(len(costs))]
    best: Candidate | None = None
    for _ in range(_MOST_PASSES):
        budgets = [
            card_budget(gpu, _buffer(sheet, empty, gpu.name, work, corrections), wishes)
            for gpu, work in zip(sheet.machine.gpus, works, strict=True)
        ]
        choice = _with(sheet, empty, place(costs, budgets))
        found = _settle(sheet, wishes, corrections, choice)
        if best is None or _better(found, best):
            best = found
        real = [work_of(sheet, choice, gpu.name) for gpu in sheet.machine.gpus]
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


def _buffer(sheet: Sheet, choice: Choice, device: str, work: Work, corrections: Corrections) -> int:
    size = estimate(sheet.model, choice.cache, work, choice.n_outputs_max)
    return max(size + corrections.get(device, 0), 0)


def _widest(sheet: Sheet, choice: Choice, *, rest: bool) -> Work:
    """All that a card could have to compute."""
    moved = rest and choice.op_offload and not choice.repack
    return Work(
        layers=True,
        experts=True,
        output=True,
        copied_bytes=sheet.largest_expert if moved else 0,
        pipelined=not rest and len(sheet.machine.gpus) > 1,
    )


def _better(new: Candidate, old: Candidate) -> bool:
    if new.plan.fits != old.plan.fits:
        return new.plan.fits
    if new.blocks_on_host != old.blocks_on_host:
        return new.blocks_on_host < old.blocks_on_host
    return new.plan.expert_layers_on_gpu > old.plan.expert_layers_on_gpu


def _with(sheet: Sheet, choice: Choice, placement: Placement) -> Choice:
    names = [gpu.name for gpu in sheet.machine.gpus]
    n_layer = sheet.model.n_layer
    devices = [
        names[card] if (card := placement.card(index)) >= 0 else HOST
        for index in range(n_layer + 1)
    ]
    experts = tuple(
        (devices[index] if index in placement.groups else HOST) if choice.experts[index] else ""
        for index in range(n_layer)
    )
    return replace(
        choice, layers=tuple(devices[:n_layer]), output=devices[n_layer], experts=experts
    )


def _settle(sheet: Sheet, wishes: Wishes, corrections: Corrections, choice: Choice) -> Candidate:
    plan = Plan(sheet.model, choice, usages(sheet, choice, wishes, corrections))
    if wishes.experts_on_gpu and plan.gpu_usages and HOST in choice.experts:
        # What is left over goes to the roomiest card, which then says by how much it is too small.
        roomiest = max(plan.gpu_usages, key=lambda usage: usage.spare_bytes).device.name
        experts = tuple(roomiest if name == HOST else name for name in choice.experts)
        choice = replace(choice, experts=experts)
        plan = Plan(sheet.model, choice, usages(sheet, choice, wishes, corrections))
    return Candidate(plan)
