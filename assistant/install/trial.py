"""`python -m assistant.install.trial`: loads a small model with the llama.cpp that is found first.

Prints JSON: the library's folder, the device names, and the number of tokens that the model wrote.
It is a process of its own, because a broken build may end its process, and because a process can
load only one llama.cpp.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

_WIDTH = 256
_HEADS = 4
_FEED_FORWARD = 512
_LAYERS = 2
_TOKENS = 4
_N_CTX = 256


def write_tiny_model(path: Path) -> None:
    """A GGUF with random weights and the layers of a Llama, 3 MB. It knows bytes only."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(_N_CTX)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    kinds = gguf.TokenType
    special = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    writer.add_token_types([*special, *[kinds.BYTE] * 256])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    noise = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = noise.normal(0, 0.05, shape) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))

    add("token_embd", len(tokens), _WIDTH)
    for layer in range(_LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}", _WIDTH, _WIDTH)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}", _WIDTH)
        add(f"blk.{layer}.ffn_gate", _FEED_FORWARD, _WIDTH)
        add(f"blk.{layer}.ffn_up", _FEED_FORWARD, _WIDTH)
        add(f"blk.{layer}.ffn_down", _WIDTH, _FEED_FORWARD)
    add("output_norm", _WIDTH)
    add("output", len(tokens), _WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    import llama_cpp

    from assistant.llama import ggml

    with tempfile.TemporaryDirectory(prefix="underkeel-trial-") as folder:
        path = Path(folder) / "tiny.gguf"
        write_tiny_model(path)
        ggml.initialise()
        model = llama_cpp.Llama(str(path), n_gpu_layers=-1, n_ctx=_N_CTX, verbose=False)
        tokens = model.generate([1, 80, 81], temp=0.0)
        written = [token for token, _ in zip(tokens, range(_TOKENS), strict=False)]
        model.close()
    report = {
        "folder": str(Path(llama_cpp.__file__).parent),
        "devices": [device.name for device in ggml.devices()],
        "tokens": len(written),
    }
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
