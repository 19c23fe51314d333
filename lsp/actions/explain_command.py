"""`underkeel.explain`: streams to our own plugins, shows a document in any other editor."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from assistant.errors import RequestError, UnderkeelError
from lsp.actions.document_range import (
    diagnostic_text,
    name_of,
    range_argument,
    text_argument,
)
from lsp.actions.explanations import (
    Conversation,
    EndReason,
    ExplanationResult,
    Explanations,
    Kind,
    Subject,
)
from lsp.editor import Editor, Severity, TaskProgress

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
