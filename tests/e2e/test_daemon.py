"""The real daemon, worker and model, as editors and other clients meet them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
from real_daemon import (
    answer,
    configure,
    ended_afterwards,
    family,
    freed,
    underkeel,
    until_status,
    worker,
)

from assistant import paths
from assistant.client.client import DaemonClient
from assistant.daemon.process.instance import running_pid
from assistant.engine.types import StopReason
from assistant.errors import DaemonError, GGUFError, UnderkeelError, UnknownModelError
from assistant.wire import ChatMessage, CompletionRequest, ServiceState, Status

pytestmark = pytest.mark.model

FIBONACCI = "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) +"
COUNTING = "numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10,"
"""The model goes on with this for hundreds of tokens."""
KILLS = 8


@pytest.fixture
def dense_home(home: Path, dense_model: Path) -> Iterator[Path]:
    """A home whose daemon serves the dense starter model with a small context."""
    configure(home, model={"name": dense_model, "n_ctx": 2048})
    with ended_afterwards():
        yield home


def run(body: Callable[[DaemonClient], Awaitable[None]], *, limit_s: float = 120) -> None:
    async def main() -> None:
        async with asyncio.timeout(limit_s), DaemonClient() as client:
            await body(client)

    asyncio.run(main())


def ask(prompt: str = FIBONACCI, **more: Any) -> CompletionRequest:
    return CompletionRequest(**{"prompt": prompt, "temperature": 0.0, "max_tokens": 12, **more})


async def restarted(client: DaemonClient, deaths: int) -> Status:
    """Wait until another worker serves after so many deaths."""
    return await until_status(
        client, lambda now: now.deaths == deaths and now.stats is not None, limit_s=60
    )


def test_first_client_starts_it_and_is_answered(dense_home: Path) -> None:
    seen: list[tuple[str, float]] = []

    async def body(client: DaemonClient) -> None:
        model = await client.wait_ready(lambda stage, share: seen.append((stage, share)))
        assert model.n_ctx == 2048 and model.path.endswith(".gguf")
        text, last = await answer(client, ask(stop=("\n",)))
        assert text.startswith(" fibonacci(n - 2)")
        assert last.stop_reason is StopReason.STOP_TEXT
        assert last.timings is not None and last.timings.evaluated_tokens > 10
        again, last = await answer(client, ask(stop=("\n",)))
        assert again == text
        assert last.timings is not None and last.timings.cached_tokens > 10
        chat = client.chat([ChatMessage(role="user", content="Say: yes")], max_tokens=8)
        assert "yes" in "".join([chunk.content async for chunk in chat]).lower()

    run(body)
    assert seen[0] == ("starting the daemon", 0.0)

    status = json.loads(underkeel("status", "--json").stdout)
    assert status["state"] == "ready" and status["stats"]["cached_tokens"] > 10
    assert "tokens/s" in underkeel("status").stdout

    second = underkeel("serve")
    assert second.returncode == 1 and "running already" in second.stderr
    assert f"process {running_pid()}" in second.stderr

    daemon = psutil.Process(running_pid())
    assert not any("llama" in Path(mapped.path).name for mapped in daemon.memory_maps())
    log = underkeel("logs").stdout
    assert "serving" in log and "fibonacci" not in log
    assert paths.log_file().stat().st_mode & 0o077 == 0

    members = family()
    stop = underkeel("stop")
    assert stop.stdout == "The daemon has ended.\n"
    assert not psutil.wait_procs(members, timeout=10)[1]
    assert not paths.socket_path().exists()


def test_infill_in_text(dense_home: Path) -> None:
    import httpx

    async def body(client: DaemonClient) -> None:
        await client.wait_ready()
        transport = httpx.AsyncHTTPTransport(uds=str(paths.socket_path()))
        async with httpx.AsyncClient(transport=transport, base_url="http://d", timeout=60) as http:
            request = {
                "input_prefix": "def add(a, b):\n    return ",
                "input_suffix": "\n\nprint(add(1, 2))\n",
                "n_predict": 8,
                "temperature": 0,
            }
            found = (await http.post("/infill", json=request)).json()
            assert found["content"].lstrip().startswith("a + b")

    run(body)


def test_closing_an_answer_frees_the_engine(dense_home: Path) -> None:
    async def body(client: DaemonClient) -> None:
        await client.wait_ready()
        async with aclosing(client.complete(ask(max_tokens=1500))) as chunks:
            await anext(chunks)
        await freed(client, limit_s=10)
        status = await client.status()
        assert status.stats is not None and status.stats.cancelled == 1

        # In the middle of a long prefill, where no chunk has come yet.
        long = "".join(f"value_{n} = {n}\n" for n in range(200))
        task = asyncio.create_task(answer(client, ask(long)))
        await asyncio.sleep(0.5)
        task.cancel()
        await freed(client, limit_s=10)
        assert (await answer(client, ask()))[0]

    run(body)


def test_storm(dense_home: Path) -> None:
    """Forty requests, each cancelling the one before: one answer, no leak, the next is served."""

    async def body(client: DaemonClient) -> None:
        await client.wait_ready()
        daemon = psutil.Process(running_pid())
        files = daemon.num_fds()
        tasks: list[asyncio.Task[object]] = []
        for length in range(40):
            if tasks:
                tasks[-1].cancel()
            request = ask(FIBONACCI[: 20 + length], document="file:///f.py")
            tasks.append(asyncio.create_task(answer(client, request)))
            await asyncio.sleep(0.01)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        answers = [result for result in results if not isinstance(result, BaseException)]
        assert len(answers) == 1 and answers[0] is results[-1]
        await freed(client)
        assert (await answer(client, ask(stop=("\n",))))[0].startswith(" fibonacci")
        assert daemon.num_fds() <= files + 4

    run(body)


def test_killed_workers(dense_home: Path) -> None:
    """Killed in the middle of an answer: the answer goes on, and the next request is served.

    Several times, at another place of the answer each time; nothing is left behind by them.
    """

    async def body(client: DaemonClient) -> None:
        await client.wait_ready()
        daemon = psutil.Process(running_pid())
        files, victims = daemon.num_fds(), set()
        for number in range(KILLS):
            victim = worker()
            victims.add(victim.pid)
            chunks = client.complete(ask(COUNTING, max_tokens=20))
            told = [await anext(chunks) for _ in range(1 + number % 5)]
            victim.kill()
            async with asyncio.timeout(60):
                told += [chunk async for chunk in chunks]
            assert told[-1].stop_reason is StopReason.LENGTH
            assert "".join(chunk.content for chunk in told).startswith(" 11, 12, 13, 14, 15")
            async with asyncio.timeout(60):
                assert (await answer(client, ask(stop=("\n",))))[0].startswith(" fibonacci")
        assert (await client.status()).deaths == KILLS == len(victims)
        assert not any(psutil.pid_exists(pid) for pid in victims)
        assert daemon.num_fds() <= files + 4

    run(body, limit_s=280)


def test_a_request_that_loses_two_workers_is_reported_clearly(dense_home: Path) -> None:
    """What may be killing them is not tried for ever; the next request is served all the same."""

    async def body(client: DaemonClient) -> None:
        await client.wait_ready()
        chunks = client.complete(ask(COUNTING, max_tokens=1000))
        for deaths in (1, 2):
            await anext(chunks)
            worker().send_signal(signal.SIGABRT)  # as an error of a driver does
            await restarted(client, deaths)
        with pytest.raises(UnderkeelError) as failure:
            async with asyncio.timeout(60):
                [chunk async for chunk in chunks]
        assert "SIGABRT" in str(failure.value) and failure.value.advice
        async with asyncio.timeout(60):
            assert (await answer(client, ask(stop=("\n",))))[0].startswith(" fibonacci")

    run(body)


def test_a_worker_killed_while_idle(dense_home: Path) -> None:
    async def body(client: DaemonClient) -> None:
        await client.wait_ready()
        worker().kill()
        assert (await answer(client, ask(stop=("\n",))))[0].startswith(" fibonacci")
        worker().kill()
        # Nobody asks; it is noticed and fixed all the same.
        status = await restarted(client, deaths=2)
        assert status.rung is not None and status.rung.name == "plan"

    run(body)


def test_stop_while_busy(dense_home: Path) -> None:
    async def body(client: DaemonClient) -> None:
        await client.wait_ready()
        chunks = client.complete(ask(max_tokens=1500))
        await anext(chunks)
        stop = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "assistant", "stop", stdout=asyncio.subprocess.PIPE
        )
        with pytest.raises(DaemonError, match="stopping"):
            [chunk async for chunk in chunks]
        said, _ = await stop.communicate()
        assert said == b"The daemon has ended.\n"

    run(body)


def test_a_killed_daemon_takes_its_worker_along_and_is_replaced(dense_home: Path) -> None:
    async def body(client: DaemonClient) -> None:
        await client.wait_ready()
        before = family()
        before[0].kill()
        assert not psutil.wait_procs(before, timeout=10)[1]
        assert paths.socket_path().exists()
        await client.wait_ready()
        assert running_pid() != before[0].pid
        assert (await answer(client, ask(stop=("\n",))))[0].startswith(" fibonacci")

    run(body)


def test_five_clients_at_once_start_one_daemon(dense_home: Path) -> None:
    async def one() -> int:
        async with DaemonClient() as client:
            await client.wait_ready()
            return (await client.status()).pid

    async def main() -> set[int]:
        return set(await asyncio.gather(*(one() for _ in range(5))))

    assert asyncio.run(main()) == {running_pid()}
    assert list(paths.state_dir().glob("start-*.err")) == []


def test_signals_end_it_clean(dense_home: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):

        async def body(client: DaemonClient, number: signal.Signals = number) -> None:
            await client.wait_ready()
            before = family()
            os.kill(before[0].pid, number)
            assert not psutil.wait_procs(before, timeout=20)[1]
            assert not paths.socket_path().exists()

        run(body)


def test_models_that_cannot_be_served_are_explained_and_can_be_fixed(
    home: Path, dense_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    configure(home, model={"name": broken, "n_ctx": 1024})

    async def body(client: DaemonClient) -> None:
        with pytest.raises(UnknownModelError, match="no such file"):
            await client.wait_ready()
        pid = (await client.status()).pid
        for content in (b"", b"GGUF", os.urandom(4096)):
            broken.write_bytes(content)
            with pytest.raises(GGUFError):
                await client.wait_ready()
        with dense_model.open("rb") as source:
            broken.write_bytes(source.read(40_000_000))
        with pytest.raises(UnderkeelError) as failure:
            await client.wait_ready()
        assert failure.value.advice
        status = await client.status()
        assert status.state is ServiceState.FAILED and status.error is not None
        with pytest.raises(UnderkeelError):
            await answer(client, ask())
        broken.unlink()
        broken.symlink_to(dense_model)
        await client.wait_ready()
        assert (await answer(client, ask(stop=("\n",))))[0].startswith(" fibonacci")
        assert (await client.status()).pid == pid

    with ended_afterwards():
        run(body)


def test_wrong_settings_never_stop_it(home: Path, dense_model: Path) -> None:
    (home / "config.toml").write_text(
        f'[model]\nname = "{dense_model}"\nn_ctx = "big"\nspeed = 3\n'
        '[daemon]\nlog_level = "loud"\n[nonsense]\n'
    )

    async def body(client: DaemonClient) -> None:
        assert (await client.wait_ready()).n_ctx == 8192

    with ended_afterwards():
        run(body)
        log = paths.log_file().read_text()
        for what in ("model.n_ctx", "model.speed", "nonsense"):
            assert what in log


def test_a_folder_that_cannot_be_trusted_is_explained_by_the_client(home: Path) -> None:
    (home / "run").mkdir(mode=0o777)
    (home / "run").chmod(0o777)

    async def body(client: DaemonClient) -> None:
        await client.wait_ready()

    with pytest.raises(DaemonError, match="chmod 700"):
        run(body)
