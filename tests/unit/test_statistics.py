"""What is counted of suggestions, and that nothing but counts is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from typing import Any

import pytest

from assistant import statistics
from assistant.errors import StatisticsError
from assistant.statistics import Counts, Tally, kept_chars

URI = "file:///a.py"


class Texts(dict[str, str]):
    """Open documents, and what a tally handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.added: list[tuple[Mapping[Any, Counts], Any]] = []
        self.tally = Tally(self.get, self.add, kept_after_s=0.02)
        self.tally.enabled = True

    def add(self, counts: Any, latencies: Any) -> None:
        self.added.append((counts, latencies))

    def offer(self, id_: str, text: str, start: int = 0, latency_ms: float = 30.0) -> None:
        self.tally.offered(id_, (URI, "python", start), text, latency_ms)

    @property
    def counts(self) -> Counts:
        ((day, language),) = {key for counts, _ in self.added for key in counts}
        assert language == "python"
        date.fromisoformat(day)  # or it raises
        total = Counts()
        for counts, _ in self.added:
            total += counts[day, language]
        return total


def play(test: Callable[[Texts], Awaitable[None]]) -> Texts:
    async def main() -> Texts:
        texts = Texts()
        await test(texts)
        await texts.tally.aclose()
        return texts

    return asyncio.run(main())


def test_shown_and_accepted_whole() -> None:
    async def test(texts: Texts) -> None:
        texts.offer("1", "a + b", latency_ms=30)
        texts.offer("1", "+ b", latency_ms=1)  # typed along: the same suggestion
        texts.tally.shown("1")
        texts.tally.shown("1")
        texts[URI] = "+ b"
        texts.tally.accepted("1")
        texts.tally.accepted("1")
        texts.tally.accepted("nobody's")

    found = play(test)
    assert found.counts == Counts(
        offered=1, shown=1, accepted=1, taken_chars=3, checked_chars=3, kept_chars=3
    )
    assert [dict(bins) for _, added in found.added for bins in added.values()] == [{2: 1}]


def test_parts_are_counted_once_and_not_beside_the_whole() -> None:
    async def test(texts: Texts) -> None:
        texts.offer("1", "\U0001f600 one two")
        texts.tally.accepted("1", 2)
        texts.tally.accepted("1", 6)
        texts.offer("2", "x y")
        texts.tally.accepted("2", 0)
        texts.tally.accepted("2", 1)
        texts.tally.accepted("2")

    counts = play(test).counts
    assert (counts.partly, counts.accepted) == (1, 1)
    assert counts.taken_chars == len("\U0001f600 one") + len("x y")


def test_what_is_kept_after_a_while() -> None:
    async def test(texts: Texts) -> None:
        texts[URI] = "x = 1\n"
        texts.offer("1", "return first(a)", start=6)
        texts.tally.accepted("1")
        texts.tally.edited(URI, 0, 0, 2000)
        texts[URI] = "#" * 2000 + "x = 1\nreturn second(a)"
        assert texts.tally.watches(URI)
        await asyncio.sleep(0.05)
        assert not texts.tally.watches(URI)
        texts[URI] = ""  # what comes later does not count

    counts = play(test).counts
    assert (counts.checked_chars, counts.kept_chars) == (15, len("return ") + len("(a)"))


def test_a_document_that_closes_is_judged_then() -> None:
    async def test(texts: Texts) -> None:
        texts[URI] = "gone"
        texts.offer("1", "return")
        texts.tally.accepted("1")
        texts.tally.closed(URI)
        del texts[URI]

    counts = play(test).counts
    assert (counts.checked_chars, counts.kept_chars) == (6, 0)


def test_switched_off_nothing_is_counted() -> None:
    async def test(texts: Texts) -> None:
        texts.tally.enabled = False
        texts.offer("1", "a")
        texts.tally.shown("1")
        texts.tally.accepted("1")

    assert play(test).added == []


def test_a_store_that_fails_stops_nothing() -> None:
    def refuse(*_: Any) -> None:
        raise StatisticsError("the disk is full")

    async def main() -> None:
        tally = Tally(lambda _: None, refuse)
        tally.enabled = True
        tally.offered("1", (URI, "python", 0), "a", 1.0)
        await tally.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "document", "kept"),
    [("abc def", "abc def", 7), ("abc def", "abc xyz", 4), ("abc", "", 0), ("ab", "a b", 0)],
)
def test_kept_characters(text: str, document: str, kept: int) -> None:
    assert kept_chars(text, document, 0) == kept


def test_two_editors_add_to_one_file(home: Any) -> None:
    key = (date(2026, 1, 2).isoformat(), "python")
    for _ in range(2):
        statistics.add({key: Counts(offered=2, accepted=1)}, {key: {0: 1, 9: 2}})
    statistics.add({(key[0], "x" * 900): Counts(shown=1)}, {})
    found = statistics.load()
    assert found.counts[key] == Counts(offered=4, accepted=2)
    assert found.latencies[key] == (2, 0, 0, 0, 0, 0, 0, 0, 0, 4)
    assert max(len(name) for _, name in found.counts) <= 40
    assert found.since(date(2026, 1, 3)).counts == {}
    assert statistics.file().stat().st_mode & 0o077 == 0
    assert statistics.erase() is True
    assert statistics.erase() is False
    assert statistics.load().counts == {}


def test_a_file_that_is_no_database_is_explained(home: Any) -> None:
    statistics.file().parent.mkdir(parents=True)
    statistics.file().write_bytes(b"not a database, but long enough to be looked at" * 50)
    with pytest.raises(StatisticsError, match="underkeel stats --erase"):
        statistics.load()
    assert statistics.erase() is True


def test_percentiles_are_upper_edges() -> None:
    bins = (5, 0, 3, 0, 0, 0, 0, 0, 1, 1)
    assert statistics.percentile_ms(bins, 0.5) == 10
    assert statistics.percentile_ms(bins, 0.8) == 50
    assert statistics.percentile_ms(bins, 0.9) == 5000
    assert statistics.percentile_ms(bins, 1.0) == float("inf")
    assert statistics.percentile_ms((0,) * 10, 0.5) is None
