"""A deterministic engine without a model, for tests of everything that stands above an engine.

Its vocabulary is the 256 bytes of UTF-8: the token id is the byte. What it answers is a function
of the request, so a test can say exactly what it expects; what goes wrong is asked for by name
(`fail_next`, `kill`, `pause`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from msgspec.structs import replace

from assistant.engine.types import (
    Delta,
    Done,
    EngineStats,
    GenerateRequest,
    LoadSpec,
    ModelInfo,
    Progress,
    SlotState,
    StopReason,
    Timings,
    TokenLogprob,
    shared_length,
)
from assistant.errors import ContextFullError, LoadError, RequestError, UnderkeelError
from assistant.errors import WorkerDiedError as Died

Reply = Callable[[GenerateRequest], str]

DEFAULT_REPLY = "return answer\n"


@dataclass
class _Running:
    request: GenerateRequest
    cancelled: bool = False
    failure: UnderkeelError | None = None


@dataclass
class FakeEngine:
    """Answers with `reply(request)`, one byte a token, `token_ms` a token.

    Attributes:
        reply: the text of an answer; cut by the request's own limits as an engine would.
        token_ms, load_ms: how long a token and a load take.
        n_slots: how many prompts are remembered for reuse.
        n_vocab: how many token ids there are; those past the bytes stand for nothing.
        requests: every request that was started, in order.
        loads: every spec that was loaded, in order.
        touched: how often its pages were touched.
    """

    reply: Reply = lambda _: DEFAULT_REPLY
    token_ms: float = 0.0
    load_ms: float = 0.0
    n_slots: int = 4
    n_vocab: int = 256
    requests: list[GenerateRequest] = field(default_factory=list)
    loads: list[LoadSpec] = field(default_factory=list)
    touched: int = 0

    def __post_init__(self) -> None:
        self._spec: LoadSpec | None = None
        self._loaded = self._released = self._closed = False
        self._running: dict[str, _Running] = {}
        self._kept: list[tuple[int, ...]] = []
        self._failures: list[UnderkeelError] = []
        self._go = asyncio.Event()
        self._go.set()
        self._totals = EngineStats()

    # What a test asks for.

    def fail_next(self, error: UnderkeelError) -> None:
        """The next load or request raises `error`."""
        self._failures.append(error)

    def pause(self) -> None:
        """Requests stop before their next token until `resume`."""
        self._go.clear()

    def resume(self) -> None:
        self._go.set()

    def kill(self, exit_code: int | None = None) -> None:
        """Die as a worker does: requests in flight fail, the next one loads again."""
        self._loaded = False
        self._kept.clear()
        for running in self._running.values():
            death = Died("the engine's process ended", subject="fake", advice="Try again")
            death.exit_code = exit_code
            running.failure = death
        self.resume()

    def fail_running(self, error: UnderkeelError) -> None:
        """Every request in flight ends with `error`."""
        for running in self._running.values():
            running.failure = error

    @property
    def in_flight(self) -> int:
        return len(self._running)

    # The Engine contract.

    async def load(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        self._fail_if_asked()
        for step in range(5):
            if progress is not None:
                progress(step / 4)
            await asyncio.sleep(self.load_ms / 5000)
            if self._closed:
                raise LoadError("the engine is closed")
        self.loads.append(spec)
        self._spec, self._loaded, self._released = spec, True, False
        self._kept.clear()
        return await self.describe()

    async def describe(self) -> ModelInfo:
        if self._spec is None:
            raise LoadError("no model is loaded", advice="Load one first")
        return ModelInfo(
            name="fake",
            path=self._spec.path,
            architecture="bytes",
            n_vocab=self.n_vocab,
            n_ctx=self._spec.n_ctx,
            n_ctx_train=self._spec.n_ctx,
            n_seq_max=self.n_slots,
            load_ms=self.load_ms,
        )

    async def tokenise(self, text: str, *, special: bool = False) -> list[int]:  # noqa: ARG002
        self._check_not_released()
        return list(text.encode())

    async def detokenise(self, tokens: Sequence[int]) -> str:
        self._check_not_released()
        return bytes(tokens).decode("utf-8", "replace")

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        await self._ready(request)
        running = _Running(request)
        if request.document:
            for other in self._running.values():
                other.cancelled |= other.request.document == request.document
        self._running[request.id] = running
        self.requests.append(request)
        try:
            async for event in self._answer(running):
                if isinstance(event, Done):  # a caller may well stop here and never close us
                    self._running.pop(request.id, None)
                yield event
        finally:
            self._running.pop(request.id, None)

    async def stats(self) -> EngineStats:
        return replace(
            self._totals,
            cells_used=sum(map(len, self._kept)),
            cells_total=self._spec.n_ctx if self._spec else 0,
            running=len(self._running),
            slots=tuple(
                SlotState(id=number, tokens=len(kept), busy=False)
                for number, kept in enumerate(self._kept)
            ),
        )

    async def close(self) -> None:
        self.kill()
        self._spec, self._closed = None, True

    async def drop_idle(self) -> int:
        freed = sum(map(len, self._kept))
        self._kept.clear()
        return freed

    async def touch(self) -> int:
        self.touched += 1
        return 1

    async def reshape(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        kept = list(self._kept)
        info = await self.load(spec, progress)
        self._kept = [tokens for tokens in kept if len(tokens) < spec.n_ctx]
        return info

    async def unload(self) -> None:
        self._loaded, self._released = False, True
        self._kept.clear()

    # How it does it.

    def _fail_if_asked(self) -> None:
        if self._failures:
            raise self._failures.pop(0)

    def _check_not_released(self) -> None:
        if self._released:
            raise LoadError("the model was unloaded", advice="Load it again")

    async def _ready(self, request: GenerateRequest) -> None:
        self._fail_if_asked()
        self._check_not_released()
        if not self._loaded:
            if self._spec is None:
                raise LoadError("no model is loaded", advice="Load one first")
            await self.load(self._spec)
        if request.id in self._running:
            raise RequestError("this id is in flight already", subject=request.id)
        if not request.prompt or not all(0 <= token < self.n_vocab for token in request.prompt):
            raise RequestError("the prompt is empty or holds unknown tokens", subject=request.id)
        if self._spec is not None and len(request.prompt) + request.max_tokens > self._spec.n_ctx:
            raise ContextFullError(
                f"{len(request.prompt)} prompt tokens and {request.max_tokens} to generate"
                f" do not fit {self._spec.n_ctx} cells",
                subject=request.id,
                advice="Shorten the prompt",
            )

    async def _answer(self, running: _Running) -> AsyncIterator[Delta | Done]:
        request, started = running.request, perf_counter()
        cached = self._reuse(request)
        text, reason, stop_text = _cut(request, self.reply(request))
        sent: list[str] = []
        for character in text:
            await self._tick(running, len(character.encode()))
            if running.cancelled:
                reason, stop_text = StopReason.CANCELLED, ""
                break
            if 0 < request.time_limit_ms <= (perf_counter() - started) * 1000:
                reason, stop_text = StopReason.TIME, ""
                break
            sent.append(character)
            tokens = tuple(character.encode())
            logprobs = _logprobs(request, tokens)
            yield Delta(id=request.id, text=character, tokens=tokens, logprobs=logprobs)
        await self._tick(running, 0)
        if running.cancelled:
            reason, stop_text = StopReason.CANCELLED, ""
        timings = Timings(
            prompt_tokens=len(request.prompt),
            cached_tokens=cached,
            evaluated_tokens=len(request.prompt) - cached,
            generated_tokens=len("".join(sent).encode()) + (reason is StopReason.EOS),
            decode_ms=(perf_counter() - started) * 1000,
        )
        done = Done(id=request.id, reason=reason, timings=timings, stop_text=stop_text)
        self._totals = self._totals.after(done)
        yield done

    async def _tick(self, running: _Running, tokens: int) -> None:
        await asyncio.sleep(tokens * self.token_ms / 1000)
        await self._go.wait()
        if running.failure is not None:
            raise running.failure

    def _reuse(self, request: GenerateRequest) -> int:
        """Tokens of the prompt that a kept one shares; at least one is always evaluated."""
        if not request.cache:
            return 0
        shared = [shared_length(kept, request.prompt) for kept in self._kept]
        best = max(range(len(shared)), key=shared.__getitem__, default=-1)
        if best >= 0 and shared[best]:
            self._kept.pop(best)
        self._kept.append(request.prompt)
        del self._kept[: -self.n_slots]
        return min(shared[best], len(request.prompt) - 1) if best >= 0 else 0


def _logprobs(request: GenerateRequest, tokens: tuple[int, ...]) -> tuple[TokenLogprob, ...]:
    """Where they are requested: the token has -0.5, and those after it in the alphabet less."""
    most = request.logprobs
    if most is None:
        return ()

    def near(token: int, step: int = 0) -> TokenLogprob:
        other = (token + step) % 256
        return TokenLogprob(other, bytes([other]), -0.5 - step)

    return tuple(
        replace(near(token), top=tuple(near(token, step) for step in range(most)))
        for token in tokens
    )


def _cut(request: GenerateRequest, text: str) -> tuple[str, StopReason, str]:
    """The answer within the request's limits, why it ends, and the stop text that ended it."""
    if not text.startswith(request.must_start_with):
        text = request.must_start_with + text
    ends = [(place, stop) for stop in request.stop if (place := text.find(stop)) >= 0]
    place, stop = min(ends, default=(len(text), ""))
    head = text[:place]
    within = head.encode()[: request.max_tokens].decode("utf-8", "ignore")
    if len(within) < len(head) or not request.max_tokens:
        return within, StopReason.LENGTH, ""
    return within, StopReason.STOP_TEXT if stop else StopReason.EOS, stop
