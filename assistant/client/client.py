"""The client of the daemon, over its private socket."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec
from msgspec.structs import replace

from assistant import paths
from assistant.client import events
from assistant.client.starter import DaemonStarter
from assistant.engine.types import ModelInfo, Priority, Timings
from assistant.errors import DaemonError, LoadError
from assistant.wire import (
    CLIENT_HEADER,
    ChatMessage,
    CompletionChunk,
    CompletionRequest,
    ErrorNow,
    PromptBody,
    Props,
    ServiceState,
    SettingsNow,
    Status,
    UseBody,
)

T = TypeVar("T")

OnProgress = Callable[[str, float], None]
"""Called with the current stage and the share that is done, 0 to 1."""

# A cold Python on a slow disk; a model's load is not counted.
_START_LIMIT_S = 30.0
_SILENT = "silent"
_FIRST_POLL_S = 0.02
_SLOWEST_POLL_S = 0.25
# A request whose connection ended before any answer is sent again.
_ATTEMPTS = 3
_ENDED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
# The daemon reports its own time limit earlier: after this it no longer answers at all.
_SILENCE_LIMIT_S = 300.0
_PROMPT_LIMIT_S = 30.0


class _Health(msgspec.Struct, kw_only=True):
    status: str = ""
    stage: str = ""
    progress: float = 0.0
    failure: ErrorNow | None = None


class Polls:
    """When to look at a load again: soon after a stage has started, more seldom as it lasts.

    So the end of a stage is noticed after a quarter of its length at the latest.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._pause_s = _FIRST_POLL_S

    def pause_s(self, stage: str) -> float:
        """The seconds to wait now that this stage was seen."""
        longer_s = min(1.25 * self._pause_s, _SLOWEST_POLL_S)
        self._pause_s = longer_s if stage == self._stage else _FIRST_POLL_S
        self._stage = stage
        return self._pause_s


