"""A daemon inside the test's own event loop, on a real private socket, with any engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
from fake_engine import FakeEngine
from msgspec.structs import replace

from assistant import paths
from assistant.client.client import DaemonClient
from assistant.daemon.engine_supervisor import Planner
from assistant.daemon.loading import Loadable
from assistant.daemon.process import instance, server
from assistant.daemon.service import Service
from assistant.engine.types import ElasticEngine, LoadSpec
from assistant.errors import DaemonError
from assistant.memory.devices import HostMemory
from assistant.memory.ladder import DROP, Rung
from assistant.memory.sampler import Reader, Sample
from assistant.settings import Settings
from assistant.wire import ServiceState


@dataclass
class Daemon:
    """A running daemon and two ways to it."""

    service: Service
    client: DaemonClient
    http: httpx.AsyncClient

    async def idle(self) -> None:
        """Wait until nothing is in flight, in the daemon and in its engine."""
        await until(lambda: not self.service.admission.inside)
        stats = await self.service.supervisor.stats()
        while stats is not None and stats.running + stats.waiting:
            await asyncio.sleep(0.01)
            stats = await self.service.supervisor.stats()


async def until(condition: Callable[[], bool], limit_s: float = 30) -> None:
    """Wait for something that no event tells."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def fake_model(path: str = "/fake/model.gguf") -> Loadable:
    """A ladder of ever smaller contexts, with sizes to match: 1 MiB a cell."""
    spec = LoadSpec(path=path, n_ctx=4096)
    rungs = [Rung(name, name, spec, {"CPU": 4 << 30}) for name in ("plan", "trim", DROP)]
    for number in (1, 2, 3):
        smaller = replace(spec, n_ctx=spec.n_ctx >> number)
        rungs.append(Rung(f"context{number}", "context", smaller, {"CPU": (4 << 30) >> number}))
    ladder = (*rungs, Rung("unload", "everything", None, {"CPU": 0}))
    return Loadable(ladder, margins={"CPU": 1 << 30})


@dataclass
class Memory:
    """Host memory that a test and its daemon share: a reader for the governor's sampler.

    Attributes:
        others_bytes: what other programs hold; the test sets it as it likes.
        ours: what the served model holds by the rung it stands on.
    """

    total_bytes: int = 16 << 30
    others_bytes: int = 0
    ours: Callable[[], int] = lambda: 0

    def __call__(self) -> Sample:
        free = self.total_bytes - self.others_bytes - self.ours()
        supervisor = HostMemory(self.total_bytes, free)
        return Sample(at_s=time.monotonic(), gpus=(), host_memory=supervisor)

    def leave(self, free_bytes: int) -> None:
        """Other programs take or give so much that this is free now."""
        self.others_bytes = self.total_bytes - self.ours() - free_bytes


def held(service: Service) -> int:
    """Bytes that the rung in use holds."""
    supervisor = service.supervisor
    if supervisor.state is not ServiceState.READY or supervisor.loadable is None:
        return 0
    return supervisor.loadable.ladder[supervisor.step].holds["CPU"]


@asynccontextmanager
async def serving(
    engine: ElasticEngine | None = None,
    *,
    settings: Settings | None = None,
    planner: Planner = fake_model,
    look: Reader | None = None,
    ready: bool = True,
    tcp_port: int = 0,
) -> AsyncIterator[Daemon]:
    """Serve `engine` on the socket of the present UNDERKEEL_HOME until the block ends."""
    with instance.claim(tcp_port=tcp_port) as claimed:
        look = look or Memory()
        service = Service(engine or FakeEngine(), planner, settings or Settings(), look)
        if isinstance(look, Memory):
            look.ours = lambda: held(service)
        task = asyncio.create_task(server.serve(service, claimed))
        transport = httpx.AsyncHTTPTransport(uds=str(paths.socket_path()))
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://daemon", timeout=60) as http,
            DaemonClient(autostart=False) as client,
        ):
            try:
                if ready:
                    await client.wait_ready()
                yield Daemon(service, client, http)
            finally:
                with suppress(DaemonError):  # the test has stopped it already
                    await client.stop()
                await task
