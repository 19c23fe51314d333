"""A llama.cpp context: it evaluates tokens of several sequences and keeps their KV cells.

From the logits that it returns `Sampler` chooses the next token: greedy by arg-max, everything else
by llama.cpp's sampler chain.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from assistant.errors import EngineError, LoadError
from assistant.llama import DeviceMemory, LoadSpec, Sampling, breakdown, ggml, structs
from assistant.llama.ggml import llama_cpp
from assistant.llama.model import Model
from assistant.llama.nextn import Nextn
from assistant.llama.structs import Batch, Span

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]

_PARTIAL = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
_ALL_TOKENS = 2**20
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""`llama_token_data` (llama.h)."""


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
        n_rs_seq: how many tokens at its end a sequence can forget although a layer is recurrent:
            so many earlier states are kept. 0 where no layer is, or llama.cpp keeps none.
        nextn: the layers for multi-token prediction, which follow; None where none are used.

    Raises:
        LoadError: the cache types do not fit the model, or memory was refused.
    """

    def __init__(self, model: Model, spec: LoadSpec) -> None:
        self.abort = AbortFlag()
        native = structs.context_params(spec)
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
        self.n_rs_seq = int(llama_cpp.llama_n_rs_seq(self._handle))
        self._states = _States(self.n_rs_seq, self.n_sequences)
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
        known = code in DecodeStatus._value2member_map_
        status = DecodeStatus(code) if known else DecodeStatus.FAILED
        if status is DecodeStatus.DONE:
            self._states.evaluated(spans)
        elif status not in {DecodeStatus.NO_CELLS, DecodeStatus.INVALID}:
            self._states.failed(spans)
        return status

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

    def ends_before(self, sequence: int, length: int) -> bool:
        """Whether the sequence holds no position from `length` on, and what it holds is whole."""
        return self._states.whole(sequence) and self.last(sequence) < length

    def undoable(self, sequence: int) -> int:
        """How many of the last tokens can be forgotten where a layer is recurrent."""
        return self._states.undoable(sequence)

    def forget(self, sequence: int, start: int = 0) -> bool:
        """Remove the sequence's positions from `start` on; False where only all can be removed."""
        if not self.n_rs_seq:
            return self._remove(sequence, start)
        back = self.last(sequence) + 1 - start if start else None
        if back is not None and not self._states.can_forget(sequence, back):
            return False
        done = self._remove(sequence, start)
        if done:
            self._states.forgot(sequence, back)
        return done

    def _remove(self, sequence: int, start: int) -> bool:
        if self.nextn is not None:
            self.nextn.forget(sequence, start)
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1))

    def share(self, source: int, target: int, stop: int = -1) -> None:
        """Let `target` hold `source`'s positions before `stop` (-1: all) too.

        In a unified cache no cell is copied; `target` must be empty.
        """
        if self._states.stepped_back(source):
            # Which of its states a sequence has gone back to is not copied with it.
            self.rewind(source, self.checkpoint(source), self.last(source) + 1)
        self._states.shared(source, target)
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
        self._states.restored(sequence)
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
        self._states.restored(sequence)
        return count == len(state) and self._remove(sequence, length)


class _States:
    """Which earlier states of recurrent layers can be gone back to, by sequence.

    llama.cpp keeps the states after the last tokens of a batch (`n_rs_seq`,
    src/llama-memory-recurrent.cpp). It checks neither that a kept state is of this batch, nor that
    the batch was finished, nor that another sequence shares the state; so that is done here:

    - after a batch of n tokens, n - 1 can be forgotten, once;
    - a batch of several sequences moves states, without the earlier ones;
    - after a failed batch the state is lost;
    - a state that two sequences share cannot be stepped back for one of them.
    """

    def __init__(self, n_rs_seq: int, n_sequences: int) -> None:
        self._most = n_rs_seq
        self._undoable = [0] * n_sequences
        self._stepped_back: set[int] = set()
        self._lost: set[int] = set()
        self._joint: set[tuple[int, int]] = set()

    def evaluated(self, spans: Sequence[Span]) -> None:
        if not self._most:
            return
        if len(spans) > 1:
            self._undoable = [0] * len(self._undoable)
        for span in spans:
            self._separate(span.sequence)
            self._stepped_back.discard(span.sequence)
            if len(spans) == 1:
                self._undoable[span.sequence] = min(len(span.tokens) - 1, self._most)

    def failed(self, spans: Sequence[Span]) -> None:
        if self._most:
            self._lost.update(span.sequence for span in spans)

    def whole(self, sequence: int) -> bool:
        return sequence not in self._lost

    def stepped_back(self, sequence: int) -> bool:
        return sequence in self._stepped_back

    def undoable(self, sequence: int) -> int:
        alone = all(sequence not in pair for pair in self._joint)
        return self._undoable[sequence] if alone and self.whole(sequence) else 0

    def can_forget(self, sequence: int, count: int) -> bool:
        return self.whole(sequence) and count <= self.undoable(sequence)

    def forgot(self, sequence: int, count: int | None) -> None:
        """So many tokens at the end are gone; None for all of the sequence."""
        if count is None:
            self.restored(sequence)
        elif count > 0:
            self._undoable[sequence] = 0
            self._stepped_back.add(sequence)

    def restored(self, sequence: int) -> None:
        """Another state is the sequence's own now, or none."""
        self._undoable[sequence] = 0
        self._stepped_back.discard(sequence)
        self._lost.discard(sequence)
        self._separate(sequence)

    def shared(self, source: int, target: int) -> None:
        if self._most:
            self._undoable[target] = 0
            self._joint.add((source, target))

    def _separate(self, sequence: int) -> None:
        self._joint = {pair for pair in self._joint if sequence not in pair}


