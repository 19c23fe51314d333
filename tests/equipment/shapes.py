"""The true shape of every family that the planner knows, and files of them that take no disk."""

from __future__ import annotations

from pathlib import Path

import msgspec

from assistant.memory.gguf.header import Header
from assistant.memory.model.known_models import header_of, known_models
from assistant.memory.planning.dry_run import write_skeleton

# Which model of `known_models.toml` stands for a family.
KNOWN = {
    "mixtral": "mixtral-8x7b",
    "qwen2moe": "qwen2-57b-a14b",
    "qwen3moe": "qwen3-coder-30b-a3b",
    "qwen3next": "qwen3-coder-next",
    "deepseek2-lite": "deepseek-coder-v2-lite",
    "deepseek2": "deepseek-v3",
    "kimi-k2": "kimi-k2",
    "glm4moe": "glm-4.5-air",
    "gpt-oss-20b": "gpt-oss-20b",
    "gpt-oss-120b": "gpt-oss-120b",
    "granitemoe": "granite-3.1-3b-a800m",
    "granitehybrid": "granite-4.0-h-small",
    "olmoe": "olmoe-1b-7b",
    "minimax-m2": "minimax-m2",
    "dots1": "dots.llm1",
    "ernie4_5-moe": "ernie-4.5-21b-a3b",
    "hunyuan-moe": "hunyuan-a13b",
    "qwen2": "qwen2.5-coder-7b",
    "gemma3": "gemma-3-12b",
    "mamba": "falcon-mamba-7b",
    "qwen35": "qwen3.5-27b",
    "qwen35moe": "qwen3.5-35b-a3b",
    "gemma4": "gemma-4-26b-a4b",
    "granite": "granite-4.1-3b",
    "llama": "seed-coder-8b",
    "deepseek32": "deepseek-v3.2",
    "glm4moe-355b": "glm-4.7",
    "glm-dsa": "glm-5",
    "deepseek4": "deepseek-v4-flash",
    "gemma4-e2b": "gemma-4-e2b",
    "mamba2": "mamba-codestral-7b",
}

SHAPES = {family: known_models()[name].shape for family, name in KNOWN.items()}
SHAPES["deepseek2-nextn"] = msgspec.structs.replace(SHAPES["deepseek2"], nextn=1)
SHAPES["deepseek32-nextn"] = msgspec.structs.replace(SHAPES["deepseek32"], nextn=1)
SHAPES["glm-dsa-nextn"] = msgspec.structs.replace(known_models()["glm-5"].shape, nextn=1)
SHAPES["qwen35-nextn"] = msgspec.structs.replace(SHAPES["qwen35"], nextn=1)
SHAPES["qwen3next-nextn"] = msgspec.structs.replace(SHAPES["qwen3next"], nextn=1)
SHAPES["qwen35moe-nextn"] = msgspec.structs.replace(SHAPES["qwen35moe"], nextn=1)
SHAPES["deepseek2-legacy"] = msgspec.structs.replace(SHAPES["deepseek2"], legacy=True)

# Families beyond those that people are offered, for rules of memory that the others do not have.
SHAPES["gemma2"] = msgspec.structs.replace(
    SHAPES["gemma3"], architecture="gemma2", layers=42, window=0, qk_norm=False
)
SHAPES["llama4"] = msgspec.structs.replace(
    SHAPES["mixtral"], architecture="llama4", experts=16, experts_used=1, shared_experts=1
)
SHAPES["lfm2moe"] = msgspec.structs.replace(
    SHAPES["ernie4_5-moe"],
    architecture="lfm2moe",
    embedding=2048,
    heads=32,
    kv_heads=8,
    key_length=64,
    value_length=64,
    shared_feed_forward=0,
    sigmoid=True,
    l_cache=3,
    attention_layers=(2, 6, 10, 14, 18, 21),
)

QUANTISATIONS = {family: known_models()[name].quantisation for family, name in KNOWN.items()}


def family_header(family: str) -> Header:
    """The header of a family's model in the quantisation that people use."""
    return header_of(SHAPES[family], QUANTISATIONS.get(family, "Q4_K_M"), family)


def write_family(folder: Path, family: str) -> Path:
    """Write that model as a sparse GGUF and return its path."""
    path = folder / f"{family}.gguf"
    return path if path.exists() else write_skeleton(path, family_header(family))
