"""The few numbers that fix every tensor of a model.

The tensors of one block, by architecture: names after `blk.N.` and dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from assistant.memory.model.architecture import INDEXED_RATIO


class Ssm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recurrent mixer's sizes, named as the keys `ssm.*`."""

    conv_kernel: int
    inner_size: int
    state_size: int
    time_step_rank: int
    group_count: int = 0


class ModelShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What fixes every tensor of a model. Lengths are elements, counts are counts.

    Attributes:
        architecture: llama.cpp's name of it ("qwen3moe").
        layers: blocks of the trunk; `nextn` more follow for multi-token prediction.
        vocabulary: rows of the token embedding.
        key_length, value_length: of one head as it is computed, before any compression.
        sigmoid: the router scores by a sigmoid and a learnt bias, not by a softmax.
        dense_lead: first blocks with a plain feed-forward.
        kv_lora, q_lora, rope: multi-head latent attention; `legacy` files keep it uncompressed.
        window: tokens of the sliding window.
        period: every how many blocks one attends to everything, where that is not
            llama.cpp's rule for the architecture; `global_length` and `global_kv_heads` are that
            block's head and heads (Gemma 4), and its values are its keys.
        per_layer: elements of the embedding that each block has of its own (Gemma 4 E2B and E4B);
            then the last `shared_kv` blocks use the cache of earlier ones, and have a feed-forward
            of `shared_kv_feed_forward`.
        indexer_heads, indexer_length: of the indexer of sparse attention (DeepSeek-V3.2);
            `indexer_top_k` tokens are selected by it.
        ratios: of each block, how many tokens share a compressed key; 0 for none (DeepSeek-V4).
            `output_groups` and `output_lora` are of its output, `hash_layers` are the first
            blocks whose experts are chosen by the token alone, `streams` are residual streams.
        l_cache: positions that a short convolution looks back, plus one (LFM2).
        attention_layers: of a hybrid, the blocks that attend; the others are recurrent.
        interval: of a hybrid, every how many blocks one attends.
        linear_length: of a head of a recurrent block, in Kimi Linear.
    """

    architecture: str
    layers: int
    embedding: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    key_length: int = 128
    value_length: int = 128
    feed_forward: int = 0
    experts: int = 0
    experts_used: int = 0
    expert_feed_forward: int = 0
    shared_feed_forward: int = 0
    shared_experts: int = 0
    sigmoid: bool = False
    dense_lead: int = 0
    nextn: int = 0
    tied: bool = False
    q_lora: int = 0
    kv_lora: int = 0
    rope: int = 0
    legacy: bool = False
    window: int = 0
    period: int = 0
    global_length: int = 0
    global_kv_heads: int = 0
    per_layer: int = 0
    shared_kv: int = 0
    shared_kv_feed_forward: int = 0
    indexer_heads: int = 0
    indexer_length: int = 0
    indexer_top_k: int = 2048
    ratios: tuple[int, ...] = ()
    output_groups: int = 0
    output_lora: int = 0
    hash_layers: int = 0
    streams: int = 0
    l_cache: int = 0
    interval: int = 0
    attention_layers: tuple[int, ...] = ()
    qk_norm: bool = True
    ssm: Ssm | None = None
    linear_length: int = 0

    @property
    def compressed(self) -> bool:
        return self.kv_lora > 0 and not self.legacy

    def attends(self, index: int) -> bool:
        """Whether block `index` has attention (rather than a recurrent mixer)."""
        if (self.ssm is None and not self.l_cache) or index >= self.layers:
            return True
        if self.interval:
            return (index + 1) % self.interval == 0
        return index in self.attention_layers

    def attends_globally(self, index: int) -> bool:
        """Whether block `index` is one without a window, of those with `period`."""
        return self.period > 0 and (index + 1) % self.period == 0

    def feed_forward_of(self, index: int) -> int:
        """Width of the plain feed-forward of block `index`."""
        shares = self.shared_kv_feed_forward and index >= self.layers - self.shared_kv
        return self.shared_kv_feed_forward if shares else self.feed_forward

    def has_experts(self, index: int) -> bool:
        return self.experts > 0 and index >= self.dense_lead


Named = tuple[str, tuple[int, ...]]


class Features(NamedTuple):
    """Where architectures differ beyond their sizes.

    Attributes:
        qkv_bias, out_bias: biases of the attention's projections.
        qk_norm: width of the norms of queries and keys: "head", "all", or none.
        post_attention_norm: the second norm is called `post_attention_norm`, not `ffn_norm`.
        sandwich: Gemma's norms after attention and feed-forward.
        selection_bias: the router's `exp_probs_b` under a softmax.
        shared_gate: the shared expert has a gate of its own.
        expert_bias: biases of router and experts, and attention sinks (gpt-oss).
        rope_freqs: a table of rotary factors that every device copies.
        output_norm: what the output's norm is called.
    """

    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: str = ""
    post_attention_norm: bool = False
    sandwich: bool = False
    selection_bias: bool = False
    shared_gate: bool = False
    expert_bias: bool = False
    rope_freqs: bool = False
    output_norm: str = "output_norm"


_PLAIN = Features()
_FEATURES = {
    "dots1": Features(qk_norm="head"),
    "ernie4_5-moe": Features(selection_bias=True),
    "gemma2": Features(sandwich=True),
    "gemma3": Features(qk_norm="head", sandwich=True),
    "gemma4": Features(rope_freqs=True),
    "glm4moe": Features(qkv_bias=True, qk_norm="head", post_attention_norm=True),
    "gpt-oss": Features(qkv_bias=True, out_bias=True, post_attention_norm=True, expert_bias=True),
    "hunyuan-moe": Features(qk_norm="head"),
    "lfm2moe": Features(qk_norm="head", output_norm="token_embd_norm"),
    "llama4": Features(rope_freqs=True),
    "minimax-m2": Features(qk_norm="all"),
    "olmoe": Features(qk_norm="all"),
    "qwen2": Features(qkv_bias=True),
    "seed_oss": Features(qkv_bias=True, post_attention_norm=True),
    "qwen2moe": Features(qkv_bias=True, shared_gate=True),
    "qwen3": Features(qk_norm="head"),
    "qwen3moe": Features(qk_norm="head"),
    "qwen35": Features(qk_norm="head", post_attention_norm=True),
    "qwen35moe": Features(qk_norm="head", post_attention_norm=True, shared_gate=True),
    "qwen3next": Features(qk_norm="head", post_attention_norm=True, shared_gate=True),
}


_GATED = {"qwen3next", "qwen35", "qwen35moe"}


def outside(shape: ModelShape) -> Iterator[Named]:
    """The tensors outside the blocks."""
    yield "token_embd.weight", (shape.embedding, shape.vocabulary)
    if not shape.tied:
        yield "output.weight", (shape.embedding, shape.vocabulary)
    features = _FEATURES.get(shape.architecture, _PLAIN)
    yield f"{features.output_norm}.weight", (shape.embedding,)
    if shape.per_layer:
        each = shape.per_layer * shape.layers
        yield "per_layer_token_embd.weight", (each, shape.vocabulary)
        yield "per_layer_model_proj.weight", (shape.embedding, each)
        yield "per_layer_proj_norm.weight", (shape.per_layer,)
    if shape.streams:
        yield "output_hc_fn.weight", (shape.streams * shape.embedding, shape.streams)
        yield "output_hc_base.weight", (shape.streams,)
        yield "output_hc_scale.weight", (1,)
    if features.rope_freqs:
        yield "rope_freqs.weight", ((shape.global_length or shape.key_length) // 2,)


def block(shape: ModelShape, index: int) -> Iterator[Named]:
    """The tensors of block `index`, in a converter's order."""
    features = _FEATURES.get(shape.architecture, _PLAIN)
    yield "attn_norm.weight", (shape.embedding,)
    if shape.architecture == "gemma4":
        yield from _gemma4(shape, index)
        return
    if shape.ratios:
        yield from _deepseek4(shape, index)
        return
    if not shape.attends(index):
        yield from _recurrent(shape)
    elif shape.kv_lora:
        yield from _latent_attention(shape)
        yield from _indexer(shape)
    else:
        yield from _attention(shape, features)
    if not shape.feed_forward and not shape.experts:
        return
    if features.sandwich:
        yield "post_attention_norm.weight", (shape.embedding,)
        yield "post_ffw_norm.weight", (shape.embedding,)
    if features.post_attention_norm:
        yield "post_attention_norm.weight", (shape.embedding,)
    else:
        yield "ffn_norm.weight", (shape.embedding,)
    if shape.has_experts(index):
        yield from _experts(shape, features)
    else:
        yield from _feed_forward("", shape.embedding, shape.feed_forward)
    if index >= shape.layers:
        yield from _prediction(shape)


