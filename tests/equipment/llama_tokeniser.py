"""llama.cpp's own tokeniser, from a GGUF's vocabulary alone: what ours is checked against."""

from __future__ import annotations

import ctypes
import functools
import io
from pathlib import Path
from typing import Self

from llama_cpp import llama_cpp

from assistant.models.gguf_file import raw_values, string, write


@functools.cache
def _quiet() -> object:
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return silent


class LlamaTokeniser:
    """Loads `path` without its weights. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._silence = _quiet()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self._model, f"llama.cpp cannot load {path}"
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)

    def encode(self, text: str | bytes, *, special: bool = False) -> list[int]:
        raw = text if isinstance(text, bytes) else text.encode()
        room = len(raw) + 8
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), buffer, room, False, special)
        assert count >= 0
        return list(buffer[:count])

    def is_end(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        llama_cpp.llama_model_free(self._model)


def gguf_bytes(values: dict[str, bytes]) -> bytes:
    """A GGUF with these keys and no tensors, in memory."""
    file = io.BytesIO()
    for _ in write(file, values, [], 32):
        pass
    return file.getvalue()


def vocabulary_only(source: Path, target: Path, pre: str) -> Path:
    """Write `source`'s vocabulary without tensors, under another split pattern."""
    target.write_bytes(gguf_bytes({**raw_values(source), "tokenizer.ggml.pre": string(pre)}))
    return target
