"""What a safetensors checkpoint takes at 16, 8 and 4 bits, and where Transformers or vLLM put it.

Sizes by scheme follow the libraries' own storage; what they leave unquantised stays at 16 bits:
embeddings, the output, norms and routers.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from assistant.memory.checkpoints import Checkpoint, CheckpointTensor
from assistant.memory.placement import Costs, place
from assistant.memory.plan import Machine

_NF4_BLOCK = 64
_NESTED_BLOCK = 256
_GROUP = 128
_VLLM_SHARE = 0.9  # --gpu-memory-utilization's default
_VLLM_OVERHEAD_BYTES = 2 << 30  # activations of the profile run and CUDA graphs, roughly
_TORCH_OVERHEAD_BYTES = 1 << 30  # CUDA context and the caching allocator's slack, roughly
_USUAL_CONTEXT = 16_384
_KEPT = ("embed", "lm_head", "norm", "router", ".gate.", "bias", "wte", "wpe")


class Scheme(StrEnum):
    """How the linear layers are stored."""

    BITS_16 = "16 bit"
    INT8 = "LLM.int8()"
    NF4 = "NF4"
    NF4_DOUBLE = "NF4, double quantisation"
    GPTQ = "GPTQ 4 bit"
    AWQ = "AWQ 4 bit"


@dataclass(frozen=True, slots=True)
class Mapped:
    """Where Transformers puts a checkpoint.

    Attributes:
        device_map: module -> card number or "cpu". A layer's experts are one entry, never split.
        fits: whether cards and host hold it.
        expert_layers_on_cards: of how many layers the experts stand on cards.
        bytes_by_device: what each holds ("0", "cpu").
    """

    device_map: Mapping[str, int | str]
    fits: bool
    expert_layers_on_cards: int
    bytes_by_device: Mapping[str, int]


def tensor_bytes(tensor: CheckpointTensor, scheme: Scheme) -> int:
    """Bytes of one tensor under a scheme.

    NF4 keeps a float32 scale for 64 weights, with double quantisation an 8-bit one and a float32
    for 256 of those (bitsandbytes); GPTQ and AWQ a float16 scale and a 4-bit zero for 128, GPTQ
    an int32 index for each input besides.
    """
    count = tensor.parameters
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
    routed = sum(tensor.parameters for tensor in checkpoint.tensors if tensor.routed)
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
    checkpoint: Checkpoint, machine: Machine, scheme: Scheme, n_ctx: int = _USUAL_CONTEXT
) -> Mapped:
    """A `device_map` for `from_pretrained`, by the rule of every plan: attention before experts."""
    layers = checkpoint.n_layer
    cache = token_bytes(checkpoint) * n_ctx // max(layers, 1)
    dense = [cache] * layers
    experts = [0] * layers
    outside = 0
    for tensor in checkpoint.tensors:
        size = tensor_bytes(tensor, scheme)
        if tensor.layer < 0:
            outside += size
        elif tensor.routed:
            experts[tensor.layer] += size
        else:
            dense[tensor.layer] += size
    costs = [Costs(tuple(dense), tuple(experts), outside) for _ in machine.gpus]
    budgets = [gpu.free_bytes - _TORCH_OVERHEAD_BYTES for gpu in machine.gpus]
    placement = place(costs, budgets)
    cards = [placement.card(index) for index in range(layers + 1)]
    taken: dict[str, int] = {}
    for index in range(layers):
        place_of = _device(cards[index])
        taken[place_of] = taken.get(place_of, 0) + dense[index]
        group = place_of if index in placement.groups else "cpu"
        taken[group] = taken.get(group, 0) + experts[index]
    last = _device(cards[layers])
    taken[last] = taken.get(last, 0) + outside
    return Mapped(
        device_map=_device_map(checkpoint, cards, placement.groups),
        fits=taken.get("cpu", 0) <= machine.host.free_bytes,
        expert_layers_on_cards=len(placement.groups),
        bytes_by_device=taken,
    )


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
    room = int(smallest * _VLLM_SHARE) - _VLLM_OVERHEAD_BYTES
    counts = _powers_of_two(len(machine.gpus), checkpoint.number("num_attention_heads"))
    for scheme, flags in _VLLM_SCHEMES:
        for cards in counts:
            weights = checkpoint_bytes(checkpoint, scheme) // cards
            context = _context(checkpoint, (room - weights) * cards)
            if context:
                copies = len(machine.gpus) // cards
                return _vllm_line(checkpoint, cards, context, flags, copies)
    cards = counts[-1]
    weights = checkpoint_bytes(checkpoint, Scheme.BITS_16) // cards
    cache = token_bytes(checkpoint) * _USUAL_CONTEXT // cards
    moved = weights + cache - room
    if moved >= weights or moved * cards > machine.host.free_bytes:
        return ""
    gib = _ceil(moved, 1 << 30)
    return _vllm_line(checkpoint, cards, _USUAL_CONTEXT, ("--cpu-offload-gb", str(gib)))


_VLLM_SCHEMES: tuple[tuple[Scheme, tuple[str, ...]], ...] = (
    (Scheme.BITS_16, ()),
    (Scheme.INT8, ("--quantization", "fp8")),  # one byte a weight, made while loading
    (Scheme.NF4_DOUBLE, ("--quantization", "bitsandbytes")),
)


def _vllm_line(
    checkpoint: Checkpoint, cards: int, context: int, flags: tuple[str, ...], copies: int = 1
) -> str:
    words = ["vllm", "serve", checkpoint.name, "--max-model-len", str(context)]
    words += ["--gpu-memory-utilization", str(_VLLM_SHARE)]
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
    trained = checkpoint.number("max_position_embeddings", default=_USUAL_CONTEXT)
    tokens = min(room_bytes // each, trained) // 1024 * 1024
    return tokens if tokens >= min(4096, trained) else 0


def _powers_of_two(most: int, heads: int) -> list[int]:
    """Counts of cards over which the attention heads can be shared out."""
    counts = [1]
    while counts[-1] * 2 <= most and (heads or 1) % (counts[-1] * 2) == 0:
        counts.append(counts[-1] * 2)
    return counts


def _attention_layers(checkpoint: Checkpoint) -> int:
    kinds = checkpoint.config.get("layer_types")
    if isinstance(kinds, list) and kinds:
        return sum(1 for kind in kinds if "attention" in str(kind) and "linear" not in str(kind))
    return checkpoint.number("num_hidden_layers", default=checkpoint.n_layer)


def _device_map(
    checkpoint: Checkpoint, cards: list[int], groups: frozenset[int]
) -> dict[str, int | str]:
    """Modules to devices: a layer in one entry, or by its parts where its experts stand apart."""
    found: dict[str, int | str] = {}
    for tensor in checkpoint.tensors:
        if tensor.layer < 0:
            module = tensor.name.rpartition(".")[0] or tensor.name
            found[module] = _number(cards[0] if "embed" in module else cards[-1])
            continue
        found[tensor.module] = _number(cards[tensor.layer])
    return _apart(checkpoint, found, cards, groups)


def _apart(
    checkpoint: Checkpoint,
    found: dict[str, int | str],
    cards: list[int],
    groups: frozenset[int],
) -> dict[str, int | str]:
    """Name the parts of each layer whose experts stand on the host while it does not."""
    split = {
        tensor.layer
        for tensor in checkpoint.tensors
        if tensor.routed and tensor.layer not in groups and cards[tensor.layer] >= 0
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
            found[f"{tensor.module}.{part}"] = _number(cards[tensor.layer])
    return found


def _number(card: int) -> int | str:
    return card if card >= 0 else "cpu"


def _device(card: int) -> str:
    return str(_number(card))


def _ceil(count: int, size: int) -> int:
    return -(-count // size)
