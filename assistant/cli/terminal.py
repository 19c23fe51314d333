"""What reaches a terminal: safe text, JSON, consoles and small plots.

Names, paths, errors and logs come from files and servers. `printable` makes such text safe: no
control sequence, no text direction marks, one line. Use `say`, `print_json` and `console` for all
output, so that nothing is printed without it and nothing is read as rich's markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

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
    separators = None if indent else (",", ":")
    plain = msgspec.to_builtins(data)
    text = json.dumps(plain, indent=indent, separators=separators, ensure_ascii=False)
    # json escapes what is below U+0020; the rest of the unsafe characters are inside of texts.
    typer.echo(_UNSAFE_IN_LINES.sub(lambda match: json.dumps(match[0])[1:-1], text))


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
            if segment.control or not _UNSAFE_IN_LINES.search(segment.text):
                yield segment
            else:
                yield Segment(printable(segment.text, lines=True), segment.style)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


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
