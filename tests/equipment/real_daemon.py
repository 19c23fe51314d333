"""The real daemon of a private UNDERKEEL_HOME: its processes, its settings, its end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from assistant.client.client import DaemonClient
from assistant.daemon.process.instance import running_pid
from assistant.wire import CompletionChunk, CompletionRequest, Status


def underkeel(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "assistant", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def configure(home: Path, **tables: dict[str, Any]) -> None:
    """Write config.toml from tables of plain values."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        for key, value in table.items():
            written = f'"{value}"' if isinstance(value, str | Path) else str(value).lower()
            lines.append(f"{key} = {written}")
    (home / "config.toml").write_text("\n".join(lines) + "\n")


@contextmanager
def ended_afterwards() -> Iterator[None]:
    """Whatever daemon the block started is gone after it, its worker too."""
    try:
        yield
    finally:
        processes = family()
        underkeel("stop", "--force")
        _, alive = psutil.wait_procs(processes, timeout=20)
        for process in alive:
            process.kill()
        assert not alive, f"left behind: {alive}"


def family() -> list[psutil.Process]:
    """The daemon and its worker, as far as they live."""
    pid = running_pid()
    if pid is None or not psutil.pid_exists(pid):
        return []
    daemon = psutil.Process(pid)
    return [daemon, *daemon.children(recursive=True)]


def worker() -> psutil.Process:
    """The process that holds llama.cpp."""
    for process in family()[1:]:
        named = "assistant.engine.worker" in process.cmdline()
        if named and any("libllama" in mapped.path for mapped in process.memory_maps()):
            return process
    raise AssertionError(f"no worker among {family()}")


async def answer(client: DaemonClient, request: CompletionRequest) -> tuple[str, CompletionChunk]:
    """The whole text, and the last chunk."""
    text, last = "", None
    async for chunk in client.complete(request):
        text += chunk.content
        last = chunk
    assert last is not None and last.stop
    return text, last


async def until_status(
    client: DaemonClient, told: Callable[[Status], bool], limit_s: float = 30
) -> Status:
    """Wait until the daemon's status is as wanted, and give it back."""
    async with asyncio.timeout(limit_s):
        while True:
            status = await client.status()
            if told(status):
                return status
            await asyncio.sleep(0.02)


async def freed(client: DaemonClient, limit_s: float = 30) -> None:
    """Wait until the engine works on nothing."""
    await until_status(
        client,
        lambda now: bool(now.stats and not (now.in_flight or now.stats.running)),
        limit_s,
    )
