"""What a plan promises and what would change it: speed's bound, context to be had. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from assistant.errors import PlanError
from assistant.memory.model.kv_cache import cache_bytes, unusable_types
from assistant.memory.model.profile import Model
from assistant.memory.planning.plan import HOST, Machine, Plan, Wishes
from assistant.memory.planning.planner import make_plan

# Assumed where nothing was measured: dual-channel DDR5, and a middling card of today.
HOST_BYTES_PER_S = 60e9
CARD_BYTES_PER_S = 600e9
_STEP = 1024


@dataclass(frozen=True, slots=True)
class DecodeBound:
    """Bytes read to decode one token with an empty cache, and the speed that follows at best.

    Attributes:
        tokens_per_s: at the assumed bandwidths, computing and copying left out.
    """

    card_bytes: int
    host_bytes: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The plan under another context or cache type; `plan` is None where nothing fits."""

    n_ctx: int
    cache_type: str
    kv_bytes: int
    plan: Plan | None


def decode_bound(plan: Plan) -> DecodeBound:
    """How fast a token can be decoded at most: the weights it passes are read once."""
    used = {layer.index: layer for layer in plan.model.census.layers}
    card = host = 0
    for usage in plan.usages:
        share = 0
        each = usage.expert_bytes / max(len(usage.expert_layers), 1)
        for index in usage.expert_layers:
            layer = used[index]
            share += int(each * (layer.used or layer.count) / max(layer.count, 1))
        read = usage.dense_bytes + usage.output_bytes + share
        if plan.model.census.tied and usage.output_bytes and usage.device.name == HOST:
            read += usage.embedding_bytes
        if usage.device.name == HOST:
            host += read
        else:
            card += read
    seconds = card / CARD_BYTES_PER_S + host / HOST_BYTES_PER_S
    return DecodeBound(card, host, 1 / seconds if seconds else 0.0)


def most_context(model: Model, machine: Machine, wishes: Wishes, plan: Plan) -> int:
    """The longest context that keeps every expert group of `plan` where it is."""

    def holds(n_ctx: int) -> bool:
        try:
            other = make_plan(
                model, machine, replace(wishes, n_ctx=n_ctx), search_alternatives=False
            )
        except PlanError:
            return False
        same_type = other.choice.cache.type_k == plan.choice.cache.type_k
        host = other.choice.layers.count(HOST) <= plan.choice.layers.count(HOST)
        groups = other.expert_layers_on_gpu >= plan.expert_layers_on_gpu
        return same_type and host and groups

    low, high = plan.n_ctx // _STEP, max(model.n_ctx_train, plan.n_ctx) // _STEP
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle * _STEP):
            low = middle
        else:
            high = middle - 1
    return max(low * _STEP, plan.n_ctx)


def what_if(model: Model, machine: Machine, wishes: Wishes, plan: Plan) -> Iterator[WhatIf]:
    """The plan with half and twice its context, and with the other usual cache types."""
    cache = plan.choice.cache
    contexts = sorted({cache.n_ctx // 2, cache.n_ctx, cache.n_ctx * 2})
    for n_ctx in contexts:
        for kind in dict.fromkeys((cache.type_k, "f16", "q8_0", "q4_0")):
            if n_ctx > max(model.n_ctx_train, cache.n_ctx) or n_ctx < _STEP:
                continue
            changed = replace(wishes, n_ctx=n_ctx, cache_type=kind)
            wished = replace(cache, n_ctx=n_ctx, type_k=kind, type_v=kind)
            if unusable_types(model.memory, wished):
                continue
            size = cache_bytes(model.memory, wished)
            try:
                other = make_plan(model, machine, changed, search_alternatives=False)
            except PlanError:
                yield WhatIf(n_ctx, kind, size, None)
                continue
            yield WhatIf(n_ctx, kind, size, other)
