"""The report on a model: its plan, the reasons, the projections, and what would change it. Pure.

Everything in a report comes from one planner, so a measured plan has measured projections.
Commands format a report and decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from assistant.errors import PlanError
from assistant.llama import DeviceRates, TypeRate
from assistant.memory.gguf.header import Tensor
from assistant.memory.model.architecture import (
    CacheParams,
    cache_bytes,
    nextn_bytes,
    unusable_types,
)
from assistant.memory.model.profile import Model
from assistant.memory.planning import HOST_MEMORY, Machine, Plan, Requirements
from assistant.memory.rates import ASSUMED, MachineRates

_PCIE_BYTES_PER_S = 12e9  # PCIe 4.0 with 16 lanes, what pageable memory reaches
_BATCH_TOKENS = 512
_NEW_TOKENS = 32  # that a suggestion while typing reads: the lines around the cursor
_LINE_TOKENS = 12  # of a suggested line
_JUMP_TOKENS = 512  # that a jump of the cursor to another place makes the engine read
_HELD_TOKENS = 1024  # in the cache while a token is decoded
_USABLE_S = 2.0  # later than that, ghost text is of no use
# The measured type that each other type is most like: first in a decode, which is bound by bytes,
# then in a prompt, where the types that llama.cpp repacks are faster (ggml-cpu/repack.cpp).
_LIKE = {"q5_K": "q6_K", "q5_0": "q6_K", "q5_1": "q6_K"} | dict.fromkeys(
    ("f16", "bf16", "f32", "q8_1", "q8_K"), "q8_0"
)
_REPACKED = {"q4_0": "q4_K", "q2_K": "q4_K", "iq4_nl": "q4_K", "mxfp4": "q4_K", "q5_K": "q6_K"}
_STEP_TOKENS = 1024

Planner = Callable[[Requirements], Plan]
"""The best plan of one model on one machine; raises PlanError where nothing fits."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a plan will run, predicted from the machine's rates.

    Attributes:
        gpu_bytes, host_memory_bytes: weights read to decode one token.
        disk_bytes: of them, what is not in the page cache and is read from disk, if experts are
            used alike. Each read waits, so the rates are upper bounds then.
        decode_tokens_per_s: one sequence, with `_HELD_TOKENS` in the cache.
        prefill_tokens_per_s: a prompt of `_JUMP_TOKENS` tokens.
        suggestion_s: while typing: the lines around the cursor are read, one line is decoded.
        jump_s: after a jump of the cursor: `_JUMP_TOKENS` are read, one line is decoded.
    """

    gpu_bytes: int
    host_memory_bytes: int
    disk_bytes: int
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    suggestion_s: float
    jump_s: float

    @property
    def usable(self) -> bool:
        """Whether ghost text comes in time while typing."""
        return self.suggestion_s <= _USABLE_S


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
        speed: the predicted rates, of `rates`.
        most_n_ctx: the longest context that keeps every expert group of the plan where it is.
        what_if: the same model with other contexts and cache types; the plan's own row included.
        caveats: what could not be known of the model or the machine.
    """

    model: Model
    machine: Machine
    plan: Plan | None = None
    failure: PlanError | None = None
    speed: Speed | None = None
    rates: MachineRates = ASSUMED
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


def make_report(  # noqa: PLR0917 (all of them are the plan's input)
    model: Model,
    machine: Machine,
    requirements: Requirements,
    planner: Planner,
    caveats: tuple[str, ...] = (),
    rates: MachineRates = ASSUMED,
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
        speed=predict_speed(plan, rates),
        rates=rates,
        most_n_ctx=_most_context(model, requirements, plan, planner),
        what_if=tuple(_what_if(model, requirements, plan, planner)),
        caveats=tuple(dict.fromkeys((*plan.caveats, *caveats))),
    )


