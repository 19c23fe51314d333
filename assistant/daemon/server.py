"""Runs the daemon: the lock, the socket, the web server, and a clean end on every signal."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import uvicorn

from assistant import __version__
from assistant.daemon import instance
from assistant.daemon.app import build_app
from assistant.daemon.loading import Planning
from assistant.daemon.service import Service
from assistant.engine.interface import ElasticEngine
from assistant.errors import SettingsError
from assistant.memory.sampler import Probes
from assistant.settings import Settings

log = logging.getLogger(__name__)

# What is still open this long after the engine was closed is cut off.
_LAST_WORDS_S = 5
_FILES = 8192
# As in `assistant.llama.ggml`, which the daemon never imports: it loads llama.cpp.
BACKENDS_VARIABLE = "UNDERKEEL_GGML_BACKENDS"


class _Server(uvicorn.Server):
    """Ends the engine's work first when told to end, so that open streams end by themselves."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._closing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run_on(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        await self.serve(sockets=[listener])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A first signal ends the server in order, a second one without waiting for anybody.

        Not uvicorn's own, which sends the signal again when the server has ended: that would kill
        us before the socket and the lock are cleaned up.
        """
        self.force_exit = self.should_exit
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end_work)

    def end(self) -> None:
        """Stop serving. Call it on the event loop."""
        self._end_work()
        self.should_exit = True

    def _end_work(self) -> None:
        if self._closing is None:
            log.info("stopping")
            self._closing = asyncio.ensure_future(self._service.host.close())


def run(settings: Settings, problems: Sequence[SettingsError], engine: ElasticEngine) -> None:
    """Serve until told to stop.

    Args:
        problems: what was wrong with the settings; logged, and never fatal.

    Raises:
        DaemonError: another daemon is running, or the socket cannot be made.
    """
    _allow_many_connections()
    _name_backends(settings.engine.backend_libraries)
    with instance.claim() as listener:
        log.info("daemon version=%s socket=%s", __version__, listener.getsockname())
        for problem in problems:
            log.warning("settings: %s", problem)
        probes = Probes()
        service = Service(engine, Planning(settings.model, probes), settings, probes)
        asyncio.run(serve(service, listener))
        log.info("stopped")


async def serve(service: Service, listener: socket.socket) -> None:
    """Serve `service` on `listener` until told to stop."""
    server: _Server | None = None

    def stop() -> None:
        assert server is not None
        server.end()

    config = uvicorn.Config(
        build_app(service, stop),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_LAST_WORDS_S,
    )
    server = _Server(config, service)
    await server.run_on(listener)


def _allow_many_connections() -> None:
    """Connections cost a file each, and some systems allow 256 unless asked for more."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _name_backends(libraries: Sequence[str]) -> None:
    """Let the worker and the planner's children load the user's own ggml backends."""
    if libraries and BACKENDS_VARIABLE not in os.environ:
        os.environ[BACKENDS_VARIABLE] = os.pathsep.join(libraries)
