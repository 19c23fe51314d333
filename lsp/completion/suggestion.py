"""Suggestions: as the editor gets them; kept while the user types along or comes back; growing.

A suggestion grows in place: its first line is shown while the rest of the block is decoded.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from lsp.document import Document, Place
from lsp.site import Site

if TYPE_CHECKING:
    from lsp.completion.completion_stream import Reading


Position = tuple[int, int]
"""A client position: line and units, both from 0."""


_BEFORE_CHARS = 2048
_AFTER_CHARS = 512
_BACKSPACES = 24
_CLOSERS = ")]}>\"'`"


class Source(StrEnum):
    """Where a suggestion came from."""

    MODEL = "model"
    CACHE = "cache"
    AHEAD = "ahead"


@dataclass(frozen=True)
class Suggestion:
    """A text to put at the cursor.

    Attributes:
        id: by which the editor reports later what became of it.
        text: to be inserted at the cursor; line ends are `\\n`.
        whole: the model ended the answer itself; if not, more can follow.
    """

    id: str
    text: str
    source: Source
    whole: bool = True


@dataclass(frozen=True)
class Selected:
    """The entry that is selected in the editor's completion list: `text` would replace a range."""

    start: Position
    end: Position
    text: str


@dataclass(frozen=True)
class Item:
    """A suggestion as the editor gets it.

    Attributes:
        start, end: on one line; `text` replaces the text between them.
    """

    id: str
    text: str
    start: Position
    end: Position


@dataclass(frozen=True)
class Update:
    """A longer form of an item that was sent to the editor.

    Attributes:
        version, position: of the request that the item answered last.
        complete: whether it has stopped growing.
    """

    uri: str
    version: int
    position: Position
    item: Item
    complete: bool


@dataclass(frozen=True)
class Taken:
    """What accepting the selected entry would do: `text` from `start`, of which `more` is new."""

    start: Place
    text: str = ""
    more: str = ""


def taken_with(selected: Selected, document: Document, place: Place) -> Taken | None:
    """None if the entry does not continue the text before the cursor, or reaches past it."""
    start, end = document.place(*selected.start), document.place(*selected.end)
    if start.line != place.line or start.column > place.column or end != place:
        return None
    typed = document.line(place.line)[start.column : place.column]
    if "\n" in selected.text or not selected.text.startswith(typed):
        return None
    return Taken(start, selected.text, selected.text[len(typed) :])


@dataclass(frozen=True)
class _Kept:
    """A suggestion with the text around it, which must be the same where it is shown again."""

    length: int
    before: str
    after: str
    suggestion: Suggestion


class Suggestions:
    """The latest suggestions of one document.

    One is found again while the user types along it, deletes a few letters, or returns to where it
    was shown. The text around the cursor must be the same.
    """

    def __init__(self, capacity: int = 48) -> None:
        self._kept: OrderedDict[tuple[int, str], _Kept] = OrderedDict()
        self._capacity = capacity

    def keep(self, site: Site, suggestion: Suggestion) -> None:
        """Remember a suggestion for the cursor of `site`, instead of a shorter form of it."""
        kept = _kept_at(site, suggestion)
        for key, other in list(self._kept.items()):
            if other.suggestion.id == suggestion.id and other.length == kept.length:
                del self._kept[key]
        key = (kept.length, suggestion.text)
        self._kept[key] = kept
        self._kept.move_to_end(key)
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def find(self, site: Site) -> Suggestion | None:
        """The rest of the newest suggestion that still fits at the cursor."""
        for kept in reversed(self._kept.values()):
            text = _rest(kept, site)
            if text:
                return replace(kept.suggestion, text=text, source=Source.CACHE)
        return None


def follows(start: Site, text: str, site: Site) -> bool:
    """Whether `site` is `start` after some of `text` was inserted there: a part of it, or all of it
    and then blanks."""
    kept = _kept_at(start, Suggestion("", text, Source.MODEL))
    inserted = site.prefix[kept.length :]
    along = text.startswith(inserted) or (
        inserted.startswith(text) and not inserted[len(text) :].strip()
    )
    return (
        along
        and site.prefix[: kept.length].endswith(kept.before)
        and _closed_by_editor(kept, site) is not None
    )


