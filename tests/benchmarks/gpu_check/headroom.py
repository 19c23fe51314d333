"""Part C: another process takes and returns GPU memory while completions run.

First every rung of the ladder, down and up, under an answer that is being written: what the rung
holds by the driver, against what was predicted. Then the real daemon serves completions while a
second process takes real memory in steps. Nothing may be lost, no worker may die, and what the
second process wants must be free within two seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assistant.engine.local import LlamaEngine
from assistant.engine.types import Delta, Done, GenerateRequest
from assistant.errors import ContextFullError, UnderkeelError
from assistant.memory.gguf.header import read_header
from assistant.memory.planning import Requirements
from assistant.memory.planning.measured_planner import plan_with_ladder
from gpu_check import models
from gpu_check.gpu import GIB, MIB, SIMULATED_CONTEXT_BYTES, SIMULATED_POOL_BYTES, Gpu, model_file
from gpu_check.results import Config, Row, emit, open_rows, skip
from gpu_check.second_process import SecondProcess

MOST_OVER_S = 2.0
"""Within so long what a second process asks for must have been given back."""

_SPEED = 10.0  # how much faster than life the ways back up are; falls take their real time
_ANSWERS = 3  # completions at a time
_STEP_S = 0.05


@dataclass(frozen=True)
class Sizes:
    """The play's numbers on one kind of GPU.

    Attributes:
        limit_bytes: of the GPU while the part runs; the second process holds the rest of it.
        takes: shares of the limit that the second process takes, one after another.
        hold_s: how long it keeps each.
    """

    limit_bytes: int
    margin_bytes: int
    overhead_bytes: int
    n_ctx: int
    chunk_bytes: int
    takes: tuple[float, ...] = (0.05, 0.3, 0.6)
    hold_s: float = 3.0
    prompt_tokens: int = 400
    answer_tokens: int = 32


_REAL = Sizes(24 * GIB, 256 * MIB, -1, 16384, 64 * MIB)
_SMALL = Sizes(
    112 * MIB,
    4 * MIB,
    SIMULATED_CONTEXT_BYTES + SIMULATED_POOL_BYTES,
    4096,
    MIB,
    hold_s=1.0,
    prompt_tokens=96,
    answer_tokens=8,
)


def main() -> None:
    config = Config.from_arguments()
    gpu = Gpu(config)
    open_rows()
    sizes = _SMALL if gpu.simulated else _REAL
    path, _ = model_file(config, models.MAIN)
    if gpu.simulated:
        gpu.resize(sizes.limit_bytes)
    second = SecondProcess(gpu.device, sizes.chunk_bytes)
    try:
        second.hold(0)  # it is up, and has its driver's context
        base = max(gpu.free_bytes() - sizes.limit_bytes, 0)
        second.hold(base, within_s=20)
        asyncio.run(_ladder(gpu, sizes, path, config))
        if config.left_s < 30:
            skip("takes", "the second process", "the part's time was used up")
            return
        asyncio.run(_takes(config, _Taker(gpu, sizes, second, base), path))
    finally:
        second.close()


async def _ladder(gpu: Gpu, sizes: Sizes, path: Path, config: Config) -> None:
    """Go down every rung and up again under an answer, and compare what each holds."""
    requirements = Requirements(
        n_ctx=sizes.n_ctx, margin_bytes=sizes.margin_bytes, overhead_bytes=sizes.overhead_bytes
    )
    ladder = plan_with_ladder(read_header(path), gpu.machine(), requirements)[1]
    shapes = [rung for rung in ladder if rung.spec is not None]
    before = gpu.free_bytes()
    engine = LlamaEngine()
    try:
        assert shapes[0].spec is not None
        await engine.load(shapes[0].spec)
        # those that only shorten prompts are loaded like the plan; once there is enough
        distinct = [rung for rung in shapes if rung.spec != shapes[0].spec]
        for way, rungs in (("down", shapes), ("up", [*distinct[-2::-1], shapes[0]])):
            for rung in rungs:
                if config.left_s < 45:
                    skip("rungs", f"{way} to {rung.name}", "the part's time was used up")
                    continue
                assert rung.spec is not None
                answer = _Answer(engine, sizes)
                await answer.more()
                started = time.perf_counter()
                info = await engine.reshape(rung.spec)
                seconds = time.perf_counter() - started
                await answer.more()
                held = before - gpu.free_bytes()
                await answer.task
                emit(
                    "rungs",
                    name=rung.name,
                    way=way,
                    gives_up=rung.gives_up,
                    n_ctx=info.n_ctx,
                    predicted_bytes=rung.bytes_on(gpu.device),
                    held_bytes=held,
                    seconds=round(seconds, 3),
                    expected_s=round(rung.pause_s, 3),
                    reload=rung.reload,
                    answer_tokens=answer.count,
                    answer_complete=answer.complete,
                )
        started = time.perf_counter()
        await engine.unload()
        emit(
            "rungs",
            name="unload",
            way="down",
            predicted_bytes=0,
            held_bytes=before - gpu.free_bytes(),
            seconds=round(time.perf_counter() - started, 3),
        )
    finally:
        await engine.close()


class _Answer:
    """An answer that is being written."""

    _numbers = itertools.count()

    def __init__(self, engine: LlamaEngine, sizes: Sizes) -> None:
        number = next(self._numbers)
        self.count = 0
        self.complete = False
        request = GenerateRequest(
            id=f"a{number}",
            prompt=_prompt(sizes.prompt_tokens, number),
            max_tokens=2 * sizes.answer_tokens,
            speculate=False,
        )
        self.task = asyncio.create_task(self._read(engine, request))

    async def _read(self, engine: LlamaEngine, request: GenerateRequest) -> None:
        async for item in engine.generate(request):
            if isinstance(item, Delta):
                self.count += len(item.tokens) or 1
            elif isinstance(item, Done):
                self.count, self.complete = item.timings.generated_tokens, True

    async def more(self) -> None:
        """Wait for more of it, or for its end."""
        count = self.count
        while self.count == count and not self.task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def _prompt(count: int, number: int) -> tuple[int, ...]:
    """Ids of fillers, each request's own."""
    return tuple(300 + (7919 * number + 31 * at) % 3000 for at in range(count))


