"""How many bytes each device holds for a way of loading a model. Plans and rungs rest on it. Pure.

The size of llama.cpp's compute buffers has no closed form: they are what its allocator makes of
the graph. `estimate` takes the widest moments of that graph, named below, fitted to dry runs of
llama-cpp-python 0.3.36 over every family that the planner knows. The exact number is measured by
`assistant.memory.planning.dry_run`.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assistant.memory.devices import Device
from assistant.memory.gguf.header import Tensor
from assistant.memory.model.architecture import (
    CacheParams,
    LayerMemory,
    cells,
    compressed_cells,
    copies_tied_output,
    layer_bytes,
    nextn_bytes,
    window_cells,
)
from assistant.memory.model.profile import Model, sized
from assistant.memory.planning import (
    HOST_MEMORY,
    Choice,
    DeviceUsage,
    Machine,
    Requirements,
    shared,
)

_FLOAT32 = 4
_FLOAT16 = 2
_PIPELINE_COPIES = 4  # GGML_SCHED_MAX_COPIES
_OFTEN_CUT = {"llama4"}
_SAFETY = 1.1  # estimates err to both sides by about a tenth
_HOST_MEMORY_ALIGNMENT = 32  # TENSOR_ALIGNMENT in ggml-impl.h
_DEVICE_ALIGNMENT = 128
_CUDA_ROW_PADDING = 512  # MATRIX_ROW_PADDING in ggml-cuda/common.cuh

# Beside what llama.cpp reserves: the driver's context, cuBLAS, the memory pool. Measured at load.
_OVERHEAD_BYTES = {"CUDA": 700 << 20, "ROCm": 700 << 20, "SYCL": 400 << 20, "Vulkan": 200 << 20}
_PROCESS_OVERHEAD_BYTES = 300 << 20  # Python, llama.cpp's code, the vocabulary, the graph

# Types that the CPU backend stores reordered, by machine (ggml-cpu/repack.cpp): a tied output in
# one of them is a second copy of the embedding, also in host memory.
_REPACKED = {
    "x86_64": {"q4_0", "q4_K", "iq4_nl", "mxfp4"},
    "aarch64": {"q4_0", "q4_K", "q5_K", "q6_K", "iq4_nl", "mxfp4", "q8_0", "q1_0"},
}
_REPACKED_ROWS = 8


@dataclass(frozen=True, slots=True)
class NextnWeights:
    """Bytes of the layers for multi-token prediction on a device."""

    dense: int = 0
    experts: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """What one device computes.

    Attributes:
        layers: of how many it computes attention and all else that is not routed.
        experts: routed experts of at least one layer.
        output: the last matrix and the logits.
        host_memory: the CPU device, which also feeds the token embeddings.
        copied_bytes: the most that is copied to it for a batch at once (op_offload): an expert
            tensor, or the cache of a layer in host memory.
        pipelined: several GPUs work on several batches at once, each with inputs of its own.
    """

    layers: int
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
    peak = max(moments) * row + _states(model, params)
    if work.layers and not params.flash_attn:
        peak += cells(params) * row * widths.heads
    if work.layers or work.host_memory:
        # all of them are looked up at the start, and mixed with what the batch makes of them
        peak += int((1.5 if work.layers else 1) * widths.per_layer) * row
    if work.layers and widths.selected:
        total += _selection(model, params, work.layers) * row
    if work.host_memory:
        # the embeddings of the batch, and their copy for the first device
        peak += (1 if work.layers else 2) * widths.embedding * row
    if work.pipelined:
        total += _PIPELINE_COPIES * (total + widths.embedding * row)
    total += peak
    if work.output:
        rows = min(n_outputs or ubatch, ubatch)
        total = max(total, (widths.vocabulary + widths.embedding) * rows * _FLOAT32)
    # these graphs are cut so often that two copies are alive at once
    copies = 2 if model.memory.recurrent or model.architecture in _OFTEN_CUT else 1
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
    grouped = {layer.ratio: compressed_cells(layer, params) for layer in layers if layer.ratio}
    selecting = {compressed_cells(layer, params) for layer in _indexed(model)}
    total += sum((*grouped.values(), *selecting)) * ubatch * _FLOAT16
    return total


def _selection(model: Model, params: CacheParams, layers: int) -> int:
    """What sparse attention takes to select tokens (build_attn with `top_k` in llama-graph.cpp).

    The zeros that unmask them are an input of each layer, so all of them are kept for the whole
    graph. The scores of all cells are those of one layer; of compressed ones there is a copy.
    """
    indexed = _indexed(model)
    scored = max((compressed_cells(layer, params) for layer in indexed), default=0)
    copies = 2 if any(layer.ratio for layer in indexed) else 1
    return layers * min(model.activations.selected, scored) + copies * scored


def _indexed(model: Model) -> list[LayerMemory]:
    return [layer for layer in model.memory.layers if layer.index_width]


def _attention(model: Model) -> int:
    """Queries, their rotated copy, keys, values and the result."""
    widths = model.activations
    if widths.latent:
        return int(1.75 * widths.heads * widths.latent) + 9 * widths.embedding
    if any(layer.ratio for layer in model.memory.layers):
        return int(3.5 * widths.query)
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


def _states(model: Model, params: CacheParams) -> int:
    """Where earlier states are kept, linear attention returns them all together with its result."""
    if not params.n_rs_seq or model.memory.apart:
        return 0
    largest = max(layer.state for layer in model.memory.layers)
    return _FLOAT32 * largest * params.n_seq_max * (1 + params.n_rs_seq)


@dataclass(frozen=True, slots=True)
class ModelBreakdown:
    """A model's bytes on each device of a machine, counted once for many choices.

    Attributes:
        dense, experts: by device name, then by block.
        output: the output with its norm, where its matrix is the file's own or a copy.
        nextn: the layers for multi-token prediction, which are not among the blocks.
        expert_sizes: of each block, the sizes of its routed tensors, largest first.
    """

    model: Model
    machine: Machine
    dense: Mapping[str, tuple[int, ...]]
    experts: Mapping[str, tuple[int, ...]]
    output: Mapping[str, int]
    copied: Mapping[str, int]
    embedding: int
    nextn: Mapping[str, NextnWeights]
    largest_dense: tuple[int, ...]
    expert_sizes: tuple[tuple[int, ...], ...]

    @property
    def largest_expert(self) -> int:
        return max((sizes[0] for sizes in self.expert_sizes if sizes), default=0)


def breakdown_of(model: Model, machine: Machine) -> ModelBreakdown:
    """Count a model's bytes on each device of a machine."""
    counts: dict[tuple[int, int], _Counts] = {}
    dense, experts, output, copied, nextn = {}, {}, {}, {}, {}
    for device in (machine.host_memory, *machine.gpus):
        rules = _rules(device.name)
        if rules not in counts:
            counts[rules] = _count(model, *rules)
        found = counts[rules]
        dense[device.name], experts[device.name] = found.dense, found.experts
        copied[device.name], nextn[device.name] = found.copied, found.nextn
        output[device.name] = found.output + (
            found.tied if device is not machine.host_memory else 0
        )
    return ModelBreakdown(
        model=model,
        machine=machine,
        dense=dense,
        experts=experts,
        output=output,
        copied=copied,
        nextn=nextn,
        embedding=sized(model.inventory.input, _HOST_MEMORY_ALIGNMENT),
        largest_dense=tuple(max(_sizes(x.dense), default=0) for x in _blocks(model)),
        expert_sizes=tuple(_sizes(x.experts) for x in _blocks(model)),
    )


