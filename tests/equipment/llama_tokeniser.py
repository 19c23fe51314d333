"""llama.cpp's own tokenizer, from a GGUF's vocabulary alone, and texts to compare ours on."""

# ruff: noqa: RUF001  # look-alike characters are the point

from __future__ import annotations

import ctypes
import functools
import io
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
from llama_cpp import llama_cpp

from assistant.models.gguf_file import raw_values, string, write

ODDITIES = {
    "empty": "",
    "crlf": "def f():\r\n\treturn 1\r\n\r\n\r\n",
    "lone cr": "a\rb\r\rc",
    "tabs": "\tif x:\n\t\t  y\n \t z",
    "nul": "a\0b\0\0c \0",
    "control": "".join(map(chr, range(32))) + "\x7f\x80\x85\x9f",
    "form feed": "x = 1\n\f\nclass A:\n\v\n",
    "separators": "a\u2028b\u2029c\u0085d\u00a0e\u200bf\ufefft",
    "astral": "😀🏳️‍🌈 𝔘𝔫𝔦 𝟘𝟙 \U0010fffd 𠀀",
    "combining": "e\u0301e\u0300\u0327 n\u0303 \u0301 a" + "\u0301" * 40,
    "right to left": "שלום עולם مرحبا ١٢٣ ٣٫٥",
    "indic": "नमस्ते बाংলা ไทย ភាសា",
    "cjk": "汉字かなカナ한글。、「」！？ 全角ＡＢＣ１２",
    "numbers": "12345 1_000 0xFF ½ ② Ⅳ ٤٥",
    "contractions": "it's IT'S we'll We'Ll 'tis '' 'd '\u017f",
    "trailing": "x    ",
    "space runs": " " * 300 + "x" + "\t" * 300 + "\n" * 300 + "y",
    "control texts": "<|fim_prefix|><|im_end|> <|endoftext|><|file_sep|>",
    "user texts": "a<tool_call>b</tool_call><tool_call",
    "ends an answer": "<s>strike</s>",
    "fillers": "[PAD151700]",
    "non-characters": "\ufffe\uffff\U0001ffff\ue000",
    "long line": "abc, " * 20_000,
    "long word": "x" * 20_000,
    "long mix": "".join(f"w{i % 97}=[{i}];" for i in range(20_000)),
}


def sources(limit_bytes: int) -> Iterator[str]:
    """Real source, in every encoding oddity it comes in: standard library and site-packages."""
    left = limit_bytes
    for root in (sysconfig.get_path("stdlib"), str(Path(httpx.__file__).parents[1])):
        share = left // 2 if root == sysconfig.get_path("stdlib") else left
        for path in _python_files(root):
            if share <= 0:
                break
            content = path.read_bytes()[:100_000]
            share -= len(content)
            left -= len(content)
            yield content.decode("utf-8", "replace")


@functools.cache
def _python_files(folder: str) -> list[Path]:
    return sorted(Path(folder).rglob("*.py"))


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

    @property
    def add_bos(self) -> bool:
        return bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))

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
