"""`underkeel logs`: what the daemon wrote."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from assistant import paths
from assistant.errors import DaemonError

_POLL_S = 0.3


def register(app: typer.Typer) -> None:
    app.command()(logs)


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines.")] = 50,
) -> None:
    """Show the end of the daemon's log. It never holds code."""
    path = paths.log_file()
    text, place = _tail(path, lines)
    typer.echo(text, nl=False)
    while follow:
        time.sleep(_POLL_S)
        text, place = _more(path, place)
        typer.echo(text, nl=False)


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


def _more(path: Path, place: int) -> tuple[str, int]:
    """What was added after `place`; a rotated file is read from its start."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            file.seek(0 if path.stat().st_size < place else place)
            return file.read(), file.tell()
    except FileNotFoundError:
        return "", 0
