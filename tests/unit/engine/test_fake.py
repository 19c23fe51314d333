"""The fake engine keeps the contract that the real ones keep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_engine import DEFAULT_REPLY, FakeEngine

from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, StopReason
from assistant.errors import ContextFullError, LoadError, OverloadedError, WorkerDiedError

SPEC = LoadSpec(path="fake.gguf", n_ctx=256)


def ask(text: str = "def f():", **requirements: object) -> GenerateRequest:
    base = GenerateRequest(id="a", prompt=tuple(text.encode()), max_tokens=64)
    return GenerateRequest(
        **({field: getattr(base, field) for field in base.__struct_fields__} | requirements)
    )


async def collect(events: AsyncIterator[Delta | Done]) -> tuple[str, Done]:
    text = ""
    async for event in events:
        if isinstance(event, Done):
            return text, event
        text += event.text
    raise AssertionError("no Done")


async def loaded(**how: object) -> FakeEngine:
    engine = FakeEngine(**how)  # type: ignore[arg-type]
    await engine.load(SPEC)
    return engine


def test_answers_and_counts() -> None:
    async def run() -> None:
        engine = await loaded()
        text, done = await collect(engine.generate(ask()))
        assert text == DEFAULT_REPLY
        assert done.reason is StopReason.EOS
        assert done.timings.evaluated_tokens == len("def f():")
        _, done = await collect(engine.generate(ask("def f():\n")))
        assert (done.timings.cached_tokens, done.timings.evaluated_tokens) == (8, 1)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("requirements", "text", "reason"),
    [
        ({"stop": ("answer",)}, "return ", StopReason.STOP_TEXT),
        ({"max_tokens": 3}, "ret", StopReason.LENGTH),
        ({"max_tokens": 0}, "", StopReason.LENGTH),
        ({"must_start_with": "ret"}, DEFAULT_REPLY, StopReason.EOS),
        ({"must_start_with": "x = "}, "x = " + DEFAULT_REPLY, StopReason.EOS),
    ],
)
def test_limits(requirements: dict[str, Any], text: str, reason: StopReason) -> None:
    async def run() -> None:
        engine = await loaded()
        got, done = await collect(engine.generate(ask(**requirements)))
        assert (got, done.reason) == (text, reason)

    asyncio.run(run())


def test_newest_request_of_a_document_cancels_the_older() -> None:
    async def run() -> None:
        engine = await loaded()
        engine.pause()
        first = asyncio.create_task(collect(engine.generate(ask(id="1", document="d"))))
        await asyncio.sleep(0)
        second = asyncio.create_task(collect(engine.generate(ask(id="2", document="d"))))
        await asyncio.sleep(0)
        engine.resume()
        assert (await first)[1].reason is StopReason.CANCELLED
        assert (await second)[0] == DEFAULT_REPLY
        assert engine.in_flight == 0

    asyncio.run(run())


def test_death_fails_what_is_in_flight_and_the_next_request_loads_again() -> None:
    async def run() -> None:
        engine = await loaded()
        engine.pause()
        waiting = asyncio.create_task(collect(engine.generate(ask())))
        await asyncio.sleep(0)
        engine.kill()
        with pytest.raises(WorkerDiedError):
            await waiting
        text, _ = await collect(engine.generate(ask()))
        assert text == DEFAULT_REPLY
        assert engine.loads == [SPEC, SPEC]

    asyncio.run(run())


def test_errors() -> None:
    async def run() -> None:
        with pytest.raises(LoadError):
            await collect(FakeEngine().generate(ask()))
        engine = await loaded()
        with pytest.raises(ContextFullError):
            await collect(engine.generate(ask("x" * 250)))
        engine.fail_next(OverloadedError("the queue is full"))
        with pytest.raises(OverloadedError):
            await collect(engine.generate(ask()))

    asyncio.run(run())


def test_closing_the_iterator_ends_the_request() -> None:
    async def run() -> None:
        engine = await loaded()
        events = engine.generate(ask())
        await anext(events)
        assert engine.in_flight == 1
        await events.aclose()  # type: ignore[attr-defined]
        assert engine.in_flight == 0

    asyncio.run(run())
