"""Keeps answers within a grammar: JSON of a schema, tool calls, or any grammar a client sends.

llguidance matches the grammar and knows the tokens it allows. The model's own choice is taken where
the grammar allows it, so that a free choice costs one check; the set of allowed tokens is computed
only where it does not. How much slower this makes a token has not been measured yet.

Its warnings on stderr are switched off, because problems are reported as errors of the request.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container
from concurrent.futures import Future, ThreadPoolExecutor

import llguidance
import numpy as np

from assistant.engine.types import Constraint
from assistant.errors import RequestError
from assistant.llama.context import Logits, Sampler, Tokens

_MOST_REFUSED = 16
_LONGEST_FORCED = 32


class _Tokens:
    """A vocabulary as llguidance wants it: the bytes of each token, and what ends an answer."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], ends: list[int]) -> None:
        self.tokens = tokens
        self.eos_token_id = ends[0]
        self.special_token_ids = ends
        special = set(ends)
        self._ids = {
            text: token for token, text in enumerate(tokens) if text and token not in special
        }
        self._longest = min(max(map(len, self._ids), default=1), _LONGEST_FORCED)

    def __call__(self, text: bytes | str) -> list[int]:
        """Tokens of a text that the grammar forces: the longest that fits, each time."""
        data = text.encode() if isinstance(text, str) else text
        found, at = [], 0
        while at < len(data):
            for size in range(min(self._longest, len(data) - at), 0, -1):
                token = self._ids.get(data[at : at + size])
                if token is not None:
                    found.append(token)
                    break
            at += size
        return found


class Compiler:
    """Compiles the grammars of one model, in a thread of its own: others do not wait.

    Args:
        piece: the bytes of a token, control tokens rendered; ends: the tokens that end an answer.
    """

    def __init__(self, piece: Callable[[int], bytes], n_vocab: int, ends: Container[int]) -> None:
        self._piece, self._n_vocab, self._ends = piece, n_vocab, ends
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
        self._tokens: llguidance.LLTokenizer | None = None
        self.bytes: dict[int, int] = {}
        self.end_ids: list[int] = []

    def compile(self, constraint: Constraint) -> Future[llguidance.LLMatcher]:
        """A matcher at the grammar's start. The future raises RequestError."""
        return self._thread.submit(self._compile, constraint)

    def _compile(self, constraint: Constraint) -> llguidance.LLMatcher:
        vocabulary = self._vocabulary()
        try:
            grammar = llguidance.LLMatcher.grammar_from_lark(constraint.grammar)
            matcher = llguidance.LLMatcher(vocabulary, grammar, log_level=0)
        except (ValueError, TypeError) as error:
            raise RequestError(f"the grammar cannot be used: {str(error)[:300]}") from error
        if problem := matcher.get_error():
            raise RequestError(f"the grammar cannot be used: {problem[:300]}")
        return matcher

    def _vocabulary(self) -> llguidance.LLTokenizer:
        if self._tokens is None:
            self.end_ids = [token for token in range(self._n_vocab) if token in self._ends]
            tokens = [self._piece(token) for token in range(self._n_vocab)]
            for token, text in enumerate(tokens):
                if len(text) == 1 and token not in self._ends:
                    self.bytes.setdefault(text[0], token)
            wrapper = llguidance.TokenizerWrapper(_Tokens(tokens, self.end_ids or [0]))
            self._tokens = llguidance.LLTokenizer(wrapper)
        return self._tokens


