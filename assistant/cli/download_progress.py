"""Progress bars for downloads. Without a terminal, progress is printed in lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

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
