"""Asks the model for the next turn of a conversation, and asks again where that helps."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assistant.engine.types import StopReason
from assistant.errors import (
    ContextFullError,
    DaemonError,
    UnderkeelError,
    WorkerDiedError,
)

if TYPE_CHECKING:
    from assistant.client import ChatMessage, CompletionChunk
    from lsp.daemon.backend import Backend
    from lsp.daemon.model import Served

_log = logging.getLogger(__name__)

_TRIES = 3
_LEAST_TOKENS = 64

Make = Callable[["Served", int], Awaitable[Sequence["ChatMessage"]]]
"""Makes the messages for a model within so many tokens.

Raises:
    UnderkeelError: they cannot be made so small.
"""


@dataclass(frozen=True)
class Limits:
    """How much a question may take.

    Attributes:
        context_tokens: of the budget, for the messages; answer_tokens: for the answer.
    """

    context_tokens: int
    answer_tokens: int


async def ask(
    backend: Backend, make: Make, limits: Limits, name: str
) -> AsyncGenerator[CompletionChunk, None]:
    """Stream an answer; closing the stream cancels it.

    Where the budget has fallen meanwhile the messages are made again, smaller; where the daemon or
    its worker has gone before anything was said, another is asked.

    Args:
        name: the daemon lets a new question of a name end the one before.

    Raises:
        UnderkeelError: there is no answer to be had.
    """
    context_tokens = limits.context_tokens
    for attempt in range(_TRIES):
        served = await backend.needed()
        room = served.explain_tokens(context_tokens, limits.answer_tokens)
        if room < _LEAST_TOKENS:
            raise ContextFullError(
                f"{room} tokens are left for the prompt, too few for this",
                advice="Try again when memory is free: underkeel status says why it is not",
            )
        messages = await make(served, room)
        said = False
        try:
            answer = backend.chat(
                messages,
                max_tokens=limits.answer_tokens,
                document=f"{os.getpid()}:{name}",
                budget_tokens=room,
            )
            async with aclosing(answer) as stream:
                async for chunk in stream:
                    said = said or bool(chunk.content)
                    yield chunk
            return
        except (ContextFullError, DaemonError, WorkerDiedError) as error:
            if said or attempt + 1 == _TRIES:
                raise
            _log.info("asking once more after an error of kind %s", error.code)
            backend.forget()
            if isinstance(error, ContextFullError):
                context_tokens = room // 2


@dataclass(frozen=True)
class Whole:
    """An answer that was waited for."""

    text: str
    reason: StopReason | None


async def whole(
    backend: Backend, make: Make, limits: Limits, name: str, limit_s: float = 300.0
) -> Whole:
    """The whole answer.

    Raises:
        UnderkeelError: there is none to be had, or not within `limit_s`.
    """
    text, reason = "", None
    try:
        async with asyncio.timeout(limit_s), aclosing(ask(backend, make, limits, name)) as stream:
            async for chunk in stream:
                text += chunk.content
                reason = chunk.stop_reason or reason
    except TimeoutError as error:
        raise UnderkeelError(
            f"no answer came within {limit_s:.0f} s", advice="Try again with a shorter selection"
        ) from error
    return Whole(text, reason)
