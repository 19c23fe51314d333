"""Models known by their shape: the header each has, every tensor of it, without a file.

With it a model can be planned before a byte of it is fetched, and the planner can be tested
against llama.cpp on models of any size. What each architecture consists of follows the
`load_arch_tensors` functions of llama.cpp's src/models (llama-cpp-python 0.3.36). Which type the
quantiser gives each tensor of a recipe such as Q4_K_M follows llama_tensor_get_type in
src/llama-quant.cpp; its exceptions for single models are left out.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from types import MappingProxyType
from typing import Any

import msgspec

from assistant.errors import ModelError
from assistant.memory.gguf.header import BY_NAME, DEFAULT_ALIGNMENT, GgmlType, Header, Tensor
from assistant.memory.model.architecture import UNCHECKED, n_layers
from assistant.memory.model.block_tensors import ModelShape, Named, block, outside

_BLOCK = re.compile(r"^blk\.(\d+)\.")
_KEPT = re.compile(
    r"norm|ffn_gate_inp|ssm_(conv1d\w*|a|d|dt|ba)\b|layer_output_scale|\.scale$|bias$|attn_sinks|shortconv\.conv|indexer\.proj|rope_freqs"
    r"|\bhc_|_hc_|compressor_ape"
)
_OWN_TYPE = {"ffn_gate_tid2eid": "i32", "per_layer_model_proj": "bf16"}
# Rows that a type's blocks do not divide get the next type that does.
_FALLBACK = {
    "q2_K": "q4_0", "q3_K": "q4_0", "iq4_xs": "iq4_nl", "q4_K": "q5_0", "q5_K": "q5_1",
    "q6_K": "q8_0", "mxfp4": "q8_0", "q4_0": "f16", "q5_0": "f16", "q5_1": "f16", "q8_0": "f16",
    "iq4_nl": "f16",
}  # fmt: skip


_MOST_BITS = 16  # of a weight that a quantiser changes: wider ones are kept for their precision
QUANTISATIONS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
"""The usual ones, the largest first."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a quantisation treats the tensors.

    Attributes:
        file_type: `general.file_type` (enum llama_ftype).
        base: most tensors; `better`: half of attn_v and ffn_down; `output`: the output matrix.
        experts: the routed experts, where they differ from `base`.
    """

    file_type: int
    base: str
    better: str
    output: str
    experts: str = ""

    def type_of(
        self, name: str, shape: tuple[int, ...], *, n_layer: int, n_expert: int, tied: bool
    ) -> GgmlType:
        """The type of tensor `name` of dimensions `shape` in a model of `n_layer` blocks.

        Where the output is `tied` to the token embedding, that is kept as well as an output.
        """
        for part, kind in _OWN_TYPE.items():
            if part in name:
                return BY_NAME[kind]
        if len(shape) < 2 or _KEPT.search(name):
            return BY_NAME["f32"]
        if name == "output.weight" or (tied and name == "token_embd.weight"):
            kind = self.output if shape[0] % BY_NAME[self.base].block_elements == 0 else "q8_0"
        else:
            kind = self._wanted(name, n_layer, n_expert)
        while shape[0] % BY_NAME[kind].block_elements:
            kind = _FALLBACK[kind]
        return BY_NAME[kind]

    def _wanted(self, name: str, n_layer: int, n_expert: int) -> str:
        block = _BLOCK.match(name)
        if block is None:
            return self.base
        if self.experts and "_exps." in name:
            return self.experts
        if "attn_v." in name and n_expert == 8 and self.better != self.base:
            return "q8_0"
        if ("attn_v." in name or "ffn_down" in name) and _more_bits(int(block[1]), n_layer):
            return self.better
        return self.base

    def smaller(self, tensor: Tensor, *, n_layer: int, n_expert: int, tied: bool) -> Tensor:
        """The tensor as this quantisation stores it; what is smaller already stays."""
        kind = self.type_of(
            tensor.name, tensor.shape, n_layer=n_layer, n_expert=n_expert, tied=tied
        )
        fewer = kind.bits_per_weight < tensor.type.bits_per_weight <= _MOST_BITS
        return replace(tensor, type=kind) if fewer else tensor


def _more_bits(index: int, n_layer: int) -> bool:
    """The first and last eighth of the blocks, and every third between (use_more_bits)."""
    eighth = n_layer // 8
    return index < eighth or index >= 7 * n_layer // 8 or (index - eighth) % 3 == 2


RECIPES = {
    "F16": Recipe(1, "f16", "f16", "f16"),
    "BF16": Recipe(32, "bf16", "bf16", "bf16"),
    "Q8_0": Recipe(7, "q8_0", "q8_0", "q8_0"),
    "Q6_K": Recipe(18, "q6_K", "q6_K", "q6_K"),
    "Q5_K_M": Recipe(17, "q5_K", "q6_K", "q6_K"),
    "Q4_K_M": Recipe(15, "q4_K", "q6_K", "q6_K"),
    "IQ4_XS": Recipe(30, "iq4_xs", "q5_K", "q6_K"),
    "Q3_K_M": Recipe(12, "q3_K", "q5_K", "q6_K"),
    "Q2_K": Recipe(10, "q2_K", "q3_K", "q6_K"),
    "MXFP4": Recipe(38, "q8_0", "q8_0", "q8_0", experts="mxfp4"),
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        ModelError: there is none of that name.
    """
    try:
        return RECIPES[name.upper()]
    except KeyError:
        raise ModelError(
            "this quantisation is not known", subject=name, advice=f"Known: {', '.join(RECIPES)}"
        ) from None


