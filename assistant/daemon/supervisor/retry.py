"""Has a request answered though engines die over it or are refused memory.

An answer that is told again from its start after its engine was lost. Pure.

The same request gives the same text, so what was passed on already is left out and the answer goes
on as if nothing had happened. Where the text comes out otherwise (another cache type can turn a
near tie) the answer cannot go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from msgspec.structs import replace

from assistant.daemon.supervisor.crash_cause import from_outside
from assistant.engine.types import Delta, Done, GenerateRequest, ModelInfo
from assistant.errors import EngineError, LoadError, RefusedError, UnderkeelError, WorkerDiedError


class DivergedError(Exception):
    """The answer that is told again is another one."""


class Replay:
    """Passes on what is new of an answer, however often it begins anew."""

    def __init__(self) -> None:
        self._passed = ""
        self._told = ""

    def begin(self) -> None:
        """The answer is told from its start."""
        self._told = ""

    def news(self, delta: Delta) -> Delta | None:
        """What of a piece was not passed on before; None for nothing.

        Raises:
            DivergedError: it differs from what was passed on.
        """
        start = len(self._told)
        self._told += delta.text
        known = self._passed[start : start + len(delta.text)]
        if not delta.text.startswith(known):
            raise DivergedError
        if len(known) == len(delta.text):
            return delta if not delta.text else None
        self._passed = self._told
        return replace(delta, text=delta.text[len(known) :]) if known else delta

    def end(self) -> None:
        """The answer is whole.

        Raises:
            DivergedError: it is shorter than what was passed on.
        """
        if self._told != self._passed:
            raise DivergedError


log = logging.getLogger(__name__)

# After a death once more, after a refusal as long as there are rungs below.
_MOST_FAILURES = 12
_MOST_DEATHS = 1
_PATIENCE_S = 120.0  # with a request that has no limit of its own
_LOST = (WorkerDiedError, RefusedError, LoadError)


class Answering(Protocol):
    """Who answers: an engine that may be replaced between two attempts.

    Attributes:
        info: what is served.
        shape: counts the shapes that were served.
    """

    info: ModelInfo | None
    shape: int

    def attempt(self, request: GenerateRequest) -> AsyncGenerator[Delta | Done, None]:
        """Stream an answer, or raise what the engine died of."""
        ...

    async def mended(self, error: UnderkeelError, shape: int) -> bool:
        """Wait until there is an engine again; False where it would be the one that failed."""
        ...


async def persevere(
    host: Answering, request: GenerateRequest
) -> AsyncGenerator[Delta | Done, None]:
    """Stream the answer; the last item is a Done. Closing the generator cancels the request.

    A request whose engine died, or was refused the memory to go on, is tried again when the engine
    is back: it may only have been beside the one that was fatal. Who kills an engine from outside
    says nothing about the request, so that is never held against it within its time. What was told
    of its answer is not told again.
    """
    replay = Replay()
    failure: UnderkeelError | None = None
    ends_s = time.monotonic() + (request.time_limit_ms / 1000 or _PATIENCE_S)
    failures = deaths = 0
    while True:
        replay.begin()
        shape = host.shape
        try:
            fitting = _fitting(request, host.info, ends_s if failure else None)
            async with aclosing(host.attempt(fitting)) as stream:
                async for item in stream:
                    if isinstance(item, Done):
                        replay.end()
                        yield item
                    elif (news := replay.news(item)) is not None:
                        yield news
            return
        except DivergedError:
            raise failure or EngineError("the answer came out otherwise") from None
        except _LOST as error:
            failure = error
            outside = isinstance(error, WorkerDiedError) and from_outside(error)
            failures += not outside
            deaths += isinstance(error, WorkerDiedError) and not outside
            spent = outside and time.monotonic() > ends_s
            if failures == _MOST_FAILURES or deaths > _MOST_DEATHS or spent:
                raise
            if not await host.mended(error, shape):
                raise
            log.info("request %s is tried again", request.id)


def _fitting(
    request: GenerateRequest, info: ModelInfo | None, ends_s: float | None
) -> GenerateRequest:
    """The request with an answer no longer than the context of now, and the time, allow."""
    if info is not None and info.n_ctx:
        room = max(info.n_ctx - len(request.prompt), 0)
        request = replace(request, max_tokens=min(request.max_tokens, room))
    if ends_s is not None and request.time_limit_ms:
        left_ms = max(int((ends_s - time.monotonic()) * 1000), 1)
        request = replace(request, time_limit_ms=left_ms)
    return request
