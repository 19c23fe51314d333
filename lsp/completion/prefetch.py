"""Prefetch in one document: warm the prompt, and request what follows a suggestion.

Each action of the user starts at most one piece of work, and a request of the user cancels it:
nothing runs while the user is away, or while the machine is busy or on battery.

Typing at a place that is not in the KV cache is different: the next request needs that prompt, and
all of it but the newly typed text stays the same. So it is warmed at once, while the user types.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lsp.completion.completer import Completer, Manner
from lsp.completion.suggestion import Source, Suggestion, Suggestions
from lsp.document import Document, Place
from lsp.site import Site

if TYPE_CHECKING:
    from assistant.settings import CompletionSettings


_FRESH_S = 10.0
_BUSY_SHARE = 1.5


@dataclass(frozen=True)
class Machine:
    """The machine at a moment.

    Attributes:
        load: processes that run or wait for a core, for each core; a minute's average.
        on_battery: False if there is none, or if it is not known.
    """

    load: float
    on_battery: bool

    def may_work_ahead(self, *, on_battery: bool, wanted: bool = False) -> bool:
        """Whether to prefetch. `on_battery`: the user's setting for a machine on battery.

        `wanted`: the next request needs it in any case, so load is no reason to wait.
        """
        return (wanted or self.load < _BUSY_SHARE) and (on_battery or not self.on_battery)


def look() -> Machine:
    """The machine now."""
    try:
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        load = 0.0
    return Machine(load=load, on_battery=_on_battery())


class Watch:
    """The machine, measured at most a few seconds ago."""

    def __init__(
        self, look: Callable[[], Machine] = look, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._seen: Machine | None = None
        self._seen_at = 0.0

    def machine(self) -> Machine:
        """The last measurement, or a new one if that is too old."""
        if self._seen is None or self._clock() - self._seen_at > _FRESH_S:
            self._seen, self._seen_at = self._look(), self._clock()
        return self._seen


def _on_battery() -> bool:
    import psutil

    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, RuntimeError):
        return False
    return battery is not None and battery.power_plugged is False


REST_S = 0.3
"""After so long without an action, the user is reading or thinking."""

_SUFFIX_CHARS = 256
"""The length of text after the cursor by which one place is distinguished from another."""


class Ahead:
    """At most one piece of work for one document, waiting or running."""

    def __init__(
        self,
        document: Document,
        suggestions: Suggestions,
        completer: Completer,
        settings: Callable[[], CompletionSettings | None],
        watch: Watch,
        *,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        """`start`: starts a task; who gives it waits for its end, even if it is cancelled."""
        self._document = document
        self._suggestions = suggestions
        self._completer = completer
        self._settings = settings
        self._watch = watch
        self._start = start
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._following = ""
        self._wanted: asyncio.Task[None] | None = None
        self._suffix: str | None = None
        self._held: str | None = None
        self._answered: str | None = None

    def opened(self, place: Place) -> None:
        """The document is shown; the cursor was last at `place`."""
        self._after(0.0, lambda settings: self._warm(place, settings))

    def edited(self) -> None:
        """The document was changed. Warm the prompt where that was: at once where the cache does
        not hold the place, elsewhere once the user pauses without a request."""
        self._wait_no_more()
        site = self._document.site(self._document.clamp(self._document.edited))
        if self._suffix != site.suffix[:_SUFFIX_CHARS]:
            self._suffix = site.suffix[:_SUFFIX_CHARS]
            self._begin(lambda settings: self._warm_there(site, settings, wanted=True), wanted=True)
        elif not self._warming:
            self._after(REST_S, lambda settings: self._warm(self._document.edited, settings))

    def asked(self, site: Site, *, known: bool) -> None:
        """A request starts. Work continues only if its answer was `known` already, or if the
        request needs the prompt that is being warmed."""
        self._wait_no_more()
        there = self._suffix == site.suffix[:_SUFFIX_CHARS]
        if not known and not (self._warming and there):
            self._end()
        self._suffix = site.suffix[:_SUFFIX_CHARS]

    @property
    def warm_up(self) -> asyncio.Task[None] | None:
        """The evaluation of the prompt where the user types, while it runs."""
        return self._wanted if self._warming else None

    def warmed(self, site: Site) -> bool:
        """Whether the prompt for `site` is in the cache; or, where nothing may be warmed, whether
        its first request was answered."""
        settings = self._settings()
        place = site.suffix[:_SUFFIX_CHARS]
        if settings is None or not self._may_work(settings, wanted=True):
            return (
                self._answered == place
            )  # nothing is warmed: the second request sends the full prompt
        return self._held == place

    def yield_to_request(self) -> None:
        """A request does not wait for the warm-up: end it. Evaluated tokens stay in the cache."""
        self._end()

    def answered(self, site: Site, *, short: bool) -> None:
        """A request for `site` was answered; after a short prompt the full one is evaluated."""
        self._answered = site.suffix[:_SUFFIX_CHARS]
        if not short:
            self._held = site.suffix[:_SUFFIX_CHARS]
        elif self._document.version == site.version:
            self._begin(lambda settings: self._warm_there(site, settings, wanted=True), wanted=True)

    @property
    def _warming(self) -> bool:
        """Whether the prompt of the place where the user types is being evaluated."""
        return self._wanted is not None and not self._wanted.done()

    def suggested(self, site: Site, suggestion: Suggestion) -> None:
        """A suggestion is shown for the cursor of `site`: request what could follow it."""
        after = replace(site, prefix=site.prefix + suggestion.text)
        under_way = self._task is not None and not self._task.done()
        if under_way and self._following == after.prefix:
            return  # the user types along the same suggestion
        self._wait_no_more()
        if self._suggestions.find(after) is None:
            self._after(REST_S, lambda settings: self._follow(after, settings))

    def stop(self) -> None:
        """Cancel all work."""
        self._wait_no_more()
        self._end()

    def _after(
        self, wait_s: float, work: Callable[[CompletionSettings], Coroutine[Any, Any, None]]
    ) -> None:
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._begin, work)

    def _begin(
        self,
        work: Callable[[CompletionSettings], Coroutine[Any, Any, None]],
        *,
        wanted: bool = False,
    ) -> None:
        self._timer = None
        if self._warming and not wanted:
            self._after(REST_S, work)  # the prompt of the place comes first
            return
        settings = self._settings()
        if settings is None or not self._may_work(settings, wanted=wanted):
            return
        self._end()
        self._following = ""
        self._task = self._start(work(settings))
        self._wanted = self._task if wanted else None

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _warm(self, place: Place, settings: CompletionSettings) -> None:
        site = self._document.site(self._document.clamp(place))
        self._suffix = site.suffix[:_SUFFIX_CHARS]
        await self._warm_there(site, settings, rest=True)

    async def _warm_there(
        self,
        site: Site,
        settings: CompletionSettings,
        *,
        rest: bool = False,
        wanted: bool = False,
    ) -> None:
        await self._completer.warm(site, settings, rest=rest, wanted=wanted)
        self._held = site.suffix[:_SUFFIX_CHARS]

    def _may_work(self, settings: CompletionSettings, *, wanted: bool) -> bool:
        machine = self._watch.machine()
        return (
            settings.enabled
            and settings.ahead
            and machine.may_work_ahead(on_battery=settings.ahead_on_battery, wanted=wanted)
        )

    async def _follow(self, after: Site, settings: CompletionSettings) -> None:
        self._following = after.prefix
        made = await self._completer.suggestions(after, settings, Manner(ahead=True))
        for found in made.suggestions:
            self._suggestions.keep(after, replace(found, source=Source.AHEAD))
