"""Choosing the next token: greedy by arg-max, everything else by llama.cpp's sampler chain."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from assistant.llama.context import Logits
from assistant.llama.ggml import llama_cpp
from assistant.llama.spec import Sampling

_ALL_TOKENS = 2**20

Tokens = npt.NDArray[np.int32]

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""`llama_token_data` (llama.h)."""


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
