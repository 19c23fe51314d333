"""Two models on the same tokens: how often they agree, and how far their distributions are apart.

    python tests/equipment/compare_models.py FIRST SECOND TEXT N_TOKENS

prints JSON. Its own process, because it takes the memory of both models' logits.
"""

from __future__ import annotations

import ctypes
import json
import sys

import numpy as np
from llama_cpp import llama_cpp
from numpy.typing import NDArray


def log_probabilities(path: str, text: bytes, count: int) -> tuple[NDArray[np.float32], int]:
    """Shape (count, n_vocab), and the model's number of parameters."""
    model = llama_cpp.llama_model_load_from_file(
        path.encode(), llama_cpp.llama_model_default_params()
    )
    assert model, path
    vocab = llama_cpp.llama_model_get_vocab(model)
    tokens = (llama_cpp.llama_token * (len(text) + 8))()
    n_tokens = llama_cpp.llama_tokenize(vocab, text, len(text), tokens, len(tokens), False, False)
    assert n_tokens >= count, f"the text has only {n_tokens} tokens"
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = count
    params.n_threads = params.n_threads_batch = 2
    context = llama_cpp.llama_init_from_model(model, params)
    assert context, path
    batch = llama_cpp.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    for at in range(count):
        batch.token[at], batch.pos[at], batch.logits[at] = tokens[at], at, 1
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
    assert llama_cpp.llama_decode(context, batch) == 0
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    raw = ctypes.cast(
        llama_cpp.llama_get_logits(context), ctypes.POINTER(ctypes.c_float * (count * n_vocab))
    )
    logits = np.frombuffer(raw.contents, np.float32).reshape(count, n_vocab).copy()
    n_params = llama_cpp.llama_model_n_params(model)
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits, n_params


def main() -> None:
    first, second, text_path, count = sys.argv[1:]
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    with open(text_path, "rb") as file:  # noqa: PTH123
        text = file.read()
    ours, ours_params = log_probabilities(first, text, int(count))
    theirs, theirs_params = log_probabilities(second, text, int(count))
    divergence = (np.exp(ours) * (ours - theirs)).sum(axis=1)
    same = ours.argmax(axis=1) == theirs.argmax(axis=1)
    print(
        json.dumps(
            {
                "tokens": int(count),
                "same_arg_max": float(same.mean()),
                "mean_kl": float(divergence.mean()),
                "max_kl": float(divergence.max()),
                "n_params": [ours_params, theirs_params],
            }
        )
    )


if __name__ == "__main__":
    main()
