"""What the planner needs to know of a model, computed once from its header.

The inventory counts parameters and bytes by class, layer and quantisation. A mixture of experts is
fast by its active parameters but must hold all of them, so both are counted: from the tensors that
exist, not from the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from assistant.memory.gguf.header import Header, StringArray, Tensor
from assistant.memory.model.architecture import (
    UNCHECKED,
    ModelMemory,
    is_supported,
    loads_nextn,
    loads_router_bias,
    model_memory,
    n_layers,
    skipped_layers,
)


class TensorClass(StrEnum):
    """What a tensor is for."""

    ATTENTION = "attention"
    RECURRENT = "recurrent"
    DENSE_FFN = "dense feed-forward"
    SHARED_EXPERT = "shared experts"
    ROUTED_EXPERT = "routed experts"
    ROUTER = "router"
    NORM = "norms"
    EMBEDDING = "embeddings"
    OUTPUT = "output"
    NEXTN = "multi-token prediction"
    OTHER = "other"


EXPERT_PATTERN = r"ffn_(up|down|gate|gate_up)_(ch)?exps"
"""The routed tensors of a layer, as the part of their name after `blk.N.`."""

_Key = TypeVar("_Key")
_BLOCK = re.compile(r"^blk\.(\d+)\.(.+)$")
_CLASSES: tuple[tuple[re.Pattern[str], TensorClass], ...] = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (rf"^{EXPERT_PATTERN}\b", TensorClass.ROUTED_EXPERT),
        (r"^ffn_gate_inp_shexp|_(sh|ch)exps?\b", TensorClass.SHARED_EXPERT),
        (r"^(ffn_gate_inp|exp_probs_b|ffn_gate_tid2eid)", TensorClass.ROUTER),
        (r"^nextn\b", TensorClass.NEXTN),
        (r"norm|^layer_output_scale", TensorClass.NORM),
        (r"^(ssm_|shortconv|time_mix|channel_mix|rwkv)", TensorClass.RECURRENT),
        (r"^(attn|indexer|rope_|cross_attn|hc_)", TensorClass.ATTENTION),
        (r"^ffn_", TensorClass.DENSE_FFN),
        (r"^(inp_gate|proj)\.", TensorClass.EMBEDDING),  # of the blocks' own embeddings
    )
)
_INPUT = re.compile(r"^(token_embd|position_embd|token_types|per_layer_token_embd)\.")
_FIRST = re.compile(r"^per_layer_(model_proj|proj_norm)\.")  # llama.cpp keeps these with block 0
_COPIED = re.compile(r"^rope_(freqs|factors_long|factors_short)\.")


@dataclass(frozen=True, slots=True)
class Amount:
    """Parameters, and the bytes they take without padding."""

    parameters: int = 0
    size_bytes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.parameters + other.parameters, self.size_bytes + other.size_bytes)

    def share(self, part: int, whole: int) -> Amount:
        """`part / whole` of it, rounded down."""
        return Amount(self.parameters * part // whole, self.size_bytes * part // whole)


@dataclass(frozen=True, slots=True)
class LayerInventory:
    """One block of the file.

    Attributes:
        dense: all tensors but the routed experts': they stay with the attention.
        experts: the routed tensors, the unit of placement: a group that is never split.
        used, count: experts chosen a token, of how many; zeros where the block has none.
        skipped: belongs to multi-token prediction and is not loaded.
        not_skipped: of `dense`, what llama.cpp loads of such a block all the same.
    """

    index: int
    dense: tuple[Tensor, ...]
    experts: tuple[Tensor, ...]
    used: int
    count: int
    skipped: bool = False
    not_skipped: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorInventory:
    """The whole model.

    Attributes:
        layers: every block, in order; `input` stays on the CPU; `output` follows the last layer;
            `copied` stands on every device that holds a layer (RoPE factors).
        tied: the output is the token embedding once more.
        total: all of the file.
        active: what a token passes: all that is not routed, and of the experts the chosen ones.
        decode_bytes: bytes read to decode one token, which bounds the speed: `active` without
            the rows of the embedding that are not looked up.
        skipped: what the file holds and llama.cpp does not load.
    """

    layers: tuple[LayerInventory, ...]
    input: tuple[Tensor, ...]
    output: tuple[Tensor, ...]
    copied: tuple[Tensor, ...]
    tied: bool
    total: Amount
    active: Amount
    decode_bytes: int
    skipped: Amount
    by_class: Mapping[TensorClass, Amount]
    by_type: Mapping[str, Amount]

    @property
    def moe(self) -> bool:
        return any(layer.experts for layer in self.layers)

    @property
    def experts(self) -> Amount:
        return self.by_class.get(TensorClass.ROUTED_EXPERT, Amount())


def classify(name: str) -> TensorClass:
    """The class of a tensor by its name."""
    block = _BLOCK.match(name)
    if block is None:
        if _INPUT.match(name):
            return TensorClass.EMBEDDING
        if "norm" in name:
            return TensorClass.NORM
        if _COPIED.match(name):
            return TensorClass.ATTENTION
        if _FIRST.match(name):
            return TensorClass.EMBEDDING
        return TensorClass.OUTPUT if name.startswith("output") else TensorClass.OTHER
    for pattern, kind in _CLASSES:
        if pattern.search(block[2]):
            return kind
    return TensorClass.OTHER


def take_inventory(header: Header) -> TensorInventory:
    """Count what a header lists. It works for any architecture, known or not."""
    blocks: dict[int, list[Tensor]] = {}
    places: dict[str, list[Tensor]] = {"input": [], "output": [], "copied": []}
    for tensor in header.tensors:
        block = _BLOCK.match(tensor.name)
        if block is not None:
            blocks.setdefault(int(block[1]), []).append(tensor)
        elif _FIRST.match(tensor.name):
            blocks.setdefault(0, []).append(tensor)
        elif _INPUT.match(tensor.name):
            places["input"].append(tensor)
        elif _COPIED.match(tensor.name):
            places["copied"].append(tensor)
        else:
            places["output"].append(tensor)
    layers = _layers(header, blocks)
    tied = not any(t.name == "output.weight" for t in places["output"])
    outside = [*places["input"], *places["output"], *places["copied"]]
    loaded = [layer for layer in layers if not layer.skipped]
    active = _amount(outside)
    for layer in layers:
        if not _is_nextn(header, layer.index):
            active += _amount(layer.dense) + _chosen(layer)
    return TensorInventory(
        layers=layers,
        input=tuple(places["input"]),
        output=tuple(places["output"]),
        copied=tuple(places["copied"]),
        tied=tied,
        total=_amount(header.tensors),
        active=active,
        decode_bytes=active.size_bytes - _not_looked_up(places["input"], tied=tied),
        skipped=_amount(t for x in layers if x.skipped for t in (*x.dense, *x.experts)),
        by_class=_grouped((classify(t.name), t) for t in _loaded_tensors(loaded, outside)),
        by_type=_grouped((t.type.name, t) for t in _loaded_tensors(loaded, outside)),
    )


def _layers(header: Header, blocks: Mapping[int, list[Tensor]]) -> tuple[LayerInventory, ...]:
    # A file may lack its keys, or lie: the tensors decide how many blocks there are.
    most = max(n_layers(header), 1 + max(blocks, default=-1) if len(blocks) < 1024 else 0)
    count = max(header.integer("expert_count"), 0)
    used = header.integers("expert_used_count", min(most, 1024), 0)
    bias = loads_router_bias(header.architecture)
    layers = []
    for index in sorted(set(range(min(most, 1024))) | set(blocks)):
        tensors = blocks.get(index, [])
        experts = tuple(t for t in tensors if classify(t.name) is TensorClass.ROUTED_EXPERT)
        stacked = max((t.shape[2] for t in experts if len(t.shape) > 2), default=0)
        layer_count = (count or stacked) if experts else 0
        layer_used = used[index] if experts and index < len(used) else 0
        layers.append(
            LayerInventory(
                index=index,
                dense=tuple(t for t in tensors if t not in experts),
                experts=experts,
                used=min(max(layer_used, 0), layer_count),
                count=layer_count,
                skipped=_is_nextn(header, index) and not loads_nextn(header),
                not_skipped=tuple(t for t in tensors if bias and ".exp_probs_b" in t.name),
            )
        )
    return tuple(layers)


def _is_nextn(header: Header, index: int) -> bool:
    return index >= n_layers(header) - skipped_layers(header) and skipped_layers(header) > 0


def _chosen(layer: LayerInventory) -> Amount:
    if not layer.count:
        return Amount()
    # Without expert_used_count nothing is known, so all of them count.
    return _amount(layer.experts).share(layer.used or layer.count, layer.count)


def _not_looked_up(tensors: Iterable[Tensor], *, tied: bool) -> int:
    """Bytes of the input tables that one token does not touch: all rows but one."""
    unread = 0
    for tensor in tensors:
        rows = max(tensor.n_elements // max(tensor.shape[0], 1), 1) if tensor.shape else 1
        if not (tied and tensor.name == "token_embd.weight"):
            unread += tensor.size_bytes - tensor.size_bytes // rows
    return unread


def _amount(tensors: Iterable[Tensor]) -> Amount:
    parameters = size = 0
    for tensor in tensors:
        parameters += tensor.n_elements
        size += tensor.size_bytes
    return Amount(parameters, size)


def _loaded_tensors(layers: Iterable[LayerInventory], outside: list[Tensor]) -> Iterable[Tensor]:
    yield from outside
    for layer in layers:
        yield from layer.dense
        yield from layer.experts


def _grouped(pairs: Iterable[tuple[_Key, Tensor]]) -> Mapping[_Key, Amount]:
    groups: dict[_Key, Amount] = {}
    for key, tensor in pairs:
        groups[key] = groups.get(key, Amount()) + Amount(tensor.n_elements, tensor.size_bytes)
    return MappingProxyType(groups)


@dataclass(frozen=True, slots=True)
class Activations:
    """Widths that bound the compute buffers, in elements a token.

    Attributes:
        heads: query heads; `query`: elements of all of them together.
        expert, used: one expert's width, and how many run.
        latent: elements of the compressed cache row (multi-head latent attention); else 0.
        recurrent: elements of a recurrent mixer; else 0.
        selected: tokens of the context that sparse attention selects; else 0.
        per_layer: elements of the embeddings that all blocks have of their own; else 0.
    """

    embedding: int
    vocabulary: int
    heads: int
    query: int
    feed_forward: int
    expert: int
    used: int
    latent: int
    recurrent: int
    selected: int
    per_layer: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the planner sees it.

    Attributes:
        path: of its first file; may be a URL or a name that is no file.
        n_layer: blocks of the file, those of multi-token prediction included.
        n_ctx_train: tokens it was trained for; 0 where the header does not say.
        supported: whether llama.cpp loads this architecture.
        unchecked: whether its sizes are from neither its file nor its makers.
    """

    path: str
    name: str
    architecture: str
    n_layer: int
    n_ctx_train: int
    supported: bool
    inventory: TensorInventory
    memory: ModelMemory
    activations: Activations
    unchecked: bool = False

    @property
    def known(self) -> bool:
        """Whether cache and compute sizes can be read from the header."""
        return self.memory.known


