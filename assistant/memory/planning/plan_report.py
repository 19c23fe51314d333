"""The report on a model: its plan, the reasons, the projections, and what would change it. Pure.

Everything in a report comes from one planner, so a measured plan has measured projections.
Commands format a report and decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from assistant.errors import PlanError
from assistant.memory.model.architecture import CacheParams, cache_bytes, unusable_types
from assistant.memory.model.profile import Model
from assistant.memory.planning.plan import HOST_MEMORY, Machine, Plan, Requirements

# Assumed where nothing was measured: dual-channel DDR5, and a middling GPU of today.
HOST_MEMORY_BYTES_PER_S = 60e9
GPU_BYTES_PER_S = 600e9
_STEP_TOKENS = 1024

Planner = Callable[[Requirements], Plan]
"""The best plan of one model on one machine; raises PlanError where nothing fits."""


@dataclass(frozen=True, slots=True)
class DecodeBound:
    """Bytes read to decode one token with an empty cache, and the speed that follows at best.

    Attributes:
        tokens_per_s: at the assumed bandwidths; computation and copies are not counted.
    """

    gpu_bytes: int
    host_memory_bytes: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The plan under another context or cache type; `plan` is None where nothing fits."""

    n_ctx: int
    cache_type: str
    kv_bytes: int
    plan: Plan | None


@dataclass(frozen=True, slots=True)
class PlanReport:
    """Everything that `underkeel plan` shows.

    Attributes:
        plan: None where nothing fits; then `failure` says why, and there are no projections.
        decode: the upper bound of the decode rate.
        most_n_ctx: the longest context that keeps every expert group of the plan where it is.
        what_if: the same model with other contexts and cache types; the plan's own row included.
        caveats: what could not be known of the model or the machine.
    """

    model: Model
    machine: Machine
    plan: Plan | None = None
    failure: PlanError | None = None
    decode: DecodeBound | None = None
    most_n_ctx: int = 0
    what_if: tuple[WhatIf, ...] = ()
    caveats: tuple[str, ...] = ()

    def require_plan(self) -> Plan:
        """The plan.

        Raises:
            PlanError: nothing fits.
        """
        if self.plan is None:
            raise self.failure or PlanError("nothing was planned", subject=self.model.name)
        return self.plan


def make_report(
    model: Model,
    machine: Machine,
    requirements: Requirements,
    planner: Planner,
    caveats: tuple[str, ...] = (),
) -> PlanReport:
    """Plan a model, and project the plan by the same planner.

    Args:
        caveats: about the machine; they follow those about the plan.
    """
    try:
        plan = planner(requirements)
    except PlanError as error:
        return PlanReport(model, machine, failure=error, caveats=caveats)
    return PlanReport(
        model,
        machine,
        plan,
        decode=decode_bound(plan),
        most_n_ctx=_most_context(model, requirements, plan, planner),
        what_if=tuple(_what_if(model, requirements, plan, planner)),
        caveats=tuple(dict.fromkeys((*plan.caveats, *caveats))),
    )


def decode_bound(plan: Plan) -> DecodeBound:
    """How fast a token can be decoded at most: the weights it passes are read once."""
    layers = {layer.index: layer for layer in plan.model.inventory.layers}
    gpu = host_memory = 0
    for usage in plan.usages:
        share = 0
        each = usage.expert_bytes / max(len(usage.expert_layers), 1)
        for index in usage.expert_layers:
            layer = layers[index]
            share += int(each * (layer.used or layer.count) / max(layer.count, 1))
        read = usage.dense_bytes + usage.output_bytes + share
        if plan.model.inventory.tied and usage.output_bytes and usage.device.name == HOST_MEMORY:
            read += usage.embedding_bytes
        if usage.device.name == HOST_MEMORY:
            host_memory += read
        else:
            gpu += read
    seconds = gpu / GPU_BYTES_PER_S + host_memory / HOST_MEMORY_BYTES_PER_S
    return DecodeBound(gpu, host_memory, 1 / seconds if seconds else 0.0)


def _most_context(model: Model, requirements: Requirements, plan: Plan, planner: Planner) -> int:
    """The longest context that keeps every expert group of `plan` where it is."""

    def holds(n_ctx: int) -> bool:
        try:
            other = planner(replace(requirements, n_ctx=n_ctx))
        except PlanError:
            return False
        same_type = other.choice.cache.type_k == plan.choice.cache.type_k
        host_memory = other.choice.layers.count(HOST_MEMORY) <= plan.choice.layers.count(
            HOST_MEMORY
        )
        groups = other.expert_layers_on_gpu >= plan.expert_layers_on_gpu
        return same_type and host_memory and groups

    low = plan.n_ctx // _STEP_TOKENS
    above = max(model.n_ctx_train, plan.n_ctx) // _STEP_TOKENS
    if low < above and holds(above * _STEP_TOKENS):
        low = above
    while low + 1 < above:  # `low` holds and `above` does not
        middle = (low + above) // 2
        low, above = (middle, above) if holds(middle * _STEP_TOKENS) else (low, middle)
    return max(low * _STEP_TOKENS, plan.n_ctx)


