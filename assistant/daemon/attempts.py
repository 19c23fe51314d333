"""Has a request answered though engines die over it or are refused memory."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from msgspec.structs import replace

from assistant.daemon.autopsy import cause_of
from assistant.daemon.replay import DivergedError, Replay
from assistant.daemon.supervision import Cause
from assistant.engine.types import Delta, Done, GenerateRequest, ModelInfo
from assistant.errors import EngineError, LoadError, RefusedError, UnderkeelError, WorkerDiedError

log = logging.getLogger(__name__)

# After a death once more, after a refusal as long as there are rungs below.
_MOST_ATTEMPTS = 12
_MOST_DEATHS = 1
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
    is back: it may only have been beside the one that was fatal. What was told of its answer is not
    told again.
    """
    replay = Replay()
    failure: UnderkeelError | None = None
    ends_s = time.monotonic() + request.time_limit_ms / 1000
    deaths = 0
    for attempt in range(1, _MOST_ATTEMPTS + 1):
        replay.begin()
        shape = host.shape
        try:
            fitting = _fitting(request, host.info, ends_s if attempt > 1 else None)
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
            if isinstance(error, WorkerDiedError):
                # Who kills from outside says nothing about the request.
                deaths += cause_of(error, killed_for_memory=False) is not Cause.OUTSIDE
            if attempt == _MOST_ATTEMPTS or deaths > _MOST_DEATHS:
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
