"""Counts of suggestions by day and language, kept on this machine only, without text.

`Tally` counts in a language server and saves the counts at intervals. They are in one SQLite file
in the state folder; several editors add to it at the same time. It grows by a few rows a day.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from assistant import paths
from assistant.errors import StatisticsError

if TYPE_CHECKING:
    import sqlite3

_log = logging.getLogger(__name__)

KEPT_AFTER_S = 60.0
_FLUSH_S = 10.0
_KNOWN = 512
_LEAST_MATCH = 3
_AROUND_CHARS = 400
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
    import sqlite3  # not for a language server that has counted nothing yet

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


Save = Callable[[Mapping[Key, Counts], Mapping[Key, Mapping[int, int]]], None]


@dataclass
class _Offered:
    """A suggestion that was sent to the editor."""

    uri: str
    language: str
    text: str
    start: int
    shown: bool = False
    partly: bool = False
    taken: int = 0


@dataclass(eq=False)
class _Watched:
    """Accepted text, and where it is in the document now, in characters."""

    uri: str
    language: str
    text: str
    start: int
    timer: asyncio.TimerHandle | None = None


class Tally:
    """The counts of one editor: how many suggestions are shown, accepted and kept.

    The text of an accepted suggestion is held for a minute, to measure how much of it is kept.

    Attributes:
        enabled: whether anything is counted.

    Args:
        text_of: the text of an open document; None for one that is not open.
        save: where the counts go, called in a thread; by default the user's statistics.
        kept_after_s: seconds after which accepted text is compared with the document.
    """

    def __init__(
        self,
        text_of: Callable[[str], str | None],
        save: Save | None = None,
        kept_after_s: float = KEPT_AFTER_S,
    ) -> None:
        self.enabled = False
        self._text_of = text_of
        self._save = save or add
        self._kept_after_s = kept_after_s
        self._offered: OrderedDict[str, _Offered] = OrderedDict()
        self._watched: list[_Watched] = []
        self._counts: dict[Key, Counts] = {}
        self._latencies: dict[Key, Counter[int]] = {}
        self._flushing: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def offered(self, id_: str, place: tuple[str, str, int], text: str, latency_ms: float) -> None:
        """A suggestion goes to the editor. One that comes again, because the user types along
        it, is counted once.

        Args:
            place: URI and language of the document, and the character where `text` would start.
        """
        if not self.enabled:
            return
        uri, language, start = place
        known = self._offered.pop(id_, None)
        if known is None:
            self._count(language, offered=1)
            bins = self._latencies.setdefault(_key(language), Counter())
            bins[latency_bin(latency_ms)] += 1
            known = _Offered(uri, language, text, start)
        self._offered[id_] = replace(known, text=text, start=start, taken=0)
        while len(self._offered) > _KNOWN:
            self._offered.popitem(last=False)

    def grew(self, id_: str, text: str) -> None:
        """A longer form of it was sent to the editor."""
        found = self._offered.get(id_)
        if found is not None and text.startswith(found.text[: found.taken]):
            found.text = text

    def count_edit(self, language: str, **numbers: int) -> None:
        """Count a next edit, apart from the suggestions in its language."""
        if self.enabled:
            self._count(f"{language} (next edits)", **numbers)

    def shown(self, id_: str) -> None:
        """The editor reports that it became visible."""
        found = self._offered.get(id_)
        if self.enabled and found is not None and not found.shown:
            found.shown = True
            self._count(found.language, shown=1)

    def accepted(self, id_: str, units: int | None = None) -> None:
        """It was accepted: all of it, or the first `units` UTF-16 code units."""
        found = self._offered.get(id_)
        if not self.enabled or found is None:
            return
        text = found.text if units is None else _first(found.text, units)
        more = text[found.taken :]
        if units is None:
            # It no longer counts as accepted in part.
            self._count(found.language, accepted=1, partly=-int(found.partly))
            del self._offered[id_]
        elif more and not found.partly:
            found.partly = True
            self._count(found.language, partly=1)
        if more:
            self._count(found.language, taken_chars=len(more))
            self._watch(found, more, found.start + found.taken)
            found.taken = len(text)

    def watches(self, uri: str) -> bool:
        """Whether accepted text of a document is still to be checked."""
        return any(one.uri == uri for one in self._watched)

    def edited(self, uri: str, start: int, old: int, new: int) -> None:
        """`old` characters at `start` became `new` ones: text after them moves."""
        for one in self._watched:
            if one.uri == uri and start < one.start and start + old <= one.start:
                one.start += new - old

    def closed(self, uri: str) -> None:
        """A document closes: check the text that was accepted in it now."""
        for one in [one for one in self._watched if one.uri == uri]:
            self._check(one)

    async def aclose(self) -> None:
        """Check the remaining text, and save all counts."""
        for one in list(self._watched):
            self._check(one)
        if self._flushing is not None:
            self._flushing.cancel()
        if self._writing is not None:
            await self._writing
        await self._flush()

    def _watch(self, found: _Offered, text: str, start: int) -> None:
        watched = _Watched(found.uri, found.language, text, start)
        self._watched.append(watched)
        loop = asyncio.get_running_loop()
        watched.timer = loop.call_later(self._kept_after_s, self._check, watched)

    def _check(self, watched: _Watched) -> None:
        self._watched.remove(watched)
        if watched.timer is not None:
            watched.timer.cancel()
        document = self._text_of(watched.uri)
        if document is not None:
            kept = kept_chars(watched.text, document, watched.start)
            self._count(watched.language, checked_chars=len(watched.text), kept_chars=kept)

    def _count(self, language: str, **numbers: int) -> None:
        key = _key(language)
        self._counts[key] = self._counts.get(key, Counts()) + Counts(**numbers)
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(_FLUSH_S, self._begin_flush)

    def _begin_flush(self) -> None:
        self._flushing = None
        self._writing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        counts, self._counts = self._counts, {}
        latencies, self._latencies = self._latencies, {}
        if not counts and not latencies:
            return
        try:
            await asyncio.to_thread(self._save, counts, latencies)
        except StatisticsError as error:
            _log.warning("statistics are lost: %s", error.message)


def kept_chars(text: str, document: str, near: int) -> int:
    """How many characters of `text` are still in `document` around `near`, in order."""
    start = max(near - _AROUND_CHARS, 0)
    around = document[start : near + len(text) + _AROUND_CHARS]
    if text in around:
        return len(text)
    from difflib import SequenceMatcher

    blocks = SequenceMatcher(None, text, around, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks if block.size >= _LEAST_MATCH)


def _first(text: str, units: int) -> str:
    return text.encode("utf-16-le", "replace")[: 2 * max(units, 0)].decode("utf-16-le", "ignore")


def _key(language: str) -> Key:
    return date.today().isoformat(), language  # noqa: DTZ011 - the user's own day
