"""The headroom governor: measures memory, moves on the ladder, sets the budget.

It decides nothing itself: `assistant.memory.ladder` decides when to move and to which rung,
`assistant.daemon.budgets` how many tokens a prompt may have.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from assistant.daemon.budgets import Budgets, Memory
from assistant.daemon.loading import Loadable
from assistant.engine.types import EngineStats, ModelInfo, Priority
from assistant.memory import ladder
from assistant.memory.devices import Device, normal_bus_id
from assistant.memory.ladder import DROP, TRIM, LadderPosition, Move, Rules, Situation
from assistant.memory.planning import HOST_MEMORY
from assistant.memory.sampler import QUIET_AFTER_S, Reader, Sample, Sampler
from assistant.wire import DeviceNow, ErrorNow, RungNow, ServiceState

log = logging.getLogger(__name__)

_REST = 200.0
"""The pause after touching all pages, as a multiple of its duration: half a percent of a core."""

_COLD_S = 1.0

_QUIET_STATS_S = 30.0
"""How often the worker's statistics are read after a minute without requests; each wakes it."""


class PageWarmer:
    """Touches the model's pages while it idles, and never while memory is short.

    Attributes:
        every_s: how often; 0 for never.
    """

    def __init__(
        self,
        touch: Callable[[], Awaitable[int]],
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`touch`: touches every page and returns how many there are."""
        self.every_s = every_s
        self._touch = touch
        self._clock = clock
        self._next_s = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def look(self, *, idle_s: float, enough: bool) -> None:
        """Start, if it is time. `enough`: memory is not short."""
        due = 0 < self.every_s <= idle_s and self._clock() >= self._next_s
        if due and enough and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        started_s = time.perf_counter()
        pages = await self._touch()
        took_s = time.perf_counter() - started_s
        self._next_s = self._clock() + max(self.every_s, _REST * took_s)
        if took_s > _COLD_S:
            log.info("kept %d pages warm in %.1f s: some had to be read again", pages, took_s)

    async def aclose(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


# A load that failed because memory is short is tried again at most this often.
_RETRY_S = 10.0
_PASSING = frozenset({"plan", "remote"})


def stats_due(idle_s: float, since_s: float, *, needed: bool) -> bool:
    """Whether to read the worker's statistics with this sample.

    An idle worker's counters do not change. But they hold the free memory of GPUs that only
    llama.cpp sees, and reading them shows whether the worker is still alive.

    Args:
        idle_s: since the last request; `since_s`: since they were read.
        needed: the model is on such a GPU.
    """
    return needed or idle_s < QUIET_AFTER_S or since_s >= _QUIET_STATS_S


class GovernedEngine(Protocol):
    """All that the governor may read of, and do to, the engine that it governs.

    Attributes: as of `assistant.daemon.engine_supervisor.EngineSupervisor`.
    """

    @property
    def state(self) -> ServiceState: ...
    @property
    def info(self) -> ModelInfo | None: ...
    @property
    def loadable(self) -> Loadable | None: ...
    @property
    def step(self) -> int: ...
    @property
    def shape(self) -> int: ...
    @property
    def error(self) -> ErrorNow | None: ...
    @property
    def due(self) -> bool: ...
    def barred(self) -> frozenset[str]: ...
    def start_load(self) -> None: ...
    async def move_to(self, step: int) -> bool: ...
    async def release(self) -> bool: ...
    async def stats(self, within_s: float | None = None) -> EngineStats | None: ...
    async def drop_idle(self) -> int: ...
    async def touch(self) -> int: ...


class Governor:
    """Keeps the service within the memory that other programs leave.

    Attributes:
        sample: the last measurement; None before the first. `stats`: the engine's last counters.
        on_sample: called after each measurement.
        reason: why the last move was made; `moves`: how many loaded the engine differently.
    """

    def __init__(
        self,
        supervisor: GovernedEngine,
        look: Reader,
        *,
        budgets: Budgets,
        rules: Rules,
        release_after_s: float,
        busy: Callable[[], bool],
        keep_warm_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`release_after_s`: idle time after which the model is unloaded; `keep_warm_s`: how often
        its pages are touched while it idles. 0 for never."""
        self._supervisor = supervisor
        self._budgets = budgets
        self._rules = rules
        self._release_after_s = release_after_s
        self._busy = busy
        self._clock = clock
        self._sampler = Sampler(
            look,
            self._on_sample,
            idle_s=lambda: self.idle_s,
            on_gpu=lambda: bool(self._gpus()),
            every=lambda: self._stats_needed or supervisor.step > 0,
        )
        self._position = LadderPosition()
        self._moving: asyncio.Task[None] | None = None
        self._active_s = clock()
        self._tried_s = clock()
        self._counting: asyncio.Task[EngineStats | None] | None = None
        self._refused_seen = self._dropped_seen = 0
        self._dropped_s = self._counted_s = float("-inf")
        self._fell = False
        self._loadable: Loadable | None = None
        self._had: dict[str, int] = {}
        self.stats: EngineStats | None = None
        self.sample: Sample | None = None
        self.reason = ""
        self.moves = 0
        self.page_warmer = PageWarmer(supervisor.touch, keep_warm_s, clock)
        self.on_sample: Callable[[Sample], None] = lambda _: None

    async def run(self) -> None:
        """Govern until cancelled."""
        try:
            await self._sampler.run()
        finally:
            tasks = [task for task in (self._moving, self._counting) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.page_warmer.aclose()

    def follow(self, rules: Rules, release_after_s: float) -> None:
        """Use other settings from the next measurement on, which is taken now."""
        self._rules, self._release_after_s = rules, release_after_s
        self._sampler.look()

    def active(self) -> None:
        """A request has started or ended: measure more often while any is served."""
        self._active_s = self._clock()
        busy = self._busy()
        self._sampler.busy(busy)
        if not busy:
            self._budgets.returned()

    @property
    def idle_s(self) -> float:
        """Seconds since the last request; 0 while one is served."""
        return 0.0 if self._busy() else self._clock() - self._active_s

    def _gpus(self) -> list[str]:
        """The GPUs on which a part of the model is loaded."""
        loadable = self._supervisor.loadable
        if loadable is None or self._supervisor.state is not ServiceState.READY:
            return []
        held = loadable.ladder[self._supervisor.step].holds
        return [name for name, count in held.items() if count > 0 and name != HOST_MEMORY]

    @property
    def _stats_needed(self) -> bool:
        """Whether the model is on a GPU whose free memory only the worker's statistics tell."""
        loadable, sample = self._supervisor.loadable, self.sample
        if loadable is None or sample is None:
            return False
        known = {gpu.bus_id for gpu in sample.gpus}.union(sample.lost)
        seen = {one.name for one in loadable.backend if normal_bus_id(one.bus_id) in known}
        return not seen.issuperset(self._gpus())

    def devices(self) -> tuple[DeviceNow, ...]:
        """The devices of the plan, with the bytes that are free and those that are ours."""
        loadable, sample = self._supervisor.loadable, self.sample
        if loadable is None or sample is None:
            return ()
        ours = _ours(self._supervisor.info) if self._supervisor.state is ServiceState.READY else {}
        addresses = {device.name: device.bus_id for device in loadable.backend}
        return tuple(
            DeviceNow(
                name=device.name,
                total_bytes=device.total_bytes,
                free_bytes=device.free_bytes,
                ours_bytes=ours.get(device.name, 0),
                margin_bytes=loadable.margins.get(device.name, 0),
                lost=addresses.get(device.name, "") in sample.lost,
            )
            for device in self._devices(loadable, sample)
        )

    async def first_fit(self, loadable: Loadable) -> int:
        """The first rung that fits the memory that is free now, while nothing is loaded."""
        sample = await self._sampler.fresh()
        if sample is None:
            return 0
        free = {device.name: device.free_bytes for device in loadable.devices(sample)}
        return ladder.first_fit(loadable.ladder, free, loadable.margins, self._rules_now())

    async def relieve(self, shape: int) -> None:
        """Go to the next safer rung, because memory to compute with `shape` was refused."""
        loadable = self._supervisor.loadable
        if loadable is None or self._supervisor.shape != shape:
            return
        if self._moving is None or self._moving.done():
            self._note_refusal()
            lower = ladder.safer(loadable.ladder, self._supervisor.step, self._rules_now())
            if lower is None:
                return
            move = Move(lower, "memory for a computation was refused")
            self._moving = asyncio.create_task(self._make(move))
        await asyncio.wait({self._moving})

    def rung(self) -> RungNow | None:
        """The current rung; None before the first plan."""
        loadable = self._supervisor.loadable
        if loadable is None:
            return None
        rung = loadable.ladder[self._supervisor.step]
        return RungNow(
            index=self._supervisor.step,
            of=len(loadable.ladder),
            name=rung.name,
            says=rung.gives_up,
            reason=self.reason,
            moves=self.moves,
        )

    def on_serving(self) -> None:
        """The engine serves now: set the budgets, and count idle time from here."""
        self._active_s = self._clock()
        if self.sample is not None:
            self._set_budgets(self.sample)
        self._sampler.look()

    def _on_sample(self, sample: Sample) -> None:
        self.sample = sample
        self._sampler.busy(self._busy())
        self._look(sample)
        self.on_sample(sample)

    def _look(self, sample: Sample) -> None:
        counting = self._counting is not None and not self._counting.done()
        since_s = self._clock() - self._counted_s
        if not counting and stats_due(self.idle_s, since_s, needed=self._stats_needed):
            self._counted_s = self._clock()
            self._counting = asyncio.create_task(self._supervisor.stats())
            self._counting.add_done_callback(self._counted)
        state = self._supervisor.state
        moving = self._moving is not None and not self._moving.done()
        self._remember(sample, settled=state is ServiceState.READY and not moving)
        if moving or state is ServiceState.LOADING:
            return  # the memory that is free now is our own
        if state is ServiceState.READY:
            self._set_budgets(sample)
            self._keep_warm()
        if state is ServiceState.READY or self._unloaded():
            self._consider(sample)
        elif state is ServiceState.FAILED:
            self._try_again()

    def _consider(self, sample: Sample) -> None:
        """Release an idle model, or move on the ladder, or stay."""
        loadable = self._supervisor.loadable
        if loadable is None:
            return
        if 0 < self._release_after_s <= self.idle_s and not self._unloaded():
            self._moving = asyncio.create_task(self._release())
            return
        self._update_position(loadable)
        situation = self._situation(loadable, sample)
        rules = self._rules_now()
        move = ladder.choose(loadable.ladder, self._position, situation, self._clock(), rules)
        if move is not None:
            self._moving = asyncio.create_task(self._make(move))

    def _update_position(self, loadable: Loadable) -> None:
        """Follow moves that a crash, a refusal or a new plan has made meanwhile."""
        step, now_s = self._supervisor.step, self._clock()
        same = self._loadable is loadable
        self._loadable = loadable
        if self._fell or (same and step > self._position.rung):
            self._position = ladder.fallen(self._position, step, self._had, now_s, self._rules)
        elif step != self._position.rung:
            self._position = replace(self._position, rung=step, since_s=now_s, climbed=False)
        self._fell = False

    def _remember(self, sample: Sample, *, settled: bool) -> None:
        """Keep the least memory seen on each device since the service was last settled."""
        loadable = self._supervisor.loadable
        if loadable is None:
            return
        held = loadable.ladder[self._supervisor.step].holds if settled else {}
        for device in self._devices(loadable, sample):
            has = device.free_bytes + held.get(device.name, 0)
            self._had[device.name] = has if settled else min(has, self._had.get(device.name, has))

    def _rules_now(self) -> Rules:
        """The user's rules, without the plans that crashed too often."""
        barred = self._supervisor.barred()
        return replace(self._rules, forbidden=self._rules.forbidden | barred)

    def _devices(self, loadable: Loadable, sample: Sample) -> tuple[Device, ...]:
        return loadable.devices(sample, self.stats.devices if self.stats else ())

    def _keep_warm(self) -> None:
        budget = self._budgets.of(Priority.EXPLAIN)
        self.page_warmer.look(idle_s=self.idle_s, enough=budget is not None and not budget.level)

    def _unloaded(self) -> bool:
        """Whether the last rung unloaded the model, and not because it was idle."""
        supervisor = self._supervisor
        if supervisor.state is not ServiceState.RELEASED or supervisor.loadable is None:
            return False
        return supervisor.loadable.ladder[supervisor.step].spec is None

    def _counted(self, counting: asyncio.Task[EngineStats | None]) -> None:
        """The engine reported its counters, or has died."""
        if counting.cancelled():
            return
        self.stats = counting.result()
        refused = self.stats.refused if self.stats else 0
        if refused > self._refused_seen:
            self._note_refusal()
        self._refused_seen = refused
        dropped = self.stats.dropped if self.stats else 0
        if dropped > self._dropped_seen:
            self._dropped_s = self._clock()
        self._dropped_seen = dropped

    def _note_refusal(self) -> None:
        """Memory was refused, whatever the probes report: use smaller budgets from now on."""
        if self.sample is not None:
            self._set_budgets(self.sample, refused=True)

    def _set_budgets(self, sample: Sample, *, refused: bool = False) -> None:
        loadable, info = self._supervisor.loadable, self._supervisor.info
        if loadable is None or info is None:
            return
        holds = loadable.ladder[self._supervisor.step].holds
        memories = tuple(
            Memory(device.name, device.free_bytes, loadable.margins[device.name])
            for device in self._devices(loadable, sample)
            if device.name in loadable.margins
            and holds.get(device.name, 0)  # memory that we do not use does not limit us
            and not info.server
        )
        self._budgets.look(
            info.n_ctx,
            self.stats,
            memories,
            self._clock(),
            idle=not self._busy(),
            refused=refused,
            least_level=int(self._shorter_prompts_required(loadable)),
        )

    def _shorter_prompts_required(self, loadable: Loadable) -> bool:
        """Whether the user's rules allow the full plan only with shorter prompts."""
        pinned, top = self._rules.pinned, loadable.ladder[0]
        if loadable.ladder[self._supervisor.step].spec != top.spec:
            return False
        return top.name in self._rules.forbidden or pinned in {TRIM, DROP}

    def _situation(self, loadable: Loadable, sample: Sample) -> Situation:
        budget = self._budgets.of(Priority.INTERACTIVE)
        return Situation(
            free_bytes={
                device.name: device.free_bytes for device in self._devices(loadable, sample)
            },
            margin_bytes=loadable.margins,
            level=budget.level if budget else 0,
            level_reason=budget.reason if budget else "",
            dropped_s=self._clock() - self._dropped_s,
            idle_s=self.idle_s,
        )

    async def _make(self, move: Move) -> None:
        log.info("moving rung=%d reason=%s", move.rung, move.reason)
        made = await self._supervisor.move_to(move.rung)
        if self._rules.pinned == DROP:
            await self._supervisor.drop_idle()
        if made:
            self._position = ladder.moved(self._position, move, self._clock(), self._rules)
        self._fell = self._fell or not made
        self.reason, self.moves = move.reason, self.moves + (not move.costless)
        self._sampler.look()

    async def _release(self) -> None:
        if await self._supervisor.release():
            log.info("idle for %.0f s", self.idle_s)

    def _try_again(self) -> None:
        """Load again once memory has returned, or once a plan that crashed too often is allowed."""
        error = self._supervisor.error
        passing = error is not None and error.code in _PASSING
        if not self._supervisor.due and not (passing and self._clock() - self._tried_s >= _RETRY_S):
            return
        self._tried_s = self._clock()
        self._supervisor.start_load()


def _ours(info: ModelInfo | None) -> dict[str, int]:
    """Bytes by device as llama.cpp counts them."""
    found: dict[str, int] = {}
    for entry in info.memory if info else ():
        taken = entry.weights_bytes + entry.kv_bytes + entry.compute_bytes
        name = HOST_MEMORY if entry.is_host else entry.device
        found[name] = found.get(name, 0) + taken
    return found