def _what_if(
    model: Model, requirements: Requirements, plan: Plan, planner: Planner
) -> Iterator[WhatIf]:
    """The plan with half and twice its context, and with the other usual cache types."""
    cache = plan.choice.cache
    for n_ctx in sorted({cache.n_ctx // 2, cache.n_ctx, cache.n_ctx * 2}):
        if n_ctx > max(model.n_ctx_train, cache.n_ctx) or n_ctx < min(_STEP_TOKENS, cache.n_ctx):
            continue
        for kind in dict.fromkeys((cache.type_k, "f16", "q8_0", "q4_0")):
            changed = replace(cache, n_ctx=n_ctx, type_k=kind, type_v=kind)
            if unusable_types(model.memory, changed):
                continue
            if (n_ctx, kind) == (cache.n_ctx, cache.type_k):
                yield WhatIf(n_ctx, kind, _kv_bytes(model, plan), plan)
                continue
            try:
                other = planner(replace(requirements, n_ctx=n_ctx, cache_type=kind))
            except PlanError:
                yield WhatIf(n_ctx, kind, cache_bytes(model.memory, changed), None)
                continue
            yield WhatIf(n_ctx, kind, _kv_bytes(model, other), other)


def _kv_bytes(model: Model, plan: Plan) -> int:
    return cache_bytes(model.memory, plan.choice.cache)


_GIB = 1 << 30
_MIB = 1 << 20


def gib(size_bytes: int) -> str:
    """A size for people: two digits after the point below 10 GiB, MiB below one."""
    if abs(size_bytes) < _GIB:
        return f"{size_bytes / _MIB:.0f} MiB"
    return f"{size_bytes / _GIB:.{2 if abs(size_bytes) < 10 * _GIB else 1}f} GiB"


def billions(parameters: int) -> str:
    """A count of parameters for people: "30.5 B", "494 M"."""
    if parameters < 1_000_000_000:
        return f"{parameters / 1e6:.0f} M"
    return f"{parameters / 1e9:.1f} B"


def explain(plan: Plan, machine: Machine, requirements: Requirements) -> tuple[str, ...]:
    """Why the plan is as it is."""
    return (
        *_about_placement(plan, machine),
        *_about_offload(plan, machine),
        *_about_cache(plan, requirements),
    )


def caveats_of(model: Model) -> tuple[str, ...]:
    """What the plan cannot know of this model."""
    caveats = []
    if not model.supported:
        caveats.append(
            f"llama.cpp does not load the architecture {model.architecture or '(none named)'!r}"
        )
    if not model.known:
        caveats.append("how this architecture keeps its context is not known: the cache is a guess")
    if any(layer.experts and not layer.used for layer in model.inventory.layers):
        caveats.append("the header does not say how many experts a token uses: all were counted")
    return tuple(caveats)


def _about_placement(plan: Plan, machine: Machine) -> list[str]:
    if not machine.gpus:
        return ["there is no GPU, so everything is in host memory"]
    choice = plan.choice
    groups = [index for index, name in enumerate(choice.experts) if name]
    on_gpus, in_host_memory = plan.expert_layers_on_gpu, choice.layers.count(HOST_MEMORY)
    if in_host_memory == len(choice.layers):
        return ["the GPUs cannot hold a single layer, so everything is in host memory"]
    lines = []
    if in_host_memory:
        lines.append(
            f"the first {in_host_memory} of {len(choice.layers)} layers stay in host memory: the "
            "GPUs cannot hold everything that is not an expert"
        )
    if groups and on_gpus == len(groups):
        lines.append(f"all {len(groups)} expert groups fit on the GPUs")
    elif groups:
        lines.append(
            f"{on_gpus} of {len(groups)} expert groups fit on the GPUs beside attention and "
            "cache; each group stays whole on one device"
        )
    return lines or ["all layers fit on the GPUs"]


def _about_offload(plan: Plan, machine: Machine) -> list[str]:
    choice = plan.choice
    if not machine.gpus or HOST_MEMORY not in {*choice.layers, *choice.experts}:
        return []
    if choice.op_offload and not choice.repack:
        text = (
            "prompts are computed on the GPU also for weights in host memory (op_offload), so "
            "those weights are not repacked"
        )
    else:
        text = (
            "the copy of an expert that op_offload needs would cost too many groups on the GPUs, "
            "so the host computes them itself, on repacked weights"
        )
    return [text]


def _about_cache(plan: Plan, requirements: Requirements) -> list[str]:
    cache = plan.choice.cache
    lines = []
    if not requirements.cache_type and cache.type_k != "f16":
        saved = cache_bytes(plan.model.memory, _f16(plan)) - cache_bytes(plan.model.memory, cache)
        lines.append(f"the cache is {cache.type_k}, which spares {gib(saved)} against f16")
    if not requirements.n_ctx:
        lines.append(
            f"{cache.n_ctx:,} tokens of context were chosen; it was trained for "
            f"{plan.model.n_ctx_train:,}"
        )
    elif plan.model.n_ctx_train and requirements.n_ctx > plan.model.n_ctx_train:
        lines.append(
            f"{requirements.n_ctx:,} tokens are more than the {plan.model.n_ctx_train:,} that it "
            "was trained for"
        )
    if cache.n_ubatch < requirements.n_ubatch:
        lines.append(f"batches of {cache.n_ubatch} tokens keep the compute buffer small")
    if plan.model.memory.windowed and not cache.swa_full:
        lines.append(
            "sliding-window layers keep only their window, so a prompt can only be reused whole"
        )
    if plan.model.memory.recurrent:
        lines.append("recurrent layers have no history, so a prompt can only be extended")
    return lines


def _f16(plan: Plan) -> CacheParams:
    return replace(plan.choice.cache, type_k="f16", type_v="f16")
