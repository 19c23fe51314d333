"""A mixture of experts that llama.cpp runs in no time, with the starter model's whole vocabulary.

Every layer is computed, cached and placed like a real one's, but what is said is known beforehand:
whatever came last, the answer begins `TEXT`, again and again. So a test can tell that an answer
which outlived a smaller cache, another device or a dead worker is still the right one.

The embedding of each token of `TEXT` is a direction of its own, all other tokens share one; the
output matrix turns each direction into the token that follows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from assistant.memory.gguf.header import BY_NUMBER, read_header
from assistant.models import vocabulary
from assistant.models.gguf_file import NewTensor, raw_values, string, uint32, write

TEXT = " price * count + tax_rate(total, 7)\n    net ="

_WIDTH, _LAYERS, _HEADS, _EXPERTS, _USED, _FEED_FORWARD = 64, 8, 2, 8, 2, 1536
_F32, _F16 = BY_NUMBER[0], BY_NUMBER[1]
_CONTEXT = 32768


def write_tiny_moe(target: Path, starter: Path) -> Path:
    """Write the model (80 MB) unless it is there; `starter` is a Qwen2.5 GGUF in `llama` layout."""
    if target.exists():
        return target
    words = vocabulary.load(starter)
    values = raw_values(starter) | {
        "general.name": string("Tiny MoE"),
        "llama.block_count": uint32(_LAYERS),
        "llama.context_length": uint32(_CONTEXT),
        "llama.embedding_length": uint32(_WIDTH),
        "llama.feed_forward_length": uint32(_FEED_FORWARD),
        "llama.attention.head_count": uint32(_HEADS),
        "llama.attention.head_count_kv": uint32(_HEADS),
        "llama.rope.dimension_count": uint32(_WIDTH // _HEADS),
        "llama.expert_count": uint32(_EXPERTS),
        "llama.expert_used_count": uint32(_USED),
    }
    tensors = [*_ends(words.encode(TEXT), words.size), *_blocks()]
    new = target.with_suffix(".new")
    with new.open("wb") as file:
        for _ in write(file, values, tensors, read_header(starter).alignment):
            pass
    new.replace(target)
    return target


def _ends(said: list[int], n_vocab: int) -> list[NewTensor]:
    """What says which token follows which."""
    if len(set(said)) != len(said) or len(said) >= _WIDTH:
        raise ValueError("TEXT must be of different tokens, and fewer than the model is wide")
    embedding = np.zeros((n_vocab, _WIDTH), np.float16)
    output = np.zeros((n_vocab, _WIDTH), np.float16)
    embedding[:, 0] = 1
    for number, token in enumerate(said, start=1):
        embedding[token] = np.eye(_WIDTH)[number]
        output[said[number % len(said)], number] = 1
    output[said[0], 0] = 1
    return [
        NewTensor("token_embd.weight", (_WIDTH, n_vocab), _F16, [embedding.tobytes()]),
        NewTensor("output.weight", (_WIDTH, n_vocab), _F16, [output.tobytes()]),
        _ones("output_norm.weight"),
    ]


def _blocks() -> list[NewTensor]:
    """Layers whose numbers are too small to change what is said."""
    noise = np.random.default_rng(1)
    tensors = []
    for layer in range(_LAYERS):
        name = f"blk.{layer}."
        tensors += [_ones(f"{name}attn_norm.weight"), _ones(f"{name}ffn_norm.weight")]
        tensors += [
            _small(noise, f"{name}attn_{part}.weight", (_WIDTH, _WIDTH))
            for part in ("q", "k", "v", "output")
        ]
        router = noise.standard_normal(_WIDTH * _EXPERTS).astype(np.float32)
        tensors.append(
            NewTensor(f"{name}ffn_gate_inp.weight", (_WIDTH, _EXPERTS), _F32, [router.tobytes()])
        )
        shapes = {
            "gate": (_WIDTH, _FEED_FORWARD),
            "up": (_WIDTH, _FEED_FORWARD),
            "down": (_FEED_FORWARD, _WIDTH),
        }
        tensors += [
            _small(noise, f"{name}ffn_{part}_exps.weight", (*shape, _EXPERTS))
            for part, shape in shapes.items()
        ]
    return tensors


def _ones(name: str) -> NewTensor:
    return NewTensor(name, (_WIDTH,), _F32, [np.ones(_WIDTH, np.float32).tobytes()])


def _small(noise: np.random.Generator, name: str, shape: tuple[int, ...]) -> NewTensor:
    values = noise.standard_normal(int(np.prod(shape)), np.float32) * 0.002
    return NewTensor(name, shape, _F16, [values.astype(np.float16).tobytes()])
