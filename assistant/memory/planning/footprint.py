"""Bytes of a choice on a machine: the count that every plan and every rung of the ladder rests on.

Pure: a model, a machine and a choice in, what each device holds out.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assistant.memory.gguf.header import Tensor
from assistant.memory.model.kv_cache import CacheWish, layer_bytes
from assistant.memory.model.profile import Model, sized
from assistant.memory.planning.compute_buffers import Work, estimate, logits_bytes
from assistant.memory.planning.placement import Costs
from assistant.memory.planning.plan import HOST, Choice, DeviceUsage, Machine, Wishes, shared
from assistant.memory.probes.devices import Device

_HOST_ALIGNMENT = 32  # TENSOR_ALIGNMENT in ggml-impl.h
_DEVICE_ALIGNMENT = 128
_CUDA_ROW_PADDING = 512  # MATRIX_ROW_PADDING in ggml-cuda/common.cuh

# Beside what llama.cpp reserves: the driver's context, cuBLAS, the memory pool. Measured at load.
_OVERHEAD_BYTES = {"CUDA": 700 << 20, "ROCm": 700 << 20, "SYCL": 400 << 20, "Vulkan": 200 << 20}
_HOST_OVERHEAD_BYTES = 300 << 20  # Python, llama.cpp's code, the vocabulary, the graph

# Types that the CPU backend stores reordered, by machine (ggml-cpu/repack.cpp): a tied output in
# one of them is a second copy of the embedding, also on the host.
_REPACKED = {
    "x86_64": {"q4_0", "q4_K", "iq4_nl", "mxfp4"},
    "aarch64": {"q4_0", "q4_K", "q5_K", "q6_K", "iq4_nl", "mxfp4", "q8_0", "q1_0"},
}
_REPACKED_ROWS = 8


@dataclass(frozen=True, slots=True)
class Sheet:
    """A model's bytes on each device of a machine, counted once for many choices.

    Attributes:
        dense, experts: by device name, then by block.
        output: the output with its norm, where its matrix is the file's own or a copy.
        expert_sizes: of each block, the sizes of its routed tensors, largest first.
    """

    model: Model
    machine: Machine
    dense: Mapping[str, tuple[int, ...]]
    experts: Mapping[str, tuple[int, ...]]
    output: Mapping[str, int]
    copied: Mapping[str, int]
    embedding: int
    largest_dense: tuple[int, ...]
    expert_sizes: tuple[tuple[int, ...], ...]

    @property
    def largest_expert(self) -> int:
        return max((sizes[0] for sizes in self.expert_sizes if sizes), default=0)


def sheet_of(model: Model, machine: Machine) -> Sheet:
    """Count a model's bytes on each device of a machine."""
    counts: dict[tuple[int, int], _Counts] = {}
    dense, experts, output, copied = {}, {}, {}, {}
    for device in (machine.host, *machine.gpus):
        rules = _rules(device.name)
        if rules not in counts:
            counts[rules] = _count(model, *rules)
        found = counts[rules]
        dense[device.name], experts[device.name] = found.dense, found.experts
        copied[device.name] = found.copied
        output[device.name] = found.output + (found.tied if device is not machine.host else 0)
    return Sheet(
        model=model,
        machine=machine,
        dense=dense,
        experts=experts,
        output=output,
        copied=copied,
        embedding=sized(model.census.input, _HOST_ALIGNMENT),
        largest_dense=tuple(max(_sizes(x.dense), default=0) for x in _blocks(model)),
        expert_sizes=tuple(_sizes(x.experts) for x in _blocks(model)),
    )


def usages(
    sheet: Sheet,
    choice: Choice,
    wishes: Wishes,
    corrections: Mapping[str, int] | None = None,
) -> tuple[DeviceUsage, ...]:
    """What each device of the machine holds under a choice: the host first.

    Args:
        corrections: by device, bytes by which its compute buffer was measured above the estimate.
    """
    cache = layer_bytes(sheet.model.memory, choice.cache)
    devices = (sheet.machine.host, *sheet.machine.gpus)
    return shared(
        [
            _usage(
                sheet,
                choice,
                wishes,
                device,
                cache=cache,
                correction=(corrections or {}).get(device.name, 0),
            )
            for device in devices
        ]
    )


def card_costs(sheet: Sheet, cache: CacheWish) -> tuple[Costs, ...]:
    """What blocks, experts and output cost on each card under a cache."""
    kept = layer_bytes(sheet.model.memory, cache)
    return tuple(
        Costs(
            blocks=tuple(
                weights + cells for weights, cells in zip(sheet.dense[gpu.name], kept, strict=True)
            ),
            experts=sheet.experts[gpu.name],
            output=sheet.output[gpu.name],
            fixed=sheet.copied[gpu.name],
        )
        for gpu in sheet.machine.gpus
    )


def card_budget(device: Device, compute_bytes: int, wishes: Wishes) -> int:
    """Bytes of a card that weights and cache may take."""
    return device.free_bytes - wishes.margin_bytes - overhead_bytes(device, wishes) - compute_bytes


def overhead_bytes(device: Device, wishes: Wishes) -> int:
    """What a process takes of a card beside llama.cpp's buffers."""
    if wishes.overhead_bytes >= 0:
        return wishes.overhead_bytes
    return next(
        (size for prefix, size in _OVERHEAD_BYTES.items() if device.name.startswith(prefix)), 0
    )


