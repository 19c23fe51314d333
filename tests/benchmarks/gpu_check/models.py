"""The four models of the check: their true shapes, and small ones of the same kinds for a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from assistant.memory.gguf.header import Header
from assistant.memory.model.known_models import header_of, known_models

MAIN = "qwen3-coder-30b-a3b"
"""The model that headroom and speed are measured with."""

HYBRID = "granite-4.0-h-small"

KINDS: Mapping[str, str] = {
    MAIN: "grouped-query attention, 128 experts a layer",
    "gpt-oss-20b": "sliding windows, MXFP4 experts with biases",
    "deepseek-coder-v2-lite": "latent attention (MLA), shared experts",
    HYBRID: "a hybrid: recurrent layers between those with attention",
}

_SMALL: dict[str, dict[str, Any]] = {
    MAIN: {"heads": 4, "kv_heads": 2, "feed_forward": 512},
    "gpt-oss-20b": {"heads": 8, "kv_heads": 2},
    # llama.cpp knows the lite form, without compressed queries, by its 27 layers
    "deepseek-coder-v2-lite": {
        "heads": 4,
        "kv_heads": 4,
        "feed_forward": 512,
        "layers": 27,
        "experts": 8,
    },
    HYBRID: {"heads": 4, "kv_heads": 2, "attention_layers": (1, 4, 7)},
}


def true_header(name: str) -> Header:
    """The header of a model in the quantisation that people use."""
    model = known_models()[name]
    return header_of(model.shape, model.quantisation, name)


def small_header(name: str) -> Header:
    """A model of the same architecture and quantisation, of 20 to 40 MB."""
    model = known_models()[name]
    shape = model.shape
    sizes: dict[str, Any] = {
        "layers": 8,
        "embedding": 512,
        "vocabulary": 4096,
        "context": 8192,
        "experts": 16,
        "experts_used": min(shape.experts_used, 4),
        "expert_feed_forward": 512 if name == "gpt-oss-20b" else 256,
    }
    if shape.shared_feed_forward:
        sizes["shared_feed_forward"] = 256
    if shape.ssm is not None:
        # mamba 2: inner_size is heads (time_step_rank) times their width
        sizes["ssm"] = msgspec.structs.replace(
            shape.ssm, inner_size=1024, time_step_rank=16, state_size=64
        )
    small = msgspec.structs.replace(shape, **(sizes | _SMALL[name]))
    return header_of(small, model.quantisation, f"{name}-small")
