"""The `vllm serve` line for a safetensors checkpoint: cards, context and quantisation that fit."""

from __future__ import annotations

import shlex

from assistant.memory.checkpoints.checkpoint import Checkpoint
from assistant.memory.checkpoints.checkpoint_plan import (
    USUAL_CONTEXT,
    Scheme,
    checkpoint_bytes,
    token_bytes,
)
from assistant.memory.planning.plan import Machine

_SHARE = 0.9  # --gpu-memory-utilization's default
_OVERHEAD_BYTES = 2 << 30  # activations of the profile run and CUDA graphs, roughly


def vllm_command(checkpoint: Checkpoint, machine: Machine) -> str:
    """The `vllm serve` line that fits; empty where none does.

    Weights as they are come before quantised ones, if need be over more cards; what cards are left
    serve further copies to more users. vLLM splits every layer over its cards alike, so the
    smallest counts for each; what does not fit may stand in host memory (`--cpu-offload-gb`), as
    whole layers' worth a card.
    """
    if not machine.gpus:
        return ""
    smallest = min(gpu.free_bytes for gpu in machine.gpus)
    room = int(smallest * _SHARE) - _OVERHEAD_BYTES
    counts = _powers_of_two(len(machine.gpus), checkpoint.number("num_attention_heads"))
    stored: tuple[tuple[Scheme, tuple[str, ...]], ...] = ((Scheme.STORED, ()),)
    for scheme, flags in stored if checkpoint.method else _SCHEMES:
        for cards in counts:
            weights = checkpoint_bytes(checkpoint, scheme) // cards
            context = _context(checkpoint, (room - weights) * cards)
            if context:
                copies = len(machine.gpus) // cards
                return _line(checkpoint, cards, context, flags, copies)
    cards = counts[-1]
    whole = Scheme.STORED if checkpoint.method else Scheme.BITS_16
    weights = checkpoint_bytes(checkpoint, whole) // cards
    cache = token_bytes(checkpoint) * USUAL_CONTEXT // cards
    moved = weights + cache - room
    if moved >= weights or moved * cards > machine.host.free_bytes:
        return ""
    gib = -(-moved // (1 << 30))
    return _line(checkpoint, cards, USUAL_CONTEXT, ("--cpu-offload-gb", str(gib)))


_SCHEMES: tuple[tuple[Scheme, tuple[str, ...]], ...] = (
    (Scheme.BITS_16, ()),
    (Scheme.INT8, ("--quantization", "fp8")),  # one byte a weight, made while loading
    (Scheme.NF4_DOUBLE, ("--quantization", "bitsandbytes")),
)


def _line(
    checkpoint: Checkpoint, cards: int, context: int, flags: tuple[str, ...], copies: int = 1
) -> str:
    words = ["vllm", "serve", checkpoint.name, "--max-model-len", str(context)]
    words += ["--gpu-memory-utilization", str(_SHARE)]
    if cards > 1:
        words += ["--tensor-parallel-size", str(cards)]
    if copies > 1:
        words += ["--data-parallel-size", str(copies)]
    if cards * copies > 1 and any(tensor.routed for tensor in checkpoint.tensors):
        words.append("--enable-expert-parallel")  # whole experts on each card
    return shlex.join([*words, *flags])


def _context(checkpoint: Checkpoint, room_bytes: int) -> int:
    """Tokens of context in that room, in steps of 1,024 up to what was trained; 0 for too few."""
    each = max(token_bytes(checkpoint), 1)
    trained = checkpoint.number("max_position_embeddings", default=USUAL_CONTEXT)
    tokens = min(room_bytes // each, trained) // 1024 * 1024
    return tokens if tokens >= min(4096, trained) else 0


def _powers_of_two(most: int, heads: int) -> list[int]:
    """Counts of cards over which the attention heads can be shared out."""
    counts = [1]
    while counts[-1] * 2 <= most and (heads or 1) % (counts[-1] * 2) == 0:
        counts.append(counts[-1] * 2)
    return counts
