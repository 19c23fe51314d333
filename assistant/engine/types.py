"""The contract of every engine, local or remote, and its requests, answers and counters.

These are frozen data, the same over the worker's pipe. Implementations of the contract: the llama
worker (`assistant.engine.local`), remote servers, and `FakeEngine` for tests. All raise only
`assistant.errors.EngineError` and its children.

Tokens are ids of the model's own vocabulary. Times are milliseconds, sizes bytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec
from msgspec.structs import replace

from assistant.llama import (
    GREEDY,
    DeviceFree,
    DeviceMemory,
    LoadSpec,
    Sampling,
    TensorOverride,
)

__all__ = [
    "GREEDY",
    "Constraint",
    "Counting",
    "Delta",
    "DeviceFree",
    "DeviceMemory",
    "Done",
    "EngineStats",
    "GenerateRequest",
    "LoadSpec",
    "ModelInfo",
    "Priority",
    "Sampling",
    "SlotState",
    "StopReason",
    "StopTexts",
    "TensorOverride",
    "Timings",
    "TokenLogprob",
    "shared_length",
]


_NEWEST_WEIGHT = 0.2  # of the newest answer in the moving averages of rates
_STRIDE = 256


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix of two token lists.

    Whole strides are compared at C speed, the last one token by token. Both
    must be the same type of sequence: a list never equals a tuple.
    """
    most = min(len(one), len(other))
    at = 0
    while at + _STRIDE <= most and one[at : at + _STRIDE] == other[at : at + _STRIDE]:
        at += _STRIDE
    while at < most and one[at] == other[at]:
        at += 1
    return at


class _Prefix:
    """The start of some of the stop texts `low` to `high`, which are in order.

    Attributes:
        next: by the next character, the longer starts that an answer has come by so far.
        shorter: the longest other start that it ends with; itself for the empty one.
        ended: the longest stop text that it ends with, or "".
    """

    __slots__ = ("ended", "high", "length", "low", "next", "shorter")

    def __init__(self, low: int, high: int, length: int) -> None:
        self.low, self.high, self.length = low, high, length
        self.next: dict[str, _Prefix] = {}
        self.shorter = self
        self.ended = ""


