"""Keeps one engine serving: loads it, moves it on the ladder, changes its model, releases it, and
restarts it when it died. A request is answered although the engine dies or moves meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Protocol, cast

from assistant.daemon import retry
from assistant.daemon.crash_history import (
    USUAL,
    Cause,
    CrashHistory,
    OutOfMemoryKills,
    Restart,
    Rules,
    cause_of,
    cause_of_load,
    smaller_may_do,
)
from assistant.daemon.loading import Loadable
from assistant.daemon.retry import Gate
from assistant.engine.types import (
    Delta,
    Done,
    ElasticEngine,
    EngineStats,
    GenerateRequest,
    ModelInfo,
)
from assistant.errors import (
    DaemonError,
    LoadError,
    ModelChangedError,
    RefusedError,
    UnderkeelError,
    WorkerDiedError,
)
from assistant.memory.planning.load_report import LoadReport
from assistant.wire import ErrorNow, ServiceState

log = logging.getLogger(__name__)

__all__ = ["EngineSupervisor", "HeadroomAdvisor", "Planner"]

Planner = Callable[[], Loadable]
"""Says how the model can be loaded; may block, so it runs in a thread."""


class HeadroomAdvisor(Protocol):
    """What the supervisor asks of the headroom governor."""

    def on_serving(self) -> None:
        """A model is ready to serve."""
        ...

    async def first_fit(self, loadable: Loadable) -> int:
        """The rung that fits the memory that is free now, with nothing loaded."""
        ...

    async def relieve(self, shape: int) -> None:
        """Move to a safer rung, because `shape` was refused memory to compute."""
        ...


class EngineSupervisor:
    """One model behind one engine, for everybody who asks something of it; one change at a time.

    Attributes:
        state, stage, progress: where it stands; `progress` is 0 to 1 while loading.
        error: why the last load failed.
        info: what is served, or was served last; None before the first load.
        loadable: the ways to load it; `step` is the rung of its ladder that is in use.
        report: what the last load took against its plan.
        shape: counts the shapes that were served; another number, another context.
        edition: counts the files that were served; another number, other tokens.
    """

    def __init__(
        self,
        engine: ElasticEngine,
        planner: Planner,
        clock: Callable[[], float] = time.monotonic,
        rules: Rules = USUAL,
        *,
        released: bool = False,
        identity: Callable[[], object] = lambda: None,
    ) -> None:
        """`released`: nothing is loaded until it is requested.

        `identity`: tells the files of the model from others under the same names.
        """
        self._engine = engine
        self._planner = planner
        self._kills = OutOfMemoryKills()
        self._loading: asyncio.Task[None] | None = None
        self._life = asyncio.Lock()  # one load, reshape or release at a time
        self._gate = Gate()
        self._epoch = 0
        self._least_step = 0
        self._history = CrashHistory(clock, rules)
        self._identity = identity
        self._loaded_identity: object = None
        self._files: object = ()  # of what is served, as they were before the load
        self._state = ServiceState.RELEASED if released else ServiceState.LOADING
        self.stage = ""
        self.progress = 0.0
        self.error: ErrorNow | None = None
        self.info: ModelInfo | None = None
        self.loadable: Loadable | None = None
        self.report: LoadReport | None = None
        self.step = 0
        self.shape = self.edition = 0
        self._advisor: HeadroomAdvisor | None = None

    def follow(self, advisor: HeadroomAdvisor) -> None:
        """Have `advisor` decide what depends on the memory that is free."""
        self._advisor = advisor

    @property
    def state(self) -> ServiceState:
        """Once it is STOPPING it remains so, whatever was under way (case T16)."""
        return self._state

    @state.setter
    def state(self, new: ServiceState) -> None:
        if self._state is not ServiceState.STOPPING:
            self._state = new

    @property
    def _stopped(self) -> bool:
        return self._state is ServiceState.STOPPING

    @property
    def deaths(self) -> int:
        """How often the engine's process ended by itself."""
        return self._history.deaths

    @property
    def refusals(self) -> int:
        """How often memory was refused and it lived on."""
        return self._history.refusals

    @property
    def due(self) -> bool:
        """Whether a failed load may succeed now: the model's file is another one (case S9), or
        every plan died too often, and one of them may be tried again."""
        if self.state is not ServiceState.FAILED:
            return False
        return self._history.due or self._identity() != self._loaded_identity

    def expect(self, info: ModelInfo | None) -> None:
        """Requests wait for the first load as for a later one: `info` was served a moment ago."""
        self.info = info

    def start_load(self) -> None:
        """Plan and load, unless that is under way or done."""
        self._start(plan=True)

    async def release(self) -> bool:
        """Give all memory back until the next request. Returns whether there was any to give."""
        async with self._life:
            if self.state is not ServiceState.READY:
                return False
            await self._unload()
        return True

    def barred(self) -> frozenset[str]:
        """Names of the rungs whose plan has died too often to be tried now."""
        ladder = self.loadable.ladder if self.loadable else ()
        return frozenset(
            rung.name
            for rung in ladder
            if rung.spec is not None and self._history.barred(rung.spec)
        )

    async def move_to(self, step: int) -> bool:
        """Go to another rung of the ladder; requests in flight wait and go on.

        A shape that the engine refuses or dies over is left for one that it takes. Where no model
        is loaded, it is planned and loaded again.

        Returns:
            Whether one stands there, or is on the way; False where it was refused.
        """
        if self.state is ServiceState.RELEASED:
            self.start_load()
            return True
        async with self._life:
            if self.state is not ServiceState.READY or self.loadable is None:
                return False
            if self._replaced():
                self._load_replaced()
                return False
            rung, here = self.loadable.ladder[step], self.loadable.ladder[self.step]
            log.info("ladder from=%s to=%s", here.name, rung.name)
            self._least_step = step
            try:
                if rung.spec is None:
                    await self._unload()
                elif rung.spec != here.spec:
                    info = await self._engine.reshape(rung.spec)
                    if self._stopped:
                        return False
                    self.info = info
                    self.shape += 1
                    self._history.serves(rung.spec)
                self.step = step
                return True
            except (LoadError, WorkerDiedError) as error:
                if self._stopped:
                    return False
                assert rung.spec is not None
                self._history.note(rung.spec, self._load_cause(error), error)
            self.state = ServiceState.LOADING
        self._start(plan=False)
        return False

    async def exchange(self, loadable: Loadable) -> ModelInfo:
        """Go over to another model; requests in flight end first, new ones wait.

        Raises:
            LoadError: it could not be loaded; the one before serves again.
        """
        # Until all have ended the ladder goes on as ever: an answer takes its time, and memory may
        # be wanted meanwhile.
        self.stage = "waiting for answers to end"
        try:
            async with self._gate.drained():
                return await self._exchange(loadable)
        finally:
            if self.state is ServiceState.READY:
                self.stage = ""

    async def _exchange(self, loadable: Loadable) -> ModelInfo:
        async with self._life:
            if self.state is not ServiceState.READY or self.info is None:
                raise LoadError("no model is served that could be changed", advice="Try again")
            before, spec, files = self.info.name, loadable.specs[0], loadable.files()
            self.stage = "changing the model"
            try:
                info = await self._engine.reshape(spec, self._on_progress)
                if self._stopped:
                    raise stopping()
            except (LoadError, WorkerDiedError) as error:
                if self._stopped:
                    raise stopping() from error
                log.error("the new model cannot be loaded: %s", error)
                failure = error
                self.state = ServiceState.LOADING
            else:
                self.loadable, self.step, self._least_step = loadable, 0, 0
                self._served_from(files)
                self._serve(info)
                return info
        self._start(plan=False)
        if self._loading is not None:
            await asyncio.wait({self._loading})
        raise LoadError(
            f"it could not be loaded ({failure.message}); {before} serves again",
            subject=spec.path,
            advice="What it said is in: underkeel logs",
        )

    async def reload_model(self) -> ModelInfo:
        """Plan and load, whatever was planned before, where nothing is served now.

        Raises:
            UnderkeelError: why it cannot be loaded.
        """
        while self._loading is not None and not self._loading.done():
            await asyncio.wait({self._loading})
        if self.state is ServiceState.READY:
            self.state = ServiceState.RELEASED
            await self._engine.unload()
        self._start(plan=True)
        if self.state is ServiceState.STOPPING or self._loading is None:
            raise stopping()
        await asyncio.wait({self._loading})
        if self.state is not ServiceState.READY or self.info is None:
            raise self.error.rebuild() if self.error else LoadError("no model is loaded")
        return self.info

    def exchanged(self, info: ModelInfo) -> None:
        """The engine serves something else by its own doing: its server went, or came back."""
        if self.state is ServiceState.READY:
            self._serve(info)

    async def close(self) -> None:
        """End the engine; what it was answering gets a clear error. Safe to call twice."""
        self.state = ServiceState.STOPPING
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self._engine.close()

    async def usable(self, within_s: float | None = None) -> ModelInfo:
        """What is served. Waits for a model that comes back, not for one that comes first.

        Raises:
            LoadError: the first load is still under way, or a later one takes longer.
            UnderkeelError: why the model cannot be loaded.
        """
        if self.state is ServiceState.RELEASED:
            self.start_load()
        elif self._replaced():
            self._load_replaced()
        ends_s = None if within_s is None else time.monotonic() + within_s
        waited: asyncio.Task[None] | None = None
        # A load that failed may be tried again before this goes on: then that is waited for.
        while self.state is ServiceState.LOADING and self._loading is not waited and self.info:
            waited = self._loading
            assert waited is not None
            left_s = None if ends_s is None else max(ends_s - time.monotonic(), 0.0)
            await asyncio.wait({waited}, timeout=left_s)
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

    def generate(
        self, request: GenerateRequest, edition: int | None = None
    ) -> AsyncGenerator[Delta | Done, None]:
        """Stream the answer; see `retry.generate`."""
        return retry.generate(self, request, edition)

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
        async with self._gate.passing(), self.watched(), aclosing(stream):
            yield stream

    def answered(self) -> None:
        """An answer is complete: the plan that serves now works."""
        self._history.answered()

    async def recovered(self, error: UnderkeelError, shape: int) -> bool:
        """Wait until there is an engine to try again on; False where it would be the same one."""
        if isinstance(error, RefusedError) and self.shape == shape and self._advisor is not None:
            await self._advisor.relieve(shape)
        async with self._life:
            pass
        same = self.shape == shape and self.state is ServiceState.READY
        if same and not isinstance(error, WorkerDiedError):
            return False
        await self.usable(retry.PATIENCE_S)
        return True

    async def tokenise(self, text: str, *, special: bool = False) -> list[int]:
        return await retry.persist(self, lambda: self._engine.tokenise(text, special=special))

    async def detokenise(self, tokens: Sequence[int]) -> str:
        return await retry.persist(self, lambda: self._engine.detokenise(tokens))

    async def stats(self, within_s: float | None = None) -> EngineStats | None:
        """The engine's counters; None while there is no model, or none answers `within_s`."""
        if self.state is not ServiceState.READY:
            return None
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s), self.watched():
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
            async with self.watched():
                return await use()
        except UnderkeelError as error:
            log.warning("%s: %s", failed, error)
            return 0

    async def _unload(self) -> None:
        self.state, self._epoch = ServiceState.RELEASED, self._epoch + 1
        self._history.serves(None)
        await self._engine.unload()
        log.info("released")

    def _start(self, *, plan: bool) -> None:
        under_way = self._loading is not None and not self._loading.done()
        if self.state in {ServiceState.READY, ServiceState.STOPPING} or under_way:
            return
        self.state, self.error, self.progress = ServiceState.LOADING, None, 0.0
        self._history.free_s = None
        self._loading = asyncio.create_task(self._load(plan=plan))

    def _replaced(self) -> bool:
        """Whether other files have taken the place of those that are served (case S9).

        Files that are gone replace nothing: what is loaded needs only the memory that it has.
        """
        if self.state is not ServiceState.READY or self.loadable is None:
            return False
        if not self._files or (self.info is not None and self.info.server):
            return False
        now = self.loadable.files()
        return bool(now) and now != self._files

    def _load_replaced(self) -> None:
        """Plan and load again, once the answers in progress have ended."""
        log.info("the model's file has changed: it is loaded again")
        self.state, self.error, self.progress = ServiceState.LOADING, None, 0.0
        self.stage = "waiting for answers to end"
        self._loading = asyncio.create_task(self._after_answers())

    async def _after_answers(self) -> None:
        async with self._gate.drained(), self._life:
            self._epoch += 1
            self._history.serves(None)
            with suppress(UnderkeelError):
                await self._engine.unload()
        await self._load(plan=True)

    async def _load(self, *, plan: bool) -> None:
        async with self._life:
            try:
                before, self._loaded_identity = self._loaded_identity, self._identity()
                # A plan is made for one file; for another under the same name, a new one (case S9).
                fresh = plan or self.loadable is None or before != self._loaded_identity
                if fresh or self.loadable is None:
                    self.stage = "planning"
                    self.loadable = await asyncio.to_thread(self._planner)
                    # It is made for the memory that is free now, whatever was short before.
                    self._least_step = 0
                info = await self._load_some_plan(self.loadable, fresh=fresh)
            except UnderkeelError as error:
                self._fail(error)
            except Exception as error:
                log.exception("unexpected error while loading")
                self._fail(LoadError(f"unexpected {type(error).__name__} while loading"))
            else:
                self._serve(info)

    async def _load_some_plan(self, loadable: Loadable, *, fresh: bool) -> ModelInfo:
        """Load by the best plan that neither died too often nor wants more than there is.

        `fresh`: the plans were just made for the memory that is free.
        """
        plans = loadable.specs
        if fresh:
            self._history.forget_refusals()
        while True:
            if self._history and not fresh and self._advisor is not None:
                self._least_step = max(self._least_step, await self._advisor.first_fit(loadable))
            fresh = False
            restart = self._history.restart(plans, self._least_step)
            await self._pause(restart)
            self.step, spec = restart.step, plans[restart.step]
            self.stage, self.progress = "loading the model", 0.0
            log.info("loading step=%d spec=%s", restart.step, spec)
            try:
                files = loadable.files()
                info = await self._engine.load(spec, self._on_progress)
                self._served_from(files)
                return info
            except WorkerDiedError as error:
                self._history.note(spec, self._load_cause(error), error)
            except LoadError as error:
                if not smaller_may_do(error):
                    raise
                self._history.note(spec, self._load_cause(error), error)

    def _load_cause(self, error: UnderkeelError) -> Cause:
        return cause_of_load(error, killed_for_memory=self._kills.any_new())

    async def _pause(self, restart: Restart) -> None:
        if restart.delay_s:
            self.stage = f"starting again in {restart.delay_s:.1f} s"
            await asyncio.sleep(restart.delay_s)

    def _served_from(self, files: object) -> None:
        self.edition += files != self._files
        self._files = files

    def _serve(self, info: ModelInfo) -> None:
        self._epoch, self.shape = self._epoch + 1, self.shape + 1
        self.info, self.progress, self.stage = info, 1.0, ""
        self.state = ServiceState.READY
        self._history.serves(self.loadable.specs[self.step] if self.loadable else None)
        log.info("serving name=%s n_ctx=%d load_ms=%.0f", info.name, info.n_ctx, info.load_ms)
        self.report = self.loadable.report(info, self.step) if self.loadable else None
        for line in self.report.lines() if self.report else ():
            log.info("took %s", line)
        if self._advisor is not None:
            self._advisor.on_serving()

    def _on_progress(self, share: float) -> None:
        self.progress = share

    def _fail(self, error: UnderkeelError) -> None:
        log.error("the model could not be loaded: %s", error)
        self.error, self.stage = ErrorNow.of(error), ""
        self.state = ServiceState.FAILED

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Around every use of the engine: notices its death, and says what it means."""
        epoch = self._epoch
        try:
            yield
        except UnderkeelError as error:
            if self.state is ServiceState.STOPPING:
                raise stopping() from error
            if isinstance(error, WorkerDiedError):
                self._on_death(epoch, error)
            raise

    def _on_death(self, epoch: int, error: WorkerDiedError) -> None:
        """Load again, once for all the requests that saw the same engine die."""
        if epoch != self._epoch or self.state is not ServiceState.READY or not self.loadable:
            return
        cause = cause_of(error, killed_for_memory=self._kills.any_new())
        self._history.note(self.loadable.specs[self.step], cause, error)
        self.state = ServiceState.LOADING
        self._start(plan=False)


def stopping() -> DaemonError:
    return DaemonError("the daemon is stopping", advice="Try again; it will be started")
