"""Progress of a build: how many files are compiled, and how long the rest will take.

Standard library only: the script that makes the development environment runs it before anything is
installed.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from typing import TextIO

from assistant.errors import printable

_STEP = re.compile(r"^\s*\[(\d{1,6})/(\d{1,6})\]")
_START = "*** Building project"
"""What scikit-build-core prints before it starts the compiler."""
_LEAST_STEPS = 4
_LEAST_S = 5.0
_LINE_WIDTH = 110
_TERMINAL_INTERVAL_S = 0.2
_LOG_INTERVAL_S = 30.0


@dataclass(frozen=True)
class Steps:
    """Where a build is.

    Attributes:
        left_s: estimated seconds to its end; None while too little has been measured.
    """

    done: int
    total: int
    left_s: float | None

    def __str__(self) -> str:
        left = "" if self.left_s is None else f", {duration(self.left_s)} left"
        return f"{self.done} of {self.total} files{left}"


class StepCounter:
    """Reads a compiler's output line by line, in the form that ninja gives it: "[12/83] ...".

    The time left assumes that the files to come take as long as those that are done.
    """

    def __init__(self) -> None:
        self._started_s: float | None = None
        self._skipped = 0
        self._last = 0

    def read(self, line: str, now_s: float) -> Steps | None:
        """The state after `line`, which came at `now_s`; None where it is not a build step."""
        if _START in line:
            self._started_s, self._skipped, self._last = now_s, 0, 0
            return None
        if not (found := _STEP.match(line)):
            return None
        done, total = int(found[1]), int(found[2])
        if self._started_s is None or done < self._last:
            self._started_s, self._skipped = now_s, done
        self._last = done
        counted, elapsed_s = done - self._skipped, now_s - self._started_s
        if counted < _LEAST_STEPS or elapsed_s < _LEAST_S:
            return Steps(done, total, None)
        return Steps(done, total, elapsed_s / counted * max(total - done, 0))


def duration(seconds: float) -> str:
    """Seconds as a person says them: "40 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(round(seconds / 5) * 5, 5)} s" if seconds > 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class ProgressLine:
    """One line that is rewritten on a terminal, or a line every half minute elsewhere."""

    def __init__(self, label: str, output: TextIO | None = None) -> None:
        self._label = label
        self._output = output or sys.stdout
        self._started_s = time.monotonic()
        self._shown_s = float("-inf")
        self._terminal = self._output.isatty()

    def show(self, detail: str) -> None:
        now = time.monotonic()
        if now - self._shown_s < (_TERMINAL_INTERVAL_S if self._terminal else _LOG_INTERVAL_S):
            return
        self._shown_s = now
        line = printable(f"{self._label}: {detail}")
        if self._terminal:
            self._output.write(f"\r\033[K{line[:_LINE_WIDTH]}")
        else:
            self._output.write(f"{line} ({now - self._started_s:.0f} s so far)\n")
        self._output.flush()

    def end(self, result: str = "done") -> None:
        start = "\r\033[K" if self._terminal else ""
        took = duration(time.monotonic() - self._started_s)
        self._output.write(f"{start}{self._label}: {printable(result)} ({took})\n")
        self._output.flush()
