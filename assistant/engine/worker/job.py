"""One request inside the worker: what it has evaluated, generated, and still holds back. Pure.

`Unlike` keeps an answer from repeating the line below the cursor, which models tend to do. While an
answer is nothing but the start of that line, the best other token is noted at each position. If the
line is completed, the answer is taken back to the position where the model was least sure, and
continues with the other token there. This costs one more line to decode, and only where the line
came.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

import numpy as np

from assistant.engine.types import (
    Delta,
    Done,
    GenerateRequest,
    Priority,
    StopReason,
    StopTexts,
    Timings,
    TokenLogprob,
)
from assistant.engine.worker.constraint import Guide
from assistant.engine.worker.speculation import NO_DRAFT, Draft, Lookup
from assistant.errors import ContextFullError, EngineError, RefusedError, RequestError
from assistant.llama.context import DecodeStatus, Logits, Sampler, Tokens

MOST_BEHIND = 5.0
"""By how much the other token's logit may be behind: one of e^5 = 150 of the likelihood. What is
further behind is not worth showing, and nothing is."""

_LOOKED_AT = 24


class Stance(Enum):
    """How an answer stands to the unwanted line."""

    WITHIN = auto()
    LEFT = auto()
    WHOLE = auto()


@dataclass(frozen=True)
class Fork:
    """Another token to continue with after the answer's first `at` tokens."""

    at: int
    token: int
    behind: float


@dataclass
class Unlike:
    """An unwanted line, and an answer that says it so far.

    Attributes:
        line: its bytes, without a line end.
        piece: the bytes of a token; `ends`: the tokens that end an answer.
        tokens: the answer so far; held back, since it may have to be taken back.
    """

    line: bytes
    piece: Callable[[int], bytes]
    ends: Container[int]
    tokens: list[int] = field(default_factory=list)
    _said: bytes = b""
    _fork: Fork | None = None

    def weigh(self, token: int, logits: Logits, allowed: Tokens | None = None) -> None:
        """Note what could come instead of `token`, which is the next."""
        values = logits if allowed is None else logits[allowed]
        count = min(_LOOKED_AT, len(values))
        best = np.argpartition(values, -count)[-count:]
        for at in best[np.argsort(-values[best])]:
            other = int(at if allowed is None else allowed[at])
            behind = float(logits[token] - values[at])
            if self._leaves(other):
                nearest = self._fork.behind if self._fork else MOST_BEHIND
                if behind < nearest:
                    self._fork = Fork(len(self.tokens), other, behind)
                return

    def add(self, token: int) -> Stance:
        """The answer goes on with `token`."""
        self.tokens.append(token)
        if token in self.ends:
            return Stance.WHOLE if self._said.rstrip() == self.line else Stance.LEFT
        self._said += self.piece(token)
        if self.line.startswith(self._said):
            return Stance.WITHIN
        after = self._said[len(self.line) :]
        if not self._said.startswith(self.line) or after.split(b"\n")[0].strip(b" \t\r"):
            return Stance.LEFT
        return Stance.WHOLE if b"\n" in after else Stance.WITHIN

    def fork(self) -> Fork | None:
        """Where to leave the line, once it came whole; None where the model sees nothing else."""
        return self._fork

    def _leaves(self, token: int) -> bool:
        """Whether `token` says something, and not what the line goes on with."""
        piece = self.piece(token)
        if token in self.ends or not piece.strip() or piece[:1] in b"\r\n":
            return False
        rest = self.line[len(self._said) :]
        return not rest.startswith(piece) and not (rest and piece.startswith(rest))


def check(request: GenerateRequest, *, n_vocab: int, room: int) -> None:
    """Whether a request can be answered at all, with `room` cells for its sequence.

    Raises:
        RequestError: it is malformed. ContextFullError: it can never fit.
    """
    if not request.prompt or not all(0 <= token < n_vocab for token in request.prompt):
        raise RequestError("the prompt is empty or holds unknown tokens", subject=request.id)
    if not all(0 <= token < n_vocab for token in request.draft_from):
        raise RequestError("`draft_from` holds unknown tokens", subject=request.id)
    if len(request.prompt) + request.max_tokens > room:
        raise ContextFullError(
            f"{len(request.prompt)} prompt tokens and {request.max_tokens} to generate"
            f" do not fit {room} cells",
            subject=request.id,
            advice="Shorten the prompt",
        )


def replaces(new: GenerateRequest, old: GenerateRequest) -> bool:
    """Whether a newer request for the same document makes an older one needless."""
    return (
        new.document == old.document != ""
        and new.priority is old.priority is not Priority.EXPLAIN
        and new.id != old.id
    )


def cause_of(verdict: DecodeStatus) -> EngineError:
    """Why the requests of a batch fail, where nothing could be given up for them."""
    if verdict is DecodeStatus.NO_CELLS:
        return ContextFullError("the KV cache is full", advice="Try again with a shorter prompt")
    if verdict is DecodeStatus.NO_MEMORY:
        return RefusedError("memory for the computation was refused", advice="Try again")
    if verdict is DecodeStatus.FAILED:
        return RefusedError("a device failed to compute", advice="Try again")
    return EngineError(f"llama.cpp failed to evaluate ({verdict.name})", advice="Try again")