def usages(
    breakdown: ModelBreakdown,
    choice: Choice,
    requirements: Requirements,
    corrections: Mapping[str, int] | None = None,
) -> tuple[DeviceUsage, ...]:
    """What each device of the machine holds under a choice: host memory first.

    Args:
        corrections: by device, bytes by which its compute buffer was measured above the estimate.
    """
    cache = layer_bytes(breakdown.model.memory, choice.cache)
    devices = (breakdown.machine.host_memory, *breakdown.machine.gpus)
    host_memory, *gpus = shared(
        [
            _usage(
                breakdown,
                choice,
                requirements,
                device,
                cache=cache,
                correction=(corrections or {}).get(device.name, 0),
            )
            for device in devices
        ]
    )
    # Repacked weights are no longer those of the file, so they cannot be read from it.
    if requirements.disk and not choice.repack:
        host_memory = host_memory.with_experts_on_disk()
    return (host_memory, *gpus)


def gpu_budget(device: Device, compute_bytes: int, requirements: Requirements) -> int:
    """Bytes of a GPU that weights and cache may take."""
    return (
        device.free_bytes
        - requirements.margin_bytes
        - overhead_bytes(device, requirements)
        - compute_bytes
    )


def overhead_bytes(device: Device, requirements: Requirements) -> int:
    """What a process takes of a GPU beside llama.cpp's buffers."""
    if requirements.overhead_bytes >= 0:
        return requirements.overhead_bytes
    return next(
        (size for prefix, size in _OVERHEAD_BYTES.items() if device.name.startswith(prefix)), 0
    )


