"""uvicorn as we want it: ends the engine's work first, and can leave its place to a successor.

How patient the daemon is with a connection: uvicorn's own protocol, with time limits of ours.

uvicorn waits for ever for the head of a request. So a connection that never sends one would stay,
and over TCP anybody on the machine may open it, token or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from assistant.daemon.http.bodies import ABORT
from assistant.daemon.service import Service

HEAD_LIMIT_S = 15.0
WRITE_LIMIT_S = 30.0
MOST_CONNECTIONS = 1024


class Connection(H11Protocol):
    """One connection. It ends where a head takes longer than `HEAD_LIMIT_S`, and where there are
    more than `MOST_CONNECTIONS`: then the one that has been silent longest."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self.app = _with_abort(self.app, self.cut)
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
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads slower than we write: it has `WRITE_LIMIT_S` to read on (case T15)."""
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(WRITE_LIMIT_S, self.cut)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Closing waits until everything is sent, which a client that does not read prevents."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self.cut()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # uvicorn has stopped its own timer: where no request has started, start ours.
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

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _with_abort(app: Any, abort: Callable[[], None]) -> Any:
    """`app`, which finds `abort` in its scope: it ends the connection at once."""

    return lambda scope, receive, send: app(scope | {ABORT: abort}, receive, send)


log = logging.getLogger(__name__)

# Connections without a request stay open so long once we leave: one may be on its way.
_LINGER_S = 1.0
_LEAVING_SLACK_S = 10.0
_LOOK_S = 0.02
_TICK_S = 1.0
"""How often the date of response headers is renewed."""


class WebServer(uvicorn.Server):
    """Ends the engine's work first when told to end, so that open streams end by themselves."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        on_serving: Callable[[], None],
        *,
        leave_on_signal: bool = False,
    ) -> None:
        """
        Args:
            on_serving: called once connections are accepted.
            leave_on_signal: somebody else holds our sockets open, so what comes while we end
                is kept for the next daemon: answer what we have before we end.
        """
        super().__init__(config)
        self._service = service
        self._on_serving = on_serving
        self._leave_on_signal = leave_on_signal
        self._closing: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    async def run_on(self, listeners: list[socket.socket]) -> None:
        self._loop = asyncio.get_running_loop()
        await self.serve(sockets=listeners)

    async def main_loop(self) -> None:
        """Wait for the end. uvicorn's own loop wakes ten times a second to look for it."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), _TICK_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_serving()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A first signal ends the server in order, a second one without waiting for anybody.

        Not uvicorn's own, which sends the signal again when the server has ended: that would kill
        us before the socket and the lock are cleaned up.
        """
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._on_signal)

    def _on_signal(self) -> None:
        if self._leave_on_signal and self._leaving is None and not self.should_exit:
            self._leaving = asyncio.ensure_future(self.leave())
            return
        self.force_exit = self.should_exit
        self.end()

    def end(self) -> None:
        """Stop serving. Call it on the event loop."""
        if self._closing is None:
            log.info("stopping")
            self._closing = asyncio.ensure_future(self._service.close())
        self.should_exit = True
        self._ending.set()

    async def leave(self) -> None:
        """Accept nothing more, answer what is there, and end.

        A client that has a connection and sends one more request on it is answered too; then the
        connection ends, as it does for those that have sent nothing for a while.
        """
        log.info("leaving requests=%d", self._service.admission.inside)
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        limit_s = self._service.settings.daemon.request_limit_s + _LEAVING_SLACK_S
        while self.server_state.connections and loop.time() - began_s < limit_s:
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                silent_s = loop.time() - max(connection.idle_since_s, began_s)
                if not connection.idle or silent_s > _LINGER_S:
                    connection.shutdown()
            await asyncio.sleep(_LOOK_S)
        self.end()
