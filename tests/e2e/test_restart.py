"""`underkeel restart` without a service manager, and settings that a real daemon follows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from real_daemon import answer, configure, ended_afterwards, underkeel, until_status

from assistant import paths
from assistant.client.client import DaemonClient
from assistant.daemon.process.instance import running_pid
from assistant.wire import CompletionRequest

pytestmark = pytest.mark.model

PROMPT = "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) +"
MOST = 16  # requests in flight: a slow machine needs a while for each


@pytest.fixture
def dense_home(home: Path, dense_model: Path) -> Iterator[Path]:
    configure(home, model={"name": dense_model, "n_ctx": 1024})
    with ended_afterwards():
        yield home


def test_a_restart_in_the_middle_of_answers_loses_none(dense_home: Path, dense_model: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(240), DaemonClient() as client:
            await client.wait_ready()
            first = await client.status()
            before = psutil.Process(first.pid)
            family = [before, *before.children(recursive=True)]
            request = CompletionRequest(prompt=PROMPT, temperature=0.0, max_tokens=12)
            text, _ = await answer(client, request)
            # A setting that only a new daemon follows; `reload` says so.
            configure(
                dense_home,
                model={"name": dense_model, "n_ctx": 768},
                daemon={"max_waiting": 99, "log_format": "json"},
            )
            await until_status(client, lambda now: now.max_waiting == 99)
            said = await asyncio.to_thread(underkeel, "reload", "--json")
            pending = {change["key"] for change in json.loads(said.stdout)["pending"]}
            assert pending == {"model.n_ctx", "daemon.log_format"}

            answers = [asyncio.create_task(answer(client, request)) for _ in range(3)]
            await asyncio.sleep(0.2)
            restarting = asyncio.create_task(asyncio.to_thread(underkeel, "restart", timeout_s=150))
            while not restarting.done():
                if len(answers) < MOST:
                    answers.append(asyncio.create_task(answer(client, request)))
                await asyncio.sleep(0.4)
            assert {found for found, _ in await asyncio.gather(*answers)} == {text}
            done = await restarting
            assert done.returncode == 0, done.stderr
            assert f"taken over from process {first.pid}" in done.stdout
            second = await client.status()
            assert second.pid == running_pid() != first.pid
            assert second.model is not None and second.model.n_ctx == 768
            assert not psutil.wait_procs(family, timeout=20)[1]

    asyncio.run(main())
    last = paths.log_file().read_text().splitlines()[-1]
    assert json.loads(last)["level"] in {"info", "warning"}


def test_a_restart_where_nothing_runs_is_a_start(dense_home: Path) -> None:
    said = underkeel("restart", timeout_s=120)
    assert said.stdout == "No daemon was running; one is now.\n"
    doctor = json.loads(underkeel("doctor", "--json").stdout)
    daemon = next(one for one in doctor if one["check"] == "daemon")
    assert daemon["level"] == "ok" and f"process {running_pid()}" in daemon["message"]
    assert next(one for one in doctor if one["check"] == "plan")["level"] == "ok"
