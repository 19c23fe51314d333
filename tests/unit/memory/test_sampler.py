"""The sampler looks often while it matters, and survives a driver that blocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from assistant.memory import sampler
from assistant.memory.devices import GpuMemory, HostMemory
from assistant.memory.sampler import (
    Sample,
    Sampler,
    gpu_stirred,
    interval_s,
    stirred,
)


def sample(free: int = 500, *, available: int = 500, lost: tuple[str, ...] = ()) -> Sample:
    gpu = GpuMemory(name="", bus_id="", driver="nvml", total_bytes=1000, free_bytes=free)
    return Sample(at_s=0, gpus=(gpu,), host_memory=HostMemory(1000, available), lost=lost)


def interval(*, busy: bool = False, stir: float = 1e9, gpu_stir: float = 1e9, **more: Any) -> float:
    return interval_s(busy=busy, since_stir_s=stir, since_gpu_stir_s=gpu_stir, **more)


def test_tight_while_busy_or_stirred_and_slow_when_idle() -> None:
    assert interval(busy=True) == sampler.BUSY_S
    assert interval(stir=0.0) == sampler.ALERT_S
    assert interval() == interval(idle_s=59.0, on_gpu=False) == sampler.IDLE_S
    assert sampler.BUSY_S < sampler.IDLE_S < sampler.QUIET_S


def test_after_a_minute_without_requests_it_looks_less_often() -> None:
    quiet: dict[str, Any] = {"idle_s": 60.0, "on_gpu": False}
    assert interval(**quiet) == sampler.QUIET_S
    assert interval(stir=0.0, **quiet) == sampler.QUIET_S  # other programs use host memory
    assert interval(stir=0.0, gpu_stir=0.0, **quiet) == sampler.ALERT_S
    assert interval(busy=True, **quiet) == sampler.BUSY_S
    # A GPU's memory has to be back within two seconds.
    assert interval(idle_s=1e9, on_gpu=True) == sampler.IDLE_S <= 1.0
    assert interval(stir=0.0, gpu_stir=0.0, idle_s=1e9, on_gpu=True) == sampler.ALERT_S


def test_changes_of_host_memory_are_not_changes_of_a_gpu() -> None:
    assert not gpu_stirred(sample(500), sample(500, available=400))
    assert gpu_stirred(sample(500), sample(400))
    assert gpu_stirred(sample(), sample(lost=("0000:01:00.0",)))


def test_small_changes_do_not_stir() -> None:
    assert not stirred(sample(500), sample(505))
    assert stirred(sample(500), sample(400))
    assert stirred(sample(500), sample(500, available=400))
    assert stirred(sample(), sample(lost=("0000:01:00.0",)))


def run(read: Callable[[], Sample], act: Callable[[Sampler, list[Sample]], object]) -> list[Sample]:
    """Run a sampler on `read` while the coroutine from `act` runs."""
    samples: list[Sample] = []

    async def body() -> None:
        subject = Sampler(read, samples.append)
        task = asyncio.create_task(subject.run())
        await asyncio.wait_for(act(subject, samples), 20)  # type: ignore[arg-type]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
    return samples


async def _until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 (the condition is plain state)
        await asyncio.sleep(0.005)


def test_work_makes_it_look_at_once_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "IDLE_S", 1000.0)
    monkeypatch.setattr(sampler, "BUSY_S", 0.001)

    async def act(subject: Sampler, samples: list[Sample]) -> None:
        await _until(lambda: len(samples) == 1)
        await asyncio.sleep(0.05)
        assert len(samples) == 1  # idle: the next look is far away
        subject.busy(True)
        await _until(lambda: len(samples) >= 5)
        subject.busy(False)
        seen = len(samples) + 2
        subject.look()
        await asyncio.sleep(0.05)
        assert len(samples) <= seen

    run(sample, act)


def test_when_quiet_a_sample_without_news_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An idle daemon's event loop sleeps while nothing changes."""
    monkeypatch.setattr(sampler, "QUIET_S", 0.002)
    frees = [500]
    asked: list[int] = []

    def read() -> Sample:
        asked.append(frees[0])
        return sample(frees[0])

    async def main() -> None:
        seen: list[Sample] = []
        quiet: dict[str, Any] = {"idle_s": lambda: 60.0, "on_gpu": lambda: False}
        subject = Sampler(read, seen.append, every=lambda: False, **quiet)
        task = asyncio.create_task(subject.run())
        await _until(lambda: len(asked) > 20)
        assert len(seen) == 1  # it looked, and found nothing new
        frees[0] = 400
        await _until(lambda: len(seen) >= 2)
        assert seen[-1].gpus[0].free_bytes == 400
        frees[0] = 500
        fresh = await subject.fresh()
        assert fresh is not None and fresh.gpus[0].free_bytes == 500
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(main(), 20))


def test_when_quiet_every_sample_is_handed_on_in_due_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "QUIET_S", 0.001)
    monkeypatch.setattr(sampler, "QUIET_HANDS_ON_S", 0.01)

    async def main(*, every: bool) -> float:
        seen: list[Sample] = []
        asked: list[int] = []

        def read() -> Sample:
            asked.append(1)
            return sample()

        quiet: dict[str, Any] = {"idle_s": lambda: 60.0, "on_gpu": lambda: False}
        subject = Sampler(read, seen.append, every=lambda: every, **quiet)
        task = asyncio.create_task(subject.run())
        await _until(lambda: len(seen) >= 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return len(asked) / len(seen)

    assert asyncio.run(main(every=True)) < 1.2
    assert asyncio.run(main(every=False)) > 1.5


def test_a_change_keeps_it_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "IDLE_S", 1000.0)
    monkeypatch.setattr(sampler, "ALERT_S", 0.001)
    frees = iter([500, 100])

    async def act(subject: Sampler, samples: list[Sample]) -> None:
        await _until(lambda: len(samples) == 1)
        subject.look()
        await _until(lambda: len(samples) >= 6)

    run(lambda: sample(next(frees, 100)), act)


def test_a_blocked_driver_is_noticed_and_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_STUCK_S", 0.02)
    release = threading.Event()
    calls = []

    def read() -> Sample:
        calls.append(1)
        release.wait(10)
        return sample()

    async def act(subject: Sampler, samples: list[Sample]) -> None:
        await _until(lambda: subject.stuck)
        await asyncio.sleep(0.1)
        assert len(calls) == 1
        release.set()
        await _until(lambda: samples)
        assert not subject.stuck

    run(read, act)


def test_a_fresh_sample_is_started_after_the_question() -> None:
    async def main() -> None:
        asked = 0

        def read() -> Sample:
            nonlocal asked
            asked += 1
            return sample(asked)

        sampler = Sampler(read, lambda _: None)
        task = asyncio.create_task(sampler.run())
        for _ in range(5):
            before = asked
            found = await sampler.fresh()
            assert found is not None and found.host_memory.available_bytes > before
        task.cancel()

    asyncio.run(main())


def test_stuck_probes_give_the_last_sample() -> None:
    async def main() -> None:
        sampler = Sampler(lambda: sample(1), lambda _: None)
        assert await sampler.fresh(within_s=0.01) is None
        sampler.last = sample(7)
        assert await sampler.fresh(within_s=0.01) == sample(7)

    asyncio.run(main())
