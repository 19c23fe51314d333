"""The headroom governor: looks at the memory, moves on the ladder, sets the budget.

It decides nothing itself: `assistant.memory.ladder` says when to move and where, and
`assistant.memory.budget` how much a prompt may hold. Here both are given what is so, and what they
say is done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from assistant.daemon.budgets import Budgets
from assistant.daemon.host import ModelHost
from assistant.daemon.loading import Loadable
from assistant.engine.types import EngineStats, ModelInfo
from assistant.memory import ladder
from assistant.memory.budget import Memory
from assistant.memory.ladder import Move, Rules, Situation, Standing
from assistant.memory.plan import HOST
from assistant.memory.sampler import Reader, Sample, Sampler
from assistant.wire import DeviceNow, RungNow, ServiceState

log = logging.getLogger(__name__)

# A load that failed for want of memory is tried again this often, and no oftener.
_RETRY_S = 10.0


class Governor:
    """Keeps the service within the memory that other programs leave.

    Attributes:
        sample: what the probes saw last; None before the first look.
        reason: why the last move was made; `moves`: how many were.
    """

    def __init__(
        self,
        host: ModelHost,
        look: Reader,
        *,
        budgets: Budgets,
        rules: Rules,
        release_after_s: float,
        busy: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`release_after_s`: idle time after which the model is unloaded; 0 for never."""
        self._host = host
        self._budgets = budgets
        self._rules = rules
        self._release_after_s = release_after_s
        self._busy = busy
        self._clock = clock
        self._sampler = Sampler(look, self._on_sample)
        self._standing = Standing()
        self._moving: asyncio.Task[None] | None = None
        self._active_s = clock()
        self._tried_s = clock()
        self._counting: asyncio.Task[None] | None = None
        self._stats: EngineStats | None = None
        self.sample: Sample | None = None
        self.reason = ""
        self.moves = 0
        host.on_serving = self._on_serving

    async def run(self) -> None:
        """Govern until cancelled."""
        try:
            await self._sampler.run()
        finally:
            tasks = [task for task in (self._moving, self._counting) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def active(self) -> None:
        """A request has come or gone: look closely while any is served."""
        self._active_s = self._clock()
        self._sampler.busy(self._busy())

    @property
    def idle_s(self) -> float:
        """Since the last request; 0 while one is served."""
        return 0.0 if self._busy() else self._clock() - self._active_s

    def devices(self) -> tuple[DeviceNow, ...]:
        """The devices of the plan, with what is free and what is ours."""
        loadable, sample = self._host.loadable, self.sample
        if loadable is None or sample is None:
            return ()
        ours = _ours(self._host.info) if self._host.state is ServiceState.READY else {}
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
            for device in loadable.devices(sample)
        )

    def rung(self) -> RungNow | None:
        """Where the service stands; None before the first plan."""
        loadable = self._host.loadable
        if loadable is None:
            return None
        rung = loadable.ladder[self._host.step]
        return RungNow(
            index=self._host.step,
            of=len(loadable.ladder),
            name=rung.name,
            says=rung.says,
            reason=self.reason,
            moves=self.moves,
        )

    def _on_serving(self) -> None:
        """Nobody is to be answered without a budget."""
        if self.sample is not None:
            self._set_budgets(self.sample)
        self._sampler.look()

    def _on_sample(self, sample: Sample) -> None:
        self.sample = sample
        self._sampler.busy(self._busy())
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._count())
        self._set_budgets(sample)
        if self._moving is not None and not self._moving.done():
            return
        state = self._host.state
        if state is ServiceState.READY or self._unloaded():
            self._consider(sample)
        elif state is ServiceState.FAILED:
            self._try_again()

    def _consider(self, sample: Sample) -> None:
        """Release what idles, or move on the ladder, or stay."""
        loadable = self._host.loadable
        if loadable is None:
            return
        if 0 < self._release_after_s <= self.idle_s and not self._unloaded():
            self._moving = asyncio.create_task(self._release())
            return
        if self._standing.rung != self._host.step:
            # A death or a new plan has moved it meanwhile.
            self._standing = replace(
                self._standing, rung=self._host.step, since_s=self._clock(), climbed=False
            )
        situation = self._situation(loadable, sample)
        move = ladder.choose(loadable.ladder, self._standing, situation, self._clock(), self._rules)
        if move is not None:
            self._moving = asyncio.create_task(self._make(move))

    def _unloaded(self) -> bool:
        """Whether the ladder's last rung, and not idleness, has given the memory back."""
        host = self._host
        if host.state is not ServiceState.RELEASED or host.loadable is None:
            return False
        return host.loadable.ladder[host.step].spec is None

    async def _count(self) -> None:
        """Ask the engine for its cells; an engine that died unnoticed is noticed by it."""
        self._stats = await self._host.stats()

    def _set_budgets(self, sample: Sample) -> None:
        loadable, info = self._host.loadable, self._host.info
        if loadable is None or info is None:
            return
        memories = tuple(
            Memory(device.name, device.free_bytes, loadable.margins[device.name])
            for device in loadable.devices(sample)
            if device.name in loadable.margins
        )
        self._budgets.look(info.n_ctx, self._stats, memories, self._clock())

    def _situation(self, loadable: Loadable, sample: Sample) -> Situation:
        free = {device.name: device.free_bytes for device in loadable.devices(sample)}
        return Situation(free_bytes=free, margin_bytes=loadable.margins, idle_s=self.idle_s)

    async def _make(self, move: Move) -> None:
        log.info("moving rung=%d reason=%s", move.rung, move.reason)
        await self._host.move_to(move.rung)
        self._standing = ladder.moved(self._standing, move, self._clock(), self._rules)
        self.reason, self.moves = move.reason, self.moves + 1
        self._sampler.look()

    async def _release(self) -> None:
        if await self._host.release():
            log.info("idle for %.0f s", self.idle_s)

    def _try_again(self) -> None:
        """Bring the service back by itself once the memory is there again."""
        error = self._host.error
        if error is None or error.code != "plan" or self._clock() - self._tried_s < _RETRY_S:
            return
        self._tried_s = self._clock()
        self._host.start_load()


def _ours(info: ModelInfo | None) -> dict[str, int]:
    """Bytes by device as llama.cpp counts them."""
    found: dict[str, int] = {}
    for entry in info.memory if info else ():
        taken = entry.weights_bytes + entry.kv_bytes + entry.compute_bytes
        name = HOST if entry.is_host else entry.device
        found[name] = found.get(name, 0) + taken
    return found
