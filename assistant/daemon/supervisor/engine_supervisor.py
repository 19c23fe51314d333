"""Keeps one engine serving: what a request asks of it is answered though it dies or moves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TypeVar, cast

from assistant.daemon.supervisor import retry
from assistant.daemon.supervisor.crash_cause import from_outside
from assistant.daemon.supervisor.engine_life import EngineLife, Planner, stopping
from assistant.engine.types import Delta, Done, EngineStats, GenerateRequest, ModelInfo
from assistant.errors import (
    LoadError,
    ModelChangedError,
    RefusedError,
    UnderkeelError,
    WorkerDiedError,
)
from assistant.wire import ServiceState

__all__ = ["ModelHost", "Planner"]

log = logging.getLogger(__name__)

T = TypeVar("T")

# A request waits so long for an engine that comes back.
_RETURN_S = 120.0


class ModelHost(EngineLife):
    """One model behind one engine, for everybody who asks something of it."""

    async def usable(self, within_s: float | None = None) -> ModelInfo:
        """What is served. Waits for a model that comes back, not for one that comes first.

        Raises:
            LoadError: the first load is still under way, or a later one takes longer.
            UnderkeelError: why the model cannot be loaded.
        """
        if self.state is ServiceState.RELEASED:
            self.start_load()
        if self.state is ServiceState.LOADING and self._loading is not None and self.info:
            await asyncio.wait({self._loading}, timeout=within_s)
        if self.state is ServiceState.LOADING:
            raise LoadError(
                f"the model is still loading ({self.progress:.0%})",
                advice="Try again in a moment",
            )
        if self.state is ServiceState.STOPPING:
            raise stopping()
        if self.state is not ServiceState.READY or self.info is None:
            raise self.error.rebuild() if self.error else LoadError("no model is loaded")
        return self.info

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta | Done, None]:
        """Stream the answer; see `retry.generate`."""
        return retry.generate(self, request)

    @asynccontextmanager
    async def attempt(
        self, request: GenerateRequest
    ) -> AsyncIterator[AsyncGenerator[Delta | Done, None]]:
        """The current engine's own stream of an answer; its death is noticed.

        Raises:
            ModelChangedError: another model is served than the prompt was encoded for.
        """
        await self._gate.opened()
        served = self.info.name if self.info else ""
        if request.prompt_model and served and request.prompt_model != served:
            raise ModelChangedError(
                f"the prompt is of {request.prompt_model}, {served} is served now",
                advice="Encode it again for that",
            )
        # Engines write `generate` as a generator; the contract promises only what callers need.
        stream = cast("AsyncGenerator[Delta | Done, None]", self._engine.generate(request))
        async with self._gate.passing(), self._watched(), aclosing(stream):
            yield stream

    def answered(self) -> None:
        """An answer is complete: the plan that serves now works."""
        self._book.answered()

    async def recovered(self, error: UnderkeelError, shape: int) -> bool:
        """Wait until there is an engine to try again on; False where it would be the same one."""
        if isinstance(error, RefusedError) and self.shape == shape and self._advisor is not None:
            await self._advisor.relieve(shape)
        async with self._life:
            pass
        same = self.shape == shape and self.state is ServiceState.READY
        if same and not isinstance(error, WorkerDiedError):
            return False
        await self.usable(_RETURN_S)
        return True

    async def tokenise(self, text: str, *, special: bool = False) -> list[int]:
        return await self._surely(lambda: self._engine.tokenise(text, special=special))

    async def detokenise(self, tokens: Sequence[int]) -> str:
        return await self._surely(lambda: self._engine.detokenise(tokens))

    async def stats(self, within_s: float | None = None) -> EngineStats | None:
        """The engine's counters; None while there is no model, or none answers `within_s`."""
        if self.state is not ServiceState.READY:
            return None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s), self._watched():
                    return await self._engine.stats()
            return None
        except UnderkeelError as error:
            log.warning("no statistics: %s", error)
            return None

    async def drop_idle(self) -> int:
        """Forget what is kept for reuse; returns the cells that were its, 0 for no model."""
        return await self._quietly("idle sequences are not forgotten", self._engine.drop_idle)

    async def touch(self) -> int:
        """Keep the model's pages in host memory; returns how many there are, 0 for no model."""
        return await self._quietly("the model is not kept warm", self._engine.touch)

    async def _quietly(self, failed: str, use: Callable[[], Awaitable[int]]) -> int:
        """Use the engine for what nobody waits for; 0 for no model, or where it fails."""
        if self.state is not ServiceState.READY:
            return 0
        try:
            async with self._watched():
                return await use()
        except UnderkeelError as error:
            log.warning("%s: %s", failed, error)
            return 0

    async def _surely(self, use: Callable[[], Awaitable[T]]) -> T:
        """Use the engine, and again when it is back if it dies, or is found dead: once more where
        that may be our fault, for as long as a request may wait where somebody kills it."""
        ends_s, faults = time.monotonic() + _RETURN_S, 0
        while True:
            try:
                async with self._watched():
                    return await use()
            except WorkerDiedError as error:
                faults += not from_outside(error)
                if faults > 1 or time.monotonic() > ends_s:
                    raise
            except LoadError:
                # It was unloaded, or is loaded in another way, while this waited for it.
                if self.state is ServiceState.READY or time.monotonic() > ends_s:
                    raise
            await self.usable(_RETURN_S)
