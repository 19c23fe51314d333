"""Memory that is refused or lost at any stage ends in a clear error, and the engine goes on.

The engine is the real one with its worker process; the GPU is simulated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from simulated import GIB, MIB, Compute, Gpu, Machine, Stage

from assistant.engine import local
from assistant.engine.local import LlamaEngine
from assistant.engine.types import Delta, GenerateRequest, LoadSpec, StopReason
from assistant.errors import EngineError, LoadError, UnderkeelError, WorkerDiedError

pytestmark = pytest.mark.model

Scenario = Callable[[LlamaEngine], Awaitable[None]]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One GPU of 8 GiB, seen by the worker."""
    machine = Machine(tmp_path / "gpus", [Gpu("SIM0", 8 * GIB)])
    for name, value in machine.environment().items():
        monkeypatch.setenv(name, value)
    return machine


def on_host(model: Path) -> LoadSpec:
    return LoadSpec(path=str(model), n_ctx=512, n_ubatch=64, n_batch=64, n_seq_max=2)


def on_gpu(model: Path) -> LoadSpec:
    return LoadSpec(
        path=str(model),
        n_ctx=512,
        n_ubatch=64,
        n_batch=64,
        n_seq_max=2,
        devices=("SIM0",),
        n_gpu_layers=99,
    )


def play(scenario: Scenario, hang_s: float = local.HANG_S) -> None:
    async def body() -> None:
        engine = LlamaEngine(hang_s)
        try:
            await asyncio.wait_for(scenario(engine), 240)
        finally:
            await engine.close()

    asyncio.run(body())


async def answer(engine: LlamaEngine, n: int = 4) -> str:
    """Generate `n` tokens; the text."""
    prompt = tuple(await engine.tokenise("def add(a, b):\n    return"))
    text = ""
    async for event in engine.generate(GenerateRequest(id="r", prompt=prompt, max_tokens=n)):
        if isinstance(event, Delta):
            text += event.text
        else:
            assert event.reason in {StopReason.LENGTH, StopReason.EOS}
    return text


def shown(error: UnderkeelError) -> None:
    """It is fit for a person: says what, to what, and what to do."""
    assert error.message and error.subject and error.advice
    assert "Traceback" not in str(error)


@pytest.mark.parametrize("stage", [Stage.WEIGHTS, Stage.KV, Stage.COMPUTE])
def test_an_allocation_refused_while_loading(
    stage: Stage, machine: Machine, tiny_moe: Path
) -> None:
    """The very worker that was refused goes on to load what does fit, and answers."""

    async def scenario(engine: LlamaEngine) -> None:
        machine.change("SIM0", refuse=stage)
        with pytest.raises(LoadError) as caught:
            await engine.load(on_gpu(tiny_moe))
        shown(caught.value)
        assert machine.used_bytes("SIM0") == 0
        worker = engine.pid
        await engine.load(on_host(tiny_moe))
        assert engine.pid == worker is not None
        assert await answer(engine)

    play(scenario)


def test_a_gpu_without_room_for_a_context_of_its_driver(machine: Machine, tiny_moe: Path) -> None:
    async def scenario(engine: LlamaEngine) -> None:
        machine.change("SIM0", context_bytes=9 * GIB)
        with pytest.raises(LoadError) as caught:
            await engine.load(on_gpu(tiny_moe))
        shown(caught.value)
        machine.change("SIM0", context_bytes=100 * MIB)
        await engine.load(on_gpu(tiny_moe))
        assert await answer(engine)

    play(scenario)


def test_a_pool_that_finds_no_memory_is_found_out_by_the_warm_up(
    machine: Machine, tiny_moe: Path
) -> None:
    """CUDA's pool is allocated by the first batch and ends the process where it cannot be: that
    happens while loading, not while somebody types."""

    async def scenario(engine: LlamaEngine) -> None:
        machine.change("SIM0", pool_bytes=8 * GIB)
        with pytest.raises(WorkerDiedError) as caught:
            await engine.load(on_gpu(tiny_moe))
        shown(caught.value)
        machine.change("SIM0", pool_bytes=100 * MIB)
        await engine.load(on_gpu(tiny_moe))
        machine.change("SIM0", others_bytes=8 * GIB)  # everything left is taken
        assert await answer(engine)

    play(scenario)


@pytest.mark.parametrize("compute", [Compute.ALLOC_FAILED, Compute.FAIL])
def test_a_graph_that_fails_ends_the_request_alone(
    compute: Compute, machine: Machine, tiny_moe: Path
) -> None:
    async def scenario(engine: LlamaEngine) -> None:
        await engine.load(on_gpu(tiny_moe))
        whole = await answer(engine)
        worker = engine.pid
        machine.change("SIM0", compute=compute)
        with pytest.raises(EngineError) as caught:
            await answer(engine)
        assert caught.value.message and caught.value.advice
        machine.change("SIM0", compute=Compute.OK)
        assert await answer(engine) == whole
        assert engine.pid == worker

    play(scenario)


def test_a_gpu_that_is_lost_takes_the_worker_along_and_both_return(
    machine: Machine, tiny_moe: Path
) -> None:
    async def scenario(engine: LlamaEngine) -> None:
        await engine.load(on_gpu(tiny_moe))
        whole = await answer(engine)
        machine.change("SIM0", lost=True)
        with pytest.raises(WorkerDiedError) as caught:
            await answer(engine)
        shown(caught.value)
        with pytest.raises(EngineError):  # the GPU is still gone
            await answer(engine)
        machine.change("SIM0", lost=False)
        assert await answer(engine) == whole

    play(scenario)


def test_a_graph_that_never_ends_is_ended(machine: Machine, tiny_moe: Path) -> None:
    async def scenario(engine: LlamaEngine) -> None:
        await engine.load(on_gpu(tiny_moe))
        machine.change("SIM0", compute=Compute.HANG)
        with pytest.raises(WorkerDiedError) as caught:
            await answer(engine)
        assert caught.value.hung
        machine.change("SIM0", compute=Compute.OK)
        assert await answer(engine)

    play(scenario, hang_s=3.0)