_RMS_EPSILON = 1e-6
_ROPE_SECTIONS = (11, 11, 10, 0)  # of Qwen3.5's rotary embedding
_SIGMOID = 2  # enum llama_expert_gating_func_type
_SQRT_SOFTPLUS = 4


def header_of(shape: ModelShape, quantisation: str = "Q4_K_M", name: str = "shape") -> Header:
    """The header that llama.cpp's converter and quantiser would give a model of this shape.

    The sizes follow the quantiser's rules for each recipe but not its every exception, so they
    come within a few per cent of published files.

    Raises:
        ModelError: the recipe or the architecture is not one that is known here.
    """
    rules = recipe(quantisation)
    tensors: list[Tensor] = []
    offset = 0
    for tensor_name, dimensions in _tensors(shape):
        kind = rules.type_of(
            tensor_name,
            dimensions,
            n_layer=shape.layers,
            n_expert=shape.experts,
            tied=shape.tied,
        )
        tensor = Tensor(tensor_name, dimensions, kind, offset)
        tensors.append(tensor)
        offset += -(-tensor.size_bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
    return Header(
        path=f"{name}-{quantisation}.gguf",
        version=3,
        architecture=shape.architecture,
        metadata=MappingProxyType(_metadata(shape, name, rules)),
        tensors=tuple(tensors),
        alignment=DEFAULT_ALIGNMENT,
        data_offset=0,
        file_bytes=offset,
        parts=(f"{name}-{quantisation}.gguf",),
    )


def file_of(quantisation: str) -> str:
    """A file of this quantisation, in a sentence: "an IQ4_XS file"."""
    return f"{'an' if quantisation.startswith(('I', 'F', 'M')) else 'a'} {quantisation} file"


def requantised(header: Header, quantisation: str) -> Header:
    """The header of the same model in another quantisation; what is smaller already stays.

    Raises:
        ModelError: no such quantisation.
    """
    rules, count = recipe(quantisation), max(header.integer("expert_count"), 0)
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    tensors = tuple(
        rules.smaller(tensor, n_layer=n_layers(header), n_expert=count, tied=tied)
        for tensor in header.tensors
    )
    return replace(header, path=f"{header.path}:{quantisation}", tensors=tensors)


def _tensors(shape: ModelShape) -> Iterator[Named]:
    yield from outside(shape)
    for index in range(shape.layers + shape.nextn):
        for name, dimensions in block(shape, index):
            yield f"blk.{index}.{name}", dimensions


def _metadata(shape: ModelShape, name: str, rules: Recipe) -> dict[str, object]:
    keys: dict[str, object] = {
        "general.architecture": shape.architecture,
        "general.name": name,
        "general.file_type": rules.file_type,
        "tokenizer.ggml.model": "no_vocab",
    }
    for key, value in _architecture_keys(shape).items():
        keys[f"{shape.architecture}.{key}"] = value
    return keys


def _architecture_keys(shape: ModelShape) -> Mapping[str, Any]:
    blocks = shape.layers + shape.nextn
    keys: dict[str, Any] = {
        "block_count": blocks,
        "context_length": shape.context,
        "embedding_length": shape.embedding,
        "feed_forward_length": _feed_forward(shape),
        "vocab_size": shape.vocabulary,
        "attention.layer_norm_rms_epsilon": _RMS_EPSILON,
    }
    if shape.heads:
        keys |= {
            "attention.head_count": shape.heads,
            "attention.head_count_kv": _kv_heads(shape, blocks),
            "attention.key_length": shape.key_length,
            "attention.value_length": shape.value_length,
            "rope.dimension_count": shape.rope or shape.key_length,
        }
    if shape.architecture in {"qwen35", "qwen35moe"}:
        keys["rope.dimension_sections"] = array("i", _ROPE_SECTIONS)
    if shape.period:
        keys |= _window_keys(shape, blocks)
    if shape.experts:
        keys |= {
            "expert_count": shape.experts,
            "expert_used_count": shape.experts_used,
            "expert_feed_forward_length": shape.expert_feed_forward,
            "leading_dense_block_count": shape.dense_lead,
            "interleave_moe_layer_step": 1,
        }
    if shape.sigmoid:
        keys["expert_gating_func"] = _SIGMOID
    if shape.shared_experts:
        keys["expert_shared_count"] = shape.shared_experts
    if shape.shared_feed_forward:
        keys["expert_shared_feed_forward_length"] = shape.shared_feed_forward
    if shape.nextn:
        keys["nextn_predict_layers"] = shape.nextn
    if shape.window:
        keys["attention.sliding_window"] = shape.window
    if shape.l_cache:
        keys["shortconv.l_cache"] = shape.l_cache
    if shape.indexer_heads:
        keys |= {
            "attention.indexer.head_count": shape.indexer_heads,
            "attention.indexer.key_length": shape.indexer_length,
            "attention.indexer.top_k": shape.indexer_top_k,
        }
    if shape.kv_lora:
        keys |= _latent_keys(shape)
    if shape.ratios:
        keys |= _compressed_keys(shape)
    if shape.ssm is not None:
        sizes = msgspec.structs.asdict(shape.ssm)
        keys |= {f"ssm.{key}": value for key, value in sizes.items() if value}
    if shape.linear_length:
        keys["kda.head_dim"] = shape.linear_length
    if shape.architecture.startswith("granite"):
        keys |= {"logit_scale": 1.0}
    return keys


def _feed_forward(shape: ModelShape) -> int | array[int]:
    if shape.shared_kv_feed_forward:
        return array("i", (shape.feed_forward_of(index) for index in range(shape.layers)))
    return shape.feed_forward or shape.expert_feed_forward


def _kv_heads(shape: ModelShape, blocks: int) -> int | array[int]:
    heads = 1 if shape.compressed else shape.kv_heads
    if shape.attention_layers:
        return array("i", (heads if shape.attends(index) else 0 for index in range(blocks)))
    return heads


def _window_keys(shape: ModelShape, blocks: int) -> Mapping[str, Any]:
    """Blocks with a window have heads of another length than those without (Gemma 4)."""
    everything = [shape.attends_globally(index) for index in range(blocks)]
    heads = (shape.global_kv_heads if one else shape.kv_heads for one in everything)
    return {
        "embedding_length_per_layer_input": shape.per_layer,
        "attention.shared_kv_layers": shape.shared_kv,
        "attention.head_count_kv": array("i", heads),
        "attention.key_length": shape.global_length,
        "attention.value_length": shape.global_length,
        "attention.key_length_swa": shape.key_length,
        "attention.value_length_swa": shape.key_length,
        "attention.sliding_window_pattern": array("i", (not one for one in everything)),
        "rope.dimension_count": shape.global_length,
        "rope.dimension_count_swa": shape.key_length,
    }


def _compressed_keys(shape: ModelShape) -> Mapping[str, Any]:
    """DeepSeek-V4: the sizes decide the memory; the factors are its makers'."""
    clamp = array("f", [10.0] * shape.layers)
    return {
        "attention.q_lora_rank": shape.q_lora,
        "attention.output_group_count": shape.output_groups,
        "attention.output_lora_rank": shape.output_lora,
        "attention.compress_ratios": array("i", shape.ratios),
        "attention.compress_rope_freq_base": 160000.0,
        "hyper_connection.count": shape.streams,
        "hyper_connection.sinkhorn_iterations": 20,
        "hyper_connection.epsilon": _RMS_EPSILON,
        "hash_layer_count": shape.hash_layers,
        "embedding_length_out": shape.streams * shape.embedding,
        "expert_gating_func": _SQRT_SOFTPLUS,
        "expert_weights_scale": 1.5,
        "expert_weights_norm": True,
        "swiglu_clamp_exp": clamp,
        "swiglu_clamp_shexp": clamp,
    }


def _latent_keys(shape: ModelShape) -> Mapping[str, Any]:
    """Multi-head latent attention: what is cached is one compressed vector a token."""
    keys: dict[str, Any] = {"attention.kv_lora_rank": shape.kv_lora}
    if shape.q_lora:
        keys["attention.q_lora_rank"] = shape.q_lora
    if shape.compressed:
        keys |= {
            "attention.key_length": shape.kv_lora + shape.rope,
            "attention.value_length": shape.kv_lora,
            "attention.key_length_mla": shape.key_length,
            "attention.value_length_mla": shape.value_length,
        }
    return keys


class KnownModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of `known_models.toml`.

    Attributes:
        repository: a Hugging Face repository of GGUF files.
        parameters: billions, by its makers or by llama.cpp's own count; 0 where neither is known.
        source: where the figures of the shape are from, beyond the makers' config.json. One that
            begins with "not checked" was not seen in the model's file or from its makers.
        quantisation: the recipe that is planned for unless another is asked for, as in
            `NAME:Q2_K`.
        like: another model, whose shape it has where `shape` says nothing else.
        quality: orders the models for coding; 0 where it is no coding model.
    """

    title: str
    repository: str
    quantisation: str
    shape: ModelShape
    parameters: float = 0.0
    source: str = ""
    like: str = ""
    coding: bool = False
    quality: int = 0

    @property
    def checked(self) -> bool:
        """Whether all sizes of the shape are from its file or its makers."""
        return not self.source.startswith("not checked")


_FORMS = {"instruct", "it", "chat", "gguf", "model"}  # of a name, what tells no model from another
_MOST_LETTERS = 100
_MOST_NEAR = 8


def same_name(name: str, names: Iterable[str]) -> str:
    """The one of `names` that is spelt like `name` but for case and separators; else empty.

    "Kimi K2.6" and "glm5" are spellings of "kimi-k2.6" and "glm-5".
    """
    spelt = _spelt(name)
    return next((one for one in names if spelt and _spelt(one) == spelt), "")


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that begin with `name` or hold its words, else the most similar ones."""
    every, spelt, words = list(names), _spelt(name), set(_words(name))
    if not spelt:
        return []
    begin = [one for one in every if _spelt(one).startswith(spelt)]
    hold = [one for one in every if words <= set(_words(one)) and one not in begin]
    keys = {_spelt(one): one for one in every}
    alike = [keys[key] for key in difflib.get_close_matches(spelt, keys, 3, 0.6)]
    found = [*begin, *hold] if len(begin) + len(hold) > 1 else [*begin, *hold, *alike]
    return list(dict.fromkeys(found))[:_MOST_NEAR]


def _words(name: str) -> list[str]:
    words = re.findall(r"[a-z0-9.]+", name[:_MOST_LETTERS].lower())
    return [word for word in words if word not in _FORMS]


def _spelt(name: str) -> str:
    return "".join(_words(name))


@functools.cache
def known_models() -> Mapping[str, KnownModel]:
    """All of them by name, in the order of the file."""
    text = (
        resources.files("assistant.memory.model").joinpath("known_models.toml").read_text("utf-8")
    )
    table = tomllib.loads(text)
    for entry in table.values():
        if like := entry.get("like"):
            entry["shape"] = table[like]["shape"] | entry.get("shape", {})
    return MappingProxyType(msgspec.convert(table, dict[str, KnownModel]))


@functools.lru_cache(maxsize=64)
def known_header(name: str, quantisation: str = "") -> Header:
    """The header of a known model in its own or another quantisation.

    Raises:
        KeyError: no such name.
        ModelError: no such quantisation.
    """
    model = known_models()[name]
    header = header_of(model.shape, quantisation or model.quantisation, name)
    if model.checked:
        return header
    return replace(header, metadata=MappingProxyType({**header.metadata, UNCHECKED: True}))


def known_name(text: str) -> tuple[str, str]:
    """The name of a known model, and the quantisation in `NAME:Q2_K`; empty where it is none."""
    base, _, quantisation = text.partition(":")
    if "/" in text or base.endswith(".gguf"):
        return "", ""
    return same_name(base, known_models()), quantisation
