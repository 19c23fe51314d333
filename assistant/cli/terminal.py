"""What reaches a terminal: safe text, JSON, consoles and small plots.

Names, paths, errors and logs come from files and servers. `printable` makes such text safe: no
control sequence, no text direction marks, one line. Use `say`, `print_json` and `console` for all
output, so that nothing is printed without it and nothing is read as rich's markup.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from assistant.errors import UNSAFE_IN_LINES, printable

__all__ = ["area", "bar", "console", "print_json", "printable", "say"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def say(*lines: object, err: bool = False) -> None:
    """Print each argument as one line."""
    for line in lines:
        typer.echo(printable(line), err=err)


def print_json(data: Any, *, indent: int | None = None) -> None:
    """Print data for programs: JSON whose unsafe characters are escaped, the value unchanged."""
    separators = None if indent else (",", ":")
    plain = msgspec.to_builtins(data)
    text = json.dumps(plain, indent=indent, separators=separators, ensure_ascii=False)
    # json escapes what is below U+0020; the rest of the unsafe characters are inside of texts.
    typer.echo(UNSAFE_IN_LINES.sub(lambda match: json.dumps(match[0])[1:-1], text))


def console(
    *, stderr: bool = False, quiet: bool = False, most_columns: int | None = None
) -> Console:
    """A console that reads no markup and escapes unsafe characters in all that it prints."""
    made = _SafeConsole(stderr=stderr, quiet=quiet, markup=False, highlight=False, emoji=False)
    if most_columns is not None:
        made.width = min(made.width, most_columns)
    return made


class _SafeConsole(Console):
    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or not UNSAFE_IN_LINES.search(segment.text):
                yield segment
            else:
                yield Segment(printable(segment.text, lines=True), segment.style)


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
