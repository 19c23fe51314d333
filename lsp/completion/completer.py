"""From a cursor to suggestions: when to send a request and how long its prompt is; retries.

The wait before a request (the debounce) follows the speed of typing. At another position in a file
most of a prompt has to be evaluated while the user waits, so a slow machine gets a shorter prompt.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from assistant.errors import ContextFullError, DaemonError, UnderkeelError, WorkerDiedError
from lsp.backend import Backend
from lsp.completion.suggestion import Growing, Source, Suggestion
from lsp.site import Site

if TYPE_CHECKING:
    from assistant.settings import CompletionSettings
    from lsp.completion.completion_stream import Answer, Reading
    from lsp.completion.prompts import Prompts
    from lsp.served_model import Served


_LONGEST_GAP_S = 0.8
_KEYS = 12
_SHARE = 1.25
_MOST_S = 0.25


class Rhythm:
    """The speed of typing in one document, and the wait before a request that follows from it.

    A request between two keys of a burst is wasted, and its prefill delays the next one; a wait
    after the last key is noticed. So the wait is a little longer than the usual time between two
    keys, and zero where the model answers between two keys.
    """

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=_KEYS)
        self._took: deque[float] = deque(maxlen=_KEYS)
        self._last = float("-inf")

    def key(self, now: float) -> None:
        """The text has changed."""
        gap = now - self._last
        self._last = now
        if 0 < gap < _LONGEST_GAP_S:
            self._gaps.append(gap)

    def answered(self, took_s: float) -> None:
        """An answer took `took_s` seconds."""
        self._took.append(took_s)

    def wait_s(self, now: float, least_s: float) -> float:
        """How long from now to wait before a request.

        Args:
            least_s: the shortest wait, and the one used before anything is measured.
        """
        if len(self._gaps) < 3:
            return least_s
        gap = median(self._gaps)
        if self._took and median(self._took) < gap / 2:
            return 0.0
        return max(min(_SHARE * gap, _MOST_S) - max(now - self._last, 0.0), least_s)


def median(values: Iterable[float]) -> float:
    """The upper median; `statistics` would take longer to import than the rest of the server."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


PATIENCE_S = 2.0
SHORT_TOKENS = 256
_SHARES = (1.0, 0.75, 0.5)
_LEAST_SHORT_TOKENS = 384
_FEWEST_TOKENS = 64
_KEPT = 5


class Depth:
    """The share of the allowed prompt that is used.

    It changes only in `settle`: little of a prompt of another length is in the KV cache.
    """

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=_KEPT)
        self._share = _SHARES[0]

    def evaluated(self, tokens: int, took_ms: float) -> None:
        """`tokens` of a prompt were evaluated in `took_ms`; a few tokens are no measurement."""
        if tokens >= _FEWEST_TOKENS and took_ms > 0:
            self._rates.append(tokens * 1000 / took_ms)

    def settle(self, allowed_tokens: int) -> None:
        """Nothing useful is in the cache: choose the longest prompt that is evaluated in time."""
        if not self._rates:
            return
        in_time = median(self._rates) * PATIENCE_S
        fitting = (share for share in _SHARES if share * allowed_tokens <= in_time)
        self._share = next(fitting, _SHARES[-1])

    def first_tokens(self, allowed_tokens: int) -> int:
        """The length of the first prompt at a place, while the user waits for its evaluation:
        short if the machine is slow, or if its speed is not known yet."""
        full = self.tokens(allowed_tokens)
        if self._rates and median(self._rates) * PATIENCE_S >= full:
            return full
        return min(full, SHORT_TOKENS)

    def tokens(self, allowed_tokens: int) -> int:
        """The length of a prompt of which `allowed_tokens` are allowed."""
        return max(int(allowed_tokens * self._share), min(allowed_tokens, _LEAST_SHORT_TOKENS))


_log = logging.getLogger(__name__)

_CANDIDATE_TEMPERATURE = 0.8
_LEAST_LIMIT_S = 0.1
_GROW_S = 30.0
"""How long a block is decoded after its first line is shown; the token limit is reached before."""
_TRIES = 4
# Every budget allows this many, unless the whole context is smaller.
_LEAST_TOKENS = 128


