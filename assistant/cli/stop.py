"""`underkeel stop`: end the daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Annotated

import typer

from assistant.client import DaemonClient
from assistant.daemon.process.instance import running_pid
from assistant.errors import DaemonError

# Streams get their last words within 5 s; a worker in the middle of a kernel may take longer.
_PATIENCE_S = 20.0
_POLL_S = 0.05


def register(app: typer.Typer) -> None:
    app.command()(stop)


def stop(
    force: Annotated[
        bool, typer.Option("--force", help="Kill it if it does not end by itself.")
    ] = False,
) -> None:
    """End the daemon; what it is answering gets a clear error."""
    pid = running_pid()
    if pid is None:
        typer.echo("No daemon is running.")
        return
    try:
        asyncio.run(_ask())
    except DaemonError:
        # It holds the lock but does not answer: starting, or hung.
        _signal(pid, signal.SIGTERM)
    if _ended(_PATIENCE_S):
        typer.echo("The daemon has ended.")
        return
    if force:
        _signal(pid, signal.SIGKILL)
        if _ended(_PATIENCE_S):
            typer.echo("The daemon was killed.")
            return
    raise DaemonError(
        f"the daemon has not ended within {_PATIENCE_S:.0f} s",
        subject=f"process {pid}",
        advice="" if force else "Run: underkeel stop --force",
    )


async def _ask() -> None:
    async with DaemonClient(autostart=False) as client:
        await client.stop()


def _ended(patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while running_pid() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise DaemonError(
            "the daemon belongs to somebody else", subject=f"process {pid}"
        ) from error