class AnswerText:
    """Turns token bytes into text: whole characters only, stop texts held back until sure."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopTexts(stops)
        self.tokens: list[int] = []
        """Tokens that no piece of the answer has reported yet."""
        self.logprobs: list[TokenLogprob] = []
        """Those of `tokens`, where they are requested."""

    def add(self, piece: bytes) -> tuple[str, str]:
        """The text that is sure now, and the stop text that ended the answer (or "")."""
        return self._stops.add(self._decoder.decode(piece))

    def take_tokens(self) -> tuple[int, ...]:
        """The tokens for the next piece to report. Those of held back text come with it, since a
        character or a stop text may span tokens (case S14)."""
        found = tuple(self.tokens)
        self.tokens.clear()
        return found

    def report(self, request_id: str, text: str, *, stopped: bool = False) -> Delta | None:
        """The piece of the answer with this text and the tokens that are due; None for nothing.

        Args:
            stopped: a stop text has ended the answer; its tokens have no log probabilities.
        """
        logprobs, self.logprobs = self.logprobs, []
        if stopped:
            left, size = len(text.encode()), sum(len(one.text) for one in logprobs)
            while logprobs and size - len(logprobs[-1].text) >= left:
                size -= len(logprobs.pop().text)
        tokens = self.take_tokens()
        if not text and not tokens:
            return None
        return Delta(id=request_id, text=text, tokens=tokens, logprobs=tuple(logprobs))

    def rest(self) -> str:
        """What was held back, once no stop text can follow; half a character is dropped."""
        return self._stops.rest()


class Doubted(NamedTuple):
    """Logits after a batch of `rows` with a draft, while so many cells were in use."""

    rows: int
    cells: int
    logits: Logits


@dataclass
class Job:
    """A request in progress.

    Attributes:
        slot: its sequence; -1 while it waits.
        cached: prompt tokens found in the cache.
        text: all tokens that come before the next one to sample: the prompt, and once the job was
            interrupted what it had generated.
        apart: its answer grows in another slot than the prompt was read in.
        parked: it lost its place because the KV cache is full, and waits until another job ends.
        todo: tokens to evaluate next: the rest of the text, later the last sampled one.
        must_start_with: bytes that the answer still has to begin with.
        unlike: keeps it from a line that it should not be, while it says nothing else.
        guide: keeps it within its grammar.
        lookup: prompt, answer and `draft_from`, to draft from; None where drafts are not for it.
        draft: what is evaluated after `todo` in the step that runs.
        drafted_from: how many tokens come before the first one whose cells a batch with a draft
            has written; -1 where there is none.
        unsure: for each draft since those cells, how many tokens it matched.
        singly: its tokens are evaluated as without drafts, to write those cells again.
        doubted: the logits that are to come again if a batch like theirs needs no margin.
    """

    request: GenerateRequest
    sampler: Sampler
    answer_text: AnswerText
    slot: int = -1
    text: Sequence[int] = ()
    apart: bool = False
    parked: bool = False
    cached: int = 0
    todo: list[int] = field(default_factory=list)
    must_start_with: bytes = b""
    unlike: Unlike | None = None
    guide: Guide | None = None
    lookup: Lookup | None = None
    draft: Draft = NO_DRAFT
    drafted_from: int = -1
    unsure: list[int] = field(default_factory=list)
    singly: bool = False
    doubted: Doubted | None = None
    drafted: int = 0
    accepted: int = 0
    generated: int = 0
    evaluated: int = 0
    cancelled: bool = False
    came_s: float = field(default_factory=time.perf_counter)
    began_s: float = 0.0
    first_s: float = 0.0

    def __post_init__(self) -> None:
        self.text = self.text or self.request.prompt

    @property
    def decoding(self) -> bool:
        """Whether its next row brings a token of the answer."""
        return self.generated > 0 and len(self.todo) == 1

    @property
    def most_left(self) -> int:
        """Tokens that it may still generate."""
        return self.request.max_tokens - self.generated

    @property
    def late(self) -> bool:
        """Whether its time is up, counted from its arrival."""
        limit = self.request.time_limit_ms
        return 0 < limit <= (time.perf_counter() - self.came_s) * 1000

    def done(self, reason: StopReason, stop_text: str = "") -> Done:
        """Its end, with what it cost."""
        now = time.perf_counter()
        began, first = self.began_s or now, self.first_s or now
        return Done(
            id=self.request.id,
            reason=reason,
            stop_text=stop_text,
            timings=Timings(
                prompt_tokens=len(self.request.prompt),
                cached_tokens=self.cached,
                evaluated_tokens=self.evaluated,
                generated_tokens=self.generated,
                drafted_tokens=self.drafted,
                accepted_tokens=self.accepted,
                queue_ms=(began - self.came_s) * 1000,
                prefill_ms=(first - began) * 1000,
                decode_ms=(now - first) * 1000,
            ),
        )
