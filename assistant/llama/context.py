"""A llama.cpp context: it evaluates tokens of several sequences and keeps their KV cells."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from assistant.errors import EngineError, LoadError
from assistant.llama import breakdown, ggml, params
from assistant.llama.batch import Batch, Span
from assistant.llama.ggml import llama_cpp
from assistant.llama.model import Model
from assistant.llama.nextn import Nextn
from assistant.llama.spec import DeviceMemory, LoadSpec

Logits = npt.NDArray[np.float32]
_PARTIAL = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


class DecodeStatus(IntEnum):
    """What llama_decode returns (llama.h). After anything but DONE ask `last` what is left."""

    DONE = 0
    NO_CELLS = 1
    ABORTED = 2
    INVALID = -1
    NO_MEMORY = -2
    FAILED = -3


class AbortFlag:
    """Stops a decode of another thread between two graph nodes, on a CPU or Metal.

    llama.cpp asks `bool f(void *data)` thousands of times a second from its compute thread. A
    Python callback would take the interpreter's lock each time, so the C library's strlen stands
    in: of a text of no or one byte it says 0 or 1.
    """

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(2)
        self.function = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)
        self.data = ctypes.cast(self._text, ctypes.c_void_p)

    def set(self) -> None:
        self._text[0] = b"\x01"

    def clear(self) -> None:
        self._text[0] = b"\x00"

    def is_set(self) -> bool:
        return self._text[0] != b"\x00"


class Context:
    """Owns a `llama_context *` of a model; `free` gives its memory back.

    Attributes:
        nextn: the layers for multi-token prediction, which follow; None where none are used.

    Raises:
        LoadError: the cache types do not fit the model, or memory was refused.
    """

    def __init__(self, model: Model, spec: LoadSpec) -> None:
        self.abort = AbortFlag()
        native = params.context_params(spec)
        native.abort_callback = self.abort.function
        native.abort_callback_data = self.abort.data
        ggml.clear()
        self._handle: Any = llama_cpp.llama_init_from_model(model.handle, native)
        if not self._handle:
            raise LoadError(
                f"llama.cpp cannot make the context: {ggml.reason('it does not say why')}",
                subject=spec.path,
                advice="Ask for fewer cells, or free memory",
            )
        self._memory = llama_cpp.llama_get_memory(self._handle)
        self._n_vocab = model.facts.n_vocab
        self.n_cells = int(llama_cpp.llama_n_ctx(self._handle))
        self.n_cells_sequence = int(llama_cpp.llama_n_ctx_seq(self._handle))
        self.n_batch = int(llama_cpp.llama_n_batch(self._handle))
        self.n_sequences = int(llama_cpp.llama_n_seq_max(self._handle))
        self.n_outputs = min(int(native.n_outputs_max) or self.n_batch, self.n_batch)
        self._batch = Batch(self.n_batch)
        self.nextn: Nextn | None = None
        if spec.nextn:
            try:
                self.nextn = Nextn(model.handle, self._handle, spec)
            except LoadError:
                self.free()
                raise

    def free(self) -> None:
        """Give the cells and buffers back. Safe to call twice."""
        if self.nextn is not None:
            self.nextn.free()
        handle, self._handle = self._handle, None
        if handle:
            llama_cpp.llama_free(handle)

    @property
    def memory(self) -> tuple[DeviceMemory, ...]:
        """llama.cpp's breakdown of what the model and this context take; empty if unreadable."""
        try:
            own = breakdown.read(self._handle)
            if self.nextn is None:
                return own
            return breakdown.together(own, breakdown.read(self.nextn.handle))
        except EngineError:
            return ()

    def decode(self, spans: Sequence[Span]) -> DecodeStatus:
        """Evaluate the spans together. Returns when the results can be read.

        At most `n_batch` tokens and `n_outputs` outputs; each span continues its sequence.
        """
        self._batch.fill(spans)
        code = int(llama_cpp.llama_decode(self._handle, self._batch.struct))
        if code == 0:
            llama_cpp.llama_synchronize(self._handle)
        return (
            DecodeStatus(code) if code in DecodeStatus._value2member_map_ else DecodeStatus.FAILED
        )

    def logits(self, row: int) -> Logits:
        """Logits [n_vocab] after the batch's token number `row`; valid until the next decode."""
        pointer = llama_cpp.llama_get_logits_ith(self._handle, row)
        if not pointer:
            raise EngineError(f"llama.cpp kept no logits for row {row}")
        return np.ctypeslib.as_array(pointer, shape=(self._n_vocab,))

    def first(self, sequence: int) -> int:
        """Lowest position held; -1 where none. Above 0 only behind a sliding window."""
        return int(llama_cpp.llama_memory_seq_pos_min(self._memory, sequence))

    def last(self, sequence: int) -> int:
        """Highest position held; -1 where none."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence))

    def forget(self, sequence: int, start: int = 0) -> bool:
        """Remove the sequence's positions from `start` on; False where only all can be removed."""
        if self.nextn is not None:
            self.nextn.forget(sequence, start)
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def share(self, source: int, target: int, stop: int = -1) -> None:
        """Let `target` hold `source`'s positions before `stop` (-1: all) too.

        In a unified cache no cell is copied; `target` must be empty.
        """
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, stop)
        if self.nextn is not None:
            self.nextn.share(source, target, stop)

    def save(self, sequence: int) -> bytes:
        """The sequence's cells, to be restored into a context of the same model and types."""
        size = llama_cpp.llama_state_seq_get_size(self._handle, sequence)
        capacity = (ctypes.c_uint8 * size)()
        count = llama_cpp.llama_state_seq_get_data(self._handle, capacity, size, sequence)
        return bytes(memoryview(capacity)[:count])

    def restore(self, sequence: int, state: bytes) -> bool:
        """Put saved cells back; False, with the sequence empty, where they do not fit."""
        capacity = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        count = llama_cpp.llama_state_seq_set_data(self._handle, capacity, len(state), sequence)
        if not count:
            self.forget(sequence)
        return bool(count)

    def checkpoint_bytes(self, sequence: int) -> int:
        """Size of what `checkpoint` would return."""
        return int(llama_cpp.llama_state_seq_get_size_ext(self._handle, sequence, _PARTIAL))

    def checkpoint(self, sequence: int) -> bytes:
        """The part of the sequence's state that cannot be cut: recurrent state, and the cells of a
        sliding window. Empty where there is none."""
        size = self.checkpoint_bytes(sequence)
        buffer = (ctypes.c_uint8 * size)()
        count = llama_cpp.llama_state_seq_get_data_ext(
            self._handle, buffer, size, sequence, _PARTIAL
        )
        return bytes(memoryview(buffer)[:count])

    def rewind(self, sequence: int, state: bytes, length: int) -> bool:
        """Go back to a checkpoint that was taken when the sequence held `length` tokens.

        As llama-server does (tools/server, "context checkpoint"): the state is put back, then the
        other cells are cut. False where that fails; the sequence is not to be used then.
        """
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        count = llama_cpp.llama_state_seq_set_data_ext(
            self._handle, buffer, len(state), sequence, _PARTIAL
        )
        return count == len(state) and self.forget(sequence, length)
