"""Answers a request: admits it to a bounded queue, encodes it, has it generated in turn, and
formats the answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager

from msgspec.structs import replace

from assistant.daemon.budgets import Budgets
from assistant.daemon.http.metrics import Metrics
from assistant.daemon.http.prompts import Encoded
from assistant.daemon.http.request_schemas import further_choice, generate_request
from assistant.daemon.http.response_formats import Answer, Json, ResponseFormat
from assistant.daemon.served_models import ServedModel
from assistant.engine.types import Done, GenerateRequest, ModelInfo
from assistant.errors import ModelChangedError, OverloadedError, UnderkeelError
from assistant.wire import BudgetNow, GenerateBody

log = logging.getLogger(__name__)

# A text is encoded again when the model changes while it waits; more changes than this in one wait
# are an error.
_MOST_ENCODINGS = 3
_ENGINE_SHARE = 0.95  # of the time limit of a request; the rest is for sending the answer

Encode = Callable[[ModelInfo], Awaitable[Encoded]]
"""Encodes a request's prompt for the model that is served."""


class Admission:
    """Counts the requests inside and refuses those past the limit.

    Order and preemption are the engine's business; here only the number is bounded, so that no
    flood can fill the memory. A client may hold no more places than are still free, as switches
    share out a buffer (dynamic thresholds: Choudhury and Hahne, 1998): alone it gets half of them,
    and the next one still finds space, however greedy those before were.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside = 0
        self.refused = 0
        self._held: Counter[str] = Counter()

    @property
    def clients(self) -> int:
        """How many have a request inside."""
        return len(self._held)

    @contextmanager
    def admit(self, client: str = "") -> Iterator[None]:
        """Hold a place while the request is served.

        Args:
            client: who asks; all that do not say so are one.

        Raises:
            OverloadedError: all places are taken, or this client's share of them.
        """
        free, held = self.most - self.inside, self._held.get(client, 0)
        if free <= 0 or held >= max(free, 1):
            self.refused += 1
            raise OverloadedError(
                f"{self.inside} requests wait already, {held} of them yours",
                advice="Try again in a second",
            )
        self.inside += 1
        self._held[client] += 1
        try:
            yield
        finally:
            self.inside -= 1
            self._held[client] -= 1
            self._held = +self._held  # forgets who holds nothing


class Turns:
    """Lets each of many do a few things at a time; what is more waits in order."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._gates: dict[Hashable, asyncio.Semaphore] = {}
        self._using: Counter[Hashable] = Counter()

    @property
    def known(self) -> int:
        """How many are doing or waiting."""
        return len(self._gates)

    @asynccontextmanager
    async def turn(self, who: Hashable) -> AsyncIterator[None]:
        """Wait for a turn of `who`, and have it for the block."""
        gate = self._gates.setdefault(who, asyncio.Semaphore(self._at_once))
        self._using[who] += 1
        try:
            async with gate:
                yield
        finally:
            self._using[who] -= 1
            if not self._using[who]:
                del self._using[who], self._gates[who]


