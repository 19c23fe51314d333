"""How patient the daemon is with a connection: uvicorn's own protocol, with time limits of ours.

uvicorn waits for ever for the head of a request. So a connection that never sends one would stay,
and over TCP anybody on the machine may open it, token or not.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HEAD_LIMIT_S = 15.0
MOST_CONNECTIONS = 1024


class Connection(H11Protocol):
    """One connection. It ends where a head takes longer than `HEAD_LIMIT_S`, and where there are
    more than `MOST_CONNECTIONS`: then the one that has been silent longest."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self.idle_since_s = self.loop.time()

    @property
    def idle(self) -> bool:
        """Whether it is between requests, or before its first."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > MOST_CONNECTIONS:
            silent = [
                other for other in self.connections if isinstance(other, Connection) and other.idle
            ]
            min(silent, key=lambda other: other.idle_since_s, default=self).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Whatever came, uvicorn has forgotten its own timer: where no request has begun, time ours.
        if not self.idle:
            self._stop_waiting()
        elif self.timeout_keep_alive_task is None and self._head_timer is None:
            self._await_head()

    def on_response_complete(self) -> None:
        self.idle_since_s = self.loop.time()
        super().on_response_complete()

    def cut(self) -> None:
        """End it at once, whatever it was going to say."""
        self.transport.abort()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_LIMIT_S, self.cut)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
