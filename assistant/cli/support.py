"""`underkeel doctor`, `logs` and `bundle`: find out what is wrong."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from assistant import paths
from assistant.cli.terminal import console, print_json, printable, say
from assistant.client.client import DaemonClient
from assistant.doctor import Finding, Level, examine
from assistant.errors import DaemonError
from assistant.wire import Status

_POLL_S = 0.3
_STYLES = {
    Level.OK: ("ok  ", "green"),
    Level.WARN: ("warn", "yellow"),
    Level.FAIL: ("FAIL", "red"),
}


def register(app: typer.Typer) -> None:
    app.command()(doctor)
    app.command()(logs)
    app.command()(bundle)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Verify the model's checksum too, however large it is.")
    ] = False,
) -> None:
    """Check this machine; report ok, warn or fail, with what to do. Exits with 1 on a failure."""
    found: list[Finding] = []
    for finding in examine(deep=deep):
        found.append(finding)
        if not as_json:
            show(finding)
    failures = sum(finding.level is Level.FAIL for finding in found)
    warnings = sum(finding.level is Level.WARN for finding in found)
    if as_json:
        print_json(found, indent=2)
    else:
        say("", f"{len(found)} checks: {failures} failed, {warnings} with warnings.")
    raise typer.Exit(1 if failures else 0)


def show(finding: Finding) -> None:
    """One finding, and under it what to do."""
    mark, colour = _STYLES[finding.level]
    out = console()
    if not out.is_terminal:
        say(f"{mark}  {finding.check:10} {finding.message}")
        if finding.advice:
            say(f"{'':17}{finding.advice}")
        return
    table = Table.grid(padding=(0, 1))
    table.add_column(width=5, style=colour)
    table.add_column(width=10)
    table.add_column(overflow="fold")
    table.add_row(mark, printable(finding.check), printable(finding.message))
    if finding.advice:
        table.add_row("", "", Text(printable(finding.advice), style="bold"))
    out.print(table)


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Number of lines.")] = 50,
) -> None:
    """Show the end of the daemon's log. It never contains code."""
    path = paths.log_file()
    text, offset = _tail(path, lines)
    typer.echo(printable(text, lines=True), nl=False)
    while follow:
        time.sleep(_POLL_S)
        text, offset = _more(path, offset)
        typer.echo(printable(text, lines=True), nl=False)


def _tail(path: Path, lines: int) -> tuple[str, int]:
    """The last lines, and where the file ended."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, maxlen=lines)), file.tell()
    except FileNotFoundError as error:
        raise DaemonError(
            "there is no log yet", subject=str(path), advice="Run: underkeel serve"
        ) from error
    except OSError as error:
        raise DaemonError(
            f"the log cannot be read ({error.strerror})", subject=str(path)
        ) from error


def _more(path: Path, offset: int) -> tuple[str, int]:
    """What was added after `offset`; a rotated file is read from its start."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            file.seek(0 if path.stat().st_size < offset else offset)
            return file.read(), file.tell()
    except FileNotFoundError:
        return "", 0


def bundle(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new folder, or a .zip.", show_default=False),
    ] = None,
) -> None:
    """Collect files for a bug report. They contain no code, and nothing is sent anywhere."""
    from assistant import service
    from assistant.doctor import bundle as bundles

    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    target = output or Path(f"underkeel-bundle-{stamp}.zip")
    status, metrics = asyncio.run(_request_status())
    files = bundles.gather(examine(), status, metrics, service.status())
    bundles.write(files, target)
    for name, text in files.items():
        say(f"{len(text.encode()):>9,}  {name}")
    say("", f"Wrote {target}. Look through it before you share it.")


async def _request_status() -> tuple[Status | None, str]:
    try:
        async with asyncio.timeout(10), DaemonClient(autostart=False) as client:
            return await client.status(), await client.metrics()
    except (DaemonError, TimeoutError):
        return None, ""
