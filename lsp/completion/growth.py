"""Suggestions that grow in place: a first line is shown while the rest of a block is decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from lsp.completion.suggestion import Suggestion, follows
from lsp.documents.site import Site

if TYPE_CHECKING:
    from lsp.completion.completion_stream import Reading

_EVERY_S = 0.08
"""Shortest time from one form of a suggestion to the next, so that an editor draws few of them, and
the response with the first one goes out before the second."""


class Growing:
    """A suggestion whose answer is still being decoded.

    Attributes:
        site: the cursor that it was made for.
        suggestion: as far as it has come.
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
        """Whether it does not grow any more."""
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
        """Wait until the suggestion goes on after the cursor, or has ended."""
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
        """Stop, and wait until nothing runs any more."""
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
