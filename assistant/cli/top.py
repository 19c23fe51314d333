"""`underkeel top`: the last minutes as small plots."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from assistant.cli.status import headline
from assistant.cli.terminal import area, console, printable
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
        float, typer.Option(min=0.1, max=60, help="Seconds between two samples.")
    ] = 0.5,
    count: Annotated[int, typer.Option(min=0, help="Number of samples; 0 for unlimited.")] = 0,
) -> None:
    """Plot memory, cells, budget and speed live. Ctrl-C ends it."""
    asyncio.run(_watch(interval, count))


async def _watch(interval_s: float, count: int) -> None:
    out = console()
    history: deque[Status] = deque(maxlen=_KEPT)
    samples = 0
    async with DaemonClient(autostart=False) as client:
        with Live(console=out, screen=out.is_terminal and not count, auto_refresh=False) as live:
            while True:
                started = time.monotonic()
                live.update(await _sample(client, history, out.width), refresh=True)
                samples += 1
                if samples == count:
                    return
                await asyncio.sleep(max(interval_s - (time.monotonic() - started), 0))


async def _sample(client: DaemonClient, history: deque[Status], width: int) -> RenderableType:
    try:
        history.append(await client.status())
    except DaemonError as error:
        return Text(printable(error), style="yellow")
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
            parts.append(Text(f"  {printable(now.budget.reason)}", style="yellow"))
    if now.rung is not None:
        parts += _ladder(history, now.rung, width)
    generated = rates(history)
    label = f"decode  {generated[-1] if generated else 0:.0f} tokens/s"
    parts.append(_drawn(generated, label, "magenta", width))
    parts.append(Text(_footer(history), style="dim"))
    return Group(*parts)


def _footer(history: Sequence[Status]) -> str:
    """The last figures, and how far back the plots go."""
    now, span_s = history[-1], history[-1].uptime_s - history[0].uptime_s
    words = [f"the last {span_s:.0f} s", f"{now.in_flight} in flight", f"{now.deaths} crashes"]
    if now.stats is not None:
        seen = now.stats.cached_tokens + now.stats.evaluated_tokens
        hits = now.stats.cached_tokens / seen if seen else 0.0
        words.insert(1, f"{hits:.0%} of prompt tokens from the cache")
    return "  ".join(words)


def _ladder(history: Sequence[Status], rung: RungNow, width: int) -> list[RenderableType]:
    """The rung of the ladder, and what was given up for it."""
    plot = _plot(
        history,
        lambda status: float(status.rung.index if status.rung else 0),
        f"ladder  {rung.name}",
        "red",
        width,
        top=float(rung.of - 1),
    )
    if not rung.index:
        return [plot]
    line = f"  without {rung.says}" if rung.says else f"  {rung.name}"
    if rung.reason:
        line += f" ({rung.reason})"
    return [plot, Text(printable(line), "yellow")]


def rates(history: Iterable[Status]) -> list[float]:
    """Tokens generated a second between two samples; 0 across a restart of the engine."""
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
        name = printable(label) if row == _HEIGHT - 1 else ""
        text.append(f"{name[:_LABEL_WIDTH]:<{_LABEL_WIDTH}} ", style="dim")
        text.append("▕", style="dim")
        text.append(line, style=style)
        text.append("\n")
    return text