def work_of(sheet: Sheet, choice: Choice, device: str) -> Work:
    """What a device computes under a choice."""
    moved = bool(sheet.machine.gpus) and choice.op_offload and not choice.repack
    # As llama_context decides it: all on several cards, and nothing of it overridden.
    whole = choice.offload_kqv and HOST not in {*choice.layers, choice.output}
    apart = any(
        group not in {"", own} for group, own in zip(choice.experts, choice.layers, strict=True)
    )
    pipelined = whole and not apart and len({*choice.layers, choice.output}) > 1
    if device == HOST:
        return Work(
            layers=HOST in choice.layers,
            experts=HOST in choice.experts and not moved,
            output=choice.output == HOST,
            host=True,
            pipelined=pipelined,
        )
    # The scheduler sends all work on weights of the host to the first card that is in use.
    used = [gpu.name for gpu in sheet.machine.gpus if gpu.name in {*choice.layers, choice.output}]
    copied = _copied(sheet, choice, several=len(used) > 1) if moved and used[:1] == [device] else 0
    return Work(
        layers=device in choice.layers,
        experts=device in choice.experts or copied > 0,
        output=choice.output == device,
        copied_bytes=copied,
        pipelined=pipelined,
    )


def _copied(sheet: Sheet, choice: Choice, *, several: bool) -> int:
    """Bytes of host weights that a card holds a copy of while it computes a batch.

    It is one tensor; with several cards in turn the next one is fetched before it is let go.
    """
    most = 0
    for index, name in enumerate(choice.layers):
        sizes = sheet.expert_sizes[index] if choice.experts[index] == HOST else ()
        if name == HOST:
            sizes = tuple(sorted((*sizes, sheet.largest_dense[index]), reverse=True))
        most = max(most, sum(sizes[: 2 if several else 1]))
    return most


@dataclass(frozen=True, slots=True)
class _Counts:
    dense: tuple[int, ...]
    experts: tuple[int, ...]
    output: int
    tied: int
    copied: int


def _count(model: Model, alignment: int, row_padding: int) -> _Counts:
    blocks = _blocks(model)
    tied: Sequence[Tensor] = ()
    if model.census.tied:
        tied = [t for t in model.census.input if t.name == "token_embd.weight"]
    return _Counts(
        dense=tuple(sized(x.dense, alignment, row_padding) for x in blocks),
        experts=tuple(sized(x.experts, alignment, row_padding) for x in blocks),
        output=sized(model.census.output, alignment, row_padding),
        tied=sized(tied, alignment, row_padding),
        copied=sized(model.census.copied, alignment, row_padding),
    )


@dataclass(frozen=True, slots=True)
class _Block:
    dense: tuple[Tensor, ...] = ()
    experts: tuple[Tensor, ...] = ()


def _blocks(model: Model) -> list[_Block]:
    """The blocks that llama.cpp loads, by index; the others empty."""
    found = {x.index: x for x in model.census.layers if not x.skipped}
    blocks = []
    for index in range(model.n_layer):
        layer = found.get(index)
        blocks.append(_Block(layer.dense, layer.experts) if layer else _Block())
    return blocks


def _sizes(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(sorted((tensor.size_bytes for tensor in tensors), reverse=True))


def _usage(
    sheet: Sheet,
    choice: Choice,
    wishes: Wishes,
    device: Device,
    *,
    cache: Sequence[int],
    correction: int,
) -> DeviceUsage:
    name, host = device.name, device is sheet.machine.host
    layers = tuple(i for i, place in enumerate(choice.layers) if place == name)
    groups = tuple(i for i, place in enumerate(choice.experts) if place == name)
    used = bool(layers or groups or choice.output == name) or host
    if not used:
        return DeviceUsage(device, margin_bytes=_margin(device, wishes, host=host))
    compute = estimate(
        sheet.model, choice.cache, work_of(sheet, choice, name), choice.n_outputs_max
    )
    output = sheet.output[name] if choice.output == name else 0
    if host and choice.output == name and choice.repack:
        output += _repacked_copy(sheet.model)
    return DeviceUsage(
        device,
        layers=layers,
        expert_layers=groups,
        dense_bytes=sum(sheet.dense[name][i] for i in layers)
        + (sheet.copied[name] if layers else 0),
        expert_bytes=sum(sheet.experts[name][i] for i in groups),
        embedding_bytes=sheet.embedding if host else 0,
        output_bytes=output,
        kv_bytes=sum(cache if host else ())
        if not choice.offload_kqv
        else sum(cache[i] for i in layers),
        compute_bytes=max(compute + correction, 0),
        overhead_bytes=_HOST_OVERHEAD_BYTES + logits_bytes(sheet.model, choice.n_outputs_max)
        if host
        else overhead_bytes(device, wishes),
        margin_bytes=_margin(device, wishes, host=host),
    )


def _margin(device: Device, wishes: Wishes, *, host: bool) -> int:
    wished = wishes.host_margin_bytes if host else wishes.margin_bytes
    return min(wished, device.free_bytes)


def _repacked_copy(model: Model) -> int:
    """Bytes of a tied output that is stored a second time because it is repacked."""
    if not model.census.tied:
        return 0
    kinds = _REPACKED.get(platform.machine(), set())
    return sized(
        (
            t
            for t in model.census.input
            if t.name == "token_embd.weight"
            and t.type.name in kinds
            and t.shape[-1] % _REPACKED_ROWS == 0
        ),
        _HOST_ALIGNMENT,
    )


@functools.cache
def _rules(device: str) -> tuple[int, int]:
    """A device's buffer alignment, and the elements to which it pads quantised rows."""
    if device == HOST:
        return _HOST_ALIGNMENT, 0
    if device.startswith(("CUDA", "ROCm", "MUSA", "SYCL")):
        return _DEVICE_ALIGNMENT, _CUDA_ROW_PADDING
    return _DEVICE_ALIGNMENT, 0
