"""Requests the next turn of a conversation from the model, and retries where that helps."""

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

MessageBuilder = Callable[["Served", int], Awaitable[Sequence["ChatMessage"]]]
"""Builds the messages for a model within a number of tokens.

Raises:
    UnderkeelError: they do not fit.
"""


@dataclass(frozen=True)
class Limits:
    """Limits of one request, in tokens.

    Attributes:
        context_tokens: for the messages, within the budget; answer_tokens: for the answer.
    """

    context_tokens: int
    answer_tokens: int


async def stream_chat(
    backend: Backend, make: MessageBuilder, limits: Limits, name: str
) -> AsyncGenerator[CompletionChunk, None]:
    """Stream an answer; closing the stream cancels it.

    If the budget has fallen, the messages are built again, smaller. If the daemon or its worker
    died before any text arrived, the request is sent again.

    Args:
        name: a new request with the same name cancels the earlier one.

    Raises:
        UnderkeelError: no answer is available.
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
        has_text = False
        try:
            answer = backend.chat(
                messages,
                max_tokens=limits.answer_tokens,
                document=f"{os.getpid()}:{name}",
                budget_tokens=room,
            )
            async with aclosing(answer) as stream:
                async for chunk in stream:
                    has_text = has_text or bool(chunk.content)
                    yield chunk
            return
        except (ContextFullError, DaemonError, WorkerDiedError) as error:
            if has_text or attempt + 1 == _TRIES:
                raise
            _log.info("retrying after an error of kind %s", error.code)
            backend.forget()
            if isinstance(error, ContextFullError):
                context_tokens = room // 2


@dataclass(frozen=True)
class ChatAnswer:
    """A complete answer."""

    text: str
    reason: StopReason | None


async def complete_chat(
    backend: Backend, make: MessageBuilder, limits: Limits, name: str, limit_s: float = 300.0
) -> ChatAnswer:
    """The complete answer.

    Raises:
        UnderkeelError: no answer is available, or not within `limit_s`.
    """
    text, reason = "", None
    try:
        async with (
            asyncio.timeout(limit_s),
            aclosing(stream_chat(backend, make, limits, name)) as stream,
        ):
            async for chunk in stream:
                text += chunk.content
                reason = chunk.stop_reason or reason
    except TimeoutError as error:
        raise UnderkeelError(
            f"no answer came within {limit_s:.0f} s", advice="Try again with a shorter selection"
        ) from error
    return ChatAnswer(text, reason)