class _Watch:
    """Free memory of the GPU, many times a second, in a thread of its own."""

    def __init__(self, gpu: Gpu) -> None:
        self.seen: list[tuple[float, int]] = []
        self._gpu = gpu
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(_STEP_S):
            self.seen.append((time.monotonic(), self._gpu.free_bytes()))

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def below_s(self, since_s: float, least_bytes: int) -> float:
        """The longest time in a row that less than so much was free."""
        longest, first = 0.0, None
        for at_s, free in self.seen:
            if at_s < since_s or free >= least_bytes:
                first = None
                continue
            first = at_s if first is None else first
            longest = max(longest, at_s - first)
        return longest


@dataclass
class _Tally:
    """What became of completions."""

    asked: int = 0
    answered: int = 0
    empty: int = 0
    shortened: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    waits_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Taker:
    """The second process: what it holds all the time, and what it does besides."""

    gpu: Gpu
    sizes: Sizes
    process: SecondProcess
    base_bytes: int


async def _takes(config: Config, taker: _Taker, path: Path) -> None:
    """Serve completions by the daemon while the second process takes memory and returns it."""
    from stage import serves_all, until

    sizes = taker.sizes
    watch, tally = _Watch(taker.gpu), _Tally()
    try:
        async with _daemon(config, sizes, path) as (client, record):
            await client.wait_ready()
            people = [
                asyncio.create_task(_complete(client, sizes, tally, number))
                for number in range(_ANSWERS)
            ]
            await asyncio.sleep(1.0)
            for share in sizes.takes:
                if config.left_s < 15 + sizes.hold_s:
                    skip("takes", f"{share:.0%} of the limit", "the part's time was used up")
                    continue
                emit("takes", **await _take(taker, share, watch, record))
            for person in people:
                person.cancel()
            await asyncio.gather(*people, return_exceptions=True)
            await _restored(client, until, serves_all, config)
            looks = _looks(record)
            emit(
                "served",
                requests=tally.asked,
                answered=tally.answered,
                empty=tally.empty,
                shortened=tally.shortened,
                errors=dict(tally.errors),
                median_s=_middle(tally.waits_s, 0.5),
                p90_s=_middle(tally.waits_s, 0.9),
                slowest_s=_middle(tally.waits_s, 1.0),
                worker_deaths=looks[-1]["deaths"],
                refusals=looks[-1]["refusals"],
                moves=looks[-1]["moves"],
                rungs_used=list(dict.fromkeys(look["rung"] for look in looks if look["rung"])),
            )
    finally:
        watch.close()


