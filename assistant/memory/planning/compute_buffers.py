"""How large llama.cpp's compute buffers will be, estimated from the header alone.

There is no closed form: the buffers are what its allocator makes of the graph. These are the
widest moments of that graph, named below, fitted to dry runs of llama-cpp-python 0.3.36 over every
family that the planner knows. For the exact
number use `assistant.memory.planning.dry_run`.
"""

from __future__ import annotations

from dataclasses import dataclass

from assistant.memory.model.architecture import CacheParams, cells, window_cells
from assistant.memory.model.profile import Model

_FLOAT32 = 4
_FLOAT16 = 2
_PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES
_SAFETY = 1.1  # estimates err to both sides by about a tenth


@dataclass(frozen=True, slots=True)
class Work:
    """What one device computes.

    Attributes:
        layers: attention and all else that is not routed, of at least one layer.
        experts: routed experts of at least one layer.
        output: the last matrix and the logits.
        host_memory: the CPU device, which also feeds the token embeddings.
        copied_bytes: largest expert tensor that is copied to it for a batch (op_offload).
        pipelined: several GPUs work on several batches at once, each with inputs of its own.
    """

    layers: bool
    experts: bool
    output: bool
    host_memory: bool = False
    copied_bytes: int = 0
    pipelined: bool = False


def estimate(model: Model, params: CacheParams, work: Work, n_outputs: int) -> int:
    """Bytes of one device's compute buffer; an estimate, mostly on the safe side.

    Args:
        n_outputs: rows of logits, `n_outputs_max`.
    """
    if not (work.layers or work.experts or work.output or work.host_memory):
        return 0
    widths = model.activations
    ubatch = min(params.n_ubatch, cells(params))
    row = ubatch * _FLOAT32
    total = _masks(model, params, ubatch)
    moments = [0]
    if work.layers:
        moments += [_attention(model), _dense(model), _recurrent(model)]
    if work.experts:
        moments += [_experts(model)]
    peak = max(moments) * row
    if work.layers and not params.flash_attn:
        peak += cells(params) * row * widths.heads
    if work.host_memory:
        # the embeddings of the batch, and their copy for the first device
        peak += (1 if work.layers else 2) * widths.embedding * row
    if work.pipelined:
        total += _PIPELINE_COPIES * (total + widths.embedding * row)
    total += peak
    if work.output:
        rows = min(n_outputs or ubatch, ubatch)
        total = max(total, (widths.vocabulary + widths.embedding) * rows * _FLOAT32)
    # a hybrid's graph is cut so often that two copies are alive at once
    copies = 2 if model.memory.recurrent else 1
    return int(total * _SAFETY) + work.copied_bytes * copies


def logits_bytes(model: Model, n_outputs: int) -> int:
    """Host memory's buffer for the logits of a batch, which the breakdown does not list."""
    return model.activations.vocabulary * n_outputs * _FLOAT32


def _masks(model: Model, params: CacheParams, ubatch: int) -> int:
    """The attention mask is kept as float16, once for each length of cache."""
    layers = model.memory.layers
    total = 0
    if any(layer.key_width and not layer.windowed for layer in layers):
        total += cells(params) * ubatch * _FLOAT16
    if any(layer.windowed for layer in layers):
        total += window_cells(model.memory, params) * ubatch * _FLOAT16
    return total


def _attention(model: Model) -> int:
    """Queries, their rotated copy, keys, values and the result."""
    widths = model.activations
    if widths.latent:
        return int(1.75 * widths.heads * widths.latent) + 9 * widths.embedding
    return max(6 * widths.query, 11 * widths.embedding if widths.query else 0)


def _dense(model: Model) -> int:
    """Gate, up and their product, beside the residual."""
    widths = model.activations
    return 3 * widths.feed_forward + 3 * widths.embedding if widths.feed_forward else 0


def _experts(model: Model) -> int:
    """The same for each chosen expert, or all their results before they are summed."""
    widths = model.activations
    if not widths.used:
        return 0
    inner = 3 * widths.used * widths.expert + 3 * widths.embedding
    return max(inner, (2 * widths.used + 3) * widths.embedding)


def _recurrent(model: Model) -> int:
    widths = model.activations
    return 4 * widths.recurrent + 10 * widths.embedding if widths.recurrent else 0
