"""`underkeel bundle`: what others need to help, in files to read before they are given away."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from assistant.client import DaemonClient, Status
from assistant.doctor import bundle as bundles
from assistant.doctor import examine
from assistant.errors import DaemonError
from assistant.service import manager


def register(app: typer.Typer) -> None:
    app.command()(bundle)


def bundle(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A folder to make, or a .zip.", show_default=False),
    ] = None,
) -> None:
    """Gather what helps others to help you. No code is in it, and nothing is sent anywhere."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    target = output or Path(f"underkeel-bundle-{stamp}.zip")
    status, metrics = asyncio.run(_ask())
    files = bundles.gather(examine(), status, metrics, manager.status())
    bundles.write(files, target)
    for name, text in files.items():
        typer.echo(f"{len(text.encode()):>9,}  {name}")
    typer.echo(f"\nWrote {target}. Look through it before you give it to anybody.")


async def _ask() -> tuple[Status | None, str]:
    try:
        async with asyncio.timeout(10), DaemonClient(autostart=False) as client:
            return await client.status(), await client.metrics()
    except (DaemonError, TimeoutError):
        return None, ""
