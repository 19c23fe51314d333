"""`underkeel top`: the last minutes as small plots."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from assistant.cli.plot import area
from assistant.cli.status import headline
from assistant.client import DaemonClient, RungNow, Status
from assistant.errors import DaemonError

_KEPT = 1200
_HEIGHT = 3
_LABEL_WIDTH = 30
_GIB = 1 << 30


def register(app: typer.Typer) -> None:
    app.command()(top)


def top(
    interval: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds between two looks.")
    ] = 0.5,
    count: Annotated[int, typer.Option(min=0, help="Looks to take; 0 for no end.")] = 0,
) -> None:
    """Watch memory, cells, budget and speed live. Ends with Ctrl-C."""
    asyncio.run(_watch(interval, count))


async def _watch(interval_s: float, count: int) -> None:
    console = Console()
    history: deque[Status] = deque(maxlen=_KEPT)
    looks = 0
    async with DaemonClient(autostart=False) as client:
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                begun = time.monotonic()
                live.update(await _look(client, history, console.width), refresh=True)
                looks += 1
                if looks == count:
                    return
                await asyncio.sleep(max(interval_s - (time.monotonic() - begun), 0))


async def _look(client: DaemonClient, history: deque[Status], width: int) -> RenderableType:
    try:
        history.append(await client.status())
    except DaemonError as error:
        return Text(f"{error}", style="yellow")
    return picture(history, width)


def picture(history: Sequence[Status], width: int) -> Group:
    """All plots of `history`, oldest first, for a terminal of `width` columns."""
    now = history[-1]
    parts: list[RenderableType] = [headline(now), Text()]
    for device in now.devices:

        def used(status: Status, name: str = device.name) -> float:
            found = [item for item in status.devices if item.name == name]
            return (found[0].total_bytes - found[0].free_bytes) / _GIB if found else 0.0

        total = device.total_bytes / _GIB
        free = device.free_bytes / _GIB
        label = f"{device.name}  {free:.1f} of {total:.1f} GiB free"
        parts.append(_plot(history, used, label, "blue", width, top=total))
    stats = now.stats
    if stats is not None:
        label = f"KV cells  {stats.cells_used} of {stats.cells_total}"
        parts.append(
            _plot(
                history,
                lambda status: float(status.stats.cells_used if status.stats else 0),
                label,
                "cyan",
                width,
                top=float(stats.cells_total),
            )
        )
    if now.budget is not None:
        label = f"budget  {now.budget.tokens} tokens, level {now.budget.level}"
        parts.append(
            _plot(
                history,
                lambda status: float(status.budget.tokens if status.budget else 0),
                label,
                "green",
                width,
            )
        )
        if now.budget.reason:
            parts.append(Text(f"  {now.budget.reason}", style="yellow"))
    if now.rung is not None:
        parts += _ladder(history, now.rung, width)
    written = rates(history)
    label = f"written  {written[-1] if written else 0:.0f} tokens/s"
    parts.append(_drawn(written, label, "magenta", width))
    parts.append(Text(_footer(history), style="dim"))
    return Group(*parts)


def _footer(history: Sequence[Status]) -> str:
    """The last figures, and how long ago the left edge is."""
    now, span_s = history[-1], history[-1].uptime_s - history[0].uptime_s
    said = [f"the last {span_s:.0f} s", f"{now.in_flight} in flight", f"{now.deaths} deaths"]
    if now.stats is not None:
        seen = now.stats.cached_tokens + now.stats.evaluated_tokens
        hits = now.stats.cached_tokens / seen if seen else 0.0
        said.insert(1, f"{hits:.0%} of prompt tokens from the cache")
    return "  ".join(said)


def _ladder(history: Sequence[Status], rung: RungNow, width: int) -> list[RenderableType]:
    """How far down the ladder, and what was given up there."""
    plot = _plot(
        history,
        lambda status: float(status.rung.index if status.rung else 0),
        f"given back  {rung.name if rung.index else 'nothing'}",
        "red",
        width,
        top=float(rung.of - 1),
    )
    if not rung.index:
        return [plot]
    given = f"without {rung.says}" if rung.says else rung.name
    return [plot, Text(f"  {given} ({rung.reason})" if rung.reason else f"  {given}", "yellow")]


def rates(history: Iterable[Status]) -> list[float]:
    """Tokens generated a second between each two looks; 0 across a restart of the engine."""
    found = []
    for before, after in pairwise(history):
        if before.stats is None or after.stats is None:
            found.append(0.0)
            continue
        tokens = after.stats.generated_tokens - before.stats.generated_tokens
        seconds = after.uptime_s - before.uptime_s
        found.append(max(tokens, 0) / seconds if seconds > 0 else 0.0)
    return found


def _plot(
    history: Iterable[Status],
    value: Callable[[Status], float],
    label: str,
    style: str,
    width: int,
    *,
    top: float = 0.0,
) -> Text:
    return _drawn([value(status) for status in history], label, style, width, top=top)


def _drawn(
    values: Sequence[float], label: str, style: str, width: int, *, top: float = 0.0
) -> Text:
    lines = area(values, width=max(width - _LABEL_WIDTH - 3, 10), height=_HEIGHT, top=top)
    text = Text()
    for row, line in enumerate(lines):
        name = label if row == _HEIGHT - 1 else ""
        text.append(f"{name[:_LABEL_WIDTH]:<{_LABEL_WIDTH}} ", style="dim")
        text.append("▕", style="dim")
        text.append(line, style=style)
        text.append("\n")
    return text
