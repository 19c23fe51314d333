"""What a safetensors checkpoint needs at 16, 8 and 4 bits, for Transformers and for `vllm serve`.

Sizes by scheme follow the libraries' own storage; what they leave unquantised stays at 16 bits:
embeddings, the output, norms and routers.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from assistant.memory.planning import Machine
from assistant.memory.planning.checkpoint import Checkpoint, CheckpointTensor
from assistant.memory.planning.placement import Costs, place

_NF4_BLOCK = 64
_NESTED_BLOCK = 256
_GROUP = 128
_TORCH_OVERHEAD_BYTES = 1 << 30  # CUDA context and the caching allocator's slack, roughly
USUAL_CONTEXT = 16_384
UNPACKED_SINGLY = ("gptq", "awq")
"""Methods whose experts the Transformers engine holds and unpacks one by one."""
_KEPT = ("embed", "lm_head", "norm", "router", ".gate.", "expert_gate", "bias", "wte", "wpe")


class Scheme(StrEnum):
    """How the linear layers are stored."""

    BITS_16 = "16 bit"
    INT8 = "LLM.int8()"
    NF4 = "NF4"
    NF4_DOUBLE = "NF4, double quantisation"
    GPTQ = "GPTQ 4 bit"
    AWQ = "AWQ 4 bit"
    STORED = "as it is stored"


_BITSANDBYTES = (Scheme.INT8, Scheme.NF4, Scheme.NF4_DOUBLE)


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where Transformers puts a checkpoint.

    Attributes:
        device_map: module -> GPU number or "cpu". A layer's experts are one entry, never split.
        fits: whether GPUs and host hold it.
        expert_layers_on_gpus: of how many layers the experts are on GPUs.
        bytes_by_device: what each holds ("0", "cpu").
    """

    device_map: Mapping[str, int | str]
    fits: bool
    expert_layers_on_gpus: int
    bytes_by_device: Mapping[str, int]


