"""`underkeel pull`: fetch a catalogue model, with progress."""

from __future__ import annotations

from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from assistant.models.pull import Source, pull
from assistant.models.storage import Advance


class Bars:
    """Draws a pull's steps as rich progress bars; a Report. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        )

    def step(self, label: str, total_bytes: int) -> Advance:
        task = self._progress.add_task(label, total=total_bytes)
        return lambda done: self._progress.advance(task, done)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def register(app: typer.Typer) -> None:
    @app.command("pull")
    def pull_command(
        name: Annotated[str, typer.Argument(help="A catalogue name; see `underkeel models list`.")],
        source: Annotated[
            Source | None,
            typer.Option(
                "--from", help="Take it from there only, not from the first that answers."
            ),
        ] = None,
    ) -> None:
        """Fetch a model, prove its hash, and put it into the models folder.

        What was begun is gone on with. Models that are made from others are made here.
        """
        with Bars(Console(stderr=True)) as bars:
            path = pull(name, source, bars)
        typer.echo(path)
