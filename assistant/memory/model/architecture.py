"""What each layer of an architecture keeps of the tokens it has seen: KV cache, recurrent state.

The rules by architecture are data, in `architectures.toml`; here they meet the header's keys.
Bytes are exactly those that llama.cpp allocates. Sources: src/llama-kv-cache.cpp,
src/llama-kv-cache-iswa.cpp, src/llama-memory-recurrent.cpp and src/llama-context.cpp (how the
context's length is padded) of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assistant.llama import CHECKPOINT_BYTES, MOST_CHECKPOINTS
from assistant.memory.gguf.header import BY_NAME, CACHE_TYPES, Header

UNCHECKED = "underkeel.unchecked"  # key of a header whose sizes nobody saw in a file
_MOST_LAYERS = 1024  # LLAMA_MAX_LAYERS is 512; more than that is refused before it costs memory


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """What one layer keeps.

    Attributes:
        key_width, value_width: elements a token; zero where the layer keeps none.
        key_head, value_head: elements of one head, which a quantised cache's blocks must divide.
        windowed: only the last tokens are kept (sliding window).
        index_width: elements a token of a second key cache (sparse attention's indexer).
        ratio: so many tokens have one compressed key of `key_width` besides, and one entry of
            `index_width`, which are never dropped (DeepSeek-V4); 0 without.
        conv_state, state: float32 elements a sequence (recurrent layers, and what has not been
            compressed yet).
    """

    key_width: int = 0
    value_width: int = 0
    key_head: int = 0
    value_head: int = 0
    windowed: bool = False
    index_width: int = 0
    ratio: int = 0
    conv_state: int = 0
    state: int = 0


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What a model keeps, layer by layer.

    Attributes:
        layers: one entry for every block of the file, multi-token prediction's included.
        window: tokens of the sliding window; 0 without one.
        nextn: what the layers for multi-token prediction keep where they draft; empty where they
            cannot.
        steps_back: llama.cpp can keep earlier states of the recurrent layers (`n_rs_seq`).
        apart: sequences never share cells, also where the cache is unified.
        known: false where the architecture is not one whose rule is known: then `layers` follows
            the plain rule and the sizes are a guess.
    """

    layers: tuple[LayerMemory, ...]
    window: int
    known: bool
    nextn: tuple[LayerMemory, ...] = ()
    steps_back: bool = False
    apart: bool = False

    @property
    def recurrent(self) -> bool:
        """Whether a cached prefix cannot be cut anywhere: states have no history."""
        return any(layer.state or layer.conv_state for layer in self.layers)

    @property
    def windowed(self) -> bool:
        return any(layer.windowed for layer in self.layers)


def model_memory(header: Header) -> ModelMemory:
    """What each layer keeps, by the header's keys (llama_hparams and create_memory)."""
    rules = _rules()
    name = header.architecture
    n_layer = n_layers(header)
    trunk = n_layer - skipped_layers(header)
    window_rule = rules["window"].get(name)
    recurrent_rule = rules["recurrent"].get(name)
    window, windowed = _windows(header, window_rule, trunk)
    recurrent = _recurrent_layers(header, recurrent_rule, n_layer)
    both = recurrent_rule is not None and recurrent_rule["layers"] == "all_and_attention"
    conv_state, state = _state(header, recurrent_rule) if recurrent_rule else (0, 0)
    own_layers = _own_layers(header, window_rule, n_layer)
    layers = []
    for index in range(n_layer):
        in_trunk = index < trunk
        layer = LayerMemory()
        if in_trunk and index < own_layers and (both or not recurrent[index]):
            layer = _attention(header, index, n_layer, windowed=windowed[index])
        if in_trunk and recurrent[index]:
            layer = replace(layer, conv_state=conv_state, state=state)
        layers.append(layer)
    apart = name in rules["compressed"]["names"]
    if apart:
        layers = [_compressed(header, index, n_layer) for index in range(n_layer)]
    nextn: list[LayerMemory] = []
    if name in rules["nextn"]["drafts"]:
        nextn = [
            replace(_attention(header, index, n_layer, windowed=False), index_width=0)
            for index in range(trunk, n_layer)
        ]
    return ModelMemory(
        tuple(layers),
        window,
        known=is_known(name),
        nextn=tuple(nextn),
        steps_back=name in rules["steps_back"]["names"],
        apart=apart,
    )


def is_known(architecture: str) -> bool:
    """Whether the rule by which this architecture uses memory is known."""
    rules = _rules()
    return (
        architecture in rules["window"]
        or architecture in rules["recurrent"]
        or architecture in rules["known"]["names"]
        or architecture in rules["indexed"]["names"]
        or architecture in rules["compressed"]["names"]
    )


def is_supported(architecture: str) -> bool:
    """Whether llama.cpp loads this architecture at all."""
    return is_known(architecture) or architecture in _rules()["known"]["own_cache"]


def n_layers(header: Header) -> int:
    """Blocks of the file, multi-token prediction's included; 0 where the header does not say."""
    count = header.integer("block_count")
    return count if 0 <= count <= _MOST_LAYERS else 0


def skipped_layers(header: Header) -> int:
    """Blocks at the end that belong to multi-token prediction, which have no part in decoding."""
    return min(max(header.integer("nextn_predict_layers"), 0), n_layers(header))


def loads_nextn(header: Header) -> bool:
    """Whether llama.cpp loads the weights of multi-token prediction without being asked."""
    return header.architecture not in _rules()["nextn"]["skipped_by"]


def loads_router_bias(architecture: str) -> bool:
    """Whether llama.cpp loads the router's bias of blocks that it skips otherwise."""
    return architecture in _rules()["nextn"]["router_bias_loaded_by"]


def copies_tied_output(architecture: str) -> bool:
    """Whether llama.cpp keeps an output tied to the embedding a second time in host memory."""
    return architecture in _rules()["tied"]["copied_by"]


def _attention(header: Header, index: int, n_layer: int, *, windowed: bool) -> LayerMemory:
    heads = header.integers("attention.head_count", n_layer)
    kv_heads = heads
    if header.get("attention.head_count_kv") is not None:
        kv_heads = header.integers("attention.head_count_kv", n_layer)
    first = max(heads[0], 1)
    default = header.integer("embedding_length") // first if heads[0] else 0
    key_length = header.integer("attention.key_length", default)
    value_length = header.integer("attention.value_length", default)
    if windowed:
        key_length = header.integer("attention.key_length_swa", key_length)
        value_length = header.integer("attention.value_length_swa", value_length)
    compressed = header.integer("attention.key_length_mla") > 0
    return LayerMemory(
        key_width=max(kv_heads[index] * key_length, 0),
        # multi-head latent attention keeps keys and values as one vector
        value_width=0 if compressed else max(kv_heads[index] * value_length, 0),
        key_head=max(key_length, 0),
        value_head=max(value_length, 0),
        windowed=windowed,
        index_width=_index_width(header, index),
    )


def _index_width(header: Header, index: int) -> int:
    """Elements a token of the keys by which sparse attention picks what a layer looks at."""
    rule, types = _rules()["indexed"], header.get("attention.indexer.types")
    if header.architecture not in rule["names"]:
        return 0
    picks = True
    if header.architecture in rule["may_share"]:
        if types is not None:
            picks = header.integers("attention.indexer.types", index + 1)[index] != 0
        elif header.integer("context_length") >= _LONG_CONTEXT:
            picks = index < 2 or index % 4 == 2
    return max(header.integer("attention.indexer.key_length"), 0) if picks else 0


_LONG_CONTEXT = 1 << 20
INDEXED_RATIO = 4  # groups of so many tokens overlap, and an indexer selects among them


def _compressed(header: Header, index: int, n_layer: int) -> LayerMemory:
    """A layer that keeps the keys of a window, and of the rest one for every few tokens.

    Keys and scores of the tokens that have not been compressed yet are its state: those of one
    group, but of two where groups overlap.
    """
    layer = _attention(header, index, n_layer, windowed=True)
    ratio = max(header.integers("attention.compress_ratios", n_layer)[index], 0)
    indexed = ratio == INDEXED_RATIO
    width = max(header.integer("attention.indexer.key_length"), 0) if indexed else 0
    overlap = 2 if indexed else 1
    state = 2 * (overlap * ratio) * overlap * (layer.key_head + width)
    return replace(layer, value_width=0, index_width=width, ratio=ratio, state=state)


def _windows(
    header: Header, rule: Mapping[str, Any] | None, trunk: int
) -> tuple[int, tuple[bool, ...]]:
    """The window's length in tokens, and for each layer of the file whether it has one."""
    n_layer = n_layers(header)
    none = (False,) * n_layer
    if rule is None or trunk != rule.get("only_layers", trunk):
        return 0, none
    window = header.integer("attention.sliding_window", rule.get("window", 0))
    if header.get("attention.sliding_window") is None and rule.get("optional"):
        return 0, none
    if header.get("attention.sliding_window") is None or window:
        window = rule.get("fixed_window", window)
    if window <= 0:
        return 0, none
    pattern = header.get("attention.sliding_window_pattern")
    if pattern is not None and not isinstance(pattern, int):
        flags = header.integers("attention.sliding_window_pattern", n_layer)
        return window, tuple(bool(flag) for flag in flags)
    period = pattern if isinstance(pattern, int) else rule["period"]
    full = 0 if rule.get("full_first") else period - 1
    return window, tuple(
        index < trunk and (period <= 0 or index % period != full) for index in range(n_layer)
    )


def _recurrent_layers(
    header: Header, rule: Mapping[str, Any] | None, n_layer: int
) -> tuple[bool, ...]:
    if rule is None:
        return (False,) * n_layer
    which = rule["layers"]
    if which in {"all", "all_and_attention"}:
        return (True,) * n_layer
    if which == "interval":
        if header.get("attention.recurrent_layers") is not None:
            flags = header.integers("attention.recurrent_layers", n_layer)
            return tuple(bool(flag) for flag in flags)
        interval = max(header.integer("full_attention_interval", rule["interval"]), 1)
        return tuple((index + 1) % interval != 0 for index in range(n_layer))
    kv_heads = header.integers("attention.head_count_kv", n_layer)
    ffn = header.integers("feed_forward_length", n_layer)
    no_ffn = which == "no_kv_heads_nor_ffn"
    return tuple(
        heads == 0 and not (no_ffn and width) for heads, width in zip(kv_heads, ffn, strict=True)
    )


def _state(header: Header, rule: Mapping[str, Any]) -> tuple[int, int]:
    """Elements of the convolution's and of the recurrent state (n_embd_r, n_embd_s)."""
    n_embd = max(header.integer("embedding_length"), 0)
    n_head = max(header.integers("attention.head_count", 1)[0], 0)
    conv = max(header.integer("ssm.conv_kernel"), 0)
    match rule["state"]:
        case "wkv":
            shift = header.integer("token_shift_count", 2)
            return max(shift, 0) * n_embd, n_embd * max(header.integer("wkv.head_size"), 0)
        case "shortconv":
            return n_embd * max(header.integer("shortconv.l_cache") - 1, 0), 0
        case "kda":
            head = max(header.integer("kda.head_dim"), 0)
            return 3 * (conv - 1 if conv else 3) * n_head * head, head * head * n_head
        case "linear":
            head = header.integer("attention.key_length", n_embd // max(n_head, 1))
            return 0, head * head * n_head
    inner = max(header.integer("ssm.inner_size"), 0)
    size = max(header.integer("ssm.state_size"), 0)
    groups = max(header.integer("ssm.group_count"), 0)
    return max(conv - 1, 0) * (inner + 2 * groups * size), size * inner


def _own_layers(header: Header, rule: Mapping[str, Any] | None, n_layer: int) -> int:
    """Layers with a cache of their own; those after them share an earlier layer's."""
    if rule is not None and "own_layers" in rule:
        return int(rule["own_layers"])
    if rule is not None and "shared_key" in rule:
        return n_layer - max(header.integer(rule["shared_key"]), 0)
    return n_layer


@functools.cache
def _rules() -> dict[str, Any]:
    path = Path(__file__).with_name("architectures.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


CELL_PADDING = 256
_FLOAT32_BYTES = 4
_ALIGNMENT = 32
_LEAST_STATES = 4


@dataclass(frozen=True, slots=True)
class CacheParams:
    """How the cache is requested; the names are those of llama.cpp's context parameters.

    Attributes:
        n_ctx: cells in all.
        unified: all sequences share the cells; otherwise each has `n_ctx / n_seq_max` of its own.
        swa_full: sliding-window layers keep the full length.
        n_rs_seq: earlier states that recurrent layers keep of each sequence.
        checkpoint_bytes: host memory for checkpoints of sequences that cannot be cut anywhere.
    """

    n_ctx: int
    type_k: str = "f16"
    type_v: str = "f16"
    n_seq_max: int = 1
    unified: bool = True
    n_ubatch: int = 512
    swa_full: bool = True
    n_rs_seq: int = 0
    checkpoint_bytes: int = 0
    flash_attn: bool = True


def padded(length: int, multiple: int) -> int:
    """`length` rounded up to a multiple."""
    return -(-length // multiple) * multiple


def cells(params: CacheParams) -> int:
    """Cells of one stream: of all sequences together if unified, else of each."""
    total = padded(params.n_ctx, CELL_PADDING)
    return total if params.unified else padded(total // max(params.n_seq_max, 1), CELL_PADDING)


def window_cells(memory: ModelMemory, params: CacheParams) -> int:
    """Cells of one stream in a layer with a sliding window."""
    full = cells(params)
    if params.swa_full:
        return full
    sequences = params.n_seq_max if params.unified and not memory.apart else 1
    ubatch = min(params.n_ubatch, padded(params.n_ctx, CELL_PADDING))
    return padded(min(full, memory.window * sequences + ubatch), CELL_PADDING)


def compressed_cells(layer: LayerMemory, params: CacheParams) -> int:
    """Cells of one stream for what a layer keeps of groups of tokens; of each without groups."""
    if layer.ratio:
        return padded(max(-(-cells(params) // layer.ratio), 1), CELL_PADDING)
    return cells(params)


def layer_bytes(memory: ModelMemory, params: CacheParams) -> tuple[int, ...]:
    """Bytes that each layer of the file takes for all sequences.

    Raises:
        ValueError: the model cannot have these cache types, see `unusable_types`.
    """
    if not memory.steps_back:
        params = replace(params, n_rs_seq=0)  # as llama.cpp does
    streams = 1 if params.unified and not memory.apart else max(params.n_seq_max, 1)
    full, window = cells(params), window_cells(memory, params)
    # without flash attention V is stored transposed, in rows as wide as the widest layer's
    widest = 0 if params.flash_attn else max((x.value_width for x in memory.layers), default=0)
    return tuple(
        _one(
            layer,
            params,
            (window if layer.windowed else full) * streams,
            compressed_cells(layer, params) * streams,
            widest,
        )
        for layer in memory.layers
    )


def cache_bytes(memory: ModelMemory, params: CacheParams) -> int:
    """Bytes of the whole cache: keys, values and states of all layers."""
    return sum(layer_bytes(memory, params))


def nextn_bytes(memory: ModelMemory, params: CacheParams) -> int:
    """Bytes of the cache of the layers for multi-token prediction, where they draft."""
    return cache_bytes(replace(memory, layers=memory.nextn), params)


def state_bytes(memory: ModelMemory, params: CacheParams) -> int:
    """Bytes of one checkpoint: the recurrent states of a sequence, and the last cells of layers
    that keep only a window; 0 where sequences can be cut anywhere.

    An upper bound: llama.cpp writes a few numbers for each cell and layer (state_write_meta and
    state_write_data in src/llama-kv-cache.cpp and src/llama-memory-recurrent.cpp).
    """
    length = min(memory.window, params.n_ctx)
    held = replace(params, n_ctx=length, n_seq_max=1, unified=True, n_rs_seq=0)
    kept = [
        _one(replace(layer, ratio=0), held, held.n_ctx if layer.windowed else 0, 0, 0)
        for layer in memory.layers
        if layer.state
        or layer.conv_state
        or (layer.windowed and (memory.apart or not params.swa_full))
    ]
    return sum(kept) + 16 * held.n_ctx + 128 * len(memory.layers) if kept else 0


def with_window(memory: ModelMemory, params: CacheParams, *, full: bool | None) -> CacheParams:
    """The same with the usual memory for sliding windows and checkpoints.

    Args:
        full: `swa_full`; None for the window alone, unless the full length takes no more.
    """
    if full is None:
        short = replace(params, swa_full=False)
        full = not memory.windowed or window_cells(memory, short) >= cells(params)
    params = replace(params, swa_full=full)
    one = state_bytes(memory, params)
    if not one:
        return replace(params, checkpoint_bytes=0)
    # Behind a window most cuts need none; a state has no other way back.
    most = max(CHECKPOINT_BYTES, _LEAST_STATES * one if memory.recurrent else 0)
    return replace(params, checkpoint_bytes=min(most // one, MOST_CHECKPOINTS) * one)


def token_bytes(memory: ModelMemory, type_k: str = "f16", type_v: str = "f16") -> int:
    """Bytes that one more token of context takes, sliding windows kept in full."""
    params = CacheParams(n_ctx=CELL_PADDING, type_k=type_k, type_v=type_v)
    layers = (replace(x, windowed=False, conv_state=0, state=0) for x in memory.layers)
    growing = replace(memory, layers=tuple(layers))
    return cache_bytes(growing, params) // CELL_PADDING


def unusable_types(memory: ModelMemory, params: CacheParams) -> str:
    """Why this model cannot have these cache types; empty where it can (llama_init_from_model)."""
    for name in (params.type_k, params.type_v):
        if name not in CACHE_TYPES:
            return f"there is no cache type {name!r}; known are {', '.join(CACHE_TYPES)}"
    if BY_NAME[params.type_v].block_elements > 1 and not params.flash_attn:
        return f"{params.type_v} for V needs flash attention"
    compressed = any(x.key_width and not x.value_width for x in memory.layers)
    if compressed and params.type_k != params.type_v:
        return "this model keeps K and V as one, so they need the same cache type"
    for name, heads in (
        (params.type_k, {x.key_head for x in memory.layers}),
        (params.type_v, {x.value_head for x in memory.layers}),
    ):
        block = BY_NAME[name].block_elements
        odd = [head for head in sorted(heads) if head % block]
        if odd:
            return f"{name} keeps blocks of {block}, which do not divide a head of {odd[0]}"
    return ""


def _one(
    layer: LayerMemory, params: CacheParams, rows: int, group_rows: int, widest_value: int
) -> int:
    type_k, type_v = BY_NAME[params.type_k], BY_NAME[params.type_v]
    states = params.n_seq_max * (1 + params.n_rs_seq)
    value_width = max(layer.value_width, widest_value) if layer.value_width else 0
    sizes = (
        type_k.size_bytes((layer.key_width, rows)),
        type_v.size_bytes((value_width, rows)),
        type_k.size_bytes((layer.key_width if layer.ratio else 0, group_rows)),
        type_k.size_bytes((layer.index_width, group_rows)),
        layer.conv_state * _FLOAT32_BYTES * states,
        layer.state * _FLOAT32_BYTES * states,
    )
    return sum(padded(size, _ALIGNMENT) for size in sizes)
