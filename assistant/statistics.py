"""Counts of suggestions by day and language, kept on this machine only, without text.

One SQLite file in the state folder; several editors add to it at the same time. It grows by a few
rows a day.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path

from assistant import paths
from assistant.errors import StatisticsError

_WAIT_S = 2.0
_LONGEST_NAME = 40

LATENCY_EDGES_MS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Upper edges of the latency bins; the last bin has all above."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts that add up.

    Attributes:
        offered: suggestions that were sent to the editor; shown: those it reported as visible.
        accepted: accepted whole; partly: of the others, those of which a word or line was accepted.
        taken_chars: characters accepted, whole or in part.
        checked_chars: of these, those checked again a minute later, or when the document was closed
            before; kept_chars: those still there.
    """

    offered: int = 0
    shown: int = 0
    accepted: int = 0
    partly: int = 0
    taken_chars: int = 0
    checked_chars: int = 0
    kept_chars: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in NAMES))


NAMES = tuple(field.name for field in fields(Counts))

Key = tuple[str, str]
"""A day (ISO) and a language (LSP language id)."""


@dataclass(frozen=True)
class Found:
    """All counts; `latencies` are numbers of suggestions by bin."""

    counts: Mapping[Key, Counts]
    latencies: Mapping[Key, tuple[int, ...]]

    def since(self, first: date) -> Found:
        """Only the days since `first`."""
        return Found(
            {key: one for key, one in self.counts.items() if key[0] >= first.isoformat()},
            {key: one for key, one in self.latencies.items() if key[0] >= first.isoformat()},
        )


def latency_bin(latency_ms: float) -> int:
    """The bin of a latency."""
    return bisect_left(LATENCY_EDGES_MS, latency_ms)


def percentile_ms(bins: tuple[int, ...], share: float) -> float | None:
    """The upper edge of the bin in which `share` of the latencies is reached; None without any.

    The last bin has no edge: infinity.
    """
    total = sum(bins)
    if not total:
        return None
    reached = 0
    for number, count in enumerate(bins):
        reached += count
        if reached >= share * total:
            edges = LATENCY_EDGES_MS
            return float(edges[number]) if number < len(edges) else float("inf")
    return float("inf")


def file() -> Path:
    """Where the counts are kept."""
    return paths.state_dir() / "statistics.db"


def add(counts: Mapping[Key, Counts], latencies: Mapping[Key, Mapping[int, int]]) -> None:
    """Add to the counts; `latencies` by bin.

    Raises:
        StatisticsError: the file cannot be written.
    """
    columns = ", ".join(NAMES)
    marks = ", ".join("?" * len(NAMES))
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in NAMES)
    with _opened() as base:
        base.executemany(
            f"INSERT INTO counts (day, language, {columns}) VALUES (?, ?, {marks})"  # noqa: S608
            f" ON CONFLICT (day, language) DO UPDATE SET {sums}",
            [(day, _name(name), *(getattr(one, field) for field in NAMES))
             for (day, name), one in counts.items()],
        )  # fmt: skip
        base.executemany(
            "INSERT INTO latencies (day, language, bin, count) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (day, language, bin) DO UPDATE SET count = count + excluded.count",
            [(day, _name(name), number, count)
             for (day, name), bins in latencies.items() for number, count in bins.items()],
        )  # fmt: skip


def load() -> Found:
    """All counts; empty if there are none.

    Raises:
        StatisticsError: the file cannot be read.
    """
    if not file().exists():
        return Found({}, {})
    columns = ", ".join(NAMES)
    with _opened() as base:
        rows = base.execute(f"SELECT day, language, {columns} FROM counts").fetchall()  # noqa: S608
        counts = {(row[0], row[1]): Counts(*row[2:]) for row in rows}
        bins: dict[Key, list[int]] = {}
        for day, name, number, count in base.execute("SELECT * FROM latencies"):
            found = bins.setdefault((day, name), [0] * (len(LATENCY_EDGES_MS) + 1))
            if 0 <= number < len(found):
                found[number] = count
    return Found(counts, {key: tuple(found) for key, found in bins.items()})


def erase() -> bool:
    """Delete all counts. Returns whether there were any.

    Raises:
        StatisticsError: the file cannot be removed.
    """
    there = file().exists()
    try:
        for end in ("", "-journal", "-wal", "-shm"):
            file().with_name(file().name + end).unlink(missing_ok=True)
    except OSError as error:
        raise StatisticsError(
            f"the statistics cannot be erased ({error.strerror})",
            subject=str(file()),
            advice="Remove the file",
        ) from error
    return there


@contextmanager
def _opened() -> Iterator[sqlite3.Connection]:
    try:
        file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(sqlite3.connect(file(), timeout=_WAIT_S)) as base, base:
            file().chmod(0o600)
            base.execute(
                "CREATE TABLE IF NOT EXISTS counts (day TEXT, language TEXT, "
                + ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in NAMES)
                + ", PRIMARY KEY (day, language))"
            )
            base.execute(
                "CREATE TABLE IF NOT EXISTS latencies (day TEXT, language TEXT, bin INTEGER,"
                " count INTEGER NOT NULL, PRIMARY KEY (day, language, bin))"
            )
            yield base
    except (OSError, sqlite3.Error) as error:
        raise StatisticsError(
            f"the statistics cannot be used ({error})",
            subject=str(file()),
            advice="Erase them: underkeel stats --erase",
        ) from error


def _name(language: str) -> str:
    return language[:_LONGEST_NAME] or "plaintext"
