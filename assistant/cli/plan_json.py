"""Plans as JSON, for programs."""

from __future__ import annotations

from typing import Any

import msgspec

from assistant.memory.checkpoints.checkpoint import Checkpoint
from assistant.memory.checkpoints.checkpoint_plan import (
    active_parameters,
    checkpoint_bytes,
    map_devices,
    schemes_for,
    token_bytes,
)
from assistant.memory.checkpoints.vllm import vllm_command
from assistant.memory.gguf.header import Header
from assistant.memory.model.profile import model_of
from assistant.memory.planning.plan import DeviceUsage, Machine, Plan, Wishes
from assistant.memory.planning.projections import decode_bound, most_context, what_if


def plan_json(header: Header, machine: Machine, wishes: Wishes, plan: Plan) -> dict[str, Any]:
    """Everything that the picture shows, and the load spec."""
    model = model_of(header)
    census, bound = model.census, decode_bound(plan)
    return {
        "fits": plan.fits,
        "measured": plan.measured,
        "model": {
            "name": model.name,
            "path": model.path,
            "architecture": model.architecture,
            "total_parameters": census.total.parameters,
            "active_parameters": census.active.parameters,
            "total_bytes": census.total.size_bytes,
            "active_bytes": census.active.size_bytes,
            "by_class": {
                kind.value: {"parameters": amount.parameters, "bytes": amount.size_bytes}
                for kind, amount in census.by_class.items()
            },
            "by_type": {name: amount.size_bytes for name, amount in census.by_type.items()},
            "n_ctx_train": model.n_ctx_train,
        },
        "devices": [_device(usage) for usage in plan.usages],
        "context": {
            "n_ctx": plan.n_ctx,
            "most_n_ctx": most_context(model, machine, wishes, plan),
            "cache_type": plan.choice.cache.type_k,
        },
        "decode": {
            "card_bytes": bound.card_bytes,
            "host_bytes": bound.host_bytes,
            "tokens_per_s": round(bound.tokens_per_s, 1),
        },
        "what_if": [
            {
                "n_ctx": item.n_ctx,
                "cache_type": item.cache_type,
                "kv_bytes": item.kv_bytes,
                "fits": item.plan is not None,
                "expert_layers_on_gpu": item.plan.expert_layers_on_gpu if item.plan else 0,
            }
            for item in what_if(model, machine, wishes, plan)
        ],
        "reasons": list(plan.reasons),
        "doubts": list(plan.doubts),
        "load": msgspec.to_builtins(plan.to_load_spec()),
    }


def checkpoint_json(checkpoint: Checkpoint, machine: Machine) -> dict[str, Any]:
    """A checkpoint's sizes by scheme, its device maps, and the vLLM line."""
    schemes = {}
    for scheme in schemes_for(checkpoint):
        mapped = map_devices(checkpoint, machine, scheme)
        schemes[scheme.value] = {
            "bytes": checkpoint_bytes(checkpoint, scheme),
            "fits": mapped.fits,
            "bytes_by_device": dict(mapped.bytes_by_device),
            "device_map": dict(mapped.device_map),
        }
    return {
        "name": checkpoint.name,
        "total_parameters": checkpoint.parameters,
        "active_parameters": active_parameters(checkpoint),
        "cache_bytes_per_token": token_bytes(checkpoint),
        "schemes": schemes,
        "vllm": vllm_command(checkpoint, machine),
    }


def _device(usage: DeviceUsage) -> dict[str, Any]:
    return {
        "name": usage.device.name,
        "total_bytes": usage.device.total_bytes,
        "free_bytes": usage.device.free_bytes,
        "layers": list(usage.layers),
        "expert_layers": list(usage.expert_layers),
        "dense_bytes": usage.dense_bytes,
        "expert_bytes": usage.expert_bytes,
        "embedding_bytes": usage.embedding_bytes,
        "output_bytes": usage.output_bytes,
        "kv_bytes": usage.kv_bytes,
        "compute_bytes": usage.compute_bytes,
        "overhead_bytes": usage.overhead_bytes,
        "other_bytes": usage.other_bytes,
        "margin_bytes": usage.margin_bytes,
        "spare_bytes": usage.spare_bytes,
    }
