"""A tiny mixture-of-experts checkpoint made on the spot, for vLLM and Transformers.

Its weights are chance, its tokeniser is the starter model's own: what is tested with it is how
tokens, caches and devices are handled, not what it says. `make` runs in an environment that has
torch; the tokeniser needs none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assistant.memory.gguf.header import read_header

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)
LAYERS, EXPERTS, USED = 4, 8, 2

_MAKE = """
import sys, torch
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM
folder, layers, experts, used = sys.argv[1], *map(int, sys.argv[2:])
torch.manual_seed(7)
config = Qwen2MoeConfig(
    vocab_size=151936, hidden_size=256, num_attention_heads=4, num_key_value_heads=2,
    num_hidden_layers=layers, num_experts=experts, num_experts_per_tok=used,
    moe_intermediate_size=64, shared_expert_intermediate_size=64, intermediate_size=128,
    max_position_embeddings=4096, decoder_sparse_step=1, mlp_only_layers=[],
    bos_token_id=None, eos_token_id=151645, pad_token_id=151643, tie_word_embeddings=False,
    router_aux_loss_coef=0.0, norm_topk_prob=True,
)
model = Qwen2MoeForCausalLM(config).to(torch.bfloat16)
model.save_pretrained(folder)
"""


def make(folder: Path, gguf: Path, python: Path) -> Path:
    """Write the checkpoint into `folder`, unless it is there.

    Args:
        gguf: whose vocabulary it gets.
        python: an interpreter that has torch and transformers.
    """
    if (folder / "model.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    sizes = map(str, (LAYERS, EXPERTS, USED))
    subprocess.run(
        [python, "-c", _MAKE, folder, *sizes], check=True, stdout=sys.stderr, timeout=300
    )
    write_tokenizer(gguf, folder)
    return folder


def write_tokenizer(gguf: Path, folder: Path) -> None:
    """The GGUF's byte-level BPE vocabulary as Hugging Face's files."""
    metadata: Mapping[str, Any] = read_header(gguf).metadata
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    added, vocab = [], {}
    for token, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == 1:
            vocab[text] = token
        elif kind in {3, 4}:
            added.append({"id": token, "content": text, "special": kind == 3, **_PLAIN})
    split = {"type": "Split", "pattern": {"Regex": _PATTERN}, "behavior": "Isolated"}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    level["use_regex"] = False
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split | {"invert": False}, level]},
        "post_processor": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 4096,
        "chat_template": _CHAT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
