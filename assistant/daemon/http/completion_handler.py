"""Answers a request that was admitted: encodes it, has it answered in turn, writes the answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from assistant.daemon.headroom.budgets import Budgets
from assistant.daemon.headroom.explainer import Desk
from assistant.daemon.http.admission import Turns
from assistant.daemon.http.metrics import Metrics
from assistant.daemon.http.prompts import Encoded
from assistant.daemon.http.request_schemas import GenerateBody, generate_request
from assistant.daemon.http.response_formats import Answer, Json, Shape
from assistant.daemon.supervisor.engine_supervisor import ModelHost
from assistant.engine.types import Delta, Done, GenerateRequest, ModelInfo, Priority
from assistant.errors import ModelChangedError
from assistant.memory.degrade.budget import BudgetNow

log = logging.getLogger(__name__)

# A text is encoded anew for a model that came meanwhile; twice in one wait is nobody's intent.
_MOST_ENCODINGS = 3

Encode = Callable[[ModelInfo], Awaitable[Encoded]]
"""Makes a request's prompt for the model that is served."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and how its answer is written.

    Attributes:
        client: who asks, for fair turns.
    """

    body: GenerateBody
    shape: Shape
    encode: Encode
    client: str = ""
    with_usage: bool = False


async def events(
    asked: Asked, desk: Desk, turns: Turns, metrics: Metrics, limit_s: float
) -> AsyncGenerator[Json, None]:
    """The events of a streamed answer, or the one object of a whole one.

    Raises:
        ModelChangedError: the model was changed, and the prompt is of the old one's tokens, or
            some of its answer was told.
        UnderkeelError: it cannot be answered.
    """
    begun = time.monotonic()
    body, shape = asked.body, asked.shape
    for encoding in range(1, _MOST_ENCODINGS + 1):
        model = await desk.host.usable(limit_s)
        prompt = await asked.encode(model)
        answer = _prepared(asked, prompt, model, desk.budgets, limit_s)
        _log_admitted(answer.request, answer.built_under)
        opened = False
        try:
            stream = _in_turn(desk.host, answer.request, turns, asked.client)
            async with aclosing(stream):
                async for item in stream:
                    if body.stream and not opened:
                        opened = True
                        for event in shape.opening(answer):
                            yield event
                    if isinstance(item, Done):
                        seconds = time.monotonic() - begun
                        metrics.answered(answer.request, item.reason, item.timings, seconds)
                        answer.budget = desk.budgets.of(answer.request.priority)
                        for event in _end(body, shape, answer, item):
                            yield event
                    else:
                        answer.add(item)
                        if body.stream:
                            yield shape.piece(answer, item)
            return
        except ModelChangedError:
            # Nobody but us knows which model a text was encoded for.
            mine = prompt.of_text and not body.of_model and not opened
            if not mine or encoding == _MOST_ENCODINGS:
                raise
            log.info("request %s is encoded anew for another model", answer.request.id)
        except (asyncio.CancelledError, GeneratorExit):
            metrics.left(answer.request, time.monotonic() - begun)
            raise


def _prepared(
    asked: Asked, prompt: Encoded, model: ModelInfo, budgets: Budgets, limit_s: float
) -> Answer:
    limit = _limit(asked.body, budgets)
    request = generate_request(
        asked.body,
        prompt.ids,
        model,
        limit,
        request_limit_ms=int(limit_s * 1000),
        stop_tokens=prompt.stop_tokens,
        turns=prompt.turns,
    )
    return Answer(
        request=request,
        model=model,
        with_tokens=asked.body.return_tokens,
        with_usage=asked.with_usage,
        built_under=limit or budgets.of(Priority.EXPLAIN),
        cut=prompt.cut,
    )


async def _in_turn(
    host: ModelHost, request: GenerateRequest, turns: Turns, client: str
) -> AsyncGenerator[Delta | Done, None]:
    """The engine takes requests as they come: so that nobody's many stand before another's one,
    each client has a few there at a time, and the rest of them wait here."""
    async with (
        turns.turn((client, request.priority)),
        aclosing(host.generate(request)) as items,
    ):
        async for item in items:
            yield item


def _log_admitted(request: GenerateRequest, budget: BudgetNow | None) -> None:
    log.debug(
        "admitted id=%s prompt=%d budget=%d level=%d",
        request.id,
        len(request.prompt),
        budget.tokens if budget else 0,
        budget.level if budget else 0,
    )


def _end(body: GenerateBody, shape: Shape, answer: Answer, done: Done) -> list[Json]:
    timings = done.timings
    log.debug(
        "answered id=%s reason=%s prompt=%d cached=%d generated=%d ms=%.0f",
        done.id,
        done.reason.value,
        timings.prompt_tokens,
        timings.cached_tokens,
        timings.generated_tokens,
        timings.queue_ms + timings.prefill_ms + timings.decode_ms,
    )
    return shape.closing(answer, done) if body.stream else [shape.whole(answer, done)]


def _limit(body: GenerateBody, budgets: Budgets) -> BudgetNow | None:
    """What the prompt may hold. Clients that follow the budgets are held to their own; others
    only to the context, as long as nothing is scarce."""
    if body.budget_tokens:
        return budgets.of(body.priority)
    budget = budgets.of(Priority.EXPLAIN)
    return budget if budget is not None and budget.level else None
