"""What each layer of an architecture keeps of the tokens it has seen, read from a header.

The rules by architecture are data, in `architectures.toml`; here they meet the header's keys.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assistant.memory.gguf.header import Header

_MOST_LAYERS = 1024  # LLAMA_MAX_LAYERS is 512; more than that is refused before it costs memory


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """What one layer keeps.

    Attributes:
        key_width, value_width: elements a token; zero where the layer keeps none.
        key_head, value_head: elements of one head, which a quantised cache's blocks must divide.
        windowed: only the last tokens are kept (sliding window).
        index_width: elements a token of a second key cache (sparse attention's indexer).
        conv_state, state: float32 elements a sequence (recurrent layers).
    """

    key_width: int = 0
    value_width: int = 0
    key_head: int = 0
    value_head: int = 0
    windowed: bool = False
    index_width: int = 0
    conv_state: int = 0
    state: int = 0


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What a model keeps, layer by layer.

    Attributes:
        layers: one entry for every block of the file, multi-token prediction's included.
        window: tokens of the sliding window; 0 without one.
        known: false where the architecture is not one whose rule is known: then `layers` follows
            the plain rule and the sizes are a guess.
    """

    layers: tuple[LayerMemory, ...]
    window: int
    known: bool

    @property
    def recurrent(self) -> bool:
        """Whether a cached prefix can only be extended, never cut (states have no history)."""
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
    return ModelMemory(tuple(layers), window, known=is_known(name))


def is_known(architecture: str) -> bool:
    """Whether the rule by which this architecture uses memory is known."""
    rules = _rules()
    return (
        architecture in rules["window"]
        or architecture in rules["recurrent"]
        or architecture in rules["known"]["names"]
        or architecture in rules["indexed"]["names"]
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
    indexed = header.architecture in _rules()["indexed"]["names"]
    return LayerMemory(
        key_width=max(kv_heads[index] * key_length, 0),
        # multi-head latent attention keeps keys and values as one vector
        value_width=0 if compressed else max(kv_heads[index] * value_length, 0),
        key_head=max(key_length, 0),
        value_head=max(value_length, 0),
        windowed=windowed,
        index_width=max(header.integer("attention.indexer.key_length"), 0) if indexed else 0,
    )


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
