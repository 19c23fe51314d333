"""A new daemon takes the place of a running one, and no request is lost."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from daemons import Daemon, Memory, fake_model, serving, until
from fake_engine import DEFAULT_REPLY, FakeEngine

from assistant import paths
from assistant.client.client import DaemonClient
from assistant.daemon.process import handover, instance, server
from assistant.daemon.service import Service
from assistant.errors import AlreadyRunningError, DaemonError
from assistant.settings import Settings
from assistant.wire import CompletionRequest

CLIENTS = 8


@asynccontextmanager
async def succeeding(engine: FakeEngine) -> AsyncIterator[tuple[Service, asyncio.Task[None]]]:
    """A second daemon that takes over from the one that runs."""
    claim = instance.claim(take_over=True)
    claimed = await asyncio.to_thread(claim.__enter__)
    try:
        assert claimed.predecessor is not None
        planner = server.after(claimed.predecessor, fake_model, 60)
        service = Service(engine, planner, Settings(), Memory())
        task = asyncio.create_task(server.serve(service, claimed))
        yield service, task
        await task
    finally:
        claim.__exit__(None, None, None)


async def ask(client: DaemonClient, document: str = "") -> str:
    request = CompletionRequest(prompt="def f", temperature=0.0, max_tokens=64, document=document)
    return "".join([chunk.content async for chunk in client.complete(request)])


def test_nothing_is_lost(home: Path) -> None:
    old, new = FakeEngine(token_ms=2), FakeEngine(token_ms=2, load_ms=300)
    answers: list[str] = []
    done = asyncio.Event()

    async def editor(number: int) -> None:
        async with DaemonClient(autostart=False) as client:
            while not done.is_set():
                answers.append(await ask(client, document=str(number)))

    async def stranger() -> None:
        """A client that never sends anything twice, on a connection a request."""
        transport = httpx.AsyncHTTPTransport(uds=str(paths.socket_path()))
        while not done.is_set():
            async with httpx.AsyncClient(transport=transport, base_url="http://d") as http:
                answer = await http.post(
                    "/completion", json={"prompt": "x", "n_predict": 64}, timeout=60
                )
                assert answer.status_code == 200
                answers.append(answer.json()["content"])

    async def main() -> None:
        async with asyncio.timeout(60), serving(old) as first:
            crowd = [asyncio.create_task(editor(number)) for number in range(CLIENTS)]
            crowd.append(asyncio.create_task(stranger()))
            await until(lambda: len(old.requests) > 3 * CLIENTS)
            async with succeeding(new) as (_, task):
                await until(lambda: len(new.requests) > 3 * CLIENTS or any(t.done() for t in crowd))
                done.set()
                await asyncio.gather(*crowd)
                assert first.service.admission.inside == 0
                async with DaemonClient(autostart=False) as client:
                    assert (await client.status()).model is not None
                    assert paths.socket_path().exists()
                    await client.stop()
                await task

    asyncio.run(main())
    assert set(answers) == {DEFAULT_REPLY}
    assert len(answers) == len(old.requests) + len(new.requests)
    assert not paths.socket_path().exists()
    assert list(paths.runtime_dir().iterdir()) == [paths.runtime_dir() / "daemon.lock"]


def test_a_long_answer_is_finished_by_the_old_before_the_new_loads(home: Path) -> None:
    old, new = FakeEngine(), FakeEngine()

    async def main() -> None:
        async with asyncio.timeout(60), serving(old), DaemonClient(autostart=False) as client:
            old.pause()
            long = asyncio.create_task(ask(client))
            await until(lambda: old.in_flight == 1)
            async with succeeding(new) as (service, task):
                async with DaemonClient(autostart=False) as other:
                    waiting = asyncio.create_task(ask(other))
                    await until(lambda: service.admission.inside == 1)
                    assert not new.loads and not waiting.done()
                    old.resume()
                    assert await long == DEFAULT_REPLY
                    assert await waiting == DEFAULT_REPLY
                    assert len(new.loads) == 1
                    await other.stop()
                await task

    asyncio.run(main())


def test_a_successor_that_dies_on_the_way_costs_nothing(home: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), serving() as first:
            predecessor = await asyncio.to_thread(handover.take_over)
            assert predecessor is not None
            assert predecessor.offer.model is not None and predecessor.offer.pid == os.getpid()
            predecessor.close()
            for listener in predecessor.listeners:
                listener.close()
            predecessor.lock.release()
            await asyncio.sleep(0)
            assert await ask(first.client) == DEFAULT_REPLY
            with pytest.raises(AlreadyRunningError), instance.claim():
                pass
            # It can still be taken over by one that lives.
            new = FakeEngine()
            async with succeeding(new) as (_, task):
                # It loads once the first has ended; before that, "stop" would reach the first.
                await until(lambda: len(new.loads) == 1)
                assert await ask(first.client) == DEFAULT_REPLY
                await first.client.stop()
                await task

    asyncio.run(main())


def test_a_claim_that_fails_after_the_offer_leaves_everything_as_it_was(home: Path) -> None:
    async def main(daemon: Daemon) -> None:
        before = (paths.runtime_dir() / "daemon.pid").read_text()

        def fail() -> None:
            with instance.claim(take_over=True) as claimed:
                assert claimed.predecessor is not None
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(fail)
        assert (paths.runtime_dir() / "daemon.pid").read_text() == before
        assert instance.running_pid() == os.getpid()
        assert await ask(daemon.client) == DEFAULT_REPLY

    async def run() -> None:
        async with asyncio.timeout(60), serving() as daemon:
            await main(daemon)

    asyncio.run(run())


def test_without_a_daemon_it_is_a_start_like_any_other(home: Path) -> None:
    with instance.claim(take_over=True) as claimed:
        assert claimed.predecessor is None and claimed.ours


@pytest.mark.parametrize(
    "said", [b"", b"\x01\x00\x00\x00", struct.pack("<I", 1 << 31) + b"x", b"\x02\x00\x00\x00{}"]
)
def test_what_is_no_offer_is_refused(home: Path, said: bytes) -> None:
    door = instance.listen_private(handover.path())
    door.setblocking(True)

    async def main() -> None:
        async def answer() -> None:
            channel, _ = await asyncio.to_thread(door.accept)
            with channel:
                channel.sendall(said)

        talking = asyncio.create_task(answer())
        with pytest.raises(DaemonError, match="cannot be replaced"):
            await asyncio.to_thread(handover.take_over)
        await talking

    with door:
        asyncio.run(main())


def test_the_token_goes_along(home: Path) -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(60),
            serving(tcp_port=_free_port()) as first,
            succeeding(FakeEngine()) as (_, task),
        ):
            way = paths.find_tcp_address()
            assert way is not None and way.token
            async with httpx.AsyncClient(base_url=way.base_url) as http:
                assert (await http.get("/health")).status_code == 401
                answer = await http.post(
                    "/completion", json={"prompt": "x"}, headers=way.headers, timeout=30
                )
                assert answer.status_code == 200
            await first.client.stop()
            await task

    asyncio.run(main())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
