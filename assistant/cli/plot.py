"""Small plots of text, for `underkeel top`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def area(values: Sequence[float], *, width: int, height: int, top: float = 0.0) -> list[str]:
    """The last values as a filled curve, the newest at the right edge.

    Args:
        values: oldest first; two or more that share a column show their greatest.
        top: what the upper edge stands for; the greatest value where it is 0 or exceeded.

    Returns:
        `height` lines of `width` characters, the upper one first.
    """
    shown = list(values[-width:])
    top = max([top, *shown], default=0.0)
    levels = [round(max(value, 0.0) / top * height * 8) if top > 0 else 0 for value in shown]
    # A value that is not nothing must be seen.
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
