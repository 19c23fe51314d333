"""A plan's reasons and caveats, as sentences for a person."""

from __future__ import annotations

from dataclasses import replace

from assistant.memory.model.kv_cache import CacheParams, cache_bytes
from assistant.memory.model.profile import Model
from assistant.memory.planning.plan import HOST_MEMORY, Machine, Plan, Requirements

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
