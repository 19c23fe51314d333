"""`underkeel status`: the daemon's state; `underkeel top`: its last minutes as small plots."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from assistant.cli.terminal import area, bar, console, print_json, printable, say
from assistant.client.client import DaemonClient
from assistant.daemon.process.settings_changes import advice
from assistant.engine.types import Counting, ModelInfo
from assistant.errors import DaemonError, RequestError
from assistant.wire import DeviceNow, ModelNow, RungNow, ServiceState, Status

_STYLE = {
    ServiceState.READY: "green",
    ServiceState.LOADING: "yellow",
    ServiceState.RELEASED: "cyan",
    ServiceState.FAILED: "red",
    ServiceState.STOPPING: "yellow",
}
_NOT_RUNNING = 3  # as `systemctl status` and the LSB have it
_REFRESH_S = 1.0
_GIB = 1 << 30


def register(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(top)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Update it every second until interrupted.")
    ] = False,
) -> None:
    """Show the daemon's state, model, memory and speed. Exits with 3 if none is running."""
    if not watch:
        raise typer.Exit(_once(as_json))
    if as_json:
        while True:
            _once(as_json)
            time.sleep(_REFRESH_S)
    with Live(console=console(), screen=False, auto_refresh=False) as live:
        while True:
            found = _fetch()
            live.update(picture(found) if found else Text("no daemon is running"), refresh=True)
            time.sleep(_REFRESH_S)


def _once(as_json: bool) -> int:
    found = _fetch()
    if as_json:
        print_json(found or {"state": "not running"})
    elif found is None:
        say("No daemon is running. Start one with: underkeel serve")
    else:
        console().print(picture(found))
    return 0 if found else _NOT_RUNNING


def _fetch() -> Status | None:
    async def ask() -> Status:
        async with DaemonClient(autostart=False) as client:
            return await client.status()

    try:
        return asyncio.run(ask())
    except DaemonError:
        return None


def picture(found: Status) -> Group:
    """The status as a table."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in _rows(found):
        table.add_row(name, printable(value))
    parts: list[Text | Table] = [headline(found), table]
    if found.error is not None:
        parts.append(Text(printable(found.error.rebuild()), style="red"))
    return Group(*parts)


def headline(found: Status) -> Text:
    """The daemon's state in a line."""
    style = _STYLE[found.state]
    head = Text.assemble(("● ", style), ("underkeel ", "bold"), (found.state.value, style))
    if found.state is ServiceState.LOADING:
        head.append(f"  {printable(found.stage)} {found.progress:.0%}", style="dim")
    if found.model is not None:
        head.append(f"  {printable(found.model.name)}", style="dim")
    return head


def _origin(model: ModelInfo) -> str:
    """The model's file or server, and whether its tokens are only estimated."""
    if not model.server:
        return f"{model.architecture}, {model.path}"
    counted = (
        "are counted" if model.counting is Counting.EXACT else "are estimated (an upper bound)"
    )
    return f"{model.server}, tokens {counted}"


def _model(one: ModelNow) -> str:
    held = ", ".join(f"{name} {size / _GIB:.2f} GiB" for name, size in one.bytes.items() if size)
    memory = f", {held}" if held else ""
    purposes = ", ".join(one.purposes)
    return f"{purposes}: {one.name}  ({one.state.value}{memory}; loaded {one.loaded})"


def _rows(found: Status) -> list[tuple[str, str]]:
    rows = []
    if model := found.model:
        rows += [
            ("model", f"{model.name}  ({_origin(model)})"),
            ("context", f"{model.n_ctx} cells, {model.n_seq_max} {_slots(model.n_seq_max)}"),
        ]
    if found.explain_state is not None:
        second = found.explain_model.name if found.explain_model else "not loaded yet"
        rows.append(("explain", f"{second}  ({found.explain_state.value})"))
    if len(found.models) > 1:
        rows += [
            ("models" if number == 0 else "", _model(one))
            for number, one in enumerate(found.models)
        ]
    if stats := found.stats:
        seen = stats.cached_tokens + stats.evaluated_tokens
        hits = stats.cached_tokens / seen if seen else 0.0
        rows += [
            ("KV cache", f"{stats.cells_used} of {stats.cells_total} cells used"),
            ("prefill", f"{stats.prefill_tokens_per_s:.0f} tokens/s"),
            ("decode", f"{stats.decode_tokens_per_s:.0f} tokens/s"),
            ("cache hits", f"{hits:.0%} of {seen} prompt tokens"),
            ("requests", f"{stats.requests} answered, {stats.cancelled} of them cancelled"),
            ("worker", f"{stats.rss_bytes / 2**20:.0f} MiB resident, {found.deaths} crashes"),
        ]
    rows += [(device.name, _memory(device)) for device in found.devices]
    if rung := found.rung:
        without = f", without {rung.says}" if rung.says else ""
        why = f"  ({rung.reason})" if rung.index and rung.reason else ""
        rows.append(("ladder", f"{rung.name}, rung {rung.index} of {rung.of - 1}{without}{why}"))
    rows += [("caveats" if number == 0 else "", line) for number, line in enumerate(found.caveats)]
    rows += [("load" if number == 0 else "", line) for number, line in enumerate(found.load)]
    if budget := found.budget:
        reason = f"  ({budget.reason})" if budget.reason else ""
        rows.append(("budget", f"{budget.tokens} prompt tokens, level {budget.level}{reason}"))
    waiting = found.settings.pending if found.settings else ()
    rows += [
        ("settings" if number == 0 else "", line) for number, line in enumerate(advice(waiting))
    ]
    rows += [
        ("queue", f"{found.in_flight} of {found.max_waiting}"),
        ("daemon", f"{found.version}, process {found.pid}, up {found.uptime_s:.0f} s{_by(found)}"),
        ("socket", found.socket),
        ("log", found.log),
    ]
    return rows


def _slots(count: int) -> str:
    return "slot" if count == 1 else "slots"


def _by(found: Status) -> str:
    return f", started by {found.supervisor}" if found.supervisor else ""


def _memory(device: DeviceNow) -> str:
    if device.lost:
        return "lost: the driver does not report it any more"
    used = 1 - device.free_bytes / device.total_bytes if device.total_bytes else 0.0
    return (
        f"{bar(used, width=20)} {device.free_bytes / _GIB:.2f} of "
        f"{device.total_bytes / _GIB:.2f} GiB free, {device.ours_bytes / _GIB:.2f} for the model"
    )


_KEPT = 1200
_HEIGHT = 3
_LABEL_WIDTH = 30


def top(
    interval: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds between two samples.")
    ] = 0.5,
    count: Annotated[int, typer.Option(min=0, help="Number of samples; 0 for unlimited.")] = 0,
) -> None:
    """Plot memory, cells, budget and speed live. Ctrl-C ends it."""
    if math.isnan(interval):
        raise RequestError("this is no number of seconds", subject="--interval", advice="Use 0.5")
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
                    break
                await asyncio.sleep(max(interval_s - (time.monotonic() - started), 0))
    if not out.is_terminal:
        out.print()  # the last line is still open there


async def _sample(client: DaemonClient, history: deque[Status], width: int) -> RenderableType:
    try:
        history.append(await client.status())
    except DaemonError as error:
        return Text(printable(error), style="yellow")
    return plots(history, width)


def plots(history: Sequence[Status], width: int) -> Group:
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
