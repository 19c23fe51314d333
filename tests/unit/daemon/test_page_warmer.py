"""An idle model keeps its pages; one that is asked, or a machine that is short, is left alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from daemons import Memory, serving, until
from fake_engine import FakeEngine

from assistant.daemon.governor import PageWarmer
from assistant.settings import ModelSettings, Settings

GIB = 1 << 30


def test_only_when_idle_and_only_so_often() -> None:
    touched: list[float] = []
    now_s = 0.0

    async def touch() -> int:
        touched.append(now_s)
        return 1

    async def look(idle_s: float, *, enough: bool = True) -> int:
        page_warmer.look(idle_s=idle_s, enough=enough)
        await asyncio.sleep(0.01)
        return len(touched)

    async def main() -> None:
        nonlocal now_s
        assert await look(50) == 0
        assert await look(100, enough=False) == 0
        assert await look(100) == 1
        now_s = 99.0
        assert await look(199) == 1
        now_s = 101.0
        assert await look(201) == 2
        page_warmer.every_s = 0
        now_s = 1e6
        assert await look(1e6) == 2
        await page_warmer.aclose()

    page_warmer = PageWarmer(touch, 100.0, lambda: now_s)
    asyncio.run(main())


def test_a_slow_touch_is_followed_by_a_long_rest() -> None:
    now_s, count = 0.0, 0

    async def touch() -> int:
        nonlocal count
        count += 1
        await asyncio.sleep(0.05)
        return 1

    async def main() -> None:
        nonlocal now_s
        page_warmer = PageWarmer(touch, 1.0, lambda: now_s)
        page_warmer.look(idle_s=5, enough=True)
        await until(lambda: page_warmer._task is not None and page_warmer._task.done())
        now_s = 5.0  # past `every_s`, not past two hundred times what it took
        page_warmer.look(idle_s=5, enough=True)
        await asyncio.sleep(0.01)
        assert count == 1
        await page_warmer.aclose()

    asyncio.run(main())


def test_the_daemon_does_it_unless_memory_is_short_or_locked(home: Path) -> None:
    async def run(memory: Memory, model: ModelSettings) -> int:
        engine = FakeEngine()
        async with serving(engine, look=memory, settings=Settings(model=model)) as daemon:
            if memory.others_bytes:
                memory.leave(int(0.6 * GIB))
            looks = 0

            def count(_: object) -> None:
                nonlocal looks
                looks += 1

            daemon.service.governor.on_sample = count
            await until(lambda: engine.touched > 0 or looks > 12)
            return engine.touched

    often = ModelSettings(keep_warm_s=0.05)
    assert asyncio.run(run(Memory(), often)) > 0
    assert asyncio.run(run(Memory(others_bytes=1), often)) <= 1
    assert asyncio.run(run(Memory(), ModelSettings(keep_warm_s=0.05, mlock=True))) == 0
