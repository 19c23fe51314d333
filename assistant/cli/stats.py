"""`underkeel stats`: suggestions shown, accepted and kept, as counted on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from assistant import settings, statistics
from assistant.cli.terminal import area, console, print_json, printable, say
from assistant.statistics import LATENCY_EDGES_MS, Counts, Found

_PLOT_HEIGHT = 4
_DAY_COLUMNS = 2


def register(app: typer.Typer) -> None:
    app.command()(stats)


def stats(
    days: Annotated[int, typer.Option(min=1, max=3650, help="Number of days.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    erase: Annotated[bool, typer.Option("--erase", help="Delete all counts.")] = False,
) -> None:
    """Show how many suggestions were accepted. The counts never leave this machine.

    The setting `statistics.enabled` switches the counting off.
    """
    if erase:
        gone = statistics.erase()
        say("The statistics are erased." if gone else "There were no statistics.")
        return
    today = date.today()  # noqa: DTZ011 - the user's own day
    found = statistics.load().since(today - timedelta(days=days - 1))
    enabled = settings.load()[0].statistics.enabled
    if as_json:
        print_json(as_data(found, days, enabled=enabled))
    else:
        console().print(picture(found, today, days, enabled=enabled))


def as_data(found: Found, days: int, *, enabled: bool) -> dict[str, Any]:
    """The statistics as plain data; a share or a latency is null if there is none."""
    return {
        "days": days,
        "enabled": enabled,
        "file": str(statistics.file()),
        "latency_edges_ms": LATENCY_EDGES_MS,
        "all": _summary(found, None),
        "languages": {name: _summary(found, name) for name in _languages(found)},
        "by_day": [
            {"day": day, "language": name, **_fields(counts)}
            for (day, name), counts in sorted(found.counts.items())
        ],
    }


def picture(found: Found, today: date, days: int, *, enabled: bool) -> Group:
    """The statistics for a terminal: a row a language, then the days as a plot."""
    parts: list[Text | Table] = []
    if not found.counts:
        text = "No suggestion was counted" if enabled else "Statistics are switched off"
        parts.append(Text(f"{text} in the last {days} days." if enabled else f"{text}."))
        return Group(*parts)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("language")
    for head in ("shown", "accepted", "in part", "characters", "kept", "median", "90th pct."):
        table.add_column(head, justify="right")
    for name in (*_languages(found), None):
        table.add_row(*_row(found, name), style="bold" if name is None else "")
    parts += [table, Text()]
    totals = _by_day(found, today, days)
    shown = [float(_visible(one)) for one in totals for _ in range(_DAY_COLUMNS)]
    taken = [float(_taken(one)) for one in totals for _ in range(_DAY_COLUMNS)]
    top = max(shown, default=0.0)
    for title, values, style in (("shown", shown, "cyan"), ("accepted", taken, "green")):
        parts.append(Text(f"{title} a day, at most {max(values, default=0):.0f}", style="dim"))
        width = days * _DAY_COLUMNS
        lines = area(values, width=width, height=_PLOT_HEIGHT, top=top)
        parts += [Text(line, style=style) for line in lines]
    first = (today - timedelta(days=days - 1)).isoformat()
    parts.append(Text(f"{first}{today.isoformat():>{max(days * _DAY_COLUMNS - 10, 11)}}", "dim"))
    if not enabled:
        parts.append(Text("Statistics are switched off; these are older.", style="yellow"))
    return Group(*parts)


def _row(found: Found, name: str | None) -> list[str]:
    counts, bins = _total(found, name), _bins(found, name)
    kept = _share(counts.kept_chars, counts.checked_chars)
    return [
        printable(name or "all"),
        str(_visible(counts)),
        f"{counts.accepted} ({_percent(_share(_taken(counts), _visible(counts)))})",
        str(counts.partly),
        str(counts.taken_chars),
        _percent(kept),
        _time(statistics.percentile_ms(bins, 0.5)),
        _time(statistics.percentile_ms(bins, 0.9)),
    ]


def _summary(found: Found, name: str | None) -> dict[str, Any]:
    counts, bins = _total(found, name), _bins(found, name)
    return {
        **_fields(counts),
        "accepted_share": _share(_taken(counts), _visible(counts)),
        "kept_share": _share(counts.kept_chars, counts.checked_chars),
        "latency_bins": bins,
        "latency_p50_ms": _finite(statistics.percentile_ms(bins, 0.5)),
        "latency_p90_ms": _finite(statistics.percentile_ms(bins, 0.9)),
    }


def _visible(counts: Counts) -> int:
    """Suggestions shown, or sent, for an editor that never reports what it shows."""
    return counts.shown or counts.offered


def _taken(counts: Counts) -> int:
    return counts.accepted + counts.partly


def _languages(found: Found) -> list[str]:
    names = {name for _, name in found.counts}
    return sorted(names, key=lambda name: (-_visible(_total(found, name)), name))


def _total(found: Found, name: str | None) -> Counts:
    return _sum(one for (_, language), one in found.counts.items() if name in {None, language})


def _by_day(found: Found, today: date, days: int) -> list[Counts]:
    return [
        _sum(one for (day, _), one in found.counts.items() if day == wanted)
        for wanted in ((today - timedelta(days=back)).isoformat() for back in reversed(range(days)))
    ]


def _bins(found: Found, name: str | None) -> tuple[int, ...]:
    rows = [bins for (_, language), bins in found.latencies.items() if name in {None, language}]
    return tuple(map(sum, zip(*rows, strict=True))) if rows else ()


def _sum(counts: Iterable[Counts]) -> Counts:
    total = Counts()
    for one in counts:
        total += one
    return total


def _fields(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in statistics.NAMES}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _finite(value: float | None) -> float | None:
    return None if value is None or value == float("inf") else value


def _time(latency_ms: float | None) -> str:
    """The upper edge of a bin, with its unit."""
    if latency_ms is None:
        return "-"
    if latency_ms == float("inf"):
        return f"> {LATENCY_EDGES_MS[-1] / 1000:.0f} s"
    return f"< {latency_ms:.0f} ms" if latency_ms < 1000 else f"< {latency_ms / 1000:.0f} s"
