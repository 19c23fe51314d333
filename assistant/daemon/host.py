"""Keeps one engine serving: loads it in the background, notices its death, brings it back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar, cast

from assistant.daemon.autopsy import OutOfMemoryKills, cause_of
from assistant.daemon.loading import Loadable
from assistant.daemon.supervision import USUAL, Cause, Death, Restart, Rules, next_restart
from assistant.engine.interface import ElasticEngine
from assistant.engine.types import (
    Delta,
    Done,
    EngineStats,
    GenerateRequest,
    LoadSpec,
    ModelInfo,
)
from assistant.errors import DaemonError, LoadError, UnderkeelError, WorkerDiedError
from assistant.memory.ladder import DROP
from assistant.memory.report import LoadReport
from assistant.wire import ErrorNow, ServiceState

log = logging.getLogger(__name__)

T = TypeVar("T")

Planner = Callable[[], Loadable]
"""Says how the model can be loaded; may block, so it runs in a thread."""

# Supervision looks back no further than its own rules do; more would only take memory.
_DEATHS_KEPT = 200


class ModelHost:
    """One model behind one engine.

    Attributes:
        state, stage, progress: where it stands; `progress` is 0 to 1 while loading.
        error: why the last load failed.
        info: what is served, or was served last; None before the first load.
        loadable: the ways to load it; `step` is the rung of its ladder that is in use.
        report: what the last load took against its plan.
        deaths: how often the engine's process ended by itself.
    """

    def __init__(
        self,
        engine: ElasticEngine,
        planner: Planner,
        clock: Callable[[], float] = time.monotonic,
        rules: Rules = USUAL,
    ) -> None:
        self._engine = engine
        self._planner = planner
        self._clock = clock
        self._rules = rules
        self._kills = OutOfMemoryKills()
        self._loading: asyncio.Task[None] | None = None
        self._life = asyncio.Lock()  # one load, reshape or release at a time
        self._epoch = 0
        self._least_step = 0
        self._recent_deaths: list[Death] = []
        self.state = ServiceState.LOADING
        self.stage = ""
        self.progress = 0.0
        self.error: ErrorNow | None = None
        self.info: ModelInfo | None = None
        self.loadable: Loadable | None = None
        self.report: LoadReport | None = None
        self.step = 0
        self.deaths = 0
        self.on_serving: Callable[[], None] = lambda: None
        """Called each time a model is ready to serve."""

    def start_load(self) -> None:
        """Plan and load, unless that is under way or done."""
        self._start(plan=True)

    async def usable(self) -> ModelInfo:
        """What is served. Waits for a model that comes back, not for one that comes first.

        Raises:
            LoadError: the first load is still under way.
            UnderkeelError: why the model cannot be loaded.
        """
        if self.state is ServiceState.RELEASED:
            self.start_load()
        if self.state is ServiceState.LOADING and self._loading is not None and self.info:
            await asyncio.wait({self._loading})
        if self.state is ServiceState.LOADING:
            raise LoadError(
                f"the model is still loading ({self.progress:.0%})",
                advice="Try again in a moment",
            )
        if self.state is ServiceState.STOPPING:
            raise _stopping()
        if self.state is not ServiceState.READY or self.info is None:
            raise self.error.rebuild() if self.error else LoadError("no model is loaded")
        return self.info

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta | Done, None]:
        """Stream the answer; the last item is a Done. Closing the generator cancels the request.

        A request whose engine died before its first token is tried once more, when the engine is
        back: it may only have waited beside the one that was fatal.
        """
        for attempt in (1, 2):
            begun = False
            try:
                async with self._watched(), aclosing(self._stream(request)) as stream:
                    async for item in stream:
                        begun = True
                        yield item
                return
            except WorkerDiedError:
                if begun or attempt == 2:
                    raise
                log.info("request %s is tried again", request.id)
                await self.usable()

    async def tokenise(self, text: str, *, special: bool = False) -> list[int]:
        return await self._twice(lambda: self._engine.tokenise(text, special=special))

    async def detokenise(self, tokens: Sequence[int]) -> str:
        return await self._twice(lambda: self._engine.detokenise(tokens))

    async def stats(self) -> EngineStats | None:
        """The engine's counters; None while there is no model."""
        if self.state is not ServiceState.READY:
            return None
        try:
            async with self._watched():
                return await self._engine.stats()
        except UnderkeelError as error:
            log.warning("no statistics: %s", error)
            return None

    async def release(self) -> bool:
        """Give all memory back until the next request. Returns whether there was any to give."""
        async with self._life:
            if self.state is not ServiceState.READY:
                return False
            await self._unload()
        return True

    async def move_to(self, step: int) -> None:
        """Go to another rung of the ladder; requests in flight wait and go on.

        A shape that the engine refuses or dies over is left for one that it takes. Where no model
        is loaded, it is planned and loaded anew.
        """
        if self.state is ServiceState.RELEASED:
            self.start_load()
            return
        async with self._life:
            if self.state is not ServiceState.READY or self.loadable is None:
                return
            rung, here = self.loadable.ladder[step], self.loadable.ladder[self.step]
            log.info("ladder from=%s to=%s", here.name, rung.name)
            self._least_step = step
            try:
                if rung.spec is None:
                    await self._unload()
                elif rung.spec != here.spec:
                    self.info = await self._engine.reshape(rung.spec)
                elif rung.name == DROP:
                    await self._engine.drop_idle()
                self.step = step
                return
            except (LoadError, WorkerDiedError) as error:
                assert rung.spec is not None
                self._note_death(rung.spec, Cause.MEMORY, error)
            self.state = ServiceState.LOADING
        self._start(plan=False)

    async def _unload(self) -> None:
        self.state, self._epoch = ServiceState.RELEASED, self._epoch + 1
        await self._engine.unload()
        log.info("released")

    async def close(self) -> None:
        """End the engine; what it was answering gets a clear error. Safe to call twice."""
        self.state = ServiceState.STOPPING
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self._engine.close()

    async def _twice(self, use: Callable[[], Awaitable[T]]) -> T:
        """Use the engine, and once more when it is back if it dies, or is found dead."""
        try:
            async with self._watched():
                return await use()
        except WorkerDiedError:
            await self.usable()
        async with self._watched():
            return await use()

    def _start(self, *, plan: bool) -> None:
        under_way = self._loading is not None and not self._loading.done()
        if self.state in {ServiceState.READY, ServiceState.STOPPING} or under_way:
            return
        self.state, self.error, self.progress = ServiceState.LOADING, None, 0.0
        self._loading = asyncio.create_task(self._load(plan=plan))

    async def _load(self, *, plan: bool) -> None:
        async with self._life:
            try:
                if plan or self.loadable is None:
                    self.stage = "planning"
                    self.loadable = await asyncio.to_thread(self._planner)
                    # It is made for the memory that is free now, whatever was short before.
                    self._least_step = 0
                info = await self._load_some_plan(self.loadable)
            except UnderkeelError as error:
                self._fail(error)
            except Exception as error:
                log.exception("unexpected error while loading")
                self._fail(LoadError(f"unexpected {type(error).__name__} while loading"))
            else:
                self._serve(info)

    async def _load_some_plan(self, loadable: Loadable) -> ModelInfo:
        """Load by the best plan that neither died too often nor wants more than there is."""
        plans = loadable.specs
        while True:
            restart = next_restart(
                self._recent_deaths,
                plans,
                self._clock(),
                least_step=self._least_step,
                rules=self._rules,
            )
            if restart is None:
                raise self._exhausted()
            await self._pause(restart)
            self.step, spec = restart.step, plans[restart.step]
            self.stage, self.progress = "loading the model", 0.0
            log.info("loading step=%d spec=%s", restart.step, spec)
            try:
                return await self._engine.load(spec, self._on_progress)
            except WorkerDiedError as error:
                cause = cause_of(error, killed_for_memory=self._kills.any_new())
                # Most that kills a load is want of memory, and no load is worth trying twice.
                cause = Cause.OUTSIDE if cause is Cause.OUTSIDE else Cause.MEMORY
                self._note_death(spec, cause, error)

    async def _pause(self, restart: Restart) -> None:
        if restart.delay_s:
            self.stage = f"starting again in {restart.delay_s:.1f} s"
            await asyncio.sleep(restart.delay_s)

    def _serve(self, info: ModelInfo) -> None:
        self._epoch += 1
        self.info, self.progress, self.stage = info, 1.0, ""
        self.state = ServiceState.READY
        log.info("serving name=%s n_ctx=%d load_ms=%.0f", info.name, info.n_ctx, info.load_ms)
        self.report = self.loadable.report(info, self.step) if self.loadable else None
        for line in self.report.lines() if self.report else ():
            log.info("took %s", line)
        self.on_serving()

    def _on_progress(self, share: float) -> None:
        self.progress = share

    def _fail(self, error: UnderkeelError) -> None:
        log.error("the model could not be loaded: %s", error)
        self.error, self.stage = ErrorNow.of(error), ""
        self.state = ServiceState.FAILED

    def _exhausted(self) -> LoadError:
        last = self._recent_deaths[-1]
        return LoadError(
            f"the engine died on every plan, last of {last.cause.value}",
            subject=last.plan.path,
            advice="Choose a smaller model or context; what it died of is in: underkeel logs",
        )

    def _stream(self, request: GenerateRequest) -> AsyncGenerator[Delta | Done, None]:
        # Engines write `generate` as a generator; the contract promises only what callers need.
        return cast("AsyncGenerator[Delta | Done, None]", self._engine.generate(request))

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        """Around every use of the engine: notices its death, and says what it means."""
        epoch = self._epoch
        try:
            yield
        except UnderkeelError as error:
            if self.state is ServiceState.STOPPING:
                raise _stopping() from error
            if isinstance(error, WorkerDiedError):
                self._on_death(epoch, error)
            raise

    def _on_death(self, epoch: int, error: WorkerDiedError) -> None:
        """Load again, once for all the requests that saw the same engine die."""
        if epoch != self._epoch or self.state is not ServiceState.READY or not self.loadable:
            return
        cause = cause_of(error, killed_for_memory=self._kills.any_new())
        self._note_death(self.loadable.specs[self.step], cause, error)
        self.state = ServiceState.LOADING
        self._start(plan=False)

    def _note_death(self, spec: LoadSpec, cause: Cause, error: UnderkeelError) -> None:
        self.deaths += 1
        self._recent_deaths.append(Death(self._clock(), spec, cause))
        del self._recent_deaths[:-_DEATHS_KEPT]
        log.error("the engine died (%d so far, cause=%s): %s", self.deaths, cause.value, error)


def _stopping() -> DaemonError:
    return DaemonError("the daemon is stopping", advice="Ask again; it will be started")
