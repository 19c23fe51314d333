"""How a pull tells what it does, and steps that begin with their first byte."""

from __future__ import annotations

import functools
import threading
from typing import Protocol

from assistant.models.storage import Advance


class Report(Protocol):
    """Told how a pull goes on; may be called from several threads."""

    def step(self, label: str, total_bytes: int) -> Advance:
        """A step begins; the answer is told of every byte that is done."""
        ...

    def note(self, text: str) -> None:
        """Something the user wants to know."""
        ...


class Silent:
    """A Report for those who do not look."""

    def step(self, label: str, total_bytes: int) -> Advance:  # noqa: ARG002
        return lambda _: None

    def note(self, text: str) -> None:
        pass


def once_it_moves(report: Report, label: str, total_bytes: int) -> Advance:
    """A step that begins with its first byte: none is shown for a source that never answers."""
    begin = functools.cache(lambda: report.step(label, total_bytes))
    lock = threading.Lock()

    def advance(done: int) -> None:
        if done:
            with lock:
                step = begin()
            step(done)

    return advance
