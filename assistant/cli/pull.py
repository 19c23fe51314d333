"""`underkeel pull`: fetch a catalogue model, with progress."""

from __future__ import annotations

from collections.abc import Callable
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

from assistant.models.catalogue import catalogue
from assistant.models.pull import Source, pull
from assistant.models.storage import Advance

_EACH_PERCENT = 5


class Bars:
    """Draws a pull's steps as rich progress bars; a Report. Use as a context manager.

    Where nobody watches a terminal (a log, an editor), a step tells its share in lines instead.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def step(self, label: str, total_bytes: int) -> Advance:
        if not self._progress.console.is_terminal:
            return Shares(label, total_bytes, self.note).advance
        task = self._progress.add_task(label, total=total_bytes)
        return lambda done: self._progress.advance(task, done)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class Shares:
    """Tells of a step's progress in lines such as "fetching starter-moe 35 %", one each 5 %."""

    def __init__(self, label: str, total_bytes: int, tell: Callable[[str], None]) -> None:
        self._label = label
        self._total_bytes = max(total_bytes, 1)
        self._tell = tell
        self._done_bytes = 0
        self._told = -_EACH_PERCENT

    def advance(self, done_bytes: int) -> None:
        self._done_bytes += done_bytes
        percent = min(100, 100 * self._done_bytes // self._total_bytes)
        if percent >= self._told + _EACH_PERCENT:
            self._told = percent - percent % _EACH_PERCENT
            self._tell(f"{self._label} {self._told} %")


def register(app: typer.Typer) -> None:
    @app.command("pull")
    def pull_command(
        name: Annotated[
            str, typer.Argument(help="A known name, owner/repository[:Q4_K_M], or a URL.")
        ],
        source: Annotated[
            Source | None,
            typer.Option(
                "--from", help="Take it from there only, not from the first that answers."
            ),
        ] = None,
        yes: Annotated[
            bool, typer.Option("--yes", "-y", help="Do not ask, once the plan is shown.")
        ] = False,
    ) -> None:
        """Fetch a model, prove its hash, and put it into the models folder.

        What was begun is gone on with. Starter models are fetched at once, or made here; of any
        other the plan is shown first.
        """
        if name not in catalogue():
            from assistant.cli.models import pull_model  # it draws with what is here

            pull_model(name, yes, source)
            return
        with Bars(Console(stderr=True)) as bars:
            path = pull(name, source, bars)
        typer.echo(path)