def _attention(shape: ModelShape, features: Features) -> Iterator[Named]:
    query = shape.heads * shape.key_length
    key = shape.kv_heads * shape.key_length
    value = shape.kv_heads * shape.value_length
    gated = 2 if shape.architecture in _GATED else 1  # queries and their gates in one
    widths = {"attn_q": query * gated, "attn_k": key, "attn_v": value}
    for name, width in widths.items():
        yield f"{name}.weight", (shape.embedding, width)
        if features.qkv_bias:
            yield f"{name}.bias", (width,)
    yield "attn_output.weight", (shape.heads * shape.value_length, shape.embedding)
    if features.out_bias:
        yield "attn_output.bias", (shape.embedding,)
    if features.qk_norm and shape.qk_norm:
        whole = features.qk_norm == "all"
        yield "attn_q_norm.weight", (query if whole else shape.key_length,)
        yield "attn_k_norm.weight", (key if whole else shape.key_length,)
    if features.expert_bias:
        yield "attn_sinks.weight", (shape.heads,)


def _gemma4(shape: ModelShape, index: int) -> Iterator[Named]:
    """A block of Gemma 4 after its first norm: a plain feed-forward also beside the experts."""
    everything = shape.attends_globally(index)
    head = shape.global_length if everything else shape.key_length
    keys = head * (shape.global_kv_heads if everything else shape.kv_heads)
    norm = (shape.embedding,)
    yield "attn_q.weight", (shape.embedding, shape.heads * head)
    yield "attn_k.weight", (shape.embedding, keys)
    if shape.per_layer or not everything:
        yield "attn_v.weight", (shape.embedding, keys)
    yield "attn_k_norm.weight", (head,)
    yield "attn_output.weight", (shape.heads * head, shape.embedding)
    yield "attn_q_norm.weight", (head,)
    yield "post_attention_norm.weight", norm
    yield "layer_output_scale.weight", (1,)
    yield "ffn_norm.weight", norm
    yield from _feed_forward("", shape.embedding, shape.feed_forward_of(index))
    yield "post_ffw_norm.weight", norm
    if shape.per_layer:
        yield "inp_gate.weight", (shape.embedding, shape.per_layer)
        yield "proj.weight", (shape.per_layer, shape.embedding)
        yield "post_norm.weight", norm
    if shape.has_experts(index):
        inner, count = shape.expert_feed_forward, shape.experts
        yield "ffn_gate_inp.weight", (shape.embedding, count)
        yield "ffn_gate_inp.scale", norm
        yield "pre_ffw_norm_2.weight", norm
        yield "post_ffw_norm_1.weight", norm
        yield "post_ffw_norm_2.weight", norm
        yield "ffn_gate_up_exps.weight", (shape.embedding, 2 * inner, count)
        yield "ffn_down_exps.weight", (inner, shape.embedding, count)
        yield "ffn_down_exps.scale", (count,)