def predict_speed(plan: Plan, rates: MachineRates = ASSUMED) -> Speed:
    """The rates of a plan.

    A token reads each weight that it passes once, plus the cache, and each layer costs a fixed
    time. In a prompt a weight is multiplied by every token, but is also read at least once: of
    many experts with few tokens each, the reading decides.
    """
    gpu = host_memory = host_experts = 0
    decode_s = token_s = batch_s = 0.0
    for work in _work(plan):
        on_gpu = work.device != HOST_MEMORY
        device = rates.gpu if on_gpu else rates.cpu
        kind = work.tensor.type.name
        active_bytes = int(work.tensor.size_bytes * work.share)
        gpu, host_memory = gpu + on_gpu * active_bytes, host_memory + (not on_gpu) * active_bytes
        host_experts += (work.routed and not on_gpu) * active_bytes
        decode_s += active_bytes / _decode_rate(device, kind).bytes_per_s
        touched = 1 - (1 - work.share) ** _BATCH_TOKENS if work.share < 1 else 1.0
        read_s = touched * work.tensor.size_bytes / _decode_rate(device, kind).bytes_per_s
        if not on_gpu and plan.gpu_usages and plan.choice.op_offload:
            device = rates.gpu
            read_s = touched * work.tensor.size_bytes / _PCIE_BYTES_PER_S
        rate = _prompt_rate(device, kind)
        per_s = rate.expert_weights_per_s if work.routed else rate.weights_per_s
        multiply_s = work.tensor.n_elements * work.share / per_s
        if work.every_token:
            token_s += multiply_s
            batch_s += max(read_s - multiply_s * _BATCH_TOKENS, 0.0)
    layers = plan.choice.layers
    in_host_memory = layers.count(HOST_MEMORY)
    decode_s += in_host_memory * rates.cpu.layer_s
    decode_s += (len(layers) - in_host_memory) * rates.gpu.layer_s
    for usage in plan.usages:
        device = rates.cpu if usage.device.name == HOST_MEMORY else rates.gpu
        held = usage.kv_bytes * min(_HELD_TOKENS / max(plan.n_ctx, 1), 1.0)
        decode_s += held / _decode_rate(device, "f16").bytes_per_s
    usage = plan.host_memory_usage
    disk_bytes = host_experts * usage.disk_bytes // max(usage.expert_bytes, 1)
    decode_s += disk_bytes / rates.disk_bytes_per_s
    prefill_s = token_s + batch_s / _BATCH_TOKENS
    if disk_bytes:
        # A batch uses nearly every expert, and they are read in turn: by the time that one is
        # used again it has left the cache, so all are read.
        prefill_s += usage.expert_bytes / rates.disk_bytes_per_s / _BATCH_TOKENS
    line_s = _LINE_TOKENS * decode_s
    return Speed(
        gpu,
        host_memory,
        disk_bytes,
        1 / decode_s if decode_s else 0.0,
        1 / prefill_s if prefill_s else 0.0,
        _NEW_TOKENS * max(prefill_s, token_s) + line_s,
        _JUMP_TOKENS * prefill_s + line_s,
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """A tensor on a device: the share of it that a token passes, and whether all tokens do.

    The output matrix, and in the last layer all that follows the attention, is only multiplied
    where logits are wanted: once in a prompt.
    """

    tensor: Tensor
    device: str
    share: float = 1.0
    every_token: bool = True
    routed: bool = False


def _work(plan: Plan) -> Iterator[_Work]:
    inventory, choice = plan.model.inventory, plan.choice
    placed = zip(inventory.layers, choice.layers, choice.experts, strict=False)
    run = [placement for placement in placed if not placement[0].skipped]
    for number, (layer, device, experts) in enumerate(run, 1):
        last = number == len(run)
        for tensor in layer.dense:
            yield _Work(tensor, device, every_token=not (last and ".ffn_" in tensor.name))
        share = (layer.used or layer.count) / max(layer.count, 1)
        for tensor in layer.experts:
            yield _Work(tensor, experts or device, share, every_token=not last, routed=True)
    for tensor in (*inventory.output, *(inventory.input if inventory.tied else ())):
        yield _Work(tensor, choice.output, every_token=False)


def _decode_rate(rates: DeviceRates, kind: str) -> TypeRate:
    return rates.types[kind if kind in rates.types else _LIKE.get(kind, "q4_K")]


def _prompt_rate(rates: DeviceRates, kind: str) -> TypeRate:
    return rates.types[kind if kind in rates.types else _REPACKED.get(kind, "q8_0")]


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
        *_about_disk(plan),
        *_about_nextn(plan),
        *_about_cache(plan, requirements),
    )


def caveats_of(model: Model) -> tuple[str, ...]:
    """What the plan cannot know of this model."""
    caveats = []
    if model.unchecked:
        caveats.append(
            "this model's sizes are not from its file or its makers: "
            "plan its GGUF before you rely on them"
        )
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
            "the copies that op_offload needs would cost too much of the GPUs, so the host "
            "computes its part itself, on repacked weights"
        )
    return [text]


def _about_disk(plan: Plan) -> list[str]:
    usage = plan.host_memory_usage
    if not usage.disk_bytes:
        return []
    return [
        (
            f"{gib(usage.disk_bytes)} of {gib(usage.expert_bytes)} of experts have no space in "
            "host memory and stay in the mapped file, so the weights are not repacked"
        )
    ]


def _about_nextn(plan: Plan) -> list[str]:
    memory, choice = plan.model.memory, plan.choice
    if not memory.nextn:
        return []
    if not choice.nextn:
        return ["no memory is left for drafts by its layers for multi-token prediction"]
    size = gib(plan.model.inventory.skipped.size_bytes + nextn_bytes(memory, choice.cache))
    return [f"its layers for multi-token prediction draft ({size} with their cache)"]


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
        full = cache_bytes(plan.model.memory, replace(cache, swa_full=True))
        lines.append(
            "sliding-window layers keep only their window, which spares "
            f"{gib(full - cache_bytes(plan.model.memory, cache))}"
        )
    if plan.model.memory.recurrent:
        lines.append(
            "the state of its layers has no history: a prompt that changes is read again from the "
            "last saved state before the change"
        )
    if cache.n_rs_seq:
        without = cache_bytes(plan.model.memory, replace(cache, n_rs_seq=0))
        lines.append(
            f"{cache.n_rs_seq} earlier states of each sequence are kept "
            f"({gib(cache_bytes(plan.model.memory, cache) - without)}), for drafts and short "
            "deletions"
        )
    return lines


def _f16(plan: Plan) -> CacheParams:
    return replace(plan.choice.cache, type_k="f16", type_v="f16")
