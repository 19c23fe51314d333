"""Models of a few kilobytes that llama.cpp runs: random weights in the shape of a memory kind.

What they say is nonsense; how their cache may be cut, shared and extended is the real thing.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WIDTH, LAYERS, WORDS, WINDOW = 64, 2, 256, 32

Shapes = dict[str, tuple[int, ...]]

_NEXTN: Shapes = {
    "nextn.eh_proj.weight": (WIDTH, 2 * WIDTH),
    "nextn.enorm.weight": (WIDTH,),
    "nextn.hnorm.weight": (WIDTH,),
    "nextn.shared_head_norm.weight": (WIDTH,),
}


def recurrent(path: Path) -> Path:
    """Mamba: its memory is a state that can be extended, never cut."""
    writer = _writer(path, "mamba")
    inner, state, rank, kernel = 2 * WIDTH, 16, 4, 4
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    shapes = {
        "attn_norm.weight": (WIDTH,),
        "ssm_in.weight": (2 * inner, WIDTH),
        "ssm_conv1d.weight": (inner, kernel),
        "ssm_conv1d.bias": (inner,),
        "ssm_x.weight": (rank + 2 * state, inner),
        "ssm_dt.weight": (inner, rank),
        "ssm_dt.bias": (inner,),
        "ssm_a": (inner, state),
        "ssm_d": (inner,),
        "ssm_out.weight": (WIDTH, inner),
    }
    return _finished(writer, path, shapes)


def hybrid(path: Path) -> Path:
    """LFM2: a layer with a state (a short convolution) and one with attention."""
    writer = _writer(path, "lfm2")
    heads, kept, ffn = 2, 3, 2 * WIDTH
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv([0, heads])
    writer.add_shortconv_l_cache(kept)
    both = {
        "attn_norm.weight": (WIDTH,),
        "ffn_norm.weight": (WIDTH,),
        "ffn_gate.weight": (ffn, WIDTH),
        "ffn_up.weight": (ffn, WIDTH),
        "ffn_down.weight": (WIDTH, ffn),
    }
    convolution = {
        "shortconv.conv.weight": (WIDTH, kept),
        "shortconv.in_proj.weight": (3 * WIDTH, WIDTH),
        "shortconv.out_proj.weight": (WIDTH, WIDTH),
    }
    attention = {
        "attn_q.weight": (WIDTH, WIDTH),
        "attn_k.weight": (WIDTH, WIDTH),
        "attn_v.weight": (WIDTH, WIDTH),
        "attn_output.weight": (WIDTH, WIDTH),
        "attn_q_norm.weight": (WIDTH // heads,),
        "attn_k_norm.weight": (WIDTH // heads,),
    }
    return _finished(writer, path, both | convolution, both | attention)


def compressed(path: Path) -> Path:
    """DeepSeek-V4: a window, and compressed keys of groups of 4 and of 128 tokens."""
    ratios = (0, 4, 128)
    writer = _writer(path, "deepseek4", layers=len(ratios))
    heads, head, rank, groups, ffn, experts, streams = 2, 64, 32, 2, WIDTH, 4, 4
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head // 2)
    writer.add_q_lora_rank(rank)
    writer.add_sliding_window(WINDOW)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(2)
    writer.add_expert_shared_count(1)
    writer.add_expert_feed_forward_length(ffn)
    writer.add_expert_weights_scale(1.0)
    writer.add_expert_weights_norm(True)
    # The gguf package does not know these keys yet.
    numbers = {
        "expert_gating_func": 4,
        "attention.indexer.head_count": 2,
        "attention.indexer.key_length": head,
        "attention.indexer.top_k": 16,
        "attention.output_group_count": groups,
        "attention.output_lora_rank": rank,
        "hyper_connection.count": streams,
        "hyper_connection.sinkhorn_iterations": 4,
        "hash_layer_count": 0,
    }
    for key, number in numbers.items():
        writer.add_uint32(f"deepseek4.{key}", number)
    writer.add_float32("deepseek4.attention.compress_rope_freq_base", 160000.0)
    writer.add_float32("deepseek4.hyper_connection.epsilon", 1e-6)
    writer.add_array("deepseek4.swiglu_clamp_exp", [10.0] * len(ratios))
    writer.add_array("deepseek4.attention.compress_ratios", list(ratios))
    mixed = (2 + streams) * streams
    both = {
        "attn_norm.weight": (WIDTH,),
        "attn_sinks.weight": (heads,),
        "attn_q_a.weight": (rank, WIDTH),
        "attn_q_a_norm.weight": (rank,),
        "attn_q_b.weight": (heads * head, rank),
        "attn_kv.weight": (head, WIDTH),
        "attn_kv_a_norm.weight": (head,),
        "attn_output_a.weight": (rank * groups, heads * head // groups),
        "attn_output_b.weight": (WIDTH, rank * groups),
        "hc_attn_fn.weight": (mixed, streams * WIDTH),
        "hc_attn_base.weight": (mixed,),
        "hc_attn_scale.weight": (3,),
        "hc_ffn_fn.weight": (mixed, streams * WIDTH),
        "hc_ffn_base.weight": (mixed,),
        "hc_ffn_scale.weight": (3,),
        "ffn_norm.weight": (WIDTH,),
        "ffn_gate_inp.weight": (experts, WIDTH),
        "exp_probs_b.bias": (experts,),
        "ffn_gate_exps.weight": (experts, ffn, WIDTH),
        "ffn_up_exps.weight": (experts, ffn, WIDTH),
        "ffn_down_exps.weight": (experts, WIDTH, ffn),
        "ffn_gate_shexp.weight": (ffn, WIDTH),
        "ffn_up_shexp.weight": (ffn, WIDTH),
        "ffn_down_shexp.weight": (WIDTH, ffn),
    }
    fine = _compressor("attn", 2 * head, 4, head) | _compressor("indexer", 2 * head, 4, head)
    fine |= {"indexer.proj.weight": (2, WIDTH), "indexer.attn_q_b.weight": (2 * head, rank)}
    coarse = _compressor("attn", head, 128, head)
    outside = {
        "output_hc_fn.weight": (streams, streams * WIDTH),
        "output_hc_base.weight": (streams,),
        "output_hc_scale.weight": (1,),
    }
    blocks = (both, both | fine, both | coarse)
    return _finished(
        writer, path, *blocks, layers=len(ratios), scales={"output.": 1.0}, outside=outside
    )


def _compressor(name: str, width: int, ratio: int, head: int) -> Shapes:
    return {
        f"{name}_compressor_kv.weight": (width, WIDTH),
        f"{name}_compressor_gate.weight": (width, WIDTH),
        f"{name}_compressor_ape.weight": (ratio, width),
        f"{name}_compressor_norm.weight": (head,),
    }


def sliding_window(
    path: Path,
    name: str = "Tiny gemma3",
    templates: str | list[dict[str, str]] = "",
    ids: dict[str, int] | None = None,
) -> Path:
    """Gemma 3: layers that see a window of WINDOW tokens.

    Args:
        templates: a chat template, or several with a `name` and a `template` each.
        ids: of special tokens, by their names in the metadata ("padding").
    """
    writer = _writer(path, "gemma3", name)
    if templates:
        writer.add_chat_template(templates)
    for role, token in (ids or {}).items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", token)
    heads, head, ffn = 2, 32, 2 * WIDTH
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_sliding_window(WINDOW)
    shapes = {
        "attn_norm.weight": (WIDTH,),
        "attn_q.weight": (heads * head, WIDTH),
        "attn_k.weight": (head, WIDTH),
        "attn_v.weight": (head, WIDTH),
        "attn_output.weight": (WIDTH, heads * head),
        "attn_q_norm.weight": (head,),
        "attn_k_norm.weight": (head,),
        "post_attention_norm.weight": (WIDTH,),
        "ffn_norm.weight": (WIDTH,),
        "ffn_gate.weight": (ffn, WIDTH),
        "ffn_up.weight": (ffn, WIDTH),
        "ffn_down.weight": (WIDTH, ffn),
        "post_ffw_norm.weight": (WIDTH,),
    }
    return _finished(writer, path, shapes)


def predicting(path: Path, noise: float = 0.0) -> Path:
    """GLM-4.5 MoE with a layer for multi-token prediction that has learnt what the others do.

    Args:
        noise: how much attention and experts, which differ in that layer, add to the embedding;
            without any both predict the same.
    """
    writer = _writer(path, "glm4moe", layers=LAYERS + 1)
    heads, head, ffn, experts = 2, 32, 2 * WIDTH, 2
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(1)
    writer.add_expert_shared_count(1)
    writer.add_expert_feed_forward_length(ffn)
    writer.add_leading_dense_block_count(1)
    writer.add_nextn_predict_layers(1)
    attention = {
        "attn_norm.weight": (WIDTH,),
        "attn_q.weight": (heads * head, WIDTH),
        "attn_k.weight": (heads * head, WIDTH),
        "attn_v.weight": (heads * head, WIDTH),
        "attn_output.weight": (WIDTH, heads * head),
        "post_attention_norm.weight": (WIDTH,),
    }
    dense = {
        "ffn_gate.weight": (ffn, WIDTH),
        "ffn_up.weight": (ffn, WIDTH),
        "ffn_down.weight": (WIDTH, ffn),
    }
    routed = {
        "ffn_gate_inp.weight": (experts, WIDTH),
        "exp_probs_b.bias": (experts,),
        "ffn_gate_exps.weight": (experts, ffn, WIDTH),
        "ffn_up_exps.weight": (experts, ffn, WIDTH),
        "ffn_down_exps.weight": (experts, WIDTH, ffn),
        "ffn_gate_shexp.weight": (ffn, WIDTH),
        "ffn_up_shexp.weight": (ffn, WIDTH),
        "ffn_down_shexp.weight": (WIDTH, ffn),
    }
    blocks = (attention | dense, attention | routed, attention | routed | _NEXTN)
    scales = {"attn_output": noise, "ffn_down": noise, "output.": 100.0}
    return _finished(writer, path, *blocks, layers=LAYERS + 1, scales=scales)


def predicting_hybrid(path: Path, noise: float = 0.0, architecture: str = "qwen35moe") -> Path:
    """Qwen3.5 MoE (or "qwen3next"): linear attention, which keeps a state, attention, and a layer
    for multi-token prediction, as in `predicting`."""
    writer = _writer(path, architecture, layers=LAYERS + 1)
    heads, head, ffn, experts = 2, 32, 2 * WIDTH, 2
    state, kernel, key_heads, value_heads = 16, 4, 2, 4
    keys, values = key_heads * state, value_heads * state
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_sections([6, 5, 5, 0])
    writer.add_expert_count(experts)
    writer.add_expert_used_count(1)
    writer.add_expert_feed_forward_length(ffn)
    writer.add_expert_shared_feed_forward_length(ffn)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(values)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(value_heads)
    writer.add_ssm_group_count(key_heads)
    writer.add_full_attention_interval(LAYERS)
    writer.add_nextn_predict_layers(1)
    both = {
        "attn_norm.weight": (WIDTH,),
        "post_attention_norm.weight": (WIDTH,),
        "ffn_gate_inp.weight": (experts, WIDTH),
        "ffn_gate_exps.weight": (experts, ffn, WIDTH),
        "ffn_up_exps.weight": (experts, ffn, WIDTH),
        "ffn_down_exps.weight": (experts, WIDTH, ffn),
        "ffn_gate_inp_shexp.weight": (WIDTH,),
        "ffn_gate_shexp.weight": (ffn, WIDTH),
        "ffn_up_shexp.weight": (ffn, WIDTH),
        "ffn_down_shexp.weight": (WIDTH, ffn),
    }
    linear = {
        "attn_qkv.weight": (2 * keys + values, WIDTH),
        "attn_gate.weight": (values, WIDTH),
        "ssm_conv1d.weight": (2 * keys + values, kernel),
        "ssm_dt.bias": (value_heads,),
        "ssm_a": (value_heads,),
        **(
            {"ssm_ba.weight": (2 * value_heads, WIDTH)}
            if architecture == "qwen3next"
            else {"ssm_beta.weight": (value_heads, WIDTH), "ssm_alpha.weight": (value_heads, WIDTH)}
        ),
        "ssm_norm.weight": (state,),
        "ssm_out.weight": (WIDTH, values),
    }
    attention = {
        "attn_q.weight": (2 * heads * head, WIDTH),
        "attn_k.weight": (heads * head, WIDTH),
        "attn_v.weight": (heads * head, WIDTH),
        "attn_output.weight": (WIDTH, heads * head),
        "attn_q_norm.weight": (head,),
        "attn_k_norm.weight": (head,),
    }
    blocks = (both | linear, both | attention, both | attention | _NEXTN)
    scales = {"attn_output": noise, "ssm_out": noise, "ffn_down": noise, "output.": 100.0}
    return _finished(writer, path, *blocks, layers=LAYERS + 1, scales=scales)


def predicting_sparse(path: Path, noise: float = 0.0, architecture: str = "deepseek32") -> Path:
    """DeepSeek V3.2 (or GLM-5, "glm-dsa"): latent attention to what an indexer picks, and a layer
    for multi-token prediction, which has no indexer; as in `predicting`."""
    writer = _writer(path, architecture, layers=LAYERS + 1)
    heads, plain, rotated, latent, ffn, experts = 2, 16, 16, 32, 2 * WIDTH, 2
    index_heads, index = 2, 128
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_q_lora_rank(latent)
    writer.add_kv_lora_rank(latent)
    writer.add_key_length(latent + rotated)
    writer.add_value_length(latent)
    writer.add_key_length_mla(plain + rotated)
    writer.add_value_length_mla(plain)
    writer.add_rope_dimension_count(rotated)
    writer.add_indexer_head_count(index_heads)
    writer.add_indexer_key_length(index)
    writer.add_indexer_top_k(24)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(1)
    writer.add_expert_shared_count(1)
    writer.add_expert_feed_forward_length(ffn)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_leading_dense_block_count(0)
    writer.add_nextn_predict_layers(1)
    block = {
        "attn_norm.weight": (WIDTH,),
        "attn_q_a_norm.weight": (latent,),
        "attn_kv_a_norm.weight": (latent,),
        "attn_q_a.weight": (latent, WIDTH),
        "attn_q_b.weight": (heads * (plain + rotated), latent),
        "attn_kv_a_mqa.weight": (latent + rotated, WIDTH),
        "attn_k_b.weight": (heads, latent, plain),
        "attn_v_b.weight": (heads, plain, latent),
        "attn_output.weight": (WIDTH, heads * plain),
        "indexer.k_norm.weight": (index,),
        "indexer.k_norm.bias": (index,),
        "indexer.proj.weight": (index_heads, WIDTH),
        "indexer.attn_k.weight": (index, WIDTH),
        "indexer.attn_q_b.weight": (index_heads * index, latent),
        "ffn_norm.weight": (WIDTH,),
        "ffn_gate_inp.weight": (experts, WIDTH),
        "ffn_gate_exps.weight": (experts, ffn, WIDTH),
        "ffn_up_exps.weight": (experts, ffn, WIDTH),
        "ffn_down_exps.weight": (experts, WIDTH, ffn),
        "ffn_gate_shexp.weight": (ffn, WIDTH),
        "ffn_up_shexp.weight": (ffn, WIDTH),
        "ffn_down_shexp.weight": (WIDTH, ffn),
    }
    scales = {"attn_output": noise, "ffn_down": noise, "output.": 100.0}
    blocks = (block, block, block | _NEXTN)
    return _finished(writer, path, *blocks, layers=LAYERS + 1, scales=scales)


def _writer(path: Path, architecture: str, name: str = "", layers: int = LAYERS) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name or f"Tiny {architecture}")
    writer.add_context_length(1024)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_layer_norm_rms_eps(1e-5)
    if architecture == "mamba":
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
    writer.add_tokenizer_model("llama")
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(WORDS - 3))]
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * WORDS)
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2]
    writer.add_token_types([*kinds, *[gguf.TokenType.BYTE] * (WORDS - 3)])
    return writer


def _finished(
    writer: gguf.GGUFWriter,
    path: Path,
    *blocks: Shapes,
    layers: int = LAYERS,
    scales: dict[str, float] | None = None,
    outside: Shapes | None = None,
) -> Path:
    """Write the weights of `layers` layers, of these blocks in turn.

    Args:
        scales: factors of random weights, by a part of the tensor's name.
        outside: tensors of no layer, beyond the usual ones.
    """
    rng = np.random.default_rng(1)
    last_norm = "token_embd_norm.weight" if writer.arch == "lfm2" else "output_norm.weight"
    shapes: Shapes = {"token_embd.weight": (WORDS, WIDTH), last_norm: (WIDTH,)}
    shapes |= outside or {}
    if scales and "output." in scales:
        shapes["output.weight"] = (WORDS, WIDTH)
    for layer in range(layers):
        block = blocks[layer % len(blocks)]
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        if "norm" in name:
            values = np.ones(shape, np.float32)
        elif name.endswith("ssm_a"):
            values = -np.abs(rng.normal(1.0, 0.3, shape)).astype(np.float32)
        else:
            values = rng.normal(0.0, shape[-1] ** -0.5, shape).astype(np.float32)
            values *= next((x for part, x in (scales or {}).items() if part in name), 1.0)
        if name.endswith("eh_proj.weight"):  # the token's embedding, nothing of the hidden state
            values = np.hstack([np.eye(WIDTH), np.zeros((WIDTH, WIDTH))]).astype(np.float32)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