def work_of(breakdown: ModelBreakdown, choice: Choice, device: str) -> Work:
    """What a device computes under a choice."""
    moved = bool(breakdown.machine.gpus) and choice.op_offload and not choice.repack
    # As llama_context decides it: all on several GPUs, and nothing of it overridden.
    whole = choice.offload_kqv and HOST_MEMORY not in {*choice.layers, choice.output}
    apart = any(
        group not in {"", own} for group, own in zip(choice.experts, choice.layers, strict=True)
    )
    pipelined = whole and not apart and len({*choice.layers, choice.output}) > 1
    if device == HOST_MEMORY:
        return Work(
            layers=choice.layers.count(HOST_MEMORY),
            experts=HOST_MEMORY in choice.experts and not moved,
            output=choice.output == HOST_MEMORY,
            host_memory=True,
            pipelined=pipelined,
        )
    # The scheduler sends all work on weights of host memory to the first GPU that is in use.
    used = [
        gpu.name for gpu in breakdown.machine.gpus if gpu.name in {*choice.layers, choice.output}
    ]
    copied = 0
    if moved and used[:1] == [device]:
        copied = max(_copied(breakdown, choice, several=len(used) > 1), _cache(breakdown, choice))
    return Work(
        layers=choice.layers.count(device),
        experts=device in choice.experts or copied > 0,
        output=choice.output == device,
        copied_bytes=copied,
        pipelined=pipelined,
    )


def _copied(breakdown: ModelBreakdown, choice: Choice, *, several: bool) -> int:
    """Bytes of host weights that a GPU holds a copy of while it computes a batch.

    It is one tensor; with several GPUs in turn the next one is fetched before it is let go.
    """
    most = 0
    for index, name in enumerate(choice.layers):
        sizes = breakdown.expert_sizes[index] if choice.experts[index] == HOST_MEMORY else ()
        if name == HOST_MEMORY:
            sizes = tuple(sorted((*sizes, breakdown.largest_dense[index]), reverse=True))
        most = max(most, sum(sizes[: 2 if several else 1]))
    return most


def _cache(breakdown: ModelBreakdown, choice: Choice) -> int:
    """Bytes of the largest cache of a layer in host memory: a GPU attends to a copy of it."""
    if HOST_MEMORY not in choice.layers:
        return 0
    sizes = layer_bytes(breakdown.model.memory, choice.cache)
    return max(size for size, name in zip(sizes, choice.layers, strict=True) if name == HOST_MEMORY)


@dataclass(frozen=True, slots=True)
class _Counts:
    dense: tuple[int, ...]
    experts: tuple[int, ...]
    output: int
    tied: int
    copied: int
    nextn: NextnWeights


