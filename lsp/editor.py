"""The editor: what is sent to it, what it can do, its progress bars and its settings."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, Self

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from assistant.errors import SettingsError, UnderkeelError
from lsp.handshake import NAME

if TYPE_CHECKING:
    from pygls.lsp.server import LanguageServer

    from assistant.settings import Settings

_TITLE = "Underkeel"
_LEAST_S = 0.1


class Severity(StrEnum):
    """How much a message matters."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Editor(Protocol):
    """The editor at the other end. Nothing here waits for it."""

    def message(self, severity: Severity, text: str) -> None:
        """Show a person one message."""
        ...

    def loading(self, stage: str, share: float) -> None:
        """A model loads: what is going on, and the share that is done, 0 to 1."""
        ...

    def loaded(self) -> None:
        """The load has ended, well or not."""
        ...

    def serving(self, *, busy: bool, **facts: Any) -> None:
        """The model is there, and answering right now or not.

        `facts` are fields of the protocol's `Status`: what is known about it.
        """
        ...


def text_of(error: UnderkeelError) -> str:
    """An error as one message."""
    return f"Underkeel: {error}"


def offers_ours(experimental: Any, part: str) -> bool:
    """Whether the client's experimental capabilities name a part of our protocol."""
    ours = experimental.get(NAME) if isinstance(experimental, dict) else None
    return isinstance(ours, dict) and bool(ours.get(part))


class Configuration:
    """Reads the file once, when it is first needed."""

    def __init__(self) -> None:
        self._file: tuple[Any, list[SettingsError]] | None = None
        self._own: frozenset[str] = frozenset()

    def read(self, raw: object) -> tuple[Settings, list[UnderkeelError]]:
        """The settings under what the editor has sent.

        Args:
            raw: `initializationOptions`, or the `settings` of a configuration change.

        Returns:
            The settings, and what is wrong with them; the file's mistakes only the first time.
        """
        from assistant import settings

        problems: list[UnderkeelError] = []
        if self._file is None:
            self._file = settings.load()
            self._own = settings.written()
            problems += self._file[1]
        said = raw.get(NAME) if isinstance(raw, Mapping) else raw
        merged, wrong = settings.overlay(
            self._file[0], said, "the editor's settings", own=self._own
        )
        return merged, [*problems, *wrong]


class LoadProgress:
    """One bar for one load; a later load begins another."""

    def __init__(self, server: LanguageServer) -> None:
        self._server = server
        self._task: asyncio.Task[None] | None = None
        self._token: str | None = None
        self._latest: tuple[str, float] = ("", 0.0)
        self._sent_at = 0.0
        self._ended = asyncio.Event()

    def report(self, stage: str, share: float) -> None:
        """What is going on, and the share that is done, 0 to 1."""
        self._latest = (stage, share)
        if not self._supported():
            return
        if self._task is None:
            self._ended.clear()
            self._task = asyncio.create_task(self._run())
        elif self._token is not None and time.monotonic() - self._sent_at > _LEAST_S:
            self._sent_at = time.monotonic()
            self._server.work_done_progress.report(
                self._token,
                types.WorkDoneProgressReport(message=stage, percentage=round(100 * share)),
            )

    def end(self) -> None:
        """The load has ended. Without one this does nothing."""
        self._ended.set()

    def _supported(self) -> bool:
        window = self._server.client_capabilities.window
        return bool(window and window.work_done_progress)

    async def _run(self) -> None:
        # Never cancelled: pygls cannot take a reply to a request that was given up (pygls#621).
        token = str(uuid.uuid4())
        progress = self._server.work_done_progress
        try:
            await progress.create_async(token)
        except JsonRpcException:
            await self._ended.wait()  # the client wants no bar for this load
            self._task = None
            return
        stage, share = self._latest
        progress.begin(
            token,
            types.WorkDoneProgressBegin(
                title=_TITLE, message=stage, percentage=round(100 * share), cancellable=False
            ),
        )
        self._token = token
        await self._ended.wait()
        self._token = self._task = None
        progress.end(token, types.WorkDoneProgressEnd())


class TaskProgress:
    """A bar for one piece of work, for clients that show bars; its button calls `cancel`.

    A context manager: the bar ends with the block.
    """

    def __init__(self, server: LanguageServer, title: str, cancel: Callable[[], object]) -> None:
        self._server = server
        self._title = title
        self._cancel = cancel
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        window = self._server.client_capabilities.window
        if window and window.work_done_progress:
            # Never cancelled, for the same reason as above.
            self._task = asyncio.create_task(self._run())
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    async def _run(self) -> None:
        token = str(uuid.uuid4())
        progress = self._server.work_done_progress
        try:
            await progress.create_async(token)
        except JsonRpcException:
            return
        progress.tokens[token].add_done_callback(lambda future: self._given_up(future.cancelled()))
        progress.begin(token, types.WorkDoneProgressBegin(title=self._title, cancellable=True))
        await self._ended.wait()
        progress.end(token, types.WorkDoneProgressEnd())
        progress.tokens.pop(token, None)

    def _given_up(self, cancelled: bool) -> None:
        if cancelled:
            self._cancel()
