"""What the daemon says of itself, for the editor's status line.

Asked after each answer and from time to time while somebody works; never while nobody does.

The state that the editor's status line shows; see editors/PROTOCOL.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from assistant.errors import UnderkeelError

if TYPE_CHECKING:
    from assistant.wire import BudgetNow, Status
from collections.abc import Mapping
from enum import StrEnum

_LEAST_S = 1.0
_EVERY_S = 5.0
_AWAKE_S = 600.0
"""Who has asked nothing for so long looks at no status line."""

_HOST = "CPU"


def facts_of(status: Status) -> dict[str, Any]:
    """The fields of the protocol's `Status` (editors/PROTOCOL.md); None removes one."""
    gpus = [device for device in status.devices if device.name != _HOST]
    stats, rung = status.stats, status.rung
    free = sum(0 if gpu.lost else gpu.free_bytes for gpu in gpus)
    seen = stats.cached_tokens + stats.evaluated_tokens if stats else 0
    return {
        "model": status.model.name if status.model else None,
        "budget": told(status.budget),
        "vram": {"usedBytes": sum(gpu.total_bytes for gpu in gpus) - free, "freeBytes": free}
        if gpus
        else None,
        "kv": {"usedTokens": stats.cells_used, "totalTokens": stats.cells_total} if stats else None,
        "tokensPerSecond": round(stats.decode_tokens_per_s, 1) or None if stats else None,
        "cacheHits": round(stats.cached_tokens / seen, 3) if stats and seen else None,
        "ladder": {"rung": rung.name, "gaveUp": rung.says, "reason": rung.reason}
        if rung and rung.index
        else None,
        "message": _in_words(status),
    }


def told(budget: BudgetNow | None) -> dict[str, Any] | None:
    """A budget as the protocol has it."""
    if budget is None:
        return None
    return {"tokens": budget.tokens, "level": budget.level, "reason": budget.reason}


def _in_words(status: Status) -> str:
    """Why the service is less than it could be; empty where it is not.

    Of the rung of shorter prompts the budget says it all.
    """
    said = []
    rung = status.rung
    if rung is not None and rung.index and rung.says and rung.name != "trim":
        why = f" ({rung.reason})" if rung.reason else ""
        said.append(f"without {rung.says}{why}")
    if status.budget is not None and status.budget.level:
        said.append(f"prompts of {status.budget.tokens} tokens: {status.budget.reason}")
    return "; ".join(said)


class Health:
    """Asks for the status as long as somebody works, and hands it on."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[Status]],
        tell: Callable[[Status], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._tell = tell
        self._clock = clock
        self._worked_s = clock()
        self._poke = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def worked(self) -> None:
        """Something was asked or answered: the status is of interest now."""
        self._worked_s = self._clock()
        self._poke.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())

    async def aclose(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while self._clock() - self._worked_s < _AWAKE_S:
            self._poke.clear()
            try:
                self._tell(await self._ask())
            except UnderkeelError:
                return  # the next answer asks again
            await asyncio.sleep(_LEAST_S)
            try:
                await asyncio.wait_for(self._poke.wait(), _EVERY_S - _LEAST_S)
            except TimeoutError:
                continue


_WRITE_LEAST_S = 0.5


class State(StrEnum):
    """Where the assistant stands, in the protocol's words."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    ERROR = "error"
    OFF = "off"


class StatusLine:
    """Sends the state when it has changed, and at most twice a second."""

    def __init__(
        self, send: Callable[[Mapping[str, Any]], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send = send
        self._clock = clock
        self._now: dict[str, Any] = {"state": State.STARTING.value, "message": ""}
        self._sent: dict[str, Any] = {}
        self._sent_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    @property
    def now(self) -> Mapping[str, Any]:
        """The state as the protocol's `Status`."""
        return self._now

    def switch(self, *, on: bool) -> None:
        """Completion was switched on or off."""
        off = self._now["state"] == State.OFF
        if off == on:
            self.set(State.STARTING if on else State.OFF)

    def set(self, state: State, message: str = "", **fields: Any) -> None:
        """Change the state. Fields that are not named stay; None removes one."""
        changed = {**self._now, "progress": None, **fields}
        changed |= {"state": state.value, "message": message}
        self._now = {name: value for name, value in changed.items() if value is not None}
        if self._timer is None:
            wait_s = max(self._sent_at + _WRITE_LEAST_S - self._clock(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._now != self._sent:
            self._sent = dict(self._now)
            self._sent_at = self._clock()
            self._send(self._sent)