def _count(model: Model, alignment: int, row_padding: int) -> _Counts:
    blocks = _blocks(model)
    skipped = [x for x in model.inventory.layers if x.skipped]
    tied: Sequence[Tensor] = ()
    if model.inventory.tied:
        tied = [t for t in model.inventory.input if t.name == "token_embd.weight"]
    return _Counts(
        dense=tuple(sized(x.dense, alignment, row_padding) for x in blocks),
        experts=tuple(sized(x.experts, alignment, row_padding) for x in blocks),
        output=sized(model.inventory.output, alignment, row_padding),
        tied=sized(tied, alignment, row_padding),
        copied=sized(model.inventory.copied, alignment, row_padding),
        nextn=NextnWeights(
            sum(
                sized(x.dense, alignment, row_padding)
                - sized(x.not_skipped, alignment, row_padding)
                for x in skipped
            ),
            sum(sized(x.experts, alignment, row_padding) for x in skipped),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Block:
    dense: tuple[Tensor, ...] = ()
    experts: tuple[Tensor, ...] = ()


def _blocks(model: Model) -> list[_Block]:
    """The blocks that llama.cpp loads, by index; the others empty."""
    blocks = [_Block()] * model.n_layer
    for layer in model.inventory.layers:
        if layer.index < model.n_layer:
            whole = _Block(layer.dense, layer.experts)
            blocks[layer.index] = _Block(layer.not_skipped) if layer.skipped else whole
    return blocks


def _sizes(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(sorted((tensor.size_bytes for tensor in tensors), reverse=True))


def _usage(
    breakdown: ModelBreakdown,
    choice: Choice,
    requirements: Requirements,
    device: Device,
    *,
    cache: Sequence[int],
    correction: int,
) -> DeviceUsage:
    name, host_memory = device.name, device is breakdown.machine.host_memory
    layers = tuple(i for i, place in enumerate(choice.layers) if place == name)
    groups = tuple(i for i, place in enumerate(choice.experts) if place == name)
    used = bool(layers or groups or choice.output == name) or host_memory
    if not used:
        return DeviceUsage(
            device, margin_bytes=_margin(device, requirements, host_memory=host_memory)
        )
    compute = estimate(
        breakdown.model, choice.cache, work_of(breakdown, choice, name), choice.n_outputs_max
    )
    output = breakdown.output[name] if choice.output == name else 0
    if host_memory and choice.output == name:
        output += _tied_copy(breakdown.model, repack=choice.repack)
    nextn = _nextn(breakdown, choice, name)
    if nextn.cache or nextn.weights.dense or (choice.nextn and (host_memory or output)):
        compute *= 2  # the second context computes less than the first, but has the same outputs
    return DeviceUsage(
        device,
        layers=layers,
        expert_layers=groups,
        dense_bytes=sum(breakdown.dense[name][i] for i in layers)
        + (breakdown.copied[name] if layers else 0)
        + nextn.weights.dense,
        expert_bytes=sum(breakdown.experts[name][i] for i in groups) + nextn.weights.experts,
        embedding_bytes=breakdown.embedding if host_memory else 0,
        output_bytes=output,
        kv_bytes=nextn.cache
        + (
            sum(cache if host_memory else ())
            if not choice.offload_kqv
            else sum(cache[i] for i in layers)
        ),
        compute_bytes=max(compute + correction, 0),
        checkpoint_bytes=choice.cache.checkpoint_bytes if host_memory else 0,
        overhead_bytes=_PROCESS_OVERHEAD_BYTES
        + logits_bytes(breakdown.model, choice.n_outputs_max)
        + nextn.hidden
        if host_memory
        else overhead_bytes(device, requirements),
        margin_bytes=_margin(device, requirements, host_memory=host_memory),
    )


@dataclass(frozen=True, slots=True)
class _Nextn:
    weights: NextnWeights = NextnWeights()
    cache: int = 0
    hidden: int = 0


def _nextn(breakdown: ModelBreakdown, choice: Choice, name: str) -> _Nextn:
    """What drafts by multi-token prediction take of a device: they stay with the last block."""
    if not choice.nextn:
        return _Nextn()
    held, place = breakdown.nextn[name], choice.layers[-1]
    experts = choice.experts[-1] or place
    cache_place = place if choice.offload_kqv else HOST_MEMORY
    hidden = 4 * choice.n_batch * breakdown.model.activations.embedding
    return _Nextn(
        NextnWeights(
            held.dense if place == name else 0,
            held.experts if experts == name else 0,
        ),
        nextn_bytes(breakdown.model.memory, choice.cache) if cache_place == name else 0,
        hidden if name == HOST_MEMORY else 0,
    )


def _margin(device: Device, requirements: Requirements, *, host_memory: bool) -> int:
    wanted = requirements.host_memory_margin_bytes if host_memory else requirements.margin_bytes
    return min(wanted, device.free_bytes)


def _tied_copy(model: Model, *, repack: bool) -> int:
    """Bytes of a tied output that is stored a second time, as where it is repacked."""
    if not model.inventory.tied:
        return 0
    always = copies_tied_output(model.architecture)
    kinds = _REPACKED.get(platform.machine(), set()) if repack else set()
    return sized(
        (
            t
            for t in model.inventory.input
            if t.name == "token_embd.weight"
            and (always or (t.type.name in kinds and t.shape[-1] % _REPACKED_ROWS == 0))
        ),
        _HOST_MEMORY_ALIGNMENT,
    )


@functools.cache
def _rules(device: str) -> tuple[int, int]:
    """A device's buffer alignment, and the elements to which it pads quantised rows."""
    if device == HOST_MEMORY:
        return _HOST_MEMORY_ALIGNMENT, 0
    if device.startswith(("CUDA", "ROCm", "MUSA", "SYCL")):
        return _DEVICE_ALIGNMENT, _CUDA_ROW_PADDING
    return _DEVICE_ALIGNMENT, 0
