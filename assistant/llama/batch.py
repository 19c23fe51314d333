"""What a context evaluates in one step: tokens of several sequences, as llama.cpp takes them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from assistant.llama.ggml import llama_cpp


@dataclass(frozen=True)
class Span:
    """Tokens of one sequence to evaluate, the first one at `position`.

    Logits are kept for the last `outputs` of them.
    """

    sequence: int
    position: int
    tokens: Sequence[int]
    outputs: int = 0


class Batch:
    """A `llama_batch` over arrays of our own, filled at C speed.

    Attributes:
        hidden: [capacity, n_embd]: the hidden state that goes with each token; empty without.

    Args:
        n_embd: width of the hidden states, for a context of multi-token prediction; else 0.
    """

    def __init__(self, capacity: int, n_embd: int = 0) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequences = np.zeros(capacity, np.int32)
        self._ones = np.ones(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        self.hidden = np.zeros((capacity, n_embd), np.float32)
        start, step = self._sequences.ctypes.data, self._sequences.itemsize
        self._pointers = np.arange(start, start + capacity * step, step, dtype=np.uintp)
        struct = llama_cpp.llama_batch()
        struct.token = _pointer(self._tokens, llama_cpp.llama_token)
        struct.pos = _pointer(self._positions, llama_cpp.llama_pos)
        struct.n_seq_id = _pointer(self._ones, ctypes.c_int32)
        struct.seq_id = ctypes.cast(
            self._pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(llama_cpp.llama_seq_id))
        )
        struct.logits = _pointer(self._outputs, ctypes.c_int8)
        if n_embd:
            struct.embd = _pointer(self.hidden, ctypes.c_float)
        self.struct = struct

    def fill(self, spans: Sequence[Span]) -> None:
        at = 0
        for span in spans:
            count = len(span.tokens)
            rows = slice(at, at + count)
            self._tokens[rows] = span.tokens
            self._positions[rows] = np.arange(span.position, span.position + count)
            self._sequences[rows] = span.sequence
            self._outputs[rows] = 0
            self._outputs[at + count - span.outputs : at + count] = 1
            at += count
        self.struct.n_tokens = at


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