@dataclass(frozen=True)
class Manner:
    """How to request.

    Attributes:
        candidates: number of answers; the first is the likeliest one.
        urgent: the user waits; see `Backend.served`.
        ahead: a prefetch: yield to all other requests, and report no errors.
        short: the place is not in the cache, and the user waits: send a short prompt.
        limit_s: end with the text so far after this time, if it is before the settings' limit. It
            holds for all of it, but for the load of a model: the prompt's making and retries too.
        line_s: a whole line is enough after this time, if that is before the settings' time.
    """

    candidates: int = 1
    urgent: bool = False
    ahead: bool = False
    short: bool = False
    limit_s: float = float("inf")
    line_s: float = float("inf")


@dataclass(frozen=True)
class Made:
    """Suggestions, best first, and the first of them while its answer is still decoded."""

    suggestions: list[Suggestion]
    growing: Growing | None = None


class Completer:
    """Sends requests to the served model.

    Attributes:
        prompts: builds the prompts; replaced when the workspace changes.
    """

    def __init__(self, backend: Backend, prompts: Prompts) -> None:
        self.prompts = prompts
        self._backend = backend
        self._ids = itertools.count(1)
        self._depth = Depth()

    async def suggestions(self, site: Site, settings: CompletionSettings, manner: Manner) -> Made:
        """Suggestions for the cursor, each text once; none if no answer was usable.

        Errors are reported to the editor.
        """
        served = self._backend.ready if manner.ahead else None
        served = served or await self._backend.served(urgent=manner.urgent)
        if served is None:
            return Made([])
        from lsp.completion import filters

        try:
            site, readings = await self._request(served, site, settings, manner)
        except UnderkeelError as error:
            if not manner.ahead:
                self._backend.tell(error)
            return Made([])
        found: dict[str, Suggestion] = {}
        growing = None
        for number, reading in enumerate(readings):
            text = filters.apply(reading.answer.text, site)
            if text:
                suggestion = found.setdefault(text, self._suggestion(text, reading.answer))
                if not number and not reading.ended:
                    filtered = partial(filters.apply, site=site)
                    growing = Growing(site, suggestion, reading, filtered)
            elif not reading.ended:
                await reading.aclose()
        return Made(list(found.values()), growing)

    async def shortened(self, settings: CompletionSettings, *, urgent: bool) -> bool | None:
        """Whether a first prompt at a place would be short; None where no model is available.
        Waits for the model."""
        served = await self._backend.served(urgent=urgent)
        if served is None:
            return None
        from lsp.completion.completion_stream import prompt_tokens

        allowed = prompt_tokens(served, settings)
        return self._depth.first_tokens(allowed) < self._depth.tokens(allowed)

    async def warm(
        self, site: Site, settings: CompletionSettings, *, rest: bool = False, wanted: bool = False
    ) -> None:
        """Evaluate the prompt for the cursor in advance: a request there is answered sooner.

        Starts the daemon if needed; only a failure of that is reported to the editor.

        Args:
            rest: the cursor rests; see `Prompts.ids`.
            wanted: the user types there: the same priority as a request.
        """
        served = await self._backend.served()
        if served is None:
            return
        from assistant.engine.types import Priority
        from lsp.completion.completion_stream import half_typed, prompt_tokens

        allowed = prompt_tokens(served, settings)
        if wanted:
            self._depth.settle(allowed)
        budget_tokens = self._depth.tokens(allowed)
        start = half_typed(site)
        prompt = await self.prompts.ids(site, served.fim, budget_tokens, start=start, rest=rest)
        if not prompt:
            return
        try:
            priority = Priority.INTERACTIVE if wanted else Priority.BACKGROUND
            cost = await self._backend.warm(
                served.fim.body(prompt),
                _document(site, "ahead"),
                priority,
                budget_tokens=allowed,
                prompt_model=served.info.name,
            )
            self._depth.evaluated(cost.evaluated_tokens, cost.prefill_ms)
        except UnderkeelError as error:
            _log.info("a prompt was not warmed, for an error of kind %s", error.code)

    def _suggestion(self, text: str, answer: Answer) -> Suggestion:
        name = f"{os.getpid()}-{next(self._ids)}"
        return Suggestion(id=name, text=text, source=Source.MODEL, whole=answer.whole)

    async def _request(
        self, served: Served, site: Site, settings: CompletionSettings, manner: Manner
    ) -> tuple[Site, list[Reading]]:
        """Send the requests, and again if the daemon or its budget has changed meanwhile.

        Other requests share the budget, so it may fall again between two tries: after a prompt that
        was over the budget, the next one has at most half its size.
        """
        from msgspec.structs import replace as with_fields

        from lsp.completion.completion_stream import prompt_tokens

        for left in reversed(range(_TRIES)):
            started = _now()
            try:
                return await self._request_once(served, site, settings, manner)
            except (DaemonError, WorkerDiedError, ContextFullError) as error:
                full = isinstance(error, ContextFullError)
                manner = replace(manner, limit_s=manner.limit_s - (_now() - started))
                if manner.ahead or not left or (not full and left < _TRIES - 1):
                    raise
                if manner.limit_s <= 0:
                    return site, []
                _log.info("requesting once more after an error of kind %s", error.code)
                if full:
                    half = prompt_tokens(served, settings) // 2
                    settings = with_fields(settings, budget_tokens=max(half, _LEAST_TOKENS))
                self._backend.forget()
                again = await self._backend.served(urgent=True)
                if again is None:
                    return site, []
                served = again
        raise AssertionError("unreachable")

    async def _request_once(
        self, served: Served, site: Site, settings: CompletionSettings, manner: Manner
    ) -> tuple[Site, list[Reading]]:
        """The answers, each up to the part that is shown first, and the site of the request."""
        from msgspec.structs import replace as with_fields

        from lsp.completion.completion_stream import (
            Patience,
            Reading,
            half_typed,
            prompt_tokens,
            request,
        )

        site = replace(site, control=served.fim.control)
        name = _document(site, "ahead" if manner.ahead else "")
        limit_s = max(min(settings.time_limit_ms / 1000, manner.limit_s), _LEAST_LIMIT_S)
        until = _now() + limit_s
        first = request(site, served, settings, name, ahead=manner.ahead)
        start = "" if manner.ahead else half_typed(site)
        allowed = prompt_tokens(served, settings)
        depth = self._depth
        budget_tokens = depth.first_tokens(allowed) if manner.short else depth.tokens(allowed)
        try:
            async with asyncio.timeout(None if manner.ahead else limit_s):
                prompt = await self.prompts.ids(
                    site, served.fim, budget_tokens, start=start, imagined=manner.ahead
                )
        except TimeoutError:
            return site, []  # the thread is busy with another document
        self._backend.built(len(prompt), budget_tokens, self.prompts.cut)
        if not prompt:
            return site, []
        if not manner.ahead:
            limit_s = max(until - _now(), _LEAST_LIMIT_S)
        body = served.fim.body(prompt)
        aside = () if served.fim.parts else self.prompts.aside
        limit_ms = int(limit_s * 1000)
        first = with_fields(first, prompt=body, draft_from=aside, time_limit_ms=limit_ms)
        others = [
            with_fields(
                first,
                document=_document(site, f"candidate {seed}"),
                draft_from=(),
                temperature=_CANDIDATE_TEMPERATURE,
                seed=seed,
            )
            for seed in range(1, manner.candidates)
        ]
        line_s = limit_s if manner.ahead else min(settings.first_line_ms / 1000, manner.line_s)
        patience = Patience(line_s, limit_s)
        grows = settings.blocks and not manner.ahead
        if grows:
            first = with_fields(first, time_limit_ms=int((limit_s + _GROW_S) * 1000))
        usable = partial(_usable, site)
        readings = [
            Reading(
                self._backend.complete(one),
                site,
                start,
                replace(patience, grow_s=_GROW_S) if grows and one is first else patience,
                usable=usable,
            )
            for one in (first, *others)
        ]
        try:
            answers = await asyncio.gather(
                *(reading.first() for reading in readings), return_exceptions=True
            )
        except asyncio.CancelledError:
            await asyncio.gather(*(reading.aclose() for reading in readings))
            raise
        good = [
            reading
            for reading, answer in zip(readings, answers, strict=True)
            if not isinstance(answer, BaseException)
        ]
        for answer in answers:
            if isinstance(answer, BaseException) and not good:
                raise answer
        return site, good


def _now() -> float:
    return asyncio.get_running_loop().time()


def _usable(site: Site, text: str) -> bool:
    from lsp.completion import filters

    return bool(filters.apply(text, site))


def _document(site: Site, purpose: str) -> str:
    """The name under which the daemon replaces an older request by a newer one."""
    return f"{os.getpid()}:{site.uri}#{purpose}"
