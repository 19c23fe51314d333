"""Requests, changes, crashes and the end, all at once, on a real engine (cases T8, T16, S9)."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import tiny_models
from daemons import until
from msgspec.structs import replace

from assistant.daemon.engine_supervisor import EngineSupervisor
from assistant.daemon.loading import Loadable
from assistant.engine.local import LlamaEngine
from assistant.engine.types import Done, GenerateRequest, LoadSpec
from assistant.errors import UnderkeelError
from assistant.memory.ladder import Rung
from assistant.wire import ServiceState

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")

LIMIT_S = 60.0
UNLOAD = 3


def loadable(path: Path) -> Loadable:
    spec = LoadSpec(path=str(path), n_ctx=512, n_threads=1)
    smaller = replace(spec, n_ctx=256)
    rungs = (
        Rung("plan", "plan", spec, {"CPU": 4 << 30}),
        Rung("context1", "context", smaller, {"CPU": 2 << 30}),
        Rung("slots", "slots", replace(smaller, n_seq_max=2), {"CPU": 1 << 30}),
        Rung("unload", "everything", None, {"CPU": 0}, reload=True),
    )
    return Loadable(rungs)


@dataclass
class Scene:
    """One engine, two models, and the chance that decides what happens to them."""

    rng: random.Random
    folder: Path
    models: tuple[Path, Path]
    engine: LlamaEngine = field(default_factory=LlamaEngine)

    def __post_init__(self) -> None:
        self.file, self.other = self.folder / "m.gguf", self.folder / "o.gguf"
        shutil.copyfile(self.models[0], self.file)
        shutil.copyfile(self.models[1], self.other)
        self.supervisor = EngineSupervisor(self.engine, lambda: loadable(self.file))

    async def generate(self, most: int = 8, *, leave: bool = False) -> None:
        await self.supervisor.usable(LIMIT_S)
        request = GenerateRequest(
            id=f"r{self.rng.random()}",
            prompt=(1, 40 + self.rng.randrange(50), 41),
            max_tokens=most,
            time_limit_ms=20_000,
        )
        answer = self.supervisor.generate(request, self.supervisor.edition)
        if leave:
            await anext(answer)
            await answer.aclose()
            return
        assert isinstance([item async for item in answer][-1], Done)

    async def replace_file(self) -> None:
        shutil.copyfile(self.rng.choice(self.models), self.folder / "new")
        (self.folder / "new").replace(self.file)

    async def kill(self) -> None:
        if self.engine.pid:
            with suppress(ProcessLookupError):
                os.kill(self.engine.pid, self.rng.choice([signal.SIGKILL, signal.SIGSEGV]))

    async def stop_for_a_moment(self) -> None:
        pid = self.engine.pid
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(0.2)
                os.kill(pid, signal.SIGCONT)

    def actions(self) -> list[Callable[[], Awaitable[object]]]:
        one = self.supervisor
        requests: list[Callable[[], Awaitable[object]]] = [
            lambda: one.tokenise("abc"),
            self.generate,
            lambda: self.generate(40),
            lambda: self.generate(200, leave=True),
            lambda: one.stats(1),
            one.touch,
            one.drop_idle,
        ]
        changes: list[Callable[[], Awaitable[object]]] = [
            lambda: one.move_to(self.rng.randrange(UNLOAD)),
            lambda: one.move_to(UNLOAD),
            one.release,
            lambda: one.exchange(loadable(self.rng.choice([self.file, self.other]))),
            one.reload_model,
            self.replace_file,
            self.kill,
            self.stop_for_a_moment,
        ]
        return requests * 2 + changes

    async def storm(self) -> list[asyncio.Task[object]]:
        """What comes, in any order and at any distance; each ends by itself."""

        async def limited(action: Callable[[], Awaitable[object]]) -> object:
            async with asyncio.timeout(LIMIT_S):
                return await action()

        tasks = []
        for _ in range(self.rng.randint(8, 24)):
            action = self.rng.choice(self.actions())
            tasks.append(asyncio.create_task(limited(action)))
            await asyncio.sleep(self.rng.choice([0, 0, 0.001, 0.01, 0.05, 0.2]))
        return tasks


def workers() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if any("assistant.engine.worker" in part for part in process.cmdline())
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    first = tiny_models.sliding_window(folder / "first.gguf", "First")
    return first, tiny_models.sliding_window(folder / "second.gguf", "Second")


@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes_at_once_ends_in_order(
    seed: int, tmp_path: Path, models: tuple[Path, Path]
) -> None:
    """T8, T16: every request is answered or gets an error of ours; what was closed stays closed,
    twice and in the middle of anything; what was not serves; what was released holds nothing."""
    scene = Scene(random.Random(seed), tmp_path, models)
    supervisor, engine = scene.supervisor, scene.engine

    async def main() -> None:
        supervisor.start_load()
        if seed % 3:
            await until(lambda: supervisor.state is not ServiceState.LOADING)
        tasks = await scene.storm()
        closed = seed % 2 == 0
        if closed:
            await asyncio.wait_for(asyncio.gather(supervisor.close(), supervisor.close()), LIMIT_S)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert not isinstance(outcome, BaseException) or isinstance(outcome, UnderkeelError), (
                repr(outcome)
            )
        if not closed:
            await scene.generate()
            await supervisor.release()
            assert engine.pid is None
            await scene.generate()
            await supervisor.close()
        supervisor.start_load()
        await asyncio.sleep(0.05)
        assert (supervisor.state, engine.pid) == (ServiceState.STOPPING, None)
        assert workers() == []

    asyncio.run(main())
