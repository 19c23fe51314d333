"""What the kernel ends first when memory runs out: every process of a real daemon (S2, T24)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx
import psutil
import pytest
import tiny_models
from real_daemon import configure, ended_afterwards, family, underkeel, until_status, worker

from assistant import oom_score, paths
from assistant.client.client import DaemonClient
from assistant.daemon.process.instance import running_pid
from assistant.wire import ServiceState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="oom_score_adj is Linux's")

TEMPLATE = "{{ messages[0].content }}"


def score(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text("ascii"))


def others_below(most: int) -> list[str]:
    """Processes that the daemon started and that would be ended after others with `most`."""
    found = []
    for process in family()[1:]:
        try:
            if score(process.pid) < most:
                found.append(" ".join(process.cmdline()))
        except (OSError, psutil.Error):
            continue
    return found


async def loaded(client: DaemonClient) -> None:
    await client.wait_ready()
    await until_status(client, lambda now: now.state is ServiceState.READY)


def test_every_process_of_the_daemon_goes_before_the_editor(home: Path, tmp_path: Path) -> None:
    """The worker first, through crashes, releases, another model and a restart; so does what
    renders templates or measures. The daemon comes after all of them."""
    first = tiny_models.sliding_window(tmp_path / "first.gguf", "First", TEMPLATE)
    second = tiny_models.sliding_window(tmp_path / "second.gguf", "Second", TEMPLATE)
    configure(home, model={"name": first, "n_ctx": 512})

    async def chat() -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(paths.socket_path()))
        async with httpx.AsyncClient(transport=transport, timeout=60) as http:
            body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
            answer = await http.post("http://daemon/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text

    async def main() -> None:
        async with DaemonClient() as client:
            await loaded(client)
            assert score(running_pid()) == oom_score.DAEMON
            assert score(worker().pid) == oom_score.WORKER
            await chat()
            assert any("template_child" in " ".join(one.cmdline()) for one in family())
            assert others_below(oom_score.WORKER) == []
            old = worker()
            os.kill(old.pid, signal.SIGKILL)
            await asyncio.to_thread(old.wait, 20)
            await chat()
            await client.use_model(str(second))
            await chat()
            assert others_below(oom_score.WORKER) == []
            before = running_pid()
            assert (await asyncio.to_thread(underkeel, "restart")).returncode == 0
            assert running_pid() != before and score(running_pid()) == oom_score.DAEMON
            await chat()
            assert score(worker().pid) == oom_score.WORKER
            assert others_below(oom_score.WORKER) == []

    with ended_afterwards():
        asyncio.run(main())