class StopTexts:
    """Ends an answer at the first of some texts; what may be the start of one is held back.

    The search is Aho and Corasick's, with its states made when an answer first comes by them: the
    work for a character does not depend on how many stop texts there are, nor how long they are.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted({stop for stop in stops if stop})
        self._root = self._at = _Prefix(0, len(self._stops), 0)
        self._held = ""

    def add(self, text: str) -> tuple[str, str]:
        """The text that is sure now, and the stop text that ended the answer (or "")."""
        if not self._stops:
            return text, ""
        at, end, first, found = self._at, len(self._held), -1, ""
        for char in text:
            at, end = self._step(at, char), end + 1
            if at.ended and (first < 0 or end - len(at.ended) < first):
                first, found = end - len(at.ended), at.ended
        self._held += text
        if found:
            sure, self._held, self._at = self._held[:first], "", self._root
            return sure, found
        cut = len(self._held) - at.length
        sure, self._held, self._at = self._held[:cut], self._held[cut:], at
        return sure, ""

    def rest(self) -> str:
        """What was held back, once no stop text can follow."""
        text, self._held, self._at = self._held, "", self._root
        return text

    def _step(self, at: _Prefix, char: str) -> _Prefix:
        """The longest start of a stop text that `at` and `char` end with."""
        longer: list[_Prefix] = []
        while (found := at.next.get(char)) is None:
            if self._goes_on(at, char):
                longer.append(self._longer(at, char))
            if at is self._root:
                found = at
                break
            at = at.shorter
        for one in reversed(longer):  # the shortest first: each ends with the one before
            one.shorter, found = found, one
            one.ended = one.ended or one.shorter.ended
        return found

    def _goes_on(self, at: _Prefix, char: str) -> bool:
        low = self._find(at, char)
        return low < at.high and self._stops[low][at.length : at.length + 1] == char

    def _longer(self, at: _Prefix, char: str) -> _Prefix:
        low, high = self._find(at, char), self._find(at, char, after=True)
        longer = at.next[char] = _Prefix(low, high, at.length + 1)
        if len(self._stops[low]) == longer.length:  # the shortest is the first in order
            longer.ended = self._stops[low]
        return longer

    def _find(self, at: _Prefix, char: str, *, after: bool = False) -> int:
        """Where the stop texts that continue with `char` begin in order, or end."""
        bisect = bisect_right if after else bisect_left
        next_char = lambda stop: stop[at.length : at.length + 1]  # noqa: E731
        return bisect(self._stops, char, at.low, at.high, key=next_char)


class Priority(StrEnum):
    """Who goes first when several requests wait. An interactive request preempts the others."""

    INTERACTIVE = "interactive"
    EXPLAIN = "explain"
    BACKGROUND = "background"


class StopReason(StrEnum):
    """Why a generation ended."""

    EOS = "eos"
    STOP_TEXT = "stop_text"
    LENGTH = "length"
    TIME = "time"
    CANCELLED = "cancelled"


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """A grammar that the answer, or parts of it, have to match.

    Attributes:
        grammar: in llguidance's Lark dialect.
        at_once: it holds from the answer's start on.
        triggers: texts that begin the grammar, wherever the answer says one; what comes before and
            after is free. after: the same, but the grammar begins behind the text.
        ends: the answer ends with the grammar.
        json_schema: the JSON schema (as text) that `grammar` was made of; gbnf: the same for
            llama.cpp's grammar format. For remote servers, which do not read the Lark dialect.
    """

    grammar: str
    at_once: bool = False
    triggers: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    ends: bool = False
    json_schema: str = ""
    gbnf: str = ""


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="generate"):
    """One completion to compute; also the frame that carries it to the worker.

    Attributes:
        id: unique among the requests in flight.
        prompt: token ids; what the client counted is what is evaluated.
        max_tokens: most tokens to generate; 0 evaluates the prompt only (a warm-up).
        stop: texts that end the generation; the stop text itself is not part of the answer.
        stop_tokens: token ids that end it besides the model's own end-of-generation tokens.
        document: where it comes from; a newer request of the same document cancels an older one.
        must_start_with: UTF-8 text that the answer has to begin with (token healing); it is part
            of the answer's text.
        unlike: a line that the answer, `must_start_with` included, should not be; where the model
            says it, a greedy answer leaves it where the model is least sure of it. An engine that
            cannot go back in a sequence leaves the answer as it is.
        time_limit_ms: ends the generation with what there is; 0 means no limit.
        cache: whether the sequence may be kept for reuse by later requests.
        speculate: whether tokens may be drafted and verified.
        exact_drafts: whether the text has to be the one without drafts. If not, tokens that lead by
            less than rounding can move them are believed, and nothing is evaluated twice.
        draft_from: token ids of text that is not in the prompt and that the answer may repeat, the
            likeliest last; it changes the speed only.
        prompt_model: name of the model whose token ids the prompt holds; empty where unknown.
        constraint: what the answer has to match; None for a free one.
        visible_tokens: control tokens whose text is part of the answer's text; that of others is
            not.
        turns: the conversation that the prompt stands for, as (role, text), for an engine whose
            server writes conversations itself (`ModelInfo.writes_chat`).
        logprobs: how many of the likeliest tokens to report with each token of the answer; 0
            reports that token's probability alone, None nothing.
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    priority: Priority = Priority.INTERACTIVE
    document: str = ""
    must_start_with: str = ""
    unlike: str = ""
    time_limit_ms: int = 0
    cache: bool = True
    speculate: bool = True
    exact_drafts: bool = True
    draft_from: tuple[int, ...] = ()
    prompt_model: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    visible_tokens: tuple[int, ...] = ()
    constraint: Constraint | None = None
    logprobs: int | None = None


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """What one request cost.

    Attributes:
        prompt_tokens: length of the prompt.
        cached_tokens: of these, how many were already in the KV cache.
        evaluated_tokens: of these, how many were evaluated for this request.
        generated_tokens: tokens sampled, the end-of-generation token included.
        drafted_tokens, accepted_tokens: speculation; zero where none ran.
        queue_ms, prefill_ms, decode_ms: where the time went.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    evaluated_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token and its log probability by the model's own logits, before any sampling parameter.

    Attributes:
        text: its bytes, control tokens rendered.
        top: the likeliest tokens at the same place, best first.
    """

    token: int
    text: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class Delta(msgspec.Struct, frozen=True, kw_only=True, tag="delta"):
    """A piece of the answer: whole UTF-8 characters, never half of one.

    `logprobs`: of `tokens`, where the request asked for them.
    """

    id: str
    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """The end of an answer."""

    id: str
    reason: StopReason
    timings: Timings = Timings()
    stop_text: str = ""


