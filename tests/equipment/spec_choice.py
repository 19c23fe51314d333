"""A load spec read back as a choice: so that any way to load a model can be costed. Pure.

The daemon's ladder changes load specs; this says what each would take before it is tried.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate

from assistant.llama import LoadSpec
from assistant.memory.model.architecture import CacheParams
from assistant.memory.model.profile import Model
from assistant.memory.planning import HOST_MEMORY, Choice, DeviceUsage, Machine, Requirements
from assistant.memory.planning.footprint import ModelBreakdown, breakdown_of, usages


def spec_usages(
    model: Model,
    machine: Machine,
    spec: LoadSpec,
    corrections: Mapping[str, int] | None = None,
) -> tuple[DeviceUsage, ...]:
    """What each device of the machine would hold after loading `spec`: the host first.

    Args:
        machine: must have every device that the spec names.
        corrections: by device, bytes by which its compute buffer was measured above the estimate.
    """
    breakdown = breakdown_of(model, machine)
    return usages(
        breakdown, choice_of(breakdown, spec), Requirements(n_seq_max=spec.n_seq_max), corrections
    )


def choice_of(breakdown: ModelBreakdown, spec: LoadSpec) -> Choice:
    """What a spec decides, as llama.cpp reads it (load_tensors in src/llama-model.cpp)."""
    n_layer = breakdown.model.n_layer
    places = _places(breakdown, spec)
    return Choice(
        cache=CacheParams(
            n_ctx=spec.n_ctx,
            type_k=spec.cache_type_k,
            type_v=spec.cache_type_v,
            n_seq_max=spec.n_seq_max,
            unified=spec.kv_unified,
            n_ubatch=min(spec.n_ubatch, spec.n_batch),
            swa_full=spec.swa_full,
            n_rs_seq=spec.n_rs_seq,
            checkpoint_bytes=spec.checkpoint_bytes,
            flash_attn=spec.flash_attn,
        ),
        layers=tuple(places[:n_layer]),
        output=places[n_layer],
        experts=tuple(
            _expert_place(breakdown, spec, index, places[index]) for index in range(n_layer)
        ),
        n_batch=spec.n_batch,
        n_outputs_max=spec.n_outputs_max or spec.n_batch,
        op_offload=spec.op_offload,
        repack=spec.use_extra_bufts,
        offload_kqv=spec.offload_kqv,
        nextn=spec.nextn,
    )


def _places(breakdown: ModelBreakdown, spec: LoadSpec) -> list[str]:
    """The device of each block, and last that of the output."""
    items = breakdown.model.n_layer + 1
    on_gpus = items if spec.n_gpu_layers < 0 else min(spec.n_gpu_layers, items)
    if not spec.devices or not on_gpus:
        return [HOST_MEMORY] * items
    shares = list(spec.tensor_split[: len(spec.devices)])
    if not any(shares):
        free = {gpu.name: gpu.free_bytes for gpu in breakdown.machine.gpus}
        shares = [float(free.get(name, 0)) for name in spec.devices]
    ends = [end / (sum(shares) or 1.0) for end in accumulate(shares)]
    places = [HOST_MEMORY] * (items - on_gpus)
    for item in range(on_gpus):
        gpu = sum(1 for end in ends if end <= item / on_gpus)
        places.append(spec.devices[min(gpu, len(spec.devices) - 1)])
    return places


def _expert_place(breakdown: ModelBreakdown, spec: LoadSpec, index: int, own: str) -> str:
    """Where a block's expert group stands: the first matching override decides."""
    if not breakdown.expert_sizes[index]:
        return ""
    name = f"blk.{index}.ffn_down_exps.weight"
    for override in spec.overrides:
        if re.search(override.pattern, name):
            return override.device
    return own
