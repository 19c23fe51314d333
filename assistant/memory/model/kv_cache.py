"""Bytes of the KV cache and of recurrent states, to the byte as llama.cpp allocates them.

Sources: src/llama-kv-cache.cpp, src/llama-kv-cache-iswa.cpp, src/llama-memory-recurrent.cpp and
src/llama-context.cpp (how the context's length is padded) of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from assistant.memory.gguf.tensor_types import BY_NAME, CACHE_TYPES
from assistant.memory.model.architecture import LayerMemory, ModelMemory

CELL_PADDING = 256
_FLOAT32_BYTES = 4
_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class CacheParams:
    """How the cache is wished for; the names are those of llama.cpp's context parameters.

    Attributes:
        n_ctx: cells in all.
        unified: all sequences share the cells; otherwise each has `n_ctx / n_seq_max` of its own.
        swa_full: sliding-window layers keep the full length, so that a prefix can be reused.
    """

    n_ctx: int
    type_k: str = "f16"
    type_v: str = "f16"
    n_seq_max: int = 1
    unified: bool = True
    n_ubatch: int = 512
    swa_full: bool = True
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
    sequences = params.n_seq_max if params.unified else 1
    ubatch = min(params.n_ubatch, padded(params.n_ctx, CELL_PADDING))
    return padded(min(full, memory.window * sequences + ubatch), CELL_PADDING)


def layer_bytes(memory: ModelMemory, params: CacheParams) -> tuple[int, ...]:
    """Bytes that each layer of the file takes for all sequences.

    Raises:
        ValueError: the model cannot have these cache types, see `unusable_types`.
    """
    streams = 1 if params.unified else max(params.n_seq_max, 1)
    full, window = cells(params) * streams, window_cells(memory, params) * streams
    # without flash attention V is stored transposed, in rows as wide as the widest layer's
    widest = 0 if params.flash_attn else max((x.value_width for x in memory.layers), default=0)
    return tuple(
        _one(layer, params, window if layer.windowed else full, widest) for layer in memory.layers
    )


def cache_bytes(memory: ModelMemory, params: CacheParams) -> int:
    """Bytes of the whole cache: keys, values and states of all layers."""
    return sum(layer_bytes(memory, params))


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


def _one(layer: LayerMemory, params: CacheParams, rows: int, widest_value: int) -> int:
    type_k, type_v = BY_NAME[params.type_k], BY_NAME[params.type_v]
    value_width = max(layer.value_width, widest_value) if layer.value_width else 0
    sizes = (
        type_k.size_bytes((layer.key_width, rows)),
        type_v.size_bytes((value_width, rows)),
        type_k.size_bytes((layer.index_width, rows)),
        layer.conv_state * _FLOAT32_BYTES * params.n_seq_max,
        layer.state * _FLOAT32_BYTES * params.n_seq_max,
    )
    return sum(padded(size, _ALIGNMENT) for size in sizes)
