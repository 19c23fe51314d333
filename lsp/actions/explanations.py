"""Explanations: requested, streamed, cancelled, continued, and followed by further questions.

`underkeel.explain` streams to our own plugins and shows a document in any other editor.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from assistant.engine.types import StopReason
from assistant.errors import ContextFullError, RequestError, UnderkeelError
from lsp.actions.document_range import (
    DocumentRange,
    diagnostic_text,
    name_of,
    range_argument,
    text_argument,
)
from lsp.editor import Editor, Severity, TaskProgress
from lsp.output import TextCleaner

if TYPE_CHECKING:
    from assistant.settings import ActionSettings
    from assistant.wire import ChatMessage
    from context import Document, Explanation, Workspace
    from lsp.backend import Backend
    from lsp.completion.prompts import Prompts
    from lsp.served_model import Served

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


if TYPE_CHECKING:
    from pygls.lsp.server import LanguageServer

    from assistant.settings import ActionSettings
    from lsp.completion.session import Session

NOTIFICATION = "underkeel/explanation"
_KEPT_S = 7 * 24 * 3600


class ExplainCommand:
    """The `underkeel.explain` command of one client."""

    def __init__(
        self,
        server: LanguageServer,
        editor: Editor,
        session: Session,
        explanations: Explanations,
    ) -> None:
        self._server, self._editor, self._session = server, editor, session
        self._explanations = explanations

    async def run(
        self, raw: Mapping[str, Any], settings: ActionSettings, *, streams: bool
    ) -> dict[str, Any]:
        """Run the command and return its result.

        Args:
            streams: the client shows the text while it is streamed; otherwise a document is opened.

        Raises:
            UnderkeelError: no explanation is available; a client that streams was notified.
        """
        id_ = text_argument(raw, "id") or secrets.token_hex(8)
        try:
            conversation = self._conversation(raw)
            if streams:
                result = await self._explanations.stream(
                    id_, conversation, settings, lambda text: self._notify(id_, "delta", text=text)
                )
                self._notify(id_, "done", stopReason=result.end_reason.value)
            else:
                result = await self._complete(id_, conversation, settings)
        except UnderkeelError as error:
            if streams:
                self._notify(id_, "error", text=str(error))
            raise
        return {"id": id_, "text": result.text, "stopReason": result.end_reason.value}

    def _conversation(self, raw: Mapping[str, Any]) -> Conversation:
        if further := raw.get("followUp"):
            if not isinstance(further, Mapping):
                raise RequestError("the follow-up cannot be read", advice="See editors/PROTOCOL.md")
            return self._explanations.follow_up(
                text_argument(further, "of"), text_argument(further, "question")
            )
        if of := text_argument(raw, "continue"):
            return self._explanations.continued(of)
        try:
            kind = Kind(raw.get("kind") or Kind.SELECTION)
        except ValueError as error:
            raise RequestError(
                f"there is no kind {raw.get('kind')!r}", advice=f"Known are: {', '.join(Kind)}"
            ) from error
        place = range_argument(raw, ranged=kind is not Kind.FILE)
        document_range = self._session.document_range(place.uri, *place.span)
        if document_range is None:
            raise RequestError("this document is not open", subject=name_of(place.uri))
        text = diagnostic_text(raw.get("diagnostic"))
        return Conversation(Subject(document_range, kind, text))

    def _notify(self, id_: str, kind: str, **fields: str) -> None:
        self._server.protocol.notify(NOTIFICATION, {"id": id_, "kind": kind, **fields})

    async def _complete(
        self, id_: str, conversation: Conversation, settings: ActionSettings
    ) -> ExplanationResult:
        """The complete explanation, shown at the end; the progress bar can cancel it."""
        name = name_of(conversation.subject.document_range.uri)
        running = asyncio.ensure_future(
            self._explanations.stream(id_, conversation, settings, lambda _: None)
        )
        with TaskProgress(self._server, f"Underkeel explains {name}", running.cancel):
            try:
                result = await running
            except asyncio.CancelledError:
                running.cancel()
                result = await running
        if result.text and result.end_reason is not EndReason.CANCELLED:
            await asyncio.shield(self._show(name, result))
        return result

    async def _show(self, name: str, result: ExplanationResult) -> None:
        cut = (
            "\n\n*Cut at the limit of length.*\n" if result.end_reason is EndReason.LIMIT else "\n"
        )
        text = f"# {name}\n\n{result.text.strip()}{cut}"
        window = self._server.client_capabilities.window
        if window is not None and window.show_document and window.show_document.support:
            try:
                file = await asyncio.to_thread(_write, name, text)
                shown = await self._server.window_show_document_async(
                    types.ShowDocumentParams(uri=file.as_uri(), external=False, take_focus=True)
                )
                if shown.success:
                    return
            except (OSError, JsonRpcException):
                pass  # shown as a message instead
        self._editor.message(Severity.INFO, result.text.strip())


def _write(name: str, text: str) -> Path:
    """A file for the editor to open, which only the user can read; old ones are removed."""
    from assistant import paths

    folder = paths.cache_dir() / "explanations"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stat().st_mtime < time.time() - _KEPT_S:
            old.unlink(missing_ok=True)
    stem = re.sub(r"[^\w.-]+", "-", name)[:40]
    path = folder / f"{stem}-{secrets.token_hex(4)}.md"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return path
