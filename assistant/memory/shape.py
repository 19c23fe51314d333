"""The few numbers that fix every tensor of a model."""

from __future__ import annotations

import msgspec


class Ssm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recurrent mixer's sizes, named as the keys `ssm.*`."""

    conv_kernel: int
    inner_size: int
    state_size: int
    time_step_rank: int
    group_count: int = 0


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
        indexer_heads, indexer_length: of the indexer of sparse attention (DeepSeek-V3.2).
        l_cache: positions that a short convolution looks back, plus one (LFM2).
        attention_layers: of a hybrid, the blocks that attend; the others are recurrent.
        interval: of a hybrid, every how many blocks one attends.
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
    indexer_heads: int = 0
    indexer_length: int = 0
    l_cache: int = 0
    interval: int = 0
    attention_layers: tuple[int, ...] = ()
    qk_norm: bool = True
    ssm: Ssm | None = None

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

    def has_experts(self, index: int) -> bool:
        return self.experts > 0 and index >= self.dense_lead
