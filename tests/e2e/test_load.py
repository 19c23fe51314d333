"""Many on one daemon: 16 language servers with 64 documents, and one that floods beside them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from crowd import crowd, fairness
from daemons import Daemon, fake_model, serving, until
from fake_engine import FakeEngine

from assistant.client.client import DaemonClient
from assistant.engine.types import Delta, Done, GenerateRequest
from assistant.errors import OverloadedError
from assistant.models import vocabulary
from assistant.wire import CompletionRequest

pytestmark = pytest.mark.alone

EDITORS, DOCUMENTS, ROUNDS = 16, 4, 2
MOST_GROWTH_BYTES = 96 << 20
_TURNS = 8


class OneAtATime(FakeEngine):
    """Answers one request after another in the order in which they came, as a slow machine does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._turn = asyncio.Lock()  # wakes those who wait in order

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        async with self._turn:
            async for event in super().generate(request):
                yield event


@pytest.mark.model
def test_sixteen_editors_share_one_daemon(home: Path, played_model: Path) -> None:
    """Everybody is answered, about as often and as fast as everybody else; memory is bounded."""
    words = vocabulary.load(played_model)
    engine = OneAtATime(reply=lambda _: "_of_the_tide(x):\n", token_ms=0.2, n_vocab=words.size)

    async def main() -> None:
        planner = lambda: fake_model(str(played_model))  # noqa: E731
        async with (
            asyncio.timeout(200),
            serving(engine, planner=planner) as daemon,
            crowd(EDITORS, DOCUMENTS) as editors,
        ):
            us = psutil.Process()
            horizon = time.monotonic() + 150
            await asyncio.gather(*(editor.work(horizon, most=DOCUMENTS) for editor in editors))
            before_bytes, before_files = us.memory_info().rss, us.num_fds()
            await asyncio.gather(
                *(editor.work(horizon, most=DOCUMENTS * ROUNDS) for editor in editors)
            )
            await daemon.idle()
            counts = [len(editor.waits_s) for editor in editors]
            assert counts == [DOCUMENTS * ROUNDS] * EDITORS, "somebody was not answered"
            assert all(editor.shown >= 0.9 * len(editor.waits_s) for editor in editors)
            assert daemon.service.admission.refused == 0
            # Nobody waits long while others do not: the slowest editor's usual wait against all.
            means = sorted(sum(editor.waits_s) / len(editor.waits_s) for editor in editors)
            assert means[-1] < 4 * means[len(means) // 2]
            assert us.memory_info().rss - before_bytes < MOST_GROWTH_BYTES
            assert us.num_fds() <= before_files + EDITORS
            documents = {request.document.partition("#")[0] for request in engine.requests}
            assert len(documents) == EDITORS * DOCUMENTS

    asyncio.run(main())


def test_a_flood_beside_fifteen_editors_starves_nobody(home: Path) -> None:
    """One client asks for all that it can get, all the time; the others are served as ever."""
    engine = OneAtATime(reply=lambda _: "x" * 10, token_ms=0.2)

    async def main() -> None:
        async with asyncio.timeout(100), serving(engine) as daemon:
            done = asyncio.Event()
            flood = [asyncio.create_task(_flood(daemon.client, done)) for _ in range(48)]
            await until(lambda: daemon.service.admission.refused > 20)
            counts = await asyncio.gather(*(_editor(daemon, number) for number in range(15)))
            assert daemon.service.admission.inside <= daemon.service.admission.most
            done.set()
            flooded = sum(await asyncio.gather(*flood))
            assert counts == [_TURNS] * 15, "an editor was refused"
            assert flooded > 0
            served = len(engine.requests)
            ours = sum(counts)
            # The flood holds half of the queue at the most, so it gets no more than that, about.
            assert ours > 0.2 * served
            assert fairness(counts) == 1.0

    asyncio.run(main())


async def _flood(client: DaemonClient, done: asyncio.Event) -> int:
    answered = 0
    for number in itertools.count():
        if done.is_set():
            return answered
        request = CompletionRequest(prompt="f" * (1 + number % 50), temperature=0.0, max_tokens=10)
        try:
            async for _ in client.complete(request):
                pass
            answered += 1
        except OverloadedError:
            await asyncio.sleep(0.3)
    raise AssertionError("unreachable")


async def _editor(daemon: Daemon, number: int) -> int:
    async with DaemonClient(autostart=False) as client:
        for turn in range(_TURNS):
            request = CompletionRequest(
                prompt=f"editor {number} turn {turn}",
                temperature=0.0,
                max_tokens=10,
                document=f"{number}/{turn % 4}",
            )
            text = "".join([chunk.content async for chunk in client.complete(request)])
            assert text == "x" * 10
    return _TURNS
