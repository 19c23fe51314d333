"""Engines on other machines, or in other programs: llama-server, vLLM, anything like OpenAI's.

`FallbackEngine` answers with the model of this machine while the server cannot answer. A switch
between them changes the model, so a prompt of token ids must be built again: such a request ends
with a ModelChangedError, and `on_change` reports the model that is served now.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import cast

from assistant.engine.remote.engine import RemoteEngine
from assistant.engine.remote.failures import UnreachableError
from assistant.engine.types import (
    Delta,
    Done,
    ElasticEngine,
    EngineStats,
    GenerateRequest,
    LoadSpec,
    ModelInfo,
    Progress,
)
from assistant.errors import LoadError, ModelChangedError, NetworkSettingsError, RemoteError

__all__ = ["FallbackEngine", "RemoteEngine"]

log = logging.getLogger(__name__)

RETURN_S = 30.0
"""How often the server is tried again while the model of this machine answers."""


class FallbackEngine:
    """Keeps the ElasticEngine contract with either.

    Attributes:
        on_change: called with what is served each time that has changed by itself.
        reason: why the local model answers; empty while the server does.
    """

    def __init__(
        self,
        remote: RemoteEngine,
        local: ElasticEngine,
        *,
        return_s: float = RETURN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remote = remote
        self._local = local
        self._return_s = return_s
        self._clock = clock
        self._spec: LoadSpec | None = None
        self._on_local = False
        self._asked_s = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._local_requests = 0
        self._local_calm = asyncio.Event()
        self._local_calm.set()
        self.on_change: Callable[[ModelInfo], None] = lambda _: None
        self.reason = ""

    @property
    def _engine(self) -> ElasticEngine:
        return self._local if self._on_local else self._remote

    async def load(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        async with self._lock:
            self._spec = spec
            try:
                info = await self._remote.load(spec, progress)
            except (RemoteError, NetworkSettingsError) as error:
                return await self._go_local(error, progress)
            if self._on_local:
                self._on_local, self.reason = False, ""
                await self._release_local()
            return info

    async def describe(self) -> ModelInfo:
        return await self._engine.describe()

    async def tokenise(self, text: str, *, special: bool = False) -> list[int]:
        return await self._engine.tokenise(text, special=special)

    async def detokenise(self, tokens: Sequence[int]) -> str:
        return await self._engine.detokenise(tokens)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        await self._check_model(request)
        if self._on_local:
            self._ask_for_return()
        started = False
        engine = self._engine
        if engine is self._local:
            self._local_requests += 1
            self._local_calm.clear()
        stream = cast("AsyncGenerator[Delta | Done, None]", engine.generate(request))
        try:
            async with aclosing(stream):
                async for event in stream:
                    started = True
                    yield event
        except UnreachableError as error:
            if engine is not self._remote:
                raise
            await self._fall_back(error)
            if started or self._on_local:
                raise ModelChangedError(
                    f"the server cannot answer ({error.message}); the local model answers",
                    subject=error.subject,
                    advice="Try again",
                ) from error
            raise
        finally:
            if engine is self._local:
                self._local_requests -= 1
                if not self._local_requests:
                    self._local_calm.set()

    async def stats(self) -> EngineStats:
        return await self._engine.stats()

    async def drop_idle(self) -> int:
        return await self._engine.drop_idle()

    async def reshape(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        self._spec = spec
        return await self._engine.reshape(spec, progress)

    async def unload(self) -> None:
        await self._engine.unload()

    async def touch(self) -> int:
        return await self._engine.touch()

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await self._remote.close()
        await self._local.close()

    # Going from one to the other.

    async def _check_model(self, request: GenerateRequest) -> None:
        if not request.prompt_model:
            return
        served = (await self.describe()).name
        if served != request.prompt_model:
            raise ModelChangedError(
                f"the prompt is of {request.prompt_model}, {served} is served now",
                advice="Try again",
            )

    async def _fall_back(self, error: UnreachableError) -> None:
        """The server has failed through all its tries: the local model answers from now on."""
        async with self._lock:
            if self._on_local or self._spec is None or not self._spec.path:
                return
            self.on_change(await self._go_local(error))

    async def _go_local(
        self, error: RemoteError | NetworkSettingsError, progress: Progress | None = None
    ) -> ModelInfo:
        if self._spec is None or not self._spec.path:
            raise error
        log.warning("the server cannot answer (%s); the local model is loaded", error.message)
        try:
            info = await self._local.load(self._spec, progress)
        except LoadError as failure:
            raise LoadError(
                f"the server fails, and the local model cannot be loaded: {failure.message}",
                subject=failure.subject,
                advice=failure.advice,
            ) from error
        self._on_local, self.reason, self._asked_s = True, error.message, self._clock()
        return info

    def _ask_for_return(self) -> None:
        due = self._clock() - self._asked_s >= self._return_s
        if due and (self._asking is None or self._asking.done()):
            self._asked_s = self._clock()
            self._asking = asyncio.create_task(self._return())

    async def _return(self) -> None:
        """Go back to the server if it answers."""
        if not await self._remote.alive():
            return
        async with self._lock:
            if not self._on_local or self._spec is None:
                return
            try:
                info = await self._remote.load(self._spec)
            except (RemoteError, NetworkSettingsError) as error:
                log.info("the server is not back yet: %s", error.message)
                return
            log.warning("the server is back")
            self._on_local, self.reason = False, ""
            self.on_change(info)
            await self._release_local()

    async def _release_local(self) -> None:
        """Let the local model end what it has started, then give its memory back."""
        await self._local_calm.wait()
        await self._local.unload()
