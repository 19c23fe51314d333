"""The starter model, asked for one line: what it writes, and how likely the wanted line was."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

MAX_ANSWER = 40


@dataclass(frozen=True)
class Answer:
    """What came of a prompt.

    Attributes:
        text: the first line written that is not blank.
        generated: tokens decoded for it.
        wanted_nats: minus the log-likelihood of the wanted line with its indent and line end,
            given the prompt; finer than right or wrong, as every place tells something.
        wanted_tokens: what that line takes.
    """

    text: str
    generated: int
    wanted_nats: float
    wanted_tokens: int


def unpacked(path: Path, folder: Path) -> Path:
    """The same weights as BF16, made once: a CPU with AVX-512 evaluates them 1.35 times as fast."""
    made = folder / f"{path.stem}-bf16.gguf"
    if made.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_BF16
    settings.allow_requantize = True
    partial = made.with_suffix(f".{os.getpid()}")
    if llama_cpp.llama_model_quantize(str(path).encode(), str(partial).encode(), settings):
        raise RuntimeError(f"llama.cpp could not unpack {path}")
    partial.rename(made)
    return made


class Model:
    """llama.cpp with one sequence, greedy; a prompt is evaluated once for both measures."""

    def __init__(self, path: Path, vocabulary: Any, threads: int) -> None:
        self._vocabulary = vocabulary
        self._stop = set(vocabulary.control.values())
        self._llama = llama_cpp.Llama(
            str(path), n_ctx=2560, n_batch=512, n_threads=threads, n_threads_batch=threads,
            flash_attn=True, verbose=False,
        )  # fmt: skip
        self._words = self._llama.n_vocab()

    def ask(self, ids: tuple[int, ...], wanted: str) -> Answer:
        wanted_ids = self._vocabulary.encode(wanted + "\n")
        self._llama.reset()
        self._llama.eval(list(ids))
        first = self._scores(1)
        nats = self._nats(ids, wanted_ids, first)
        self._truncate(len(ids))
        text, generated = self._written(len(ids), int(first[0].argmax()))
        return Answer(text, generated, nats, len(wanted_ids))

    def _nats(self, ids: tuple[int, ...], wanted: list[int], first: NDArray[np.float32]) -> float:
        """Minus the log-likelihood of `wanted` after the prompt that was just evaluated."""
        rest = wanted[:-1]
        scores = np.vstack([first, self._decoded(rest, len(ids))]) if rest else first
        highest = scores.max(axis=1, keepdims=True)
        sums = np.log(np.exp(scores - highest).sum(axis=1)) + highest[:, 0]
        return float((sums - scores[np.arange(len(wanted)), wanted]).sum())

    def _written(self, at: int, token: int) -> tuple[str, int]:
        out: list[int] = []
        while token not in self._stop and len(out) < MAX_ANSWER:
            out.append(token)
            text = self._vocabulary.decode(out)
            if "\n" in text.lstrip("\n ") or text.count("\n") > 2:
                break
            token = int(self._decoded([token], at)[0].argmax())
            at += 1
        text = self._vocabulary.decode(out)
        return next((line for line in text.split("\n") if line.strip()), ""), len(out)

    def _decoded(self, tokens: list[int], at: int) -> NDArray[np.float32]:
        """Logits after each of `tokens`, put at position `at`: (tokens, vocabulary)."""
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, at + i, 1
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
            if llama_cpp.llama_decode(self._llama.ctx, batch):
                raise RuntimeError("llama.cpp could not decode")
        finally:
            llama_cpp.llama_batch_free(batch)
        return self._scores(len(tokens))

    def _scores(self, count: int) -> NDArray[np.float32]:
        pointer = llama_cpp.llama_get_logits(self._llama.ctx)
        address = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float * (count * self._words)))
        return np.array(address.contents, dtype=np.float32).reshape(count, self._words)

    def _truncate(self, length: int) -> None:
        memory = llama_cpp.llama_get_memory(self._llama.ctx)
        llama_cpp.llama_memory_seq_rm(memory, 0, length, -1)
