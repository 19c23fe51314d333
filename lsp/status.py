"""The state that the editor's status line shows; see editors/PROTOCOL.md."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

_LEAST_S = 0.5


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
            wait_s = max(self._sent_at + _LEAST_S - self._clock(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._flush)

    def _flush(self) -> None:
        self._timer = None
        if self._now != self._sent:
            self._sent = dict(self._now)
            self._sent_at = self._clock()
            self._send(self._sent)
