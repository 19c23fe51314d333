"""Underkeel's language server under the same keys, spoken to exactly as an editor does."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path

from key_typist import Buffer, Shown
from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.client import LanguageClient


class Ours:
    """One editor session: a request a keystroke, each cancelling the one before."""

    name = "underkeel"

    def __init__(self) -> None:
        self._client = LanguageClient("keystrokes", "1")
        self._pending: asyncio.Task[None] | None = None
        self._pending_id = ""
        self._count = 0
        self.shown: Shown | None = None
        self.stale = 0
        self.requests = 0

    @property
    def pid(self) -> int:
        process = self._client._server
        assert process is not None
        return process.pid

    async def start(self, root: Path) -> None:
        # The answer to a request that was cancelled here finds nobody: that is no news.
        logging.getLogger("pygls").setLevel(logging.CRITICAL)
        await self._client.start_io(sys.executable, "-m", "lsp")
        capabilities = types.ClientCapabilities(
            general=types.GeneralClientCapabilities(
                position_encodings=[types.PositionEncodingKind.Utf32]
            ),
            text_document=types.TextDocumentClientCapabilities(
                inline_completion=types.InlineCompletionClientCapabilities()
            ),
        )
        await self._client.initialize_async(
            types.InitializeParams(
                capabilities=capabilities,
                root_uri=root.as_uri(),
                workspace_folders=[types.WorkspaceFolder(uri=root.as_uri(), name=root.name)],
            )
        )
        self._client.initialized(types.InitializedParams())

    async def close(self) -> None:
        await self.rest()
        await self._client.shutdown_async(None)
        self._client.exit(None)
        await self._client.stop()  # type: ignore[no-untyped-call]

    def begin(self, buffer: Buffer) -> None:
        """The turn begins; the language server has no timers to set."""

    async def rest(self) -> None:
        await self._cancel()
        self.shown = None

    @property
    def idle(self) -> bool:
        return self._pending is None or self._pending.done()

    async def open(self, buffer: Buffer) -> None:
        self._client.text_document_did_open(
            types.DidOpenTextDocumentParams(
                types.TextDocumentItem(
                    uri=buffer.path.as_uri(),
                    language_id="python",
                    version=buffer.version,
                    text=buffer.text,
                )
            )
        )
        self._synced = {buffer.path: list(buffer.lines)}

    async def edited(self, buffer: Buffer) -> None:
        self.shown = None
        await self._cancel()
        self._sync(buffer)

    async def pressed(self, buffer: Buffer) -> None:
        self.shown = None
        await self._cancel()
        self._sync(buffer)
        self._count += 1
        self.requests += 1
        self._pending_id = f"key-{self._count}"
        self._pending = asyncio.create_task(self._ask(buffer, self._pending_id))

    async def _cancel(self) -> None:
        if self._pending and not self._pending.done():
            self._client.cancel_request(types.CancelParams(id=self._pending_id))
            self._pending.cancel()
            self._pending = None

    def _sync(self, buffer: Buffer) -> None:
        old = self._synced[buffer.path]
        row = buffer.row
        change = types.TextDocumentContentChangePartial(
            range=types.Range(types.Position(row, 0), types.Position(row, len(old[row]))),
            text=buffer.lines[row],
        )
        old[row] = buffer.lines[row]
        self._client.text_document_did_change(
            types.DidChangeTextDocumentParams(
                types.VersionedTextDocumentIdentifier(
                    uri=buffer.path.as_uri(), version=buffer.version
                ),
                [change],
            )
        )

    async def _ask(self, buffer: Buffer, message_id: str) -> None:
        asked_for, row, column = buffer.text, buffer.row, buffer.column
        params = types.InlineCompletionParams(
            text_document=types.TextDocumentIdentifier(uri=buffer.path.as_uri()),
            position=types.Position(row, column),
            context=types.InlineCompletionContext(
                trigger_kind=types.InlineCompletionTriggerKind.Automatic
            ),
        )
        try:
            answer = await self._client.protocol.send_request_async(
                types.TEXT_DOCUMENT_INLINE_COMPLETION, params, msg_id=message_id
            )
        except JsonRpcException:
            return
        items = getattr(answer, "items", answer) or []
        if not items:
            return
        item = items[0]
        text = item.insert_text if isinstance(item.insert_text, str) else item.insert_text.value
        if item.range is not None:
            before = buffer.lines[row][item.range.start.character : column]
            if not text.startswith(before):
                return
            text = text[len(before) :]
        self.shown = Shown(text, time.monotonic(), asked_for, row, column)
