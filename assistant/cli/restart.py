"""`underkeel restart`: put a new daemon in the place of the running one."""

from __future__ import annotations

import asyncio
import time

import typer

from assistant import __version__
from assistant.client import DaemonClient, Status
from assistant.client.starter import DaemonStarter
from assistant.errors import DaemonError
from assistant.service import manager

# The old one answers what it has first; a new one waits for its memory after that.
_PATIENCE_S = 180.0
_POLL_S = 0.1


def register(app: typer.Typer) -> None:
    app.command()(restart)


def restart() -> None:
    """Start the daemon anew: after an upgrade, or for settings that need it. Nothing is lost.

    The new daemon takes the sockets over; the old one writes its answers to the end.
    """
    asyncio.run(_restart())


async def _restart() -> None:
    async with DaemonClient() as client:
        before = await _status(client)
        if before is None:
            await client.wait_ready()
            typer.echo("No daemon was running; one is now.")
            return
        starter = DaemonStarter()
        if before.supervisor:
            await asyncio.to_thread(manager.restart)
        else:
            starter.start(take_over=True)
        after = await _successor(client, starter, before.pid)
        starter.forget()
        typer.echo(
            f"Process {after.pid} (version {after.version}) has taken over from process "
            f"{before.pid} (version {before.version})."
        )
        if after.version != __version__:
            typer.echo(f"This command is version {__version__}; is it of another environment?")
        await client.wait_ready()
        typer.echo("It serves.")


async def _successor(client: DaemonClient, starter: DaemonStarter, old_pid: int) -> Status:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        starter.check()
        status = await _status(client)
        if status is not None and status.pid != old_pid:
            return status
        await asyncio.sleep(_POLL_S)
    raise DaemonError(
        f"no new daemon has answered within {_PATIENCE_S:.0f} s", advice="Run: underkeel logs"
    )


async def _status(client: DaemonClient) -> Status | None:
    try:
        return await client.status()
    except DaemonError:
        return None
