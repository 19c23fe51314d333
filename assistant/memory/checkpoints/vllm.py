"""The `vllm serve` line for a safetensors checkpoint: GPUs, context and quantisation that fit."""

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

    Weights as they are come before quantised ones, if need be over more GPUs; what GPUs are left
    serve further copies to more users. vLLM splits every layer over its GPUs alike, so the
    smallest counts for each; what does not fit may be in host memory (`--cpu-offload-gb`), as
    whole layers' worth a GPU.
    """
    if not machine.gpus:
        return ""
    smallest = min(gpu.free_bytes for gpu in machine.gpus)
    budget = int(smallest * _SHARE) - _OVERHEAD_BYTES
    counts = _powers_of_two(len(machine.gpus), checkpoint.number("num_attention_heads"))
    stored: tuple[tuple[Scheme, tuple[str, ...]], ...] = ((Scheme.STORED, ()),)
    for scheme, flags in stored if checkpoint.method else _SCHEMES:
        for gpus in counts:
            weights = checkpoint_bytes(checkpoint, scheme) // gpus
            context = _context(checkpoint, (budget - weights) * gpus)
            if context:
                copies = len(machine.gpus) // gpus
                return _line(checkpoint, gpus, context, flags, copies)
    gpus = counts[-1]
    whole = Scheme.STORED if checkpoint.method else Scheme.BITS_16
    weights = checkpoint_bytes(checkpoint, whole) // gpus
    cache = token_bytes(checkpoint) * USUAL_CONTEXT // gpus
    moved = weights + cache - budget
    if moved >= weights or moved * gpus > machine.host_memory.free_bytes:
        return ""
    gib = -(-moved // (1 << 30))
    return _line(checkpoint, gpus, USUAL_CONTEXT, ("--cpu-offload-gb", str(gib)))


_SCHEMES: tuple[tuple[Scheme, tuple[str, ...]], ...] = (
    (Scheme.BITS_16, ()),
    (Scheme.INT8, ("--quantization", "fp8")),  # one byte a weight, made while loading
    (Scheme.NF4_DOUBLE, ("--quantization", "bitsandbytes")),
)


def _line(
    checkpoint: Checkpoint, gpus: int, context: int, flags: tuple[str, ...], copies: int = 1
) -> str:
    words = ["vllm", "serve", checkpoint.name, "--max-model-len", str(context)]
    words += ["--gpu-memory-utilization", str(_SHARE)]
    if gpus > 1:
        words += ["--tensor-parallel-size", str(gpus)]
    if copies > 1:
        words += ["--data-parallel-size", str(copies)]
    if gpus * copies > 1 and any(tensor.routed for tensor in checkpoint.tensors):
        words.append("--enable-expert-parallel")  # whole experts on each GPU
    return shlex.join([*words, *flags])


def _context(checkpoint: Checkpoint, space_bytes: int) -> int:
    """Tokens of context in that room, in steps of 1,024 up to what was trained; 0 for too few."""
    each = max(token_bytes(checkpoint), 1)
    trained = checkpoint.number("max_position_embeddings", default=USUAL_CONTEXT)
    tokens = min(space_bytes // each, trained) // 1024 * 1024
    return tokens if tokens >= min(4096, trained) else 0


def _powers_of_two(most: int, heads: int) -> list[int]:
    """Counts of GPUs over which the attention heads can be shared out."""
    counts = [1]
    while counts[-1] * 2 <= most and (heads or 1) % (counts[-1] * 2) == 0:
        counts.append(counts[-1] * 2)
    return counts