def model_of(header: Header) -> Model:
    """Everything the planner needs of a header."""
    inventory = take_inventory(header)
    return Model(
        path=header.path,
        name=header.name,
        architecture=header.architecture,
        n_layer=n_layers(header),
        n_ctx_train=max(header.integer("context_length"), 0),
        supported=is_supported(header.architecture),
        inventory=inventory,
        memory=model_memory(header),
        activations=_activations(header, inventory),
        unchecked=header.metadata.get(UNCHECKED) is True,
    )


def _activations(header: Header, inventory: TensorInventory) -> Activations:
    n_layer = max(n_layers(header) - skipped_layers(header), 0)
    heads = max(header.integers("attention.head_count", max(n_layer, 1)), default=0)
    embedding = max(header.integer("embedding_length"), 0)
    latent = header.integer("attention.key_length_mla") > 0
    key = header.integer("attention.key_length", embedding // max(heads, 1))
    ffn = header.integers("feed_forward_length", max(n_layer, 1))
    experts = [layer for layer in inventory.layers if layer.experts]
    widths = (tensor.shape[0] for x in experts for tensor in x.experts if "down" in tensor.name)
    return Activations(
        embedding=embedding,
        vocabulary=vocabulary(header),
        heads=max(heads, 0),
        query=max(heads * (key if not latent else 0), 0),
        feed_forward=max(ffn, default=0) if _has_dense_ffn(inventory) else 0,
        expert=max(widths, default=0),
        used=max((layer.used for layer in experts), default=0),
        latent=max(key, 0) if latent else 0,
        recurrent=max(header.integer("ssm.inner_size"), 0),
        selected=max(header.integer("attention.indexer.top_k"), 0),
        per_layer=n_layer * max(header.integer("embedding_length_per_layer_input"), 0),
    )


def vocabulary(header: Header) -> int:
    """Rows of the output; 0 where the header does not say."""
    for name in ("output.weight", "token_embd.weight"):
        for tensor in header.tensors:
            if tensor.name == name and len(tensor.shape) == 2:
                return tensor.shape[1]
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, StringArray) else 0


def sized(tensors: Iterable[Tensor], alignment: int, row_padding: int = 0) -> int:
    """Bytes that tensors take in one buffer: each padded to the buffer type's alignment.

    Args:
        row_padding: elements to which a device pads the last row of quantised tensors
            (MATRIX_ROW_PADDING in ggml-cuda.cu); 0 for none.
    """
    total = 0
    for tensor in tensors:
        size = tensor.size_bytes
        kind = tensor.type
        if row_padding and kind.block_elements > 1 and tensor.shape[0] % row_padding:
            short = row_padding - tensor.shape[0] % row_padding
            size += short // kind.block_elements * kind.block_bytes
        total += -(-size // alignment) * alignment
    return total


def _has_dense_ffn(inventory: TensorInventory) -> bool:
    return any(
        ".ffn_up." in tensor.name or ".ffn_down." in tensor.name
        for layer in inventory.layers
        for tensor in layer.dense
    )
