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

from assistant.cli.terminal import printable
from assistant.models.storage import Advance

_EACH_PERCENT = 5


class Bars:
    """Progress bars for the steps of a download; a context manager.

    Without a terminal (a log, an editor) each step prints lines with its percentage instead.
    """

    def __init__(self, on: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=on,
            disable=not on.is_terminal,
        )

    def step(self, label: str, total_bytes: int) -> Advance:
        label = printable(label)
        if not self._progress.console.is_terminal:
            return Percentages(label, total_bytes, self.note).advance
        task = self._progress.add_task(label, total=total_bytes)
        return lambda done: self._progress.advance(task, done)

    def note(self, text: str) -> None:
        self._progress.console.print(printable(text), markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class Percentages:
    """Reports the progress of a step in lines such as "fetching starter-moe 35 %", every 5 %."""

    def __init__(self, label: str, total_bytes: int, report: Callable[[str], None]) -> None:
        self._label = label
        self._total_bytes = max(total_bytes, 1)
        self._report = report
        self._done_bytes = 0
        self._reported = -_EACH_PERCENT

    def advance(self, done_bytes: int) -> None:
        self._done_bytes += done_bytes
        percent = min(100, 100 * self._done_bytes // self._total_bytes)
        if percent >= self._reported + _EACH_PERCENT:
            self._reported = percent - percent % _EACH_PERCENT
            self._report(f"{self._label} {self._reported} %")
