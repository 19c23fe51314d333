"""Keeps an idle model warm: its pages are touched now and then, so that the kernel keeps them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

_REST = 200.0
"""A touch is followed by a rest so many times as long: it costs half a percent of a core."""

_COLD_S = 1.0


class Warmth:
    """Touches pages while nobody asks, and never where memory is short: others need it more then.

    Attributes:
        every_s: how often; 0 for never.
    """

    def __init__(
        self,
        touch: Callable[[], Awaitable[int]],
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`touch`: touches every page and says how many there are."""
        self.every_s = every_s
        self._touch = touch
        self._clock = clock
        self._next_s = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def look(self, *, idle_s: float, well: bool) -> None:
        """Begin, if it is time. `well`: memory is not short."""
        due = 0 < self.every_s <= idle_s and self._clock() >= self._next_s
        if due and well and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        started_s = time.perf_counter()
        pages = await self._touch()
        took_s = time.perf_counter() - started_s
        self._next_s = self._clock() + max(self.every_s, _REST * took_s)
        if took_s > _COLD_S:
            log.info("kept %d pages warm in %.1f s: some had to be read again", pages, took_s)

    async def aclose(self) -> None:
        """Touch nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
