"""Explanations: asked for, streamed, cancelled, continued, asked further about."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from assistant.engine.types import StopReason
from assistant.errors import ContextFullError, RequestError
from lsp.actions.document_range import DocumentRange, name_of
from lsp.output import TextCleaner

if TYPE_CHECKING:
    from assistant.client import ChatMessage
    from assistant.settings import ActionSettings
    from context import Document, Explanation, Workspace
    from lsp.completion.prompts import Prompts
    from lsp.daemon.backend import Backend
    from lsp.daemon.model import Served

_KEPT = 32


class Kind(StrEnum):
    """What is to be explained, in the protocol's words."""

    SELECTION = "selection"
    SYMBOL = "symbol"
    FILE = "file"
    DIAGNOSTIC = "diagnostic"


class EndReason(StrEnum):
    """How an explanation end_reason, in the protocol's words."""

    END = "end"
    LIMIT = "limit"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Subject:
    """What an explanation is about; `diagnostic` is what a tool says, as text."""

    document_range: DocumentRange
    kind: Kind
    diagnostic: str = ""


@dataclass(frozen=True)
class Conversation:
    """An explanation and what was asked about it.

    Attributes:
        turns: answer, question, answer and so on; the opening question is made of the subject.
        opening: how the first message was written, so that the KV cache finds it again.
    """

    subject: Subject
    turns: tuple[str, ...] = ()
    opening: str = ""


@dataclass(frozen=True)
class ExplanationResult:
    """A finished explanation: the text that was added, and why it ended."""

    text: str
    end_reason: EndReason