def tensor_bytes(tensor: CheckpointTensor, scheme: Scheme) -> int:
    """Bytes of one tensor under a scheme.

    NF4 keeps a float32 scale for 64 weights, with double quantisation an 8-bit one and a float32
    for 256 of those (bitsandbytes); GPTQ and AWQ a float16 scale and a 4-bit zero for 128, GPTQ
    an int32 index for each input besides. What is quantised already counts as its file holds it.
    """
    count = tensor.parameters
    if scheme is Scheme.STORED:
        return tensor.stored_bytes
    if scheme is Scheme.BITS_16 or not quantised(tensor):
        return 2 * count
    rows = count // tensor.shape[-1]
    match scheme:
        case Scheme.INT8:
            return count + 4 * rows
        case Scheme.NF4:
            return count // 2 + 4 * _ceil(count, _NF4_BLOCK)
        case Scheme.NF4_DOUBLE:
            blocks = _ceil(count, _NF4_BLOCK)
            return count // 2 + blocks + 4 * _ceil(blocks, _NESTED_BLOCK)
    groups = _ceil(tensor.shape[-1], _GROUP) * rows
    index = 4 * tensor.shape[-1] * (rows // tensor.shape[-2]) if scheme is Scheme.GPTQ else 0
    return count // 2 + 2 * groups + groups // 2 + index


def schemes_for(checkpoint: Checkpoint) -> tuple[Scheme, ...]:
    """The schemes to choose from; what is quantised already stays as it is."""
    if checkpoint.method:
        return (Scheme.STORED,)
    return tuple(scheme for scheme in Scheme if scheme is not Scheme.STORED)


def quantised(tensor: CheckpointTensor) -> bool:
    """Whether the libraries quantise it: matrices of linear layers."""
    name = tensor.name
    return len(tensor.shape) > 1 and tensor.layer >= 0 and not any(x in name for x in _KEPT)


def checkpoint_bytes(checkpoint: Checkpoint, scheme: Scheme) -> int:
    """Bytes of all weights under a scheme."""
    return sum(tensor_bytes(tensor, scheme) for tensor in checkpoint.tensors)


def active_parameters(checkpoint: Checkpoint) -> int:
    """Parameters that one token passes: of the routed experts only the chosen ones."""
    count = checkpoint.number("num_experts", "num_local_experts", "n_routed_experts")
    used = checkpoint.number("num_experts_per_tok", "num_experts_per_token", "moe_topk")
    routed = sum(checkpoint.weights(tensor) for tensor in checkpoint.tensors if tensor.routed)
    chosen = routed * min(used, count) // count if count and used else routed
    return checkpoint.parameters - routed + chosen


def token_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of 16-bit cache that a token takes, by the config."""
    heads = checkpoint.number("num_attention_heads")
    latent = checkpoint.number("kv_lora_rank")
    layers = _attention_layers(checkpoint)
    if latent:
        return 2 * layers * (latent + checkpoint.number("qk_rope_head_dim"))
    hidden = checkpoint.number("hidden_size")
    head = checkpoint.number("head_dim", default=hidden // heads if heads else 0)
    return 2 * 2 * layers * checkpoint.number("num_key_value_heads", default=heads) * head


def map_devices(
    checkpoint: Checkpoint, machine: Machine, scheme: Scheme, n_ctx: int = USUAL_CONTEXT
) -> Mapped:
    """A `device_map` for `from_pretrained`, by the rule of every plan: attention before experts.

    Beside a GPU, bitsandbytes leaves what is in host memory at 16 bits; only where there is no
    GPU does it quantise there. And where experts are kept in one tensor a layer, a GPU needs
    room for one layer's at 16 bits: those that come from host memory while their layer is computed,
    and those that are unpacked from 4 bits.
    """
    whole = _mapped(checkpoint, machine, scheme, n_ctx, spare_bytes=0)
    unpacks = scheme in _BITSANDBYTES
    at_rest = not machine.gpus or "cpu" not in whole.bytes_by_device
    if at_rest and not (unpacks and machine.gpus):
        return whole
    spare = 0 if checkpoint.method in UNPACKED_SINGLY else _largest_experts(checkpoint)
    return _mapped(checkpoint, machine, scheme, n_ctx, spare_bytes=spare)


def _mapped(
    checkpoint: Checkpoint, machine: Machine, scheme: Scheme, n_ctx: int, *, spare_bytes: int
) -> Mapped:
    layers = checkpoint.n_layer
    on_gpu = _sizes(checkpoint, scheme)
    beside_gpus = machine.gpus and scheme in _BITSANDBYTES
    in_host_memory = _sizes(checkpoint, Scheme.BITS_16) if beside_gpus else on_gpu
    cache = token_bytes(checkpoint) * n_ctx // max(layers, 1)
    dense = tuple(size + cache for size in on_gpu.dense)
    costs = [Costs(dense, on_gpu.experts, on_gpu.outside) for _ in machine.gpus]
    reserved = _TORCH_OVERHEAD_BYTES + spare_bytes
    placement = place(costs, [gpu.free_bytes - reserved for gpu in machine.gpus])
    gpus = [placement.gpu(index) for index in range(layers + 1)]
    taken: dict[str, int] = {}

    def take(device: str, size: int) -> None:
        if size:
            taken[device] = taken.get(device, 0) + size

    for index in range(layers):
        device = _device(gpus[index])
        sizes = in_host_memory if device == "cpu" else on_gpu
        take(device, sizes.dense[index] + cache)
        if index in placement.groups:
            take(device, on_gpu.experts[index])
        else:
            take("cpu", in_host_memory.experts[index])
    last = _device(gpus[layers])
    take(last, (in_host_memory if last == "cpu" else on_gpu).outside)
    return Mapped(
        device_map=_device_map(checkpoint, gpus, placement.groups),
        fits=taken.get("cpu", 0) <= machine.host_memory.free_bytes,
        expert_layers_on_gpus=len(placement.groups),
        bytes_by_device=taken,
    )


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of weights, by layer: all but the routed experts, those, and what is in no layer."""

    dense: tuple[int, ...]
    experts: tuple[int, ...]
    outside: int


def _sizes(checkpoint: Checkpoint, scheme: Scheme) -> _Sizes:
    dense, experts, outside = [0] * checkpoint.n_layer, [0] * checkpoint.n_layer, 0
    for tensor in checkpoint.tensors:
        size = tensor_bytes(tensor, scheme)
        if tensor.layer < 0:
            outside += size
        elif tensor.routed:
            experts[tensor.layer] += size
        else:
            dense[tensor.layer] += size
    return _Sizes(tuple(dense), tuple(experts), outside)


def _largest_experts(checkpoint: Checkpoint) -> int:
    """Bytes at 16 bits of the layer with the most of them."""
    sizes = [0] * checkpoint.n_layer
    for tensor in checkpoint.tensors:
        if tensor.routed:
            sizes[tensor.layer] += 2 * checkpoint.weights(tensor)
    return max(sizes, default=0)


def _attention_layers(checkpoint: Checkpoint) -> int:
    kinds = checkpoint.config.get("layer_types")
    if isinstance(kinds, list) and kinds:
        return sum(1 for kind in kinds if "attention" in str(kind) and "linear" not in str(kind))
    return checkpoint.number("num_hidden_layers", default=checkpoint.n_layer)


def _device_map(
    checkpoint: Checkpoint, gpus: list[int], groups: frozenset[int]
) -> dict[str, int | str]:
    """Modules to devices: a layer in one entry, or by its parts where its experts stand apart."""
    found: dict[str, int | str] = {}
    for tensor in checkpoint.tensors:
        if tensor.layer < 0:
            module = tensor.name.rpartition(".")[0] or tensor.name
            found[module] = _number(gpus[0] if "embed" in module else gpus[-1])
            continue
        found[tensor.module] = _number(gpus[tensor.layer])
    return _apart(checkpoint, found, gpus, groups)


def _apart(
    checkpoint: Checkpoint,
    found: dict[str, int | str],
    gpus: list[int],
    groups: frozenset[int],
) -> dict[str, int | str]:
    """Name the parts of each layer whose experts are in host memory while it does not."""
    split = {
        tensor.layer
        for tensor in checkpoint.tensors
        if tensor.routed and tensor.layer not in groups and gpus[tensor.layer] >= 0
    }
    for tensor in checkpoint.tensors:
        if tensor.layer not in split:
            continue
        found.pop(tensor.module, None)
        rest = tensor.name.removeprefix(tensor.module + ".")
        if tensor.routed:
            part = rest[: rest.index("experts") + len("experts")]
            found[f"{tensor.module}.{part}"] = "cpu"
        else:
            part = rest.rpartition(".")[0] or rest
            found[f"{tensor.module}.{part}"] = _number(gpus[tensor.layer])
    return found


def _number(gpu: int) -> int | str:
    return gpu if gpu >= 0 else "cpu"


def _device(gpu: int) -> str:
    return str(_number(gpu))


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


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