async def _take(taker: _Taker, share: float, watch: _Watch, record: Path) -> Row:
    """Take one share, keep it a while, return it."""
    sizes, second, base = taker.sizes, taker.process, taker.base_bytes
    wanted = int(sizes.limit_bytes * share)
    start_s = time.monotonic()
    taken = await asyncio.to_thread(second.hold, base + wanted, 10.0)
    await asyncio.sleep(sizes.hold_s)
    rung = _looks(record)[-1]["rung"]
    free = taker.gpu.free_bytes()
    await asyncio.to_thread(second.hold, base)
    await asyncio.sleep(sizes.hold_s)
    return {
        "wanted_bytes": wanted,
        "got_bytes": taken["held_bytes"] - base,
        "seconds": taken["seconds"],
        "refused": taken["refused"],
        "margin_bytes": sizes.margin_bytes,
        "below_half_margin_s": round(watch.below_s(start_s, sizes.margin_bytes // 2), 2),
        "free_while_held_bytes": free,
        "rung_while_held": rung,
    }


async def _complete(client: Any, sizes: Sizes, tally: _Tally, person: int) -> None:
    """Ask for completions until cancelled, each of another document's state."""
    for number in itertools.count(person, _ANSWERS):
        try:
            await _ask(client, sizes.prompt_tokens, sizes, tally, number)
        except ContextFullError:
            tally.shortened += 1
            tally.asked -= 1
            with contextlib.suppress(ContextFullError):
                await _ask(client, 128, sizes, tally, number)
        await asyncio.sleep(0.02)


async def _ask(client: Any, tokens: int, sizes: Sizes, tally: _Tally, number: int) -> None:
    from assistant.wire import CompletionRequest

    request = CompletionRequest(
        prompt=_prompt(tokens, number),
        temperature=0.0,
        max_tokens=sizes.answer_tokens,
        document=f"document-{number % _ANSWERS}",
    )
    tally.asked += 1
    started, text = time.monotonic(), ""
    try:
        async with asyncio.timeout(30):
            async for chunk in client.complete(request):
                text += chunk.content
    except asyncio.CancelledError:
        tally.asked -= 1  # nobody waits for it any more
        raise
    except TimeoutError:
        tally.errors["no answer in 30 s"] += 1
        return
    except ContextFullError:
        raise
    except UnderkeelError as error:
        tally.errors[error.code] += 1
        return
    tally.waits_s.append(time.monotonic() - started)
    tally.answered += 1
    tally.empty += not text


async def _restored(client: Any, until: Any, serves_all: Any, config: Config) -> None:
    """Wait until the whole plan is served again, and say how long that took."""
    started = time.monotonic()
    try:
        await until(client, serves_all, max(min(config.left_s - 5, 60.0), 1.0), "restored")
        emit("restored", seconds=round(time.monotonic() - started, 2), speed=_SPEED)
    except AssertionError as error:
        emit("restored", error=str(error))


def _middle(values: list[float], share: float) -> float | None:
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 3)


def _looks(record: Path) -> list[Row]:
    """What the daemon's governor saw and decided so far; see stage_daemon."""
    return [json.loads(line) for line in record.read_text().splitlines() if line]


@contextlib.asynccontextmanager
async def _daemon(config: Config, sizes: Sizes, path: Path) -> AsyncIterator[tuple[Any, Path]]:
    """The real daemon in a private home, whose ways back up are faster than life."""
    from real_daemon import configure

    from assistant.client.client import DaemonClient

    home = config.folder / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    os.environ["UNDERKEEL_HOME"] = str(home)
    configure(
        home,
        model={
            "name": path,
            "n_ctx": sizes.n_ctx,
            "vram_margin_mib": sizes.margin_bytes // MIB,
            "vram_overhead_mib": max(sizes.overhead_bytes // MIB, -1),
        },
        daemon={"log_level": "debug"},
    )
    record = config.folder / "looks.jsonl"
    record.unlink(missing_ok=True)
    process = _start_daemon(record)
    try:
        async with DaemonClient(autostart=False) as client:
            await _answers(client, process)
            yield client, record
            with contextlib.suppress(UnderkeelError):
                await client.stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, 10)
    finally:
        process.kill()
        process.wait()


def _start_daemon(record: Path) -> subprocess.Popen[bytes]:
    program = Path(__file__).resolve().parents[2] / "equipment" / "stage_daemon.py"
    return subprocess.Popen([sys.executable, str(program), str(_SPEED), str(record)])


async def _answers(client: Any, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await client.status()
                return
            except UnderkeelError:
                if process.poll() is not None:
                    raise RuntimeError("the daemon ended at its start; see the log") from None
                await asyncio.sleep(0.05)


if __name__ == "__main__":
    main()