class Guide:
    """Where one answer is in its grammar.

    Attributes:
        finished: the grammar has ended, and the answer with it.
    """

    def __init__(
        self, constraint: Constraint, compiled: Future[llguidance.LLMatcher], compiler: Compiler
    ) -> None:
        self._constraint, self._compiled, self._compiler = constraint, compiled, compiler
        self._marks = [(text.encode(), True) for text in constraint.triggers]
        self._marks += [(text.encode(), False) for text in constraint.after]
        self._longest = max((len(mark) for mark, _ in self._marks), default=0)
        self._matcher: llguidance.LLMatcher | None = None
        self._tail = b""
        self._begun = False
        self.finished = False

    def ready(self) -> bool:
        """Whether the grammar is compiled. Raises RequestError where it cannot be."""
        if not self._compiled.done():
            return False
        if not self._begun:
            self._begun = True
            template = self._compiled.result()
            if self._constraint.at_once:
                self._matcher = template.deep_copy()
        return True

    def drop(self) -> None:
        """The answer has ended: a grammar that is not compiled yet is not needed any more."""
        self._compiled.cancel()

    def pick(
        self, sampler: Sampler, logits: Logits, piece: Callable[[int], bytes], ends: Container[int]
    ) -> int:
        """The next token, which the grammar allows."""
        token = sampler.propose(logits)
        if self._allows(token, piece, ends):
            sampler.accept(token)
            return token
        if self._matcher is not None:
            token = sampler.propose(logits, self._allowed())
        else:
            logits = logits.copy()
            for _ in range(_MOST_REFUSED):
                logits[token] = -np.inf
                token = sampler.propose(logits)
                if self._allows(token, piece, ends):
                    break
        sampler.accept(token)
        return token

    def best(
        self,
        logits: Logits,
        sure_lead: float,
        piece: Callable[[int], bytes],
        ends: Container[int],
    ) -> tuple[int, float]:
        """The likeliest token that the grammar allows, and by how much it leads the next allowed
        one at least; a negative lead where only `pick` can find it.

        Args:
            sure_lead: a lead that is enough: the others are not looked at then.
        """
        token, lead = Sampler.best(logits)
        if lead >= sure_lead and self._allows(token, piece, ends):
            return token, lead
        if self._matcher is None:
            return token, lead if self._allows(token, piece, ends) else -1.0
        allowed = self._allowed()
        values = logits[allowed]
        at = int(values.argmax())
        if len(values) == 1:
            return int(allowed[at]), float("inf")
        second, first = np.partition(values, -2)[-2:]
        return int(allowed[at]), float(first - second)

    def forced(self, most: int) -> tuple[int, ...]:
        """Tokens of the only text that the grammar allows next, as far as there is only one."""
        if self._matcher is None or most <= 0:
            return ()
        return tuple(self._matcher.compute_ff_tokens()[:most])

    def fork(self) -> Guide:
        """Another one at the same place in the grammar, which goes on by itself."""
        other = copy.copy(self)
        if self._matcher is not None:
            other._matcher = self._matcher.deep_copy()
        return other

    def add(self, token: int, piece: bytes, ends: Container[int]) -> None:
        """The answer goes on with `token`."""
        if token in ends:
            return
        if self._matcher is not None:
            self._matcher.consume_token(token)
            self._check_end()
            return
        self._tail += piece
        found = self._mark(self._tail)
        if found is None:
            self._tail = self._tail[-self._longest :] if self._longest else b""
            return
        rest = self._started(found)
        self._matcher, self._tail = rest, b""
        self._check_end()

    def _check_end(self) -> None:
        matcher = self._matcher
        if matcher is None or not matcher.is_stopped():
            return
        self._matcher = None
        self.finished = self._constraint.ends

    def _mark(self, text: bytes) -> bytes | None:
        """What the grammar has to read of `text`, from the first mark in it on; None without."""
        found = [
            (at, at if fed else at + len(mark))
            for mark, fed in self._marks
            if (at := text.find(mark)) >= 0
        ]
        return text[min(found)[1] :] if found else None

    def _started(self, text: bytes) -> llguidance.LLMatcher | None:
        """A matcher that has read `text`; None where the grammar does not begin so."""
        matcher = self._compiled.result().deep_copy()
        known = self._compiler.bytes
        ids = [known[byte] for byte in text if byte in known]
        if len(ids) < len(text) or matcher.try_consume_tokens(ids) < len(ids):
            return None
        return matcher

    def _allows(self, token: int, piece: Callable[[int], bytes], ends: Container[int]) -> bool:
        if self._matcher is None:
            if token in ends:
                return True
            found = self._mark(self._tail + piece(token))
            return found is None or not found or self._started(found) is not None
        if token in ends:
            return bool(self._matcher.is_accepting())
        return self._matcher.validate_tokens([token]) == 1

    def _allowed(self) -> Tokens:
        assert self._matcher is not None
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        tokens = np.flatnonzero(np.unpackbits(bits, bitorder="little")).astype(np.int32)
        own = self._compiler.end_ids
        tokens = tokens[~np.isin(tokens, own)]
        if self._matcher.is_accepting() or not len(tokens):
            tokens = np.concatenate([tokens, np.array(own, np.int32)])
        return tokens