class CompletionHandler:
    """All generating routes. One event loop.

    Args:
        active: called when a request comes and when it ends.
    """

    def __init__(
        self, admission: Admission, turns: Turns, metrics: Metrics, active: Callable[[], None]
    ) -> None:
        self._admission = admission
        self._turns = turns
        self._metrics = metrics
        self._active = active

    async def answer(
        self,
        body: GenerateBody,
        response_format: ResponseFormat,
        prompt: Encoded | Encode,
        *,
        served: ServedModel,
        client: str,
        limit_s: float,
    ) -> AsyncGenerator[Json, None]:
        """The events of a streamed answer, or the one object of a whole one.

        Args:
            prompt: encoded, or how to encode it; then it is encoded again if the model changes.
            client: the client's name. Each client has a few requests at the engine at a time, so
                that one client's many do not delay another's.

        Raises:
            ModelChangedError: the model changed, and the prompt holds the old one's tokens, or part
                of the answer was sent.
            UnderkeelError: it cannot be answered.
        """
        started = time.monotonic()
        with self.admitted(client):
            for encoding in range(1, _MOST_ENCODINGS + 1):
                model = await served.supervisor.usable(limit_s)
                edition = served.supervisor.edition
                ready = prompt if isinstance(prompt, Encoded) else await prompt(model)
                answers = _prepared(body, ready, model, served.budgets, _left_ms(started, limit_s))
                request, opened = answers[0].request, False
                try:
                    async with self._turns.turn((client, request.priority)):
                        # One after another: the further ones find the prompt in the KV cache.
                        for answer in answers:
                            left_ms = _left_ms(started, limit_s) // (len(answers) - answer.index)
                            request = _in_time(answer.request, left_ms)
                            stream = served.supervisor.generate(request, edition)
                            async with aclosing(stream):
                                async for item in stream:
                                    if body.stream and not opened:
                                        opened = True
                                        for event in response_format.opening(answers):
                                            yield event
                                    if isinstance(item, Done):
                                        self._finished(answer, item, served.budgets, started)
                                        events = response_format.closing(answer)
                                    else:
                                        answer.add(item)
                                        events = response_format.piece(answer, item)
                                    for event in events if body.stream else ():
                                        yield event
                        if not body.stream:
                            yield response_format.whole(answers)
                            return
                        for event in response_format.ending(answers):
                            yield event
                    return
                except ModelChangedError:
                    again = ready.of_text and not body.prompt_model and not opened
                    if not again or encoding == _MOST_ENCODINGS:
                        raise
                    log.info("request %s is encoded again for another model", request.id)
                except (asyncio.CancelledError, GeneratorExit):
                    self._metrics.left(request, time.monotonic() - started)
                    raise

    @contextmanager
    def admitted(self, client: str) -> Iterator[None]:
        """Hold a place in the queue.

        Raises:
            OverloadedError: no place is free.
        """
        try:
            with self._admission.admit(client):
                self._active()
                yield
        except UnderkeelError as error:
            self._metrics.failed(error.code)
            raise
        finally:
            self._active()

    def _finished(self, answer: Answer, done: Done, budgets: Budgets, started: float) -> None:
        request, timings = answer.request, done.timings
        answer.done = done
        self._metrics.answered(request, done.reason, timings, time.monotonic() - started)
        answer.budget = budgets.after(
            request.priority, len(request.prompt) + timings.generated_tokens
        )
        log.debug(
            "answered id=%s reason=%s prompt=%d cached=%d generated=%d ms=%.0f",
            done.id,
            done.reason.value,
            timings.prompt_tokens,
            timings.cached_tokens,
            timings.generated_tokens,
            timings.queue_ms + timings.prefill_ms + timings.decode_ms,
        )


def _left_ms(started: float, limit_s: float) -> int:
    """The engine's time for an answer. It ends before the connection does, so that an answer that
    takes too long arrives as far as it came, with a length stop, and not as an error."""
    return max(int(_ENGINE_SHARE * (limit_s - (time.monotonic() - started)) * 1000), 1)


def _in_time(request: GenerateRequest, left_ms: int) -> GenerateRequest:
    """The request, limited to its share of the time that is left for all answers."""
    if not request.time_limit_ms:
        return request
    return replace(request, time_limit_ms=max(min(request.time_limit_ms, left_ms), 1))


def _prepared(
    body: GenerateBody, prompt: Encoded, model: ModelInfo, budgets: Budgets, left_ms: int
) -> list[Answer]:
    """The answers that are requested, still empty."""
    limit = _limit(body, budgets)
    request = generate_request(
        body,
        prompt.ids,
        model,
        limit,
        request_limit_ms=left_ms,
        stop_tokens=prompt.stop_tokens,
        stop_texts=prompt.stop_texts,
        turns=prompt.turns,
        visible_tokens=prompt.visible_tokens,
        constraint=prompt.constraint,
    )
    log.debug(
        "admitted id=%s prompt=%d limit=%d level=%d",
        request.id,
        len(request.prompt),
        limit.tokens if limit else model.n_ctx,
        limit.level if limit else 0,
    )
    return [
        Answer(
            request=further_choice(request, index) if index else request,
            model=model,
            id=request.id,
            index=index,
            with_tokens=body.return_tokens,
            with_usage=body.wants_usage,
            built_under=limit,
            cut=prompt.cut,
            parser=prompt.parser() if prompt.parser else None,
        )
        for index in range(body.choices)
    ]


def _limit(body: GenerateBody, budgets: Budgets) -> BudgetNow | None:
    """What the prompt may hold. Clients that follow the budgets are held to their own; others are
    only refused what cannot fit the context."""
    return budgets.of(body.priority) if body.budget_tokens else None
