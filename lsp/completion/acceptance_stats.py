"""Counts how many suggestions are shown, accepted and kept, and saves the counts at intervals.

Only numbers leave this module. The text of an accepted suggestion is held for a minute, to measure
how much of it is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

from assistant.errors import StatisticsError

if TYPE_CHECKING:
    from assistant.statistics import Counts, Key

_log = logging.getLogger(__name__)

KEPT_AFTER_S = 60.0
_FLUSH_S = 10.0
_KNOWN = 512
_LEAST_MATCH = 3
_AROUND_CHARS = 400

Add = Callable[[Mapping["Key", "Counts"], Mapping["Key", Mapping[int, int]]], None]


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
    """The counts of one editor.

    Attributes:
        enabled: whether anything is counted.

    Args:
        text_of: the text of an open document; None for one that is not open.
        add: where the counts go, called in a thread; by default the user's statistics.
        kept_after_s: seconds after which accepted text is compared with the document.
    """

    def __init__(
        self,
        text_of: Callable[[str], str | None],
        add: Add | None = None,
        kept_after_s: float = KEPT_AFTER_S,
    ) -> None:
        self.enabled = False
        self._text_of = text_of
        self._add = add or _add_to_file
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
            bins[_latency_bin(latency_ms)] += 1
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
        from assistant.statistics import Counts

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
            await asyncio.to_thread(self._add, counts, latencies)
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


def _add_to_file(counts: Mapping[Key, Counts], latencies: Mapping[Key, Mapping[int, int]]) -> None:
    from assistant import statistics

    statistics.add(counts, latencies)


def _latency_bin(latency_ms: float) -> int:
    from assistant import statistics

    return statistics.latency_bin(latency_ms)


def _first(text: str, units: int) -> str:
    return text.encode("utf-16-le", "replace")[: 2 * max(units, 0)].decode("utf-16-le", "ignore")


def _key(language: str) -> Key:
    return date.today().isoformat(), language  # noqa: DTZ011 - the user's own day
