"""`underkeel reload`: have the daemon read its settings again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from assistant.client import DaemonClient
from assistant.daemon.process.settings_diff import advice
from assistant.wire import SettingsNow


def register(app: typer.Typer) -> None:
    app.command()(reload)


def reload(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Have the daemon read its settings now, and say what took effect and what waits.

    It does so by itself when the file changes; `underkeel status` shows what waits.
    """
    found = asyncio.run(_ask())
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    for line in told(found):
        typer.echo(line)


def told(found: SettingsNow) -> Iterator[str]:
    """The report, line by line."""
    yield found.path or "this daemon follows no settings file"
    for problem in found.problems:
        yield f"  wrong: {problem}"
    for line in advice(found.changes):
        yield f"  {line}"
    if not found.changes:
        yield "  nothing has changed since it was read last"
    earlier = [change for change in found.pending if change not in found.changes]
    if earlier:
        yield "  changed earlier, and waiting:"
        for line in advice(tuple(earlier)):
            yield f"  {line}"


async def _ask() -> SettingsNow:
    async with DaemonClient(autostart=False) as client:
        return await client.reload()
