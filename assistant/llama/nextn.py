"""Drafts by a model's own layers for multi-token prediction (MTP, NextN).

Such a layer reads a token together with the hidden state of the model before it, and predicts the
token after it. It runs in a second context of the same model, with a KV cache of its own. Of every
batch of the trunk it reads the same tokens one position later than their hidden states; to draft it
reads the next token, then what it predicts itself, with its own hidden state.

The order of the inputs is that of llama.cpp's server (common/speculative.cpp, "draft-mtp"). The
functions are not part of llama.cpp's stable interface (llama-ext.h): where a build lacks them,
nothing is drafted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from assistant.errors import LoadError
from assistant.llama import LoadSpec, ggml, structs
from assistant.llama.ggml import llama_cpp
from assistant.llama.structs import Batch, Span

_UNKNOWN = -2  # position -1 comes before the first token


def available() -> bool:
    """Whether this build of llama.cpp hands out hidden states."""
    try:
        from llama_cpp import llama_cpp_ext
    except (ImportError, AttributeError):
        return False
    return hasattr(llama_cpp_ext, "llama_get_embeddings_nextn")


def open_context(model: Any, trunk: Any, spec: LoadSpec) -> Any:
    """The `llama_context *` that runs the layers for multi-token prediction.

    Args:
        model, trunk: `llama_model *`, and the `llama_context *` that runs the others.

    Raises:
        LoadError: llama.cpp refuses it.
    """
    native = structs.context_params(spec)
    native.n_rs_seq = 0  # these layers have attention only
    native.ctx_type = llama_cpp.LLAMA_CONTEXT_TYPE_MTP
    native.ctx_other = trunk
    ggml.clear()
    handle = llama_cpp.llama_init_from_model(model, native)
    if not handle:
        raise LoadError(
            "llama.cpp cannot make the context for multi-token prediction: "
            f"{ggml.reason('it does not say why')}",
            subject=spec.path,
            advice="Free memory, or ask for fewer cells",
        )
    return handle


class Nextn:
    """The layers for multi-token prediction, beside the trunk whose batches they follow.

    Attributes:
        handle: the `llama_context *`.
        evaluated: rows that these layers have computed, drafts included.

    Raises:
        LoadError: llama.cpp refuses the context.
    """

    def __init__(self, model: Any, trunk: Any, spec: LoadSpec) -> None:
        from llama_cpp import llama_cpp_ext

        self._library = llama_cpp_ext
        self._trunk = trunk
        self.handle = open_context(model, trunk, spec)
        self._memory = llama_cpp.llama_get_memory(self.handle)
        self._n_vocab = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)))
        self._n_embd = int(llama_cpp.llama_model_n_embd_out(model))
        self._n_batch = int(llama_cpp.llama_n_batch(self.handle))
        self._batch = Batch(self._n_batch, self._n_embd)
        # the trunk's for every token, these layers' own for the rows that are read
        llama_cpp_ext.llama_set_embeddings_nextn(trunk, True, False)
        llama_cpp_ext.llama_set_embeddings_nextn(self.handle, True, True)
        n_seq = int(llama_cpp.llama_n_seq_max(self.handle))
        self._tokens: list[list[int]] = [[] for _ in range(n_seq)]
        self._starts = [0] * n_seq
        self._hidden = np.zeros((n_seq, self._n_embd), np.float32)
        self._hidden_at = [_UNKNOWN] * n_seq
        self.evaluated = 0

    def free(self) -> None:
        """Give the cells and buffers back, before those of the trunk. Safe to call twice."""
        handle, self.handle = self.handle, None
        if handle:
            self._library.llama_set_embeddings_nextn(self._trunk, False, False)
            llama_cpp.llama_free(handle)

    def forget(self, sequence: int, start: int = 0) -> None:
        """Positions from `start` on are no longer the sequence's."""
        self._cut(sequence, start)

    def share(self, source: int, target: int, stop: int) -> None:
        """`target` takes over `source`'s positions before `stop` (-1: all)."""
        self._cut(target, 0)
        end = self._end(source)
        stop = end if stop < 0 else min(stop, end)
        if stop > self._starts[source]:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, stop)
            self._starts[target] = self._starts[source]
            self._tokens[target] = self._tokens[source][: stop - self._starts[source]]
        if self._hidden_at[source] == stop - 1:
            self._hidden[target], self._hidden_at[target] = self._hidden[source], stop - 1

    def follow(self, sequence: int, position: int, tokens: Sequence[int], row: int) -> None:
        """The trunk has evaluated `tokens` from `position` on, and keeps them.

        Args:
            row: of the trunk's last batch, the first one's.
        """
        if not tokens:
            return
        pointer = self._library.llama_get_embeddings_nextn(self._trunk)
        if not pointer:
            self._cut(sequence, 0)
            return
        rows = np.ctypeslib.as_array(pointer, shape=(row + len(tokens), self._n_embd))[row:]
        known = self._known(sequence, position, tokens)
        before = self._before(sequence, position)
        hidden = np.concatenate((before[None], rows[:-1]))[known:]
        at = position + known
        if self._end(sequence) != at:
            self._cut(sequence, 0)  # what lies between was not evaluated here
        left = list(tokens[known:])
        while left:
            part, left = left[: self._n_batch], left[self._n_batch :]
            if not self._decode(sequence, at, part, hidden[: len(part)], outputs=0):
                break
            hidden, at = hidden[len(part) :], at + len(part)
        self._hidden[sequence] = rows[-1]
        self._hidden_at[sequence] = position + len(tokens) - 1

    def draft(self, sequence: int, position: int, token: int, most: int) -> tuple[int, ...]:
        """What comes after `token`, which the trunk evaluates next, at `position`."""
        if self._end(sequence) != position or self._hidden_at[sequence] != position - 1:
            return ()
        hidden = self._hidden[sequence]
        found: list[int] = []
        for step in range(most):
            if not self._decode(sequence, position + step, [token], hidden[None], outputs=1):
                break
            logits = llama_cpp.llama_get_logits_ith(self.handle, 0)
            own = self._library.llama_get_embeddings_nextn_ith(self.handle, 0)
            if not logits or not own:
                break
            token = int(np.ctypeslib.as_array(logits, shape=(self._n_vocab,)).argmax())
            hidden = np.ctypeslib.as_array(own, shape=(self._n_embd,)).copy()
            found.append(token)
        # Only the first was read with the trunk's hidden state.
        self._cut(sequence, position + 1)
        return tuple(found)

    def _decode(
        self, sequence: int, position: int, tokens: Sequence[int], hidden: Any, outputs: int
    ) -> bool:
        self._batch.fill([Span(sequence, position, tokens, outputs)])
        self._batch.hidden[: len(tokens)] = hidden
        if llama_cpp.llama_decode(self.handle, self._batch.struct) != 0:
            self._cut(sequence, 0)
            return False
        if not self._tokens[sequence]:
            self._starts[sequence] = position
        self._tokens[sequence] += tokens
        self.evaluated += len(tokens)
        return True

    def _known(self, sequence: int, position: int, tokens: Sequence[int]) -> int:
        """How many of the tokens were read here already; what differs from them is forgotten."""
        held = self._tokens[sequence][max(position - self._starts[sequence], 0) :]
        if position < self._starts[sequence] or not held:
            self._cut(sequence, position)
            return 0
        pairs = zip(held, tokens, strict=False)
        known = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
        count = min(len(held), len(tokens)) if known is None else known
        self._cut(sequence, position + count)
        return count

    def _before(self, sequence: int, position: int) -> Any:
        """The hidden state before `position`; zeros where it is no longer known."""
        if self._hidden_at[sequence] == position - 1:
            return self._hidden[sequence].copy()
        return np.zeros(self._n_embd, np.float32)

    def _end(self, sequence: int) -> int:
        return self._starts[sequence] + len(self._tokens[sequence])

    def _cut(self, sequence: int, length: int) -> None:
        if self._hidden_at[sequence] >= length:
            self._hidden_at[sequence] = _UNKNOWN
        kept = max(length - self._starts[sequence], 0)
        if kept >= len(self._tokens[sequence]) and kept:
            return
        start = length if kept else 0
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1)
        del self._tokens[sequence][kept:]
        if not kept:
            self._starts[sequence] = 0
