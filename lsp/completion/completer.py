"""From a cursor to the model's answers: sends requests, and again where that helps."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from assistant.errors import ContextFullError, DaemonError, UnderkeelError, WorkerDiedError
from lsp.completion.debounce import Depth
from lsp.completion.suggestion import Source, Suggestion
from lsp.daemon.backend import Backend
from lsp.documents.site import Site

if TYPE_CHECKING:
    from assistant.settings import CompletionSettings
    from lsp.completion.completion_stream import Answer
    from lsp.completion.prompts import Prompts
    from lsp.daemon.model import Served

_log = logging.getLogger(__name__)

_CANDIDATE_TEMPERATURE = 0.8
_LEAST_LIMIT_S = 0.1


@dataclass(frozen=True)
class Manner:
    """How to ask.

    Attributes:
        candidates: number of answers; the first is the likeliest one.
        urgent: a person waits; see `Backend.served`.
        ahead: nobody waits: yield to all others, and report no errors.
        short: the place is not in the cache, and somebody waits: send a short prompt.
        limit_s: end with what there is after this time, if that is before the settings' limit.
    """

    candidates: int = 1
    urgent: bool = False
    ahead: bool = False
    short: bool = False
    limit_s: float = float("inf")


class Completer:
    """Sends requests to the model that the backend knows.

    Attributes:
        prompts: builds the prompts; another one takes over when the workspace changes.
    """

    def __init__(self, backend: Backend, prompts: Prompts) -> None:
        self.prompts = prompts
        self._backend = backend
        self._ids = itertools.count(1)
        self._depth = Depth()

    async def suggestions(
        self, site: Site, settings: CompletionSettings, manner: Manner
    ) -> list[Suggestion]:
        """Suggestions for the cursor, best first, each text once; none if no answer was usable.

        Errors are reported to the editor.
        """
        served = self._backend.ready if manner.ahead else None
        served = served or await self._backend.served(urgent=manner.urgent)
        if served is None:
            return []
        from lsp.completion import filters

        try:
            answers = await self._ask(served, site, settings, manner)
        except UnderkeelError as error:
            if not manner.ahead:
                self._backend.tell(error)
            return []
        found: dict[str, Suggestion] = {}
        for answered, answer in answers:
            text = filters.apply(answer.text, answered)
            if text:
                found.setdefault(text, self._suggestion(text, answer))
        return list(found.values())

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
        """Have the prompt for the cursor evaluated, so that a request there is answered sooner.

        Starts the daemon where that is needed; only that failing is reported to the editor.

        Args:
            rest: the cursor rests; see `Prompts.ids`.
            wanted: the user is typing there: as urgent as a request.
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
                prompt,
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

    async def _ask(
        self, served: Served, site: Site, settings: CompletionSettings, manner: Manner
    ) -> list[tuple[Site, Answer]]:
        """Ask, and once more where the daemon or its budget has changed meanwhile."""
        try:
            return await self._ask_once(served, site, settings, manner)
        except (DaemonError, WorkerDiedError, ContextFullError) as error:
            if manner.ahead:
                raise
            _log.info("asking once more after an error of kind %s", error.code)
            self._backend.forget()
            again = await self._backend.served(urgent=True)
            if again is None:
                return []
            return await self._ask_once(again, site, settings, manner)

    async def _ask_once(
        self, served: Served, site: Site, settings: CompletionSettings, manner: Manner
    ) -> list[tuple[Site, Answer]]:
        from msgspec.structs import replace as with_fields

        from lsp.completion.completion_stream import Patience, prompt_tokens, read, request

        site = replace(site, control=served.fim.control)
        name = _document(site, "ahead" if manner.ahead else "")
        limit_s = max(min(settings.time_limit_ms / 1000, manner.limit_s), _LEAST_LIMIT_S)
        first = request(site, served, settings, name, ahead=manner.ahead)
        start = first.must_start_with
        allowed = prompt_tokens(served, settings)
        depth = self._depth
        budget_tokens = depth.first_tokens(allowed) if manner.short else depth.tokens(allowed)
        prompt = await self.prompts.ids(
            site, served.fim, budget_tokens, start=start, imagined=manner.ahead
        )
        self._backend.built(len(prompt), budget_tokens, self.prompts.cut)
        if not prompt:
            return []
        first = with_fields(first, prompt=prompt, time_limit_ms=int(limit_s * 1000))
        others = [
            with_fields(
                first,
                document=_document(site, f"candidate {seed}"),
                temperature=_CANDIDATE_TEMPERATURE,
                seed=seed,
            )
            for seed in range(1, manner.candidates)
        ]
        patience = Patience(settings.first_line_ms / 1000, limit_s)
        answers = await asyncio.gather(
            *(read(self._backend.complete(one), site, start, patience) for one in (first, *others)),
            return_exceptions=True,
        )
        good = [(site, answer) for answer in answers if not isinstance(answer, BaseException)]
        for answer in answers:
            if isinstance(answer, BaseException) and not good:
                raise answer
        return good


def _document(site: Site, purpose: str) -> str:
    """The name under which the daemon replaces an older request by a newer one."""
    return f"{os.getpid()}:{site.uri}#{purpose}"