class Counting(StrEnum):
    """How the tokens of a model are counted outside its engine."""

    EXACT = "exact"
    ESTIMATE = "estimate"


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine serves.

    Attributes:
        name: `general.name`, or the file's stem.
        path: the GGUF's path; empty for a remote engine.
        architecture: `general.architecture`; empty where unknown.
        n_ctx: cells of the context; n_ctx_train: the length the model was trained for.
        reuse: how a cached prefix may be reused: "partial" (cut anywhere) or "append" (only
            extended: recurrent and hybrid models).
        load_ms: how long the load took.
        server: address of the remote server that answers; empty for an engine of this machine.
        vocabulary: a GGUF on this machine that holds its vocabulary; empty where `path` does, and
            where tokens are estimated (`assistant.models.families`).
        chat_template: in Jinja; empty where there is none. tool_template: the one for requests
            with tools, where the model has its own for them.
        special_tokens: texts of tokens by the names that templates use ("eos_token"), in pairs.
        counting: whether token counts made here are the model's own, or an estimate above them.
        family: of `families.toml`; empty where vocabulary and name decide it.
        writes_chat: the server applies its own chat template; this side has none.
        tells_tokens: whether the ids of an answer's tokens are known.
    """

    name: str
    path: str = ""
    architecture: str = ""
    n_vocab: int = 0
    n_ctx: int = 0
    n_ctx_train: int = 0
    n_params: int = 0
    size_bytes: int = 0
    n_seq_max: int = 1
    add_bos: bool = False
    bos: int = -1
    chat_template: str = ""
    tool_template: str = ""
    special_tokens: tuple[tuple[str, str], ...] = ()
    reuse: str = "partial"
    load_ms: float = 0.0
    memory: tuple[DeviceMemory, ...] = ()
    server: str = ""
    vocabulary: str = ""
    counting: Counting = Counting.EXACT
    family: str = ""
    writes_chat: bool = False
    tells_tokens: bool = True

    @property
    def vocabulary_path(self) -> str:
        """The file on this machine that holds its vocabulary; empty where there is none."""
        return self.vocabulary or ("" if self.server else self.path)


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence of the KV cache as seen from outside."""

    id: int
    tokens: int
    busy: bool
    document: str = ""


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the load, and gauges of now.

    Attributes:
        cells_used, cells_total: KV cells.
        waiting, running: requests.
        evaluated_tokens, cached_tokens, generated_tokens: totals since the load.
        ahead_tokens: of those evaluated, the ones of warm-ups.
        drafted_tokens, accepted_tokens: of those generated, what speculation offered and got right.
        prefill_tokens_per_s, decode_tokens_per_s: moving averages; 0 before the first request.
        rss_bytes: the engine process's resident memory; 0 for a remote engine.
        free_share: what is free of the cache by the engine's own gauge, 0 to 1.
        refused: how often memory for a computation was refused since the load.
        dropped: how many idle sequences were forgotten since the load because others needed their
            cells.
        devices: the GPUs in use, as ggml sees them.
    """

    cells_used: int = 0
    cells_total: int = 0
    waiting: int = 0
    running: int = 0
    requests: int = 0
    cancelled: int = 0
    evaluated_tokens: int = 0
    cached_tokens: int = 0
    ahead_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    rss_bytes: int = 0
    free_share: float = 1.0
    refused: int = 0
    dropped: int = 0
    slots: tuple[SlotState, ...] = ()
    devices: tuple[DeviceFree, ...] = ()

    def after(self, done: Done) -> EngineStats:
        """The counters with one more answer; the rates are moving averages."""
        new = done.timings
        return replace(
            self,
            requests=self.requests + 1,
            cancelled=self.cancelled + (done.reason is StopReason.CANCELLED),
            evaluated_tokens=self.evaluated_tokens + new.evaluated_tokens,
            cached_tokens=self.cached_tokens + new.cached_tokens,
            generated_tokens=self.generated_tokens + new.generated_tokens,
            prefill_tokens_per_s=_average(
                self.prefill_tokens_per_s, new.evaluated_tokens, new.prefill_ms
            ),
            decode_tokens_per_s=_average(
                self.decode_tokens_per_s, new.generated_tokens, new.decode_ms
            ),
        )


def _average(old: float, tokens: int, ms: float) -> float:
    if ms <= 0 or not tokens:
        return old
    new = 1000.0 * tokens / ms
    return new if not old else old + _NEWEST_WEIGHT * (new - old)


Progress = Callable[[float], None]
"""Called with the loaded share, 0 to 1, as a model loads."""


class Engine(Protocol):
    """A model that answers."""

    async def load(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        """Load (or reload) a model. Cancelling the awaiting task cancels the load.

        Raises:
            LoadError: the file is not loadable or memory was refused.
            WorkerDiedError: the process died while it loaded.
        """
        ...

    async def describe(self) -> ModelInfo:
        """What is served now. Raises LoadError where nothing is loaded."""
        ...

    async def tokenise(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`, without BOS. `special` reads control tokens written in the text."""
        ...

    async def detokenise(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`, control tokens rendered; invalid UTF-8 becomes U+FFFD."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        """Stream the answer; the last item is a Done. Closing the iterator cancels the request."""
        ...

    async def stats(self) -> EngineStats: ...

    async def close(self) -> None:
        """End the engine and give its memory back. Safe to call twice."""
        ...


class ElasticEngine(Engine, Protocol):
    """An engine that can give memory back while it serves."""

    async def drop_idle(self) -> int:
        """Forget every sequence that no request is using. Returns the freed cells."""
        ...

    async def touch(self) -> int:
        """Keep the model's pages in host memory by reading a byte of each; returns how many.

        Stops early for anything that is asked meanwhile.
        """
        ...

    async def reshape(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        """Go over to `spec`, which may differ in anything.

        Requests in flight wait and go on; sequences are carried over where they fit and the
        cache types stay the same, and are evaluated again where not.

        Raises:
            LoadError: the new shape was refused; nothing is loaded then.
            WorkerDiedError: the process died over it.
        """
        ...

    async def unload(self) -> None:
        """Give all memory back. Requests raise LoadError until `load` or `reshape`."""
        ...
