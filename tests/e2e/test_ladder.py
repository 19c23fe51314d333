"""Every rung of the ladder in the real worker: its bytes are as said, and answers outlive it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from simulated import Gpu, Machine
from stage import DESKTOP_BYTES, GPU, GPU_BYTES, MARGIN_MIB
from tiny_moe import TEXT

from assistant.engine.local import LlamaEngine
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, StopReason
from assistant.errors import ContextFullError, WorkerDiedError
from assistant.memory.devices import HostMemory, ask_backend, merge
from assistant.memory.gguf.header import read_header
from assistant.memory.ladder import Rung
from assistant.memory.planning import Requirements, machine_of
from assistant.memory.planning.measured_planner import plan_with_ladder

pytestmark = pytest.mark.model

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A simulated GPU that this process's children see."""
    machine = Machine(tmp_path / "gpus", [Gpu(GPU, GPU_BYTES, others_bytes=DESKTOP_BYTES)])
    for name, value in machine.environment().items():
        monkeypatch.setitem(os.environ, name, value)
    return machine


def ladder_of(model: Path) -> tuple[Rung, ...]:
    """The ladder of a model on the GPU."""
    host = HostMemory(16 * GIB, 8 * GIB)
    requirements = Requirements(n_ctx=8192, margin_bytes=MARGIN_MIB * MIB, overhead_bytes=0)
    machine = machine_of(merge(ask_backend(), (), host))
    return plan_with_ladder(read_header(model), machine, requirements)[1]


def run(test: Callable[[LlamaEngine], Awaitable[None]]) -> None:
    async def main() -> None:
        engine = LlamaEngine()
        try:
            async with asyncio.timeout(120):
                await test(engine)
        finally:
            await engine.close()

    asyncio.run(main())


class Answer:
    """An answer that is read in pieces."""

    def __init__(self, engine: LlamaEngine, request: GenerateRequest) -> None:
        self.text = ""
        self.done: Done | None = None
        self.task = asyncio.create_task(self._read(engine, request))

    async def _read(self, engine: LlamaEngine, request: GenerateRequest) -> None:
        async for item in engine.generate(request):
            if isinstance(item, Delta):
                self.text += item.text
            elif isinstance(item, Done):
                self.done = item

    async def more(self) -> None:
        """Wait for more text."""
        length = len(self.text)
        while len(self.text) == length and not self.task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def ask(prompt: list[int], most: int, name: str = "a") -> GenerateRequest:
    return GenerateRequest(id=name, prompt=tuple(prompt), max_tokens=most)


def test_each_rung_holds_what_it_said_and_answers_go_on(gpu: Machine, tiny_moe: Path) -> None:
    ladder = ladder_of(tiny_moe)
    names = [rung.name for rung in ladder]
    assert names[:3] == ["plan", "trim", "drop"] and names[-1] == "unload"
    assert {"context", "batch", "cache", "half experts", "experts", "host"} <= set(names)
    shapes = [rung for rung in ladder if rung.spec is not None]

    async def test(engine: LlamaEngine) -> None:
        assert shapes[0].spec is not None
        await engine.load(shapes[0].spec)
        answer = Answer(engine, ask(list(range(1000, 1400)), 600))
        for rung in [*shapes, *reversed(shapes)]:
            assert rung.spec is not None
            await answer.more()
            info = await engine.reshape(rung.spec)
            assert info.n_ctx == rung.spec.n_ctx
            held, said = gpu.used_bytes(GPU), rung.holds[GPU]
            assert held == pytest.approx(said, rel=0.01), f"{rung.name}: {held} of {said}"
            await answer.more()
        await answer.task
        assert answer.done is not None and answer.done.timings.generated_tokens == 600
        assert answer.done.reason is StopReason.LENGTH
        assert (TEXT * 60).startswith(answer.text)
        await engine.unload()
        assert not [usage for usage in gpu.usage() if psutil.pid_exists(usage.pid)]

    run(test)