class Sampler:
    """Samples one request's tokens, one after another.

    Args:
        history: tokens before the answer, which the repeat penalty counts as well.
    """

    def __init__(self, sampling: Sampling, n_vocab: int, history: Sequence[int] = ()) -> None:
        # Greedy is the arg-max of the bare logits: it needs no chain.
        shaped = sampling.penalises or bool(sampling.logit_bias)
        greedy = sampling.temperature <= 0 and not shaped
        self._chain: Any = None if greedy else _build(sampling, n_vocab)
        self._all = np.arange(n_vocab, dtype=np.int32)
        if self._chain and sampling.penalises:
            for token in history[-_last_n(sampling) :] if _last_n(sampling) else ():
                llama_cpp.llama_sampler_accept(self._chain, token)

    @property
    def greedy(self) -> bool:
        return not self._chain

    def pick(self, logits: Logits, allowed: Tokens | None = None) -> int:
        """The next token, of `allowed` only where that is given (not empty)."""
        token = self.propose(logits, allowed)
        self.accept(token)
        return token

    def accept(self, token: int) -> None:
        """The answer goes on with a token that was proposed."""
        if self._chain:
            llama_cpp.llama_sampler_accept(self._chain, token)

    def propose(self, logits: Logits, allowed: Tokens | None = None) -> int:
        """As `pick`, but the token may be rejected."""
        tokens = self._all if allowed is None else allowed
        values = logits if allowed is None else logits[allowed]
        if not self._chain:
            return int(tokens[values.argmax()])
        return self._draw(tokens, values)

    @staticmethod
    def best(logits: Logits) -> tuple[int, float]:
        """The arg-max, and by how much it leads the next best."""
        token = int(logits.argmax())
        top, logits[token] = float(logits[token]), -np.inf
        lead = top - float(logits.max())
        logits[token] = top
        return token, lead

    def free(self) -> None:
        """Safe to call twice."""
        chain, self._chain = self._chain, None
        if chain:
            llama_cpp.llama_sampler_free(chain)

    def _draw(self, tokens: Tokens, logits: Logits) -> int:
        candidates = np.zeros(len(tokens), _CANDIDATE)
        candidates["id"] = tokens
        candidates["logit"] = logits
        array = llama_cpp.llama_token_data_array(
            data=ctypes.cast(candidates.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data)),
            size=len(candidates),
            selected=-1,
            sorted=False,
        )
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)


def _last_n(sampling: Sampling) -> int:
    """How many tokens the penalties count; llama.cpp takes -1 for none."""
    return sampling.repeat_last_n if sampling.repeat_last_n >= 0 else _ALL_TOKENS


def _build(sampling: Sampling, n_vocab: int) -> Any:
    """The usual order of llama.cpp's own programs: bias, penalties, cuts, temperature, draw."""
    handle = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    parts = []
    if sampling.logit_bias:
        biases = dict(sampling.logit_bias).items()
        array = (llama_cpp.llama_logit_bias * len(biases))(*biases)
        parts.append(llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(biases), array))
    if sampling.penalises:
        parts.append(
            llama_cpp.llama_sampler_init_penalties(
                n_vocab,
                _last_n(sampling),
                sampling.repeat_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if sampling.temperature > 0:
        parts += [
            llama_cpp.llama_sampler_init_top_k(sampling.top_k),
            llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1),
            llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1),
            llama_cpp.llama_sampler_init_temp(sampling.temperature),
            llama_cpp.llama_sampler_init_dist(sampling.seed),
        ]
    else:
        parts.append(llama_cpp.llama_sampler_init_greedy())
    for part in parts:
        llama_cpp.llama_sampler_chain_add(handle, part)
    return handle