def _latent_attention(shape: ModelShape) -> Iterator[Named]:
    """DeepSeek's: `key_length` is the uncompressed head, its last `rope` elements rotated."""
    plain = shape.key_length - shape.rope
    if shape.q_lora:
        yield "attn_q_a_norm.weight", (shape.q_lora,)
        yield "attn_q_a.weight", (shape.embedding, shape.q_lora)
        yield "attn_q_b.weight", (shape.q_lora, shape.heads * shape.key_length)
    else:
        yield "attn_q.weight", (shape.embedding, shape.heads * shape.key_length)
    yield "attn_kv_a_norm.weight", (shape.kv_lora,)
    yield "attn_kv_a_mqa.weight", (shape.embedding, shape.kv_lora + shape.rope)
    if shape.legacy:
        yield "attn_kv_b.weight", (shape.kv_lora, shape.heads * (plain + shape.value_length))
    else:
        yield "attn_k_b.weight", (plain, shape.kv_lora, shape.heads)
        yield "attn_v_b.weight", (shape.kv_lora, shape.value_length, shape.heads)
    yield "attn_output.weight", (shape.heads * shape.value_length, shape.embedding)


def _indexer(shape: ModelShape) -> Iterator[Named]:
    """DeepSeek-V3.2's choice of the tokens to attend to."""
    if not shape.indexer_heads:
        return
    yield "indexer.k_norm.weight", (shape.indexer_length,)
    yield "indexer.k_norm.bias", (shape.indexer_length,)
    yield "indexer.proj.weight", (shape.embedding, shape.indexer_heads)
    yield "indexer.attn_k.weight", (shape.embedding, shape.indexer_length)
    yield "indexer.attn_q_b.weight", (shape.q_lora, shape.indexer_heads * shape.indexer_length)