def test_a_live_sequence_is_carried_over_and_not_evaluated_again(dense_model: Path) -> None:
    """On a real model, whose next token depends on all before it."""
    spec = LoadSpec(path=str(dense_model), n_ctx=2048, n_seq_max=2)
    half = LoadSpec(path=str(dense_model), n_ctx=1024, n_seq_max=2, n_batch=128, n_ubatch=128)

    async def test(engine: LlamaEngine) -> None:
        await engine.load(spec)
        code = "".join(f"def field_{n}(self):\n    return self._{n}\n\n" for n in range(20))
        prompt = await engine.tokenise(code + "def field_20(self):")
        plain = Answer(engine, ask(prompt, 24))
        await plain.task
        await engine.drop_idle()

        answer = Answer(engine, ask(prompt, 24))
        await answer.more()
        evaluated = (await engine.stats()).evaluated_tokens
        assert evaluated >= len(prompt)
        await engine.reshape(half)
        await answer.task
        assert answer.text == plain.text
        stats = await engine.stats()
        # The counters begin again with the context: nothing of the prompt was evaluated in it.
        assert stats.evaluated_tokens == 0 and stats.cells_total == 1024
        again = Answer(engine, ask(prompt, 4))
        await again.task
        assert again.done is not None and again.done.timings.evaluated_tokens <= 1

        quantised = LoadSpec(
            path=str(dense_model), n_ctx=1024, n_seq_max=2, cache_type_k="q8_0", cache_type_v="q8_0"
        )
        answer = Answer(engine, ask(prompt, 24))
        await answer.more()
        await engine.reshape(quantised)
        await answer.task
        assert answer.done is not None and answer.done.timings.generated_tokens == 24
        # Cells of another type cannot be carried over: they were made again.
        assert (await engine.stats()).cells_used >= len(prompt)

    run(test)


def test_what_no_longer_fits_ends_with_what_there_is_or_says_so(
    gpu: Machine, tiny_moe: Path
) -> None:
    spec = LoadSpec(path=str(tiny_moe), n_ctx=2048, n_seq_max=2, n_threads=1)
    small = LoadSpec(path=str(tiny_moe), n_ctx=512, n_seq_max=2, n_threads=1)

    async def test(engine: LlamaEngine) -> None:
        await engine.load(spec)
        running = Answer(engine, ask(list(range(1000, 1600)), 400, "running"))
        await running.more()
        long = Answer(engine, ask(list(range(2000, 2300)), 700, "long"))
        await long.more()
        await engine.reshape(small)
        await running.task
        # Its prompt alone is longer than the new context: it ends with what there is.
        assert running.done is not None and running.done.reason is StopReason.LENGTH
        assert running.text and (TEXT * 60).startswith(running.text)
        # The other's does fit, with a shorter answer.
        await long.task
        assert long.done is not None
        assert 0 < long.done.timings.generated_tokens <= 512 - 300
        assert (TEXT * 60).startswith(long.text)
        with pytest.raises(ContextFullError):
            await Answer(engine, ask(list(range(1000, 1600)), 10, "after")).task

    run(test)


def test_two_that_do_not_fit_together_take_turns(tiny_moe: Path) -> None:
    spec = LoadSpec(path=str(tiny_moe), n_ctx=2048, n_seq_max=4, n_threads=1)
    small = LoadSpec(path=str(tiny_moe), n_ctx=512, n_seq_max=4, n_threads=1)

    async def test(engine: LlamaEngine) -> None:
        await engine.load(spec)
        answers = [
            Answer(engine, ask(list(range(1000 * n, 1000 * n + 250)), 120, f"r{n}"))
            for n in range(1, 4)
        ]
        for answer in answers:
            await answer.more()
        await engine.reshape(small)
        for answer in answers:
            await answer.task
            assert answer.done is not None and answer.done.timings.generated_tokens == 120
            assert (TEXT * 60).startswith(answer.text)

    run(test)


def test_a_worker_that_hangs_is_ended_and_the_next_request_is_served(tiny_moe: Path) -> None:
    async def main() -> None:
        engine = LlamaEngine(hang_s=4.0)
        await engine.load(LoadSpec(path=str(tiny_moe), n_ctx=2048, n_threads=1))
        answer = Answer(engine, ask(list(range(1000, 1200)), 1500))
        await answer.more()
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        with pytest.raises(WorkerDiedError) as death:
            await answer.task
        # Somebody stopped it: no fault of the plan.
        assert death.value.hung and death.value.stopped
        again = Answer(engine, ask(list(range(1000, 1200)), 20))
        await again.task
        assert (TEXT * 3).startswith(again.text) and again.text
        await engine.close()

    asyncio.run(main())


def test_one_that_is_stopped_while_it_loads_is_not_waited_for_like_a_slow_disk(
    tiny_moe: Path,
) -> None:
    async def main() -> None:
        engine = LlamaEngine(hang_s=2.0)
        loading = asyncio.create_task(engine.load(LoadSpec(path=str(tiny_moe), n_threads=1)))
        async with asyncio.timeout(15):
            while engine.pid is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            os.kill(engine.pid, signal.SIGSTOP)
            with pytest.raises(WorkerDiedError) as death:
                await loading
        assert death.value.stopped
        await engine.close()

    asyncio.run(main())