class Explanations:
    """The explanations of one editor. The latest are remembered, so that one can ask further.

    Args:
        prompts: builds what the model sees; asked for each time, for the workspace may change.
    """

    def __init__(self, backend: Backend, prompts: Callable[[], Prompts]) -> None:
        self._backend = backend
        self._prompts = prompts
        self._kept: OrderedDict[str, Conversation] = OrderedDict()

    def follow_up(self, of: str, question: str) -> Conversation:
        """The conversation that an explanation is part of, with a further question.

        Raises:
            RequestError: it is not known any more, or nothing was asked.
        """
        known = self._known(of)
        if not question.strip():
            raise RequestError("the question is empty", advice="Ask something")
        return replace(known, turns=(*known.turns, question.strip()))

    def continued(self, of: str) -> Conversation:
        """The conversation that an explanation belongs to, to be continued.

        Raises:
            RequestError: it is no longer known.
        """
        return self._known(of)

    async def stream(
        self,
        id_: str,
        conversation: Conversation,
        settings: ActionSettings,
        on_text: Callable[[str], None],
    ) -> ExplanationResult:
        """Stream the next turn of a conversation, or continue the last one.

        Cancelling the task ends the explanation; the text so far is returned.

        Args:
            id_: identifies the explanation in later requests.
            on_text: called with each piece of text.

        Raises:
            UnderkeelError: no answer is available; the text so far is remembered.
        """
        from lsp.actions.answer import Limits, stream_chat

        text, end_reason = "", EndReason.CANCELLED
        current = conversation
        cleaner = TextCleaner(conversation.subject.document_range.text)

        async def make(served: Served, room_tokens: int) -> list[ChatMessage]:
            nonlocal current, cleaner
            cleaner = TextCleaner(conversation.subject.document_range.text, served.fim.control)
            current, messages = await self._messages(current, served, room_tokens)
            return messages

        limits = Limits(settings.context_tokens, settings.explain_tokens)
        chunks = stream_chat(self._backend, make, limits, f"explain {id_}")
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    if piece := cleaner.feed(chunk.content):
                        text += piece
                        on_text(piece)
                    if chunk.stop:
                        end_reason = _END_REASONS.get(
                            chunk.stop_reason or StopReason.EOS, EndReason.LIMIT
                        )
            if piece := cleaner.finish():
                text += piece
                on_text(piece)
        except asyncio.CancelledError:
            text += cleaner.finish()
        finally:
            self._keep(id_, current, text)
        return ExplanationResult(text, end_reason)

    def _known(self, id_: str) -> Conversation:
        found = self._kept.get(id_)
        if found is None:
            raise RequestError("this explanation is no longer available", advice="Request it again")
        return found

    def _keep(self, id_: str, conversation: Conversation, text: str) -> None:
        turns = conversation.turns
        unfinished = turns[-1] if len(turns) % 2 else ""  # an answer that is continued
        asked = turns[:-1] if len(turns) % 2 else turns
        self._kept[id_] = replace(conversation, turns=(*asked, unfinished + text))
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    async def _messages(
        self, conversation: Conversation, served: Served, room_tokens: int
    ) -> tuple[Conversation, list[ChatMessage]]:
        """The messages within `room_tokens`: old turns go first, then parts of the opening."""
        from context.syntax.text import Encoder
        from lsp.actions import prompts

        count = Encoder.of(served.fim.counter).text_count
        system = prompts.wording("explain", "system")
        turns = conversation.turns
        if conversation.opening:
            made = prompts.conversation(system, conversation.opening, turns)
            if prompts.conversation_tokens(made, count) <= room_tokens:
                return conversation, made
        while True:
            fixed = prompts.conversation(system, "", turns)
            left = room_tokens - prompts.conversation_tokens(fixed, count)
            if left >= room_tokens // 3 or len(turns) <= 2:
                break
            turns = turns[2:]  # an answer and the question after it
        if left <= 0:
            raise ContextFullError(
                "the question is too long for the context that is left", advice="Ask a shorter one"
            )
        opening = await self._opening(conversation.subject, served, left, count)
        found = replace(conversation, opening=opening)
        return found, prompts.conversation(system, opening, turns)

    async def _opening(
        self, subject: Subject, served: Served, room_tokens: int, count: Callable[[str], int]
    ) -> str:
        from lsp.actions import prompts

        document_range, file = subject.document_range, name_of(subject.document_range.uri)
        spent = count(prompts.wording("explain", subject.kind, diagnostic="")) + count(file)
        room = room_tokens - spent
        for _ in range(3):
            look = partial(_look, subject, max(room, 0))
            found = await self._prompts().explanation(
                document_range.uri,
                document_range.text,
                served.fim,
                look,
                language_id=document_range.language,
            )
            if prompts.is_secret(found):
                raise RequestError(
                    "this file may contain secrets and is never sent to a model", subject=file
                )
            if not found.passages:
                raise ContextFullError(
                    "there is nothing to explain within the context that is left",
                    advice="Select something, or try again when memory is free",
                )
            ask = prompts.wording(
                "explain", subject.kind, diagnostic=prompts.shown_diagnostic(found)
            )
            opening = f"{prompts.passages_text(found, file)}\n{ask}"
            over = count(opening) - room_tokens
            if over <= 0:
                return opening
            room -= over + prompts.PASSAGE_TOKENS
        raise ContextFullError(
            f"{room_tokens} tokens are too few to explain this", advice="Select less"
        )


_END_REASONS = {
    StopReason.EOS: EndReason.END,
    StopReason.STOP_TEXT: EndReason.END,
    StopReason.LENGTH: EndReason.LIMIT,
    StopReason.TIME: EndReason.LIMIT,
    StopReason.CANCELLED: EndReason.CANCELLED,
}


def _look(
    subject: Subject, room_tokens: int, workspace: Workspace, document: Document
) -> Explanation:
    if subject.kind is Kind.FILE:
        return workspace.overview(document, room_tokens)
    start, stop = subject.document_range.span_bytes
    if subject.kind is Kind.SYMBOL:
        stop = start
    return workspace.explain(document, start, stop, room_tokens, diagnostic=subject.diagnostic)