def _deepseek4(shape: ModelShape, index: int) -> Iterator[Named]:
    """A block of DeepSeek-V4 after its first norm."""
    head, group = shape.key_length, shape.heads * shape.key_length // shape.output_groups
    yield "attn_sinks.weight", (shape.heads,)
    yield "attn_q_a.weight", (shape.embedding, shape.q_lora)
    yield "attn_q_a_norm.weight", (shape.q_lora,)
    yield "attn_q_b.weight", (shape.q_lora, shape.heads * head)
    yield "attn_kv.weight", (shape.embedding, head)
    yield "attn_kv_a_norm.weight", (head,)
    yield "attn_output_a.weight", (group, shape.output_lora * shape.output_groups)
    yield "attn_output_b.weight", (shape.output_lora * shape.output_groups, shape.embedding)
    for part in ("attn", "ffn"):
        mixed = (2 + shape.streams) * shape.streams
        yield f"hc_{part}_fn.weight", (shape.streams * shape.embedding, mixed)
        yield f"hc_{part}_base.weight", (mixed,)
        yield f"hc_{part}_scale.weight", (3,)
    ratio = shape.ratios[index]
    indexed = ratio == INDEXED_RATIO
    if ratio:
        yield from _compressor("attn", shape.embedding, head, ratio)
    if indexed:
        length = shape.indexer_length
        yield "indexer.proj.weight", (shape.embedding, shape.indexer_heads)
        yield "indexer.attn_q_b.weight", (shape.q_lora, shape.indexer_heads * length)
        yield from _compressor("indexer", shape.embedding, length, ratio)
    yield "ffn_norm.weight", (shape.embedding,)
    if index < shape.hash_layers:
        yield "ffn_gate_tid2eid.weight", (shape.experts_used, shape.vocabulary)
    plain = msgspec.structs.replace(shape, sigmoid=index >= shape.hash_layers)
    yield from _experts(plain, _PLAIN)


def _compressor(name: str, n_in: int, head: int, ratio: int) -> Iterator[Named]:
    """What makes one key of a group of tokens."""
    width = head * (2 if ratio == INDEXED_RATIO else 1)
    yield f"{name}_compressor_kv.weight", (n_in, width)
    yield f"{name}_compressor_gate.weight", (n_in, width)
    yield f"{name}_compressor_ape.weight", (width, ratio)
    yield f"{name}_compressor_norm.weight", (head,)


def _recurrent(shape: ModelShape) -> Iterator[Named]:
    match shape.architecture:
        case "qwen3next" | "qwen35" | "qwen35moe":
            yield from _gated_delta_net(shape)
        case "granitehybrid" | "mamba2":
            yield from _mamba2(shape)
        case "kimi-linear":
            yield from _delta_attention(shape)
        case "mamba":
            yield from _mamba(shape)
        case "lfm2moe":
            yield "shortconv.conv.weight", (shape.l_cache, shape.embedding)
            yield "shortconv.in_proj.weight", (shape.embedding, 3 * shape.embedding)
            yield "shortconv.out_proj.weight", (shape.embedding, shape.embedding)


def _gated_delta_net(shape: ModelShape) -> Iterator[Named]:
    ssm = shape.ssm
    assert ssm is not None
    keys = ssm.state_size * ssm.group_count
    values = ssm.state_size * ssm.time_step_rank
    yield "attn_qkv.weight", (shape.embedding, 2 * keys + values)
    yield "attn_gate.weight", (shape.embedding, values)
    yield "ssm_conv1d.weight", (ssm.conv_kernel, 2 * keys + values)
    yield "ssm_dt.bias", (ssm.time_step_rank,)
    yield "ssm_a", (ssm.time_step_rank,)
    if shape.architecture == "qwen3next":
        yield "ssm_ba.weight", (shape.embedding, 2 * ssm.time_step_rank)
    else:
        yield "ssm_beta.weight", (shape.embedding, ssm.time_step_rank)
        yield "ssm_alpha.weight", (shape.embedding, ssm.time_step_rank)
    yield "ssm_norm.weight", (ssm.state_size,)
    yield "ssm_out.weight", (values, shape.embedding)


