"""Retries requests whose engine died or was refused memory, and continues their answers.

The same request gives the same text, so the part that was passed on already is skipped. If the new
text diverged (another cache type can decide a near tie differently), the request is repeated once
more, as one whose answer has to start with the part that was passed on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeVar

from msgspec.structs import replace

from assistant.daemon.crash_history import from_outside
from assistant.engine.types import Delta, Done, GenerateRequest, ModelInfo
from assistant.errors import (
    EngineError,
    LoadError,
    ModelChangedError,
    RefusedError,
    UnderkeelError,
    WorkerDiedError,
)
from assistant.wire import ServiceState

log = logging.getLogger(__name__)

T = TypeVar("T")


class DivergedError(Exception):
    """The repeated answer differs from the part that was passed on."""


class Replay:
    """Passes on the new part of an answer, however often it restarts. Pure."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._known = ""  # what was passed on before the answer restarted
        self._passed_length = self._read_length = 0
        self._tokens_passed = self._tokens_read = 0

    @property
    def passed(self) -> str:
        """The text that was passed on so far."""
        return "".join(self._parts)

    def begin(self) -> None:
        """The answer restarts."""
        self._known = self.passed
        self._read_length = self._tokens_read = 0

    def new_part(self, delta: Delta) -> Delta | None:
        """The part of a piece that was not passed on before; None for nothing.

        Raises:
            DivergedError: it differs from what was passed on.
        """
        known_tokens = max(self._tokens_passed - self._tokens_read, 0)
        self._tokens_read += len(delta.tokens)
        self._tokens_passed = max(self._tokens_passed, self._tokens_read)
        tokens, logprobs = delta.tokens[known_tokens:], delta.logprobs[known_tokens:]
        start, self._read_length = self._read_length, self._read_length + len(delta.text)
        known = self._known[start : start + len(delta.text)]
        if not delta.text.startswith(known):
            raise DivergedError
        if len(known) == len(delta.text):
            return replace(delta, text="", tokens=tokens, logprobs=logprobs) if tokens else None
        new = delta.text[len(known) :]
        self._parts.append(new)
        self._passed_length = self._read_length
        return replace(delta, text=new, tokens=tokens, logprobs=logprobs)

    def end(self) -> None:
        """The answer is complete.

        Raises:
            DivergedError: it is shorter than what was passed on.
        """
        if self._read_length != self._passed_length:
            raise DivergedError


# Retried once after a death, and after a refusal while there are rungs below.
_MOST_FAILURES = 12
_MOST_DEATHS = 1
PATIENCE_S = 120.0  # with a request that has no limit of its own
_LOST = (WorkerDiedError, RefusedError, LoadError)


class Answering(Protocol):
    """An engine that may be replaced between two attempts.

    Attributes:
        info: what is served.
        shape, edition: number of shapes and of model files served so far.
    """

    info: ModelInfo | None
    shape: int
    edition: int

    def attempt(
        self, request: GenerateRequest
    ) -> AbstractAsyncContextManager[AsyncGenerator[Delta | Done, None]]:
        """The engine's own stream of an answer; leaving the context closes it.

        Raises the error that the engine died of.
        """
        ...

    def answered(self) -> None:
        """An answer is complete."""
        ...

    async def recovered(self, error: UnderkeelError, shape: int) -> bool:
        """Wait until an engine is available; False where it would be the one that failed."""
        ...