def _kept_at(site: Site, suggestion: Suggestion) -> _Kept:
    return _Kept(
        length=len(site.prefix),
        before=site.prefix[-_BEFORE_CHARS:],
        after=site.suffix[:_AFTER_CHARS],
        suggestion=suggestion,
    )


def _rest(kept: _Kept, site: Site) -> str:
    """The rest of a kept suggestion at the cursor; empty if it does not fit there."""
    typed = len(site.prefix) - kept.length
    text = kept.suggestion.text
    if typed >= len(text) or typed < -min(_BACKSPACES, len(kept.before)):
        return ""
    if typed >= 0:
        before, rest = kept.before + text[:typed], text[typed:]
    else:
        before, rest = kept.before[:typed], kept.before[typed:] + text
        if "\n" in kept.before[typed:]:
            return ""
    if not site.prefix.endswith(before):
        return ""
    closed = _closed_by_editor(kept, site)
    if closed is None:
        return ""
    if closed:
        from lsp.completion import filters

        return filters.apply(rest, site)
    return rest


def _closed_by_editor(kept: _Kept, site: Site) -> str | None:
    """The brackets or quotes that the editor has added after the cursor; None for other changes."""
    for count in range(3):
        added = site.suffix[:count]
        if added.strip(_CLOSERS):
            return None
        # Only part of the text after the cursor was kept; at the document's end there is no more.
        if site.suffix[count : count + _AFTER_CHARS] == kept.after:
            return added
    return None


_EVERY_S = 0.08
"""The shortest time between two forms of a suggestion, so that the editor redraws rarely, and the
response with the first form is sent before the second."""


class Growing:
    """A suggestion whose answer is still being decoded.

    Attributes:
        site: the cursor that it was made for.
        suggestion: the text so far.
    """

    def __init__(
        self, site: Site, suggestion: Suggestion, reading: Reading, filtered: Callable[[str], str]
    ) -> None:
        """`filtered`: what is shown of an answer's text."""
        self.site = site
        self.suggestion = suggestion
        self._reading = reading
        self._filtered = filtered
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether it has stopped growing."""
        return self._task is None or self._task.done()

    def start(self, on_change: Callable[[], None]) -> None:
        """Follow the answer; `on_change` is called after each change, and once at the end."""
        self._task = asyncio.create_task(self._follow(on_change))
        self._task.add_done_callback(lambda task: self._end(task, on_change))

    def continues(self, site: Site) -> bool:
        """Whether the user has typed or accepted the suggestion up to the cursor, and no more than
        blanks after its end so far."""
        return not self.ended and follows(self.site, self.suggestion.text, site)

    async def beyond(self, site: Site) -> None:
        """Wait until the suggestion reaches beyond the cursor, or has ended."""
        while not self.ended and self._length_at(site) >= len(self.suggestion.text):
            self._changed.clear()
            await self._changed.wait()

    def _length_at(self, site: Site) -> int:
        return len(site.prefix) - len(self.site.prefix)

    def cancel(self) -> None:
        """Stop decoding it. What was shown stays as it is."""
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Stop, and wait until the task has ended."""
        self.cancel()
        if self._task is not None:
            await asyncio.wait({self._task})
        await self._reading.aclose()

    def _end(self, task: asyncio.Task[None], on_change: Callable[[], None]) -> None:
        self._changed.set()
        if not task.cancelled():
            task.result()
            on_change()

    async def _follow(self, on_change: Callable[[], None]) -> None:
        try:
            last = False
            while not last:
                await asyncio.sleep(_EVERY_S)
                answer = await self._reading.grown()
                last = self._reading.ended
                text = self._filtered(answer.text)
                if text:
                    self.suggestion = replace(self.suggestion, text=text, whole=answer.whole)
                if not last:
                    self._changed.set()
                    on_change()
        finally:
            await self._reading.aclose()