def _delta_attention(shape: ModelShape) -> Iterator[Named]:
    """Kimi Linear's: heads of `linear_length` elements with a state each."""
    ssm, head = shape.ssm, shape.linear_length
    assert ssm is not None
    width = shape.heads * head
    for part in ("q", "k", "v"):
        yield f"ssm_conv1d_{part}.weight", (ssm.conv_kernel, 1, width)
        yield f"attn_{part}.weight", (shape.embedding, width)
    for part in ("f", "g"):
        yield f"ssm_{part}_a.weight", (shape.embedding, head)
        yield f"ssm_{part}_b.weight", (head, width)
    yield "ssm_beta.weight", (shape.embedding, shape.heads)
    yield "ssm_a", (1, shape.heads)
    yield "ssm_dt.bias", (width,)
    yield "ssm_norm.weight", (head,)
    yield "attn_output.weight", (width, shape.embedding)


def _mamba2(shape: ModelShape) -> Iterator[Named]:
    ssm = shape.ssm
    assert ssm is not None
    mixed = ssm.inner_size + 2 * ssm.group_count * ssm.state_size
    yield "ssm_in.weight", (shape.embedding, ssm.inner_size + mixed + ssm.time_step_rank)
    yield "ssm_conv1d.weight", (ssm.conv_kernel, mixed)
    yield "ssm_conv1d.bias", (mixed,)
    yield "ssm_dt.bias", (ssm.time_step_rank,)
    yield "ssm_a", (1, ssm.time_step_rank)
    yield "ssm_d", (1, ssm.time_step_rank)
    yield "ssm_norm.weight", (ssm.inner_size // ssm.group_count, ssm.group_count)
    yield "ssm_out.weight", (ssm.inner_size, shape.embedding)


def _mamba(shape: ModelShape) -> Iterator[Named]:
    ssm = shape.ssm
    assert ssm is not None
    yield "ssm_in.weight", (shape.embedding, 2 * ssm.inner_size)
    yield "ssm_conv1d.weight", (ssm.conv_kernel, ssm.inner_size)
    yield "ssm_conv1d.bias", (ssm.inner_size,)
    yield "ssm_x.weight", (ssm.inner_size, ssm.time_step_rank + 2 * ssm.state_size)
    yield "ssm_dt.weight", (ssm.time_step_rank, ssm.inner_size)
    yield "ssm_dt.bias", (ssm.inner_size,)
    yield "ssm_a", (ssm.state_size, ssm.inner_size)
    yield "ssm_d", (ssm.inner_size,)
    yield "ssm_out.weight", (ssm.inner_size, shape.embedding)


def _experts(shape: ModelShape, features: Features) -> Iterator[Named]:
    n_in, n_out, count = shape.embedding, shape.expert_feed_forward, shape.experts
    yield "ffn_gate_inp.weight", (n_in, count)
    if features.expert_bias:
        yield "ffn_gate_inp.bias", (count,)
    if features.selection_bias or shape.sigmoid:
        yield "exp_probs_b.bias", (count,)
    for name, width in {"gate": n_out, "up": n_out}.items():
        yield f"ffn_{name}_exps.weight", (n_in, width, count)
        if features.expert_bias:
            yield f"ffn_{name}_exps.bias", (width, count)
    yield "ffn_down_exps.weight", (n_out, n_in, count)
    if features.expert_bias:
        yield "ffn_down_exps.bias", (n_in, count)
    shared = shape.shared_feed_forward or shape.shared_experts * n_out
    if shared:
        if features.shared_gate:
            yield "ffn_gate_inp_shexp.weight", (n_in,)
        yield from _feed_forward("_shexp", n_in, shared)


def _feed_forward(suffix: str, n_in: int, n_out: int) -> Iterator[Named]:
    yield f"ffn_gate{suffix}.weight", (n_in, n_out)
    yield f"ffn_up{suffix}.weight", (n_in, n_out)
    yield f"ffn_down{suffix}.weight", (n_out, n_in)


def _prediction(shape: ModelShape) -> Iterator[Named]:
    """What a block of multi-token prediction has besides."""
    yield "nextn.eh_proj.weight", (2 * shape.embedding, shape.embedding)
    for name in ("enorm", "hnorm", "shared_head_norm"):
        yield f"nextn.{name}.weight", (shape.embedding,)
    for name in ("embed_tokens", "shared_head_head"):
        yield f"nextn.{name}.weight", (shape.embedding, shape.vocabulary)