class DaemonClient:
    """An asynchronous client of the daemon, or of any llama-server on a Unix socket.

    Another daemon may take over while it is in use: a request that has seen nothing of an answer
    yet is sent again. One client serves one event loop; close it with `aclose` or use it as a
    context manager. All methods raise `DaemonError` where the daemon cannot be reached, and the
    daemon's own errors.
    """

    def __init__(
        self,
        *,
        autostart: bool = True,
        socket: Path | None = None,
        starter: DaemonStarter | None = None,
    ) -> None:
        """`autostart`: start a daemon if none answers; `socket`: another path of its socket.

        `starter` has started one already, for the first `wait_ready`.
        """
        self._autostart = autostart
        self._starter = starter
        self._socket = socket
        self._name = secrets.token_hex(8)
        self._http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def wait_ready(self, on_progress: OnProgress | None = None) -> ModelInfo:
        """Start the daemon if none answers, wait for its model, and return the served model.

        A load that failed before this call is tried once more: its cause may have been fixed.

        Raises:
            DaemonError: the daemon cannot be reached, started or trusted.
            UnderkeelError: the model cannot be loaded; says why, and what to do.
        """
        starter, self._starter = self._starter or DaemonStarter(), None
        deadline = time.monotonic() + _START_LIMIT_S
        polls = Polls()
        asked_again = False
        while True:
            health = await self._health()
            if health is None:
                self._start_or_fail(starter, deadline)
                _report(on_progress, "starting the daemon", 0.0)
            else:
                starter.forget()
                if health.status != _SILENT:
                    deadline = time.monotonic() + _START_LIMIT_S
                elif time.monotonic() > deadline:
                    raise _silent()
                if health.status in {"ok", ServiceState.READY}:
                    return (await self.props()).model
                if health.status == ServiceState.FAILED:
                    if asked_again or starter.started:
                        raise (
                            health.failure.rebuild()
                            if health.failure
                            else LoadError(
                                "the model could not be loaded", advice="Run: underkeel logs"
                            )
                        )
                    asked_again = True
                    await self._post("/underkeel/load", {})
                elif health.status == ServiceState.RELEASED:
                    await self._post("/underkeel/load", {})
                _report(on_progress, health.stage or "loading the model", health.progress)
            await asyncio.sleep(polls.pause_s(health.stage if health is not None else ""))

    async def props(self) -> Props:
        """The served model and its limits."""
        return events.props_of((await self._get("/props")).content)

    async def status(self) -> Status:
        """The daemon's status; never starts one."""
        async with _within(_PROMPT_LIMIT_S):
            return events.decode((await self._get("/underkeel/status")).content, Status)

    async def metrics(self) -> str:
        """Prometheus text."""
        return (await self._get("/metrics")).text

    async def stop(self) -> None:
        """Ask the daemon to end. Requests in flight get a clear error."""
        async with _within(_PROMPT_LIMIT_S):
            await self._post("/underkeel/stop", {})

    async def use_model(self, name: str, purpose: str = "complete") -> ModelInfo:
        """Have the daemon serve another model; see `assistant.wire.UseBody`. Waits for its load.

        Raises:
            UnderkeelError: why not; the model before serves on.
        """
        body = UseBody(name=name, purpose=purpose)
        return events.decode((await self._post("/underkeel/model", body)).content, ModelInfo)

    async def reload(self) -> SettingsNow:
        """Have the daemon read its settings again."""
        return events.decode((await self._post("/underkeel/reload", {})).content, SettingsNow)

    def complete(self, request: CompletionRequest) -> AsyncGenerator[CompletionChunk, None]:
        """Stream an answer; the last chunk has `stop`. Closing the generator cancels the request.

        Raises:
            OverloadedError: too many requests wait.
            ContextFullError: the prompt is over the budget of now.
            WorkerDiedError: the engine ended in the middle.
        """
        return self._stream("/completion", replace(request, stream=True), events.completion_chunk)

    async def warm(
        self,
        prompt: PromptBody | Sequence[int],
        document: str = "",
        priority: Priority = Priority.BACKGROUND,
        *,
        budget_tokens: int = 0,
        prompt_model: str = "",
    ) -> Timings:
        """Evaluate `prompt` into the KV cache and generate nothing. Every other request comes first
        unless `priority` says otherwise.

        Args:
            budget_tokens, prompt_model: as of `assistant.wire.GenerateBody`.

        Raises:
            ContextFullError: the prompt was built under a budget that is smaller now.
        """
        request = CompletionRequest(
            prompt=prompt if isinstance(prompt, str) else tuple(prompt),
            max_tokens=0,
            temperature=0.0,
            document=document,
            priority=priority,
            budget_tokens=budget_tokens,
            prompt_model=prompt_model,
        )
        timings = Timings()
        async for chunk in self.complete(request):
            timings = chunk.timings or timings
        return timings

    def chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        document: str = "",
        priority: Priority = Priority.EXPLAIN,
        budget_tokens: int = 0,
    ) -> AsyncGenerator[CompletionChunk, None]:
        """Stream the next turn of a conversation. Closing the generator cancels it.

        A last message of the assistant's is continued, and is not part of what is streamed.

        Args:
            budget_tokens: the budget that the messages were made under; 0 where it is unknown.
        """
        body = {
            "messages": [msgspec.to_builtins(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stop": list(stop),
            "document": document,
            "priority": priority.value,
            "budget_tokens": budget_tokens,
            "stream": True,
        }
        return self._stream("/v1/chat/completions", body, events.chat_chunk)

    def chat_events(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Stream the events of POST /v1/chat/completions unchanged, for a body with tools.

        Closing the generator cancels the request.
        """
        return self._stream("/v1/chat/completions", body, events.chat_event)

    async def tokenise(self, text: str) -> list[int]:
        """Token ids of plain text, without BOS."""
        answer = await self._post("/tokenize", {"content": text, "parse_special": False})
        return events.decode(answer.content, dict[str, list[int]])["tokens"]

    async def aclose(self) -> None:
        """Close all connections; their streams are cancelled. Safe to call twice."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _connection(self) -> httpx.AsyncClient:
        """The connections to the daemon. Over TCP each daemon has its own port and token, so they
        are looked up until it has answered, and after each failure.

        Raises:
            httpx.ConnectError: there is no daemon to be found.
        """
        if self._socket is None and not paths.has_unix_sockets() and not paths.daemon_lives():
            # Another program may have its port by now: it must not get token and prompt (T12).
            await self._forget()
            raise httpx.ConnectError("no daemon is running")
        if self._http is None:
            way = paths.Address(socket=self._socket) if self._socket else paths.find_address()
            if way is None:
                raise httpx.ConnectError("no daemon has reported where it listens")
            self._http = httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(way.socket) if way.socket else None),
                base_url=way.base_url,
                headers={CLIENT_HEADER: self._name, **way.headers},
                timeout=httpx.Timeout(_SILENCE_LIMIT_S, connect=5.0, pool=None),
                trust_env=False,
            )
        return self._http

    async def _forget(self) -> None:
        """Look up the daemon's address again, unless it is fixed."""
        if self._socket is None and not paths.has_unix_sockets():
            await self.aclose()

    async def _health(self) -> _Health | None:
        """The answer of /health; None if nothing answers."""
        try:
            answer = await (await self._connection()).get("/health", timeout=5.0)
        except httpx.TimeoutException:
            # Somebody holds the socket: a daemon that is busy, or a service manager starting one.
            return _Health(status=_SILENT, stage="waiting for the daemon")
        except httpx.TransportError:
            await self._forget()
            return None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            # Its successor has another token, or another program has its port.
            await self._forget()
            return None
        return events.decode(answer.content, _Health)

    def _start_or_fail(self, starter: DaemonStarter, deadline: float) -> None:
        if not self._autostart:
            raise _unreachable()
        if not starter.started:
            starter.start()
        starter.check()
        if time.monotonic() > deadline:
            raise DaemonError(
                f"the daemon did not answer within {_START_LIMIT_S:.0f} s of its start",
                advice=f"Its log is {paths.log_file()}",
            )

    async def _get(self, path: str) -> httpx.Response:
        return await self._ask("GET", path, None)

    async def _post(self, path: str, body: Any) -> httpx.Response:
        return await self._ask("POST", path, msgspec.json.encode(body))

    async def _ask(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        with _transport_errors():
            for attempt in range(_ATTEMPTS):
                try:
                    connection = await self._connection()
                    return _checked(await connection.request(method, path, content=content))
                except httpx.TransportError as error:
                    await self._retry(error, attempt)
        raise AssertionError("unreachable")

    async def _stream(
        self, path: str, body: Any, read: Callable[[bytes], T]
    ) -> AsyncGenerator[T, None]:
        """The result of `read` for each server-sent event, up to the last."""
        content = msgspec.json.encode(body)
        with _transport_errors():
            async with self._opened(path, content) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise events.error_of(answer.status_code, await answer.aread())
                splitter = events.EventSplitter()
                async for part in answer.aiter_bytes():
                    for data in splitter.feed(part):
                        if data == b"[DONE]":
                            return
                        yield read(data)

    @asynccontextmanager
    async def _opened(self, path: str, content: bytes) -> AsyncIterator[httpx.Response]:
        """The response, once its headers have arrived."""
        for attempt in range(_ATTEMPTS):
            connection = await self._connection()
            request = connection.build_request("POST", path, content=content)
            try:
                answer = await connection.send(request, stream=True)
            except httpx.TransportError as error:
                await self._retry(error, attempt)
                continue
            try:
                yield answer
            finally:
                await answer.aclose()
            return

    async def _retry(self, error: httpx.TransportError, attempt: int) -> None:
        """Raises `error`, unless the request may be sent again: the connection ended before the
        answer started, as it may when another daemon takes over."""
        await self._forget()
        if attempt + 1 == _ATTEMPTS or not isinstance(error, _ENDED):
            raise error


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.status_code != httpx.codes.OK:
        raise events.error_of(answer.status_code, answer.content)
    return answer


def _report(on_progress: OnProgress | None, stage: str, share: float) -> None:
    if on_progress is not None:
        on_progress(stage, share)


def _silent() -> DaemonError:
    return DaemonError("the daemon does not answer", advice="Run: underkeel stop, and start again")


@asynccontextmanager
async def _within(limit_s: float) -> AsyncIterator[None]:
    """For what waits for no model. Raises DaemonError after `limit_s`."""
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise _silent() from error


def _unreachable() -> DaemonError:
    return DaemonError("no daemon is running", advice="Run: underkeel serve")


@contextmanager
def _transport_errors() -> Iterator[None]:
    """Maps httpx's exceptions into our tree."""
    try:
        yield
    except httpx.ConnectError as error:
        raise _unreachable() from error
    except httpx.TimeoutException as error:
        raise _silent() from error
    except httpx.HTTPError as error:
        raise DaemonError(
            "the daemon ended the connection in the middle of an answer",
            advice="Try again; its log says why: underkeel logs",
        ) from error
