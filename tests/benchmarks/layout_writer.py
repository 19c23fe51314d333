"""A bare greedy writer over llama.cpp, so that a layout is judged by nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.llama import LoadSpec
from assistant.llama.context import Context, DecodeStatus
from assistant.llama.model import Model
from assistant.llama.structs import Span

MAX_ANSWER_TOKENS = 40


class Writer:
    """Greedy answers from one sequence; what a prompt shares with the last one is kept."""

    def __init__(self, path: Path, vocab: Any, n_ctx: int, threads: int) -> None:
        spec = LoadSpec(path=str(path), n_ctx=n_ctx, n_seq_max=1, n_threads=threads,
                        n_threads_batch=threads)  # fmt: skip
        self._model = Model(spec)
        self._context = Context(self._model, spec)
        self._held: list[int] = []
        special = set(vocab.special.values())
        self._bytes = [
            b"" if token in special else vocab.decode_bytes([token]) for token in range(vocab.size)
        ]

    def _fitting(self, forced: bytes) -> NDArray[np.int64]:
        """Tokens that begin `forced`, or go on beyond it."""
        found = [
            token
            for token, content in enumerate(self._bytes)
            if content and (content.startswith(forced) or forced.startswith(content))
        ]
        return np.array(found)

    def write(
        self, prompt: tuple[int, ...], ends: frozenset[int], forced: bytes = b""
    ) -> Iterator[int]:
        """Tokens of the answer, one after the other; it begins with `forced`."""
        shared = 0
        for old, new in zip(self._held, prompt[:-1], strict=False):
            if old != new:
                break
            shared += 1
        self._context.forget(0, shared)
        self._held = list(prompt[:shared])
        todo = list(prompt[shared:])
        while len(self._held) < len(prompt) + MAX_ANSWER_TOKENS:
            row = 0
            for at in range(0, len(todo), 512):
                piece = todo[at : at + 512]
                outputs = int(at + 512 >= len(todo))
                span = Span(0, len(self._held), piece, outputs)
                if self._context.decode([span]) is not DecodeStatus.DONE:
                    raise RuntimeError("llama.cpp could not evaluate the prompt")
                self._held += piece
                row = len(piece) - 1
            logits = self._context.logits(row)
            if forced:
                fitting = self._fitting(forced)
                token = int(fitting[logits[fitting].argmax()])
                forced = forced[len(self._bytes[token]) :]
            else:
                token = int(logits.argmax())
            if token in ends or token in self._model.ends:
                return
            yield token
            todo = [token]