async def generate(
    supervisor: Answering, request: GenerateRequest, edition: int | None = None
) -> AsyncGenerator[Delta | Done, None]:
    """Stream the answer; the last item is a Done. Closing the generator cancels the request.

    A request whose engine died, or was refused memory, is retried when the engine is available
    again: another request may have caused it. An engine killed from outside says nothing about the
    request, so such deaths are not counted within its time limit. No part of an answer is sent
    twice.

    Args:
        edition: the one that the prompt was encoded for; None for any.

    Raises:
        ModelChangedError: another edition is served: the model's file was replaced.
    """
    replay = Replay()
    failure: UnderkeelError | None = None
    ends_s = time.monotonic() + (request.time_limit_ms / 1000 or PATIENCE_S)
    failures = deaths = 0
    while True:
        replay.begin()
        shape = supervisor.shape
        try:
            fitting = _fitting(request, supervisor.info, ends_s if failure else None)
            async with supervisor.attempt(fitting) as stream:
                if edition is not None and edition != supervisor.edition:
                    raise ModelChangedError(
                        "the model's file was replaced since the prompt was encoded",
                        subject=request.id,
                        advice="Try again",
                    )
                async for item in stream:
                    if isinstance(item, Done):
                        replay.end()
                        supervisor.answered()
                        yield item
                    elif (new := replay.new_part(item)) is not None:
                        yield new
            return
        except DivergedError:
            again = _continued(request, replay.passed)
            if again is None:
                raise EngineError(
                    "the engine was restarted in the middle of the answer, and its new answer"
                    " differs from the part that was sent",
                    subject=request.id,
                    advice="Try again",
                ) from failure
            log.info("request %s is retried from what was sent", request.id)
            request = again
        except _LOST as error:
            failure = error
            outside = isinstance(error, WorkerDiedError) and from_outside(error)
            failures += not outside
            deaths += isinstance(error, WorkerDiedError) and not outside
            spent = outside and time.monotonic() > ends_s
            if failures == _MOST_FAILURES or deaths > _MOST_DEATHS or spent:
                raise
            if not await supervisor.recovered(error, shape):
                raise
            log.info("request %s is retried", request.id)


def _continued(request: GenerateRequest, passed: str) -> GenerateRequest | None:
    """The request for an answer that starts with what was passed on; None where that was tried, or
    where the text alone does not say which tokens it is made of."""
    if request.constraint or request.visible_tokens or request.logprobs is not None:
        return None
    if len(request.must_start_with) >= len(passed):
        return None
    return replace(request, must_start_with=passed, unlike="")


def _fitting(
    request: GenerateRequest, info: ModelInfo | None, ends_s: float | None
) -> GenerateRequest:
    """The request, limited to what the current context and the remaining time allow."""
    if info is not None and info.n_ctx:
        free = max(info.n_ctx - len(request.prompt), 0)
        request = replace(request, max_tokens=min(request.max_tokens, free))
    if ends_s is not None and request.time_limit_ms:
        left_ms = max(int((ends_s - time.monotonic()) * 1000), 1)
        request = replace(request, time_limit_ms=left_ms)
    return request


class Recoverable(Protocol):
    """An engine that is loaded again when it died."""

    @property
    def state(self) -> ServiceState: ...

    def watched(self) -> AbstractAsyncContextManager[None]:
        """Around a use of the engine: notices its death, and reports what it means."""
        ...

    async def usable(self, within_s: float | None = None) -> ModelInfo:
        """Wait for a model that is served."""
        ...


async def persist(engine: Recoverable, use: Callable[[], Awaitable[T]]) -> T:
    """Use the engine, and again once it is back if it dies or is found dead: once more where the
    use may have caused that, for `PATIENCE_S` where the engine was killed from outside."""
    ends_s, faults = time.monotonic() + PATIENCE_S, 0
    while True:
        try:
            async with engine.watched():
                return await use()
        except WorkerDiedError as error:
            faults += not from_outside(error)
            if faults > 1 or time.monotonic() > ends_s:
                raise
        except LoadError:
            # It was unloaded, or is loaded in another way, while this waited for it.
            if engine.state is ServiceState.READY or time.monotonic() > ends_s:
                raise
        await engine.usable(PATIENCE_S)


class Gate:
    """Lets many requests through to an engine at once; closed only while none is inside. One event
    loop."""

    def __init__(self) -> None:
        self._open, self._calm = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._calm.set()
        self._inside = 0

    async def opened(self) -> None:
        """Wait until it is not closed."""
        await self._open.wait()

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Inside; closing the gate waits for the end of this block."""
        self._inside += 1
        self._calm.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._calm.set()

    @asynccontextmanager
    async def drained(self) -> AsyncIterator[None]:
        """Closed: no request is inside, and new ones wait."""
        self._open.clear()
        try:
            await self._calm.wait()
            yield
        finally:
            self._open.set()
