"""The connection to the daemon: made when first needed and again when it is lost.

It knows which model is served and how prompts for it are written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from assistant.errors import DaemonError, UnderkeelError
from lsp.editor import Editor, Severity, text_of
from lsp.served_model import Health, facts_of, told

if TYPE_CHECKING:
    from assistant.client.starter import DaemonStarter
    from assistant.engine.types import ModelInfo, Priority, Timings
    from assistant.wire import (
        BudgetNow,
        ChatMessage,
        CompletionChunk,
        CompletionRequest,
        PromptBody,
        Props,
        Status,
    )
    from lsp.served_model import Served

_FIRST_RETRY_S = 5.0
_LAST_RETRY_S = 120.0
_SERVING = {"ready", "released"}
_SMALL_PROMPT_TOKENS = 256


class Client(Protocol):
    """The part of `assistant.client.client.DaemonClient` that the language server uses."""

    async def wait_ready(
        self, on_progress: Callable[[str, float], None] | None = None
    ) -> ModelInfo: ...

    async def props(self) -> Props: ...

    async def status(self) -> Status: ...

    def complete(self, request: CompletionRequest) -> AsyncGenerator[CompletionChunk, None]: ...

    def chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        max_tokens: int = ...,
        document: str = ...,
        budget_tokens: int = ...,
    ) -> AsyncGenerator[CompletionChunk, None]: ...

    def chat_events(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]: ...

    async def tokenise(self, text: str) -> list[int]: ...

    async def warm(
        self,
        prompt: PromptBody,
        document: str = "",
        priority: Priority = ...,
        *,
        budget_tokens: int = ...,
        prompt_model: str = ...,
    ) -> Timings: ...

    async def aclose(self) -> None: ...


class Backend:
    """One connection for all documents.

    An error is reported to the editor once, and again only after a success or an action of the
    user. After a failure the next try waits 5 s, then twice as long each time.
    """

    def __init__(
        self,
        editor: Editor,
        connect: Callable[[], Client] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._editor = editor
        self._connect = connect or _daemon_client
        self._clock = clock
        self._client: Client | None = None
        self._served: Served | None = None
        self._connecting: asyncio.Task[Served] | None = None
        self._told = ""
        self._failure: UnderkeelError | None = None
        self._running = 0
        self._retry_s = 0.0
        self._retry_at = 0.0
        self._known: dict[str, Any] = {}
        self._prompt: dict[str, Any] | None = None
        self._health = Health(lambda: self._connected_client().status(), self._healthy)

    @property
    def ready(self) -> Served | None:
        """The served model, if it is known already."""
        return self._served

    async def served(self, *, urgent: bool = False) -> Served | None:
        """The served model; starts the daemon and waits for its model if needed.

        All callers share one connection; cancelling one of them does not end it.

        Args:
            urgent: the user waits, so try at once even if the last try has just failed.

        Returns:
            None if no model is available; the editor was notified.
        """
        if self._served is not None:
            return self._served
        if self._connecting is None:
            if not urgent and self._clock() < self._retry_at:
                return None
            if urgent:
                self._told = ""
            self._connecting = asyncio.create_task(self._load())
            self._connecting.add_done_callback(self._connected)
        try:
            return await asyncio.shield(self._connecting)
        except UnderkeelError as error:
            self._failure = error
            return None

    async def needed(self) -> Served:
        """The served model, for a user who waits.

        Raises:
            UnderkeelError: why no model is available; the editor was notified too.
        """
        served = await self.served(urgent=True)
        if served is None:
            raise self._failure or DaemonError("no model is available", advice="Try again")
        return served

    def complete(self, request: CompletionRequest) -> AsyncGenerator[CompletionChunk, None]:
        """Stream an answer, as `DaemonClient.complete`."""
        answer = self._connected_client().complete(request)
        return self._followed(answer, lambda served, budget: served.with_budget(budget))

    def chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        max_tokens: int,
        document: str,
        budget_tokens: int,
    ) -> AsyncGenerator[CompletionChunk, None]:
        """Stream the next turn of a conversation, as `DaemonClient.chat`."""
        answer = self._connected_client().chat(
            messages, max_tokens=max_tokens, document=document, budget_tokens=budget_tokens
        )
        return self._followed(answer, lambda served, budget: served.with_explain_budget(budget))

    async def chat_events(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Stream the events of a chat with tools, as `DaemonClient.chat_events`."""
        with self._busy():
            async with aclosing(self._connected_client().chat_events(body)) as stream:
                async for event in stream:
                    self._told = ""
                    yield event

    async def tokenise(self, text: str) -> list[int]:
        """Token ids of plain text, as `DaemonClient.tokenise`."""
        await self.needed()
        return await self._connected_client().tokenise(text)

    async def warm(
        self,
        prompt: PromptBody,
        document: str,
        priority: Priority,
        *,
        budget_tokens: int,
        prompt_model: str,
    ) -> Timings:
        """Evaluate a prompt before the request for it, as `DaemonClient.warm`."""
        return await self._connected_client().warm(
            prompt, document, priority, budget_tokens=budget_tokens, prompt_model=prompt_model
        )

    def forget(self) -> None:
        """Connect again before the next request, because the daemon or its model has changed."""
        self._served = None

    def tell(self, error: UnderkeelError) -> None:
        """Show an error in the editor, unless it was the last one shown."""
        text = text_of(error)
        if text != self._told:
            self._told = text
            self._editor.message(Severity.ERROR, text)

    async def aclose(self) -> None:
        """End the connection; a load in progress continues in the daemon."""
        await self._health.aclose()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._client is not None:
            await self._client.aclose()

    async def _load(self) -> Served:
        try:
            # The imports take a third of a second and must not delay the editor. A daemon that has
            # to be started imports and plans at the same time.
            if self._connect is _daemon_client:
                starter = await asyncio.to_thread(_start_daemon)
                self._connect = lambda: _daemon_client(starter)
            await asyncio.to_thread(_import_all)
            from lsp.served_model import Served

            client = self._connected_client()
            reading = asyncio.create_task(asyncio.to_thread(_prepare_prompts))
            info = await client.wait_ready(self._editor.loading)
            props = await client.props()
            await asyncio.wait({reading})
            return await asyncio.to_thread(Served.of, info, props.budget, props.explain_budget)
        finally:
            self._editor.loaded()

    async def _followed(
        self,
        answer: AsyncGenerator[CompletionChunk, None],
        updated: Callable[[Served, BudgetNow | None], Served],
    ) -> AsyncGenerator[CompletionChunk, None]:
        """An answer; its last chunk brings the next budget."""
        with self._busy():
            async with aclosing(answer) as stream:
                async for chunk in stream:
                    self._told = ""
                    if chunk.stop and self._served is not None:
                        self._served = updated(self._served, chunk.budget)
                    yield chunk

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """The editor shows that the model is busy."""
        self._running += 1
        self._editor.serving(busy=True)
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._editor.serving(busy=False, **self._facts())
            self._health.worked()

    def _connected_client(self) -> Client:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _facts(self) -> dict[str, Any]:
        if self._served is None:
            return {}
        facts = {**self._known, "model": self._served.info.name}
        return facts | {"budget": told(self._served.budget), "prompt": self._prompt}

    def built(self, prompt_tokens: int, budget_tokens: int, cut: Sequence[str]) -> None:
        """A prompt was built: its budget, and what was left out of it."""
        self._prompt = {
            "tokens": prompt_tokens,
            "budgetTokens": budget_tokens,
            "cut": list(cut),
        }

    def _healthy(self, status: Status) -> None:
        """The daemon has reported its status."""
        if self._served is None or status.state.value not in _SERVING:
            return
        from msgspec.structs import replace

        self._served = self._served.with_budget(status.budget)
        if status.model is not None and status.model.name == self._served.info.name:
            info = replace(self._served.info, n_ctx=status.model.n_ctx)
            self._served = self._served.with_info(info)
        self._known = facts_of(status)
        self._editor.serving(busy=self._running > 0, **self._facts())

    def _connected(self, task: asyncio.Task[Served]) -> None:
        self._connecting = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._served = task.result()
            self._failure = None
            self._retry_s = self._retry_at = 0.0
            self._editor.serving(busy=False, **self._facts())
            self._health.worked()
        elif isinstance(error, UnderkeelError):
            self._fail(error)
        else:
            self._fail(UnderkeelError(f"the daemon cannot be used ({error!r})"))

    def _fail(self, error: UnderkeelError) -> None:
        self._retry_s = min(max(2 * self._retry_s, _FIRST_RETRY_S), _LAST_RETRY_S)
        self._retry_at = self._clock() + self._retry_s
        self.tell(error)


def _start_daemon() -> DaemonStarter | None:
    from assistant.client import starter

    return starter.start_if_none_listens()


def _daemon_client(starter: DaemonStarter | None = None) -> Client:
    from assistant.client.client import DaemonClient

    return DaemonClient(starter=starter)


def _import_all() -> None:
    import lsp.completion.completion_stream  # noqa: F401


def _prepare_prompts() -> None:
    """Do what the first prompt needs while the model loads: read and remember the vocabulary of the
    model in the settings, and build a prompt, for which modules are imported and patterns compiled.

    If another model is served, or the vocabulary cannot be read, the served model decides.
    """
    from assistant import settings
    from assistant.models import catalogue, vocabulary
    from context import Workspace
    from lsp.served_model import estimated_fim

    chosen, _ = settings.load()
    if not chosen.remote.url:
        with suppress(UnderkeelError):
            vocabulary.load(catalogue.resolve(chosen.model.name))
    fim = estimated_fim()
    workspace = Workspace((), fim.counter, fim.layout, fim.special)
    text = "A text.\n"
    workspace.prompt(workspace.open(Path("prompt.txt"), text), len(text), _SMALL_PROMPT_TOKENS)
    workspace.index.close()
