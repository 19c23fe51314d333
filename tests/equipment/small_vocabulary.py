"""The starter model's vocabulary cut to its most frequent tokens, for tests whose model is played.

A language server reads the vocabulary of the model that is served. That takes it a second with all
tokens, and no time with these. What text becomes of its tokens is the same, in more of them.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from pathlib import Path

from assistant.memory.gguf.header import StringArray, read_header
from assistant.models.gguf_file import raw_values, uint32, write

_WORDS = 8192
_BYTES = 256  # the first tokens, which no merge makes
_NORMAL, _UNUSED = 1, 5
_ARRAY, _INT32, _STRING = 9, 5, 8  # gguf.h, enum gguf_type


def write_small_vocabulary(target: Path, starter: Path) -> Path:
    """Write a GGUF without tensors; `starter` has a byte-level BPE vocabulary."""
    metadata = read_header(starter).metadata
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    types = metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, StringArray) and isinstance(merges, StringArray)
    assert isinstance(types, array)
    special = [id_ for id_, kind in enumerate(types) if kind not in {_NORMAL, _UNUSED}]
    kept = [*range(_WORDS), *special]
    values = raw_values(starter) | {
        "tokenizer.ggml.tokens": _strings(tokens.raw(id_) for id_ in kept),
        "tokenizer.ggml.merges": _strings(merges.raw(n) for n in range(_WORDS - _BYTES)),
        "tokenizer.ggml.token_type": _int32s([types[id_] for id_ in kept]),
    }
    for name in ("bos", "eos", "padding"):
        key = f"tokenizer.ggml.{name}_token_id"
        values[key] = uint32(kept.index(metadata[key]))
    with target.open("wb") as file:
        for _ in write(file, values, [], 32):
            pass
    return target


def _strings(texts: Iterable[bytes]) -> bytes:
    written = [struct.pack("<Q", len(text)) + text for text in texts]
    return struct.pack("<IIQ", _ARRAY, _STRING, len(written)) + b"".join(written)


def _int32s(numbers: list[int]) -> bytes:
    return struct.pack(f"<IIQ{len(numbers)}i", _ARRAY, _INT32, len(numbers), *numbers)
