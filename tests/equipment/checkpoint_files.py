"""A small mixture-of-experts checkpoint in safetensors, its data a hole."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

LAYERS, HIDDEN, EXPERTS, INNER, VOCABULARY = 4, 256, 8, 128, 1000
CONFIG = {
    "model_type": "toy_moe",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 32768,
}


def tensors() -> dict[str, tuple[int, ...]]:
    """Names and shapes, as PyTorch orders them."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    for index in range(LAYERS):
        layer = f"model.layers.{index}."
        found[layer + "input_layernorm.weight"] = (HIDDEN,)
        for name in ("q_proj", "o_proj"):
            found[layer + f"self_attn.{name}.weight"] = (HIDDEN, HIDDEN)
        found[layer + "mlp.gate.weight"] = (EXPERTS, HIDDEN)
        found[layer + "mlp.shared_expert.up_proj.weight"] = (INNER, HIDDEN)
        for expert in range(EXPERTS):
            found[layer + f"mlp.experts.{expert}.up_proj.weight"] = (INNER, HIDDEN)
            found[layer + f"mlp.experts.{expert}.down_proj.weight"] = (HIDDEN, INNER)
    return found


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
EXPERTS_BYTES = EXPERTS * 2 * INNER * HIDDEN * 2
"""Of one layer, at 16 bits."""


def gptq_tensors() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Types and shapes as GPTQ leaves them: matrices in 32-bit words, eight weights in each."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in tensors().items():
        if len(shape) < 2 or ".layers." not in name or ".gate." in name:
            found[name] = ("F16", shape)
            continue
        (outputs, inputs), stem = shape, name.removesuffix("weight")
        groups = inputs // 128
        found[stem + "qweight"] = ("I32", (inputs // 8, outputs))
        found[stem + "qzeros"] = ("I32", (groups, outputs // 8))
        found[stem + "scales"] = ("F16", (groups, outputs))
        found[stem + "g_idx"] = ("I32", (inputs,))
    return found


def write_checkpoint(
    folder: Path,
    config: dict[str, object] = CONFIG,
    found: dict[str, tuple[str, tuple[int, ...]]] | None = None,
) -> Path:
    """Two files with the layers shared out between them, and the config.

    `found`: types and shapes of the tensors; None for those of `tensors`, in 16 bits.
    """
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    found = found or {name: ("BF16", shape) for name, shape in tensors().items()}
    names = list(found.items())
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, (dtype, shape) in part:
            end = offset + int(dtype.lstrip("BFI")) // 8 * prod(shape)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
            offset = end
        raw = json.dumps(header).encode()
        with (folder / f"model-0000{number}-of-00002.safetensors").open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            file.truncate(8 + len(raw) + offset)
    return folder
