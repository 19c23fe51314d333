"""What reaches a terminal: safe text, JSON, consoles, progress and small plots.

Names, paths, errors and logs come from files and servers. `printable` makes such text safe: no
control sequence, no text direction marks, one line. Use `say`, `print_json` and `console` for all
output, so that nothing is printed without it and nothing is read as rich's markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import msgspec
import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment

from assistant.models.storage import Advance

# Controls, line and paragraph separators, surrogates, and characters that are invisible or change
# the direction of text (Unicode's Cc, Cs, Zl, Zp and Default_Ignorable_Code_Point). The joiners
# U+200C and U+200D stay: words of many languages need them.
_HIDDEN = (
    "\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff\ud800-\udfff"
)
_UNSAFE = re.compile(f"[\x00-\x1f{_HIDDEN}]")
_UNSAFE_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_HIDDEN}]")

_EACH_PERCENT = 5
_EIGHTHS = " ▁▂▃▄▅▆▇█"


def printable(text: object, *, lines: bool = False) -> str:
    r"""Text from a file or a server in a form that is safe to print, with `\x1b` for ESC.

    Args:
        lines: keep line ends and tabs, for text that is meant to have several lines.
    """
    return (_UNSAFE_IN_LINES if lines else _UNSAFE).sub(_escaped, str(text))


def say(*lines: object, err: bool = False) -> None:
    """Print each argument as one line."""
    for line in lines:
        typer.echo(printable(line), err=err)


def print_json(data: Any, *, indent: int | None = None) -> None:
    """Print data for programs: JSON whose unsafe characters are escaped, the value unchanged."""
    text = json.dumps(msgspec.to_builtins(data), indent=indent, ensure_ascii=False)
    # json escapes what is below U+0020; the rest of the unsafe characters are inside of texts.
    typer.echo(_UNSAFE_IN_LINES.sub(lambda match: json.dumps(match[0])[1:-1], text))


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that reads no markup and escapes unsafe characters in all that it prints."""
    return _SafeConsole(stderr=stderr, quiet=quiet, markup=False, highlight=False, emoji=False)


class _SafeConsole(Console):
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or not _UNSAFE_IN_LINES.search(segment.text):
                yield segment
            else:
                yield Segment(printable(segment.text, lines=True), segment.style)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


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


def area(values: Sequence[float], *, width: int, height: int, top: float = 0.0) -> list[str]:
    """The last values as a filled curve, the newest at the right edge.

    Args:
        values: oldest first; two or more that share a column show their greatest.
        top: the value of the upper edge; the greatest value where it is 0 or exceeded.

    Returns:
        `height` lines of `width` characters, the upper one first.
    """
    shown = list(values[-width:])
    top = max([top, *shown], default=0.0)
    levels = [round(max(value, 0.0) / top * height * 8) if top > 0 else 0 for value in shown]
    # A value above zero must be visible.
    levels = [max(level, int(value > 0)) for level, value in zip(levels, shown, strict=True)]
    lines = []
    for row in reversed(range(height)):
        cells = (_EIGHTHS[min(max(level - 8 * row, 0), 8)] for level in levels)
        lines.append("".join(cells).rjust(width))
    return lines


def bar(share: float, *, width: int) -> str:
    """A horizontal bar, `share` of `width` filled."""
    filled = round(min(max(share, 0.0), 1.0) * width)
    return "█" * filled + "░" * (width - filled)
