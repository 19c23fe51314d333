"""What came of a typing run: figures of each side, and a table of them side by side."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
GIVE_UP_S = 20.0

ROWS = {
    "prompt_tokens_a_keystroke": "prompt tokens evaluated a keystroke, without warm-ups",
    "with_warm_ups": "the same, warm-ups included",
    "decoded_tokens_a_keystroke": "tokens decoded a keystroke",
    "last_key_to_first_s_median": "last key to first ghost text, s, median",
    "last_key_to_first_s_p90": "the same, 90th percentile",
    "last_key_to_ghost_s_median": "last key to final ghost text, s, median",
    "last_key_to_ghost_s_p90": "the same, 90th percentile",
    "shown": "places with a suggestion",
    "stale": "stale suggestions shown",
    "exact_first_lines": "exact first lines",
    "saved_characters": "characters saved if every right suggestion is taken",
    "cpu_s_a_keystroke": "CPU seconds a typed character",
}


@dataclass(frozen=True)
class Outcome:
    """What one side did at one place."""

    place: str
    keystrokes: int
    evaluated_tokens: int
    ahead_tokens: int
    decoded_tokens: int
    last_key_to_first_s: float | None
    last_key_to_ghost_s: float | None
    shown: bool
    exact_first_line: bool
    saved_characters: int
    stale: int
    cpu_s: float


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Figures of one side. A place without a suggestion counts as GIVE_UP_S of waiting."""
    strokes = sum(o.keystrokes for o in outcomes)
    first = _waits([o.last_key_to_first_s for o in outcomes])
    final = _waits([o.last_key_to_ghost_s for o in outcomes])
    return {
        "places": len(outcomes),
        "keystrokes": strokes,
        "prompt_tokens_a_keystroke": round(
            sum(o.evaluated_tokens - o.ahead_tokens for o in outcomes) / strokes, 2
        ),
        "with_warm_ups": round(sum(o.evaluated_tokens for o in outcomes) / strokes, 2),
        "decoded_tokens_a_keystroke": round(sum(o.decoded_tokens for o in outcomes) / strokes, 2),
        "last_key_to_first_s_median": round(statistics.median(first), 3),
        "last_key_to_first_s_p90": _ninetieth(first),
        "last_key_to_ghost_s_median": round(statistics.median(final), 3),
        "last_key_to_ghost_s_p90": _ninetieth(final),
        "shown": sum(o.shown for o in outcomes),
        "exact_first_lines": sum(o.exact_first_line for o in outcomes),
        "saved_characters": sum(o.saved_characters for o in outcomes),
        "stale": sum(o.stale for o in outcomes),
        "cpu_s_a_keystroke": round(sum(o.cpu_s for o in outcomes) / strokes, 4),
    }


def _waits(times: list[float | None]) -> list[float]:
    """Sorted, in seconds; GIVE_UP_S for places without a suggestion."""
    return sorted(GIVE_UP_S if time is None else time for time in times)


def _ninetieth(waits: list[float]) -> float:
    return round(waits[min(len(waits) - 1, int(len(waits) * 0.9))], 3)


def keep(report: dict[str, Any]) -> None:
    """Write the report to results/typing.json, and its table to results/typing.md.

    A side that did not run keeps what was kept of it, if that was of the same settings.
    """
    path = RESULTS / "typing.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report = json.loads(json.dumps(report))
    if kept.get("settings") == report["settings"]:
        for part in ("runs", "summary", "places"):
            report[part] = kept[part] | report[part]
    text = json.dumps(report, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    (RESULTS / "typing.md").write_text(table(report), encoding="utf-8")


def table(report: dict[str, Any]) -> str:
    """The measures of all sides, in Markdown."""
    sides, settings, machine = report["summary"], report["settings"], report["machine"]
    names = sorted(sides, reverse=True)
    places = {sides[name]["places"] for name in names}
    how = (
        f"{machine['cores']} cores ({machine['cpu']}); {settings['model']},"
        f" {settings['threads']} threads, {settings['n_ctx']} cells; {max(places)} places in"
        f" {', '.join(settings['files'])}. Both sides typed the same keys. A place without a"
        f" suggestion counts as {GIVE_UP_S:.0f} s of waiting. {_when(report['runs'])}"
    )
    lines = ["# Typing, side by side", "", how, ""]
    lines += [f"| measure | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for key, label in ROWS.items():
        lines.append(f"| {label} | {' | '.join(str(sides[name][key]) for name in names)} |")
    return "\n".join(lines) + "\n"


def _when(runs: dict[str, Any]) -> str:
    """Which side typed when, beside how much other work, and whether in turns with the other."""
    dates = {run["date"] for run in runs.values()}
    if len(dates) == 1 and all(run["in_turns"] for run in runs.values()):
        load = next(iter(runs.values()))["load_average_before"]
        return f"In turns, in one run: {dates.pop()}, load average {load} before it."
    parts = [
        f"{name} {'in turns with the other' if run['in_turns'] else 'alone'}, {run['date']}, load"
        f" average {run['load_average_before']} before it"
        for name, run in sorted(runs.items(), reverse=True)
    ]
    return f"The sides were not run together: {'; '.join(parts)}."
