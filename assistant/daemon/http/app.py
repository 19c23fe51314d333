"""The daemon's HTTP routes, and uvicorn as they need it.

Routes are llama-server's protocol, and what is ours under /underkeel. uvicorn waits without a limit
for the head of a request, and over TCP anybody on the machine may open a connection: here a
connection has time limits. A shutdown ends the engine's work first, and can leave the socket to a
successor.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from assistant import __version__
from assistant.daemon.http import metrics, openapi
from assistant.daemon.http.bodies import (
    ABORT,
    NATIVE,
    OLLAMA,
    OPENAI,
    RESPONSES,
    Framing,
    Json,
    Posts,
    error_response,
    unexpected,
)
from assistant.daemon.http.ollama_api import (
    API_VERSION,
    OllamaBody,
    OllamaChatBody,
    OllamaGenerateBody,
    ShowBody,
)
from assistant.daemon.http.request_schemas import (
    ChatBody,
    DetokenizeBody,
    InfillBody,
    TextCompletionBody,
    TokenizeBody,
)
from assistant.daemon.http.responses_api import ResponsesBody
from assistant.daemon.service import Service
from assistant.errors import RequestError, UnderkeelError, UnknownPathError
from assistant.wire import (
    CompletionRequest,
    GenerateBody,
    ServiceState,
    SettingsNow,
    UseBody,
)

B = TypeVar("B", bound=GenerateBody | OllamaBody)
HEAD_LIMIT_S = 15.0
WRITE_LIMIT_S = 30.0
MOST_CONNECTIONS = 1024


def build_app(
    service: Service,
    stop: Callable[[], None] = lambda: None,
    reload: Callable[[], SettingsNow] = lambda: SettingsNow(path=""),
) -> Starlette:
    """The ASGI application around `service`.

    Args:
        stop: ends the server that runs it.
        reload: reads the settings file again, and says what that changed.
    """

    posts = Posts(service.intake, lambda: service.settings.daemon, service.budget_headers)

    def generating(
        path: str,
        kind: type[B],
        produce: Callable[[B, str], AsyncGenerator[Any, None]],
        framing: Framing,
    ) -> Route:
        endpoint = partial(posts.stream, kind=kind, produce=produce, framing=framing)
        return Route(path, endpoint, methods=["POST"])

    async def health(_: Request) -> Response:
        return _health(service)

    async def props(_: Request) -> Response:
        found = await service.props()
        tools = found.model.tool_template
        return Json(
            {
                "default_generation_settings": {"n_ctx": found.model.n_ctx},
                "total_slots": found.n_slots,
                "model_path": found.model.path,
                "chat_template": found.model.chat_template,
                **({"chat_template_tool_use": tools} if tools else {}),
                **dict(found.model.special_tokens),
                "build_info": f"underkeel {__version__}",
                "underkeel": {
                    "model": found.model,
                    "budget": found.budget,
                    "explain_budget": found.explain_budget,
                },
            },
            headers=service.budget_headers(),
        )

    async def models(_: Request) -> Response:
        entry = await service.listed()
        return Json({"object": "list", "data": [entry]}, headers=service.budget_headers())

    async def tokenise(request: Request) -> Response:
        return await posts.whole(request, TokenizeBody, service.tokenise)

    async def detokenise(request: Request) -> Response:
        return await posts.whole(request, DetokenizeBody, service.detokenise)

    async def ollama_version(_: Request) -> Response:
        return Json({"version": API_VERSION})

    async def ollama_tags(_: Request) -> Response:
        return Json(await service.ollama_tags())

    async def ollama_ps(_: Request) -> Response:
        return Json(await service.ollama_ps())

    async def ollama_show(request: Request) -> Response:
        return await posts.whole(request, ShowBody, service.ollama_show)

    async def status(_: Request) -> Response:
        return Json(await service.status())

    async def exposition(_: Request) -> Response:
        return Response(await service.exposition(), media_type=metrics.CONTENT_TYPE)

    async def load(_: Request) -> Response:
        service.supervisor.start_load()
        return Json({"state": service.supervisor.state})

    async def use_model(request: Request) -> Response:
        return await posts.whole(request, UseBody, service.use_model)

    async def end(_: Request) -> Response:
        stop()
        return Json({"state": ServiceState.STOPPING})

    async def read_settings(_: Request) -> Response:
        return Json(reload())

    async def description(_: Request) -> Response:
        return Json(openapi.document())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.supervisor.start_load()
        governors = [service.governor, *([service.explainer.governor] if service.explainer else [])]
        governing = [asyncio.create_task(governor.run()) for governor in governors]
        try:
            yield
        finally:
            for task in governing:
                task.cancel()
            await asyncio.gather(*governing, return_exceptions=True)
            await service.close()

    routes = [
        Route("/health", health),
        Route("/v1/health", health),
        Route("/props", props),
        Route("/models", models),
        Route("/v1/models", models),
        Route("/tokenize", tokenise, methods=["POST"]),
        Route("/detokenize", detokenise, methods=["POST"]),
        generating("/completion", CompletionRequest, service.complete, NATIVE),
        generating("/completions", CompletionRequest, service.complete, NATIVE),
        generating("/infill", InfillBody, service.infill, NATIVE),
        generating("/v1/completions", TextCompletionBody, service.text_complete, OPENAI),
        generating("/v1/chat/completions", ChatBody, service.chat, OPENAI),
        generating("/chat/completions", ChatBody, service.chat, OPENAI),
        generating("/v1/responses", ResponsesBody, service.respond, RESPONSES),
        Route("/api/version", ollama_version),
        Route("/api/tags", ollama_tags),
        Route("/api/ps", ollama_ps),
        Route("/api/show", ollama_show, methods=["POST"]),
        generating("/api/chat", OllamaChatBody, service.ollama_chat, OLLAMA),
        generating("/api/generate", OllamaGenerateBody, service.ollama_generate, OLLAMA),
        Route("/metrics", exposition),
        Route("/underkeel/status", status),
        Route("/underkeel/load", load, methods=["POST"]),
        Route("/underkeel/model", use_model, methods=["POST"]),
        Route("/underkeel/reload", read_settings, methods=["POST"]),
        Route("/underkeel/stop", end, methods=["POST"]),
        Route("/openapi.json", description),
    ]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            UnderkeelError: _own_error,
            HTTPException: _http_error,
            Exception: _unexpected_error,
        },
    )


def _health(service: Service) -> Json:
    supervisor = service.supervisor
    if supervisor.state is ServiceState.READY:
        return Json({"status": "ok"})
    error = supervisor.error.rebuild() if supervisor.error else None
    said = {
        "status": supervisor.state,
        "stage": supervisor.stage,
        "progress": supervisor.progress,
        "failure": supervisor.error,
        # For clients of llama-server, which look here.
        "error": {
            "code": 503,
            "message": str(error) if error else "Loading model",
            "type": "unavailable_error",
        },
    }
    return Json(said, status_code=503)


async def _own_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UnderkeelError)
    return error_response(error, write=_framing(request).error)


def _framing(request: Request) -> Framing:
    return OLLAMA if request.url.path.startswith("/api/") else NATIVE


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    what = {404: f"there is no {path[:100]} here", 405: f"{request.method} is not for {path}"}
    kind = UnknownPathError if error.status_code == HTTPStatus.NOT_FOUND else RequestError
    mapped = kind(what.get(error.status_code, error.detail), advice="See: underkeel help api")
    answer = error_response(mapped, write=_framing(request).error)
    answer.status_code = error.status_code
    answer.headers.update(error.headers or {})
    return answer


async def _unexpected_error(request: Request, error: Exception) -> Response:
    return error_response(unexpected(error), write=_framing(request).error)


class Connection(H11Protocol):
    """One connection. It ends where a head takes longer than `HEAD_LIMIT_S`, and where there are
    more than `MOST_CONNECTIONS`: then the one that has been silent longest."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self.app = _with_abort(self.app, self.cut)
        self.idle_since_s = self.loop.time()

    @property
    def idle(self) -> bool:
        """Whether it is between requests, or before its first."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > MOST_CONNECTIONS:
            silent = [
                other for other in self.connections if isinstance(other, Connection) and other.idle
            ]
            min(silent, key=lambda other: other.idle_since_s, default=self).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads slower than we write: it has `WRITE_LIMIT_S` to read on (case T15)."""
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(WRITE_LIMIT_S, self.cut)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Closing waits until everything is sent, which a client that does not read prevents."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self.cut()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # uvicorn has stopped its own timer: where no request has started, start ours.
        if not self.idle:
            self._stop_waiting()
        elif self.timeout_keep_alive_task is None and self._head_timer is None:
            self._await_head()

    def on_response_complete(self) -> None:
        self.idle_since_s = self.loop.time()
        super().on_response_complete()

    def cut(self) -> None:
        """End it at once, whatever it was going to say."""
        self.transport.abort()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_LIMIT_S, self.cut)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _with_abort(app: Any, abort: Callable[[], None]) -> Any:
    """`app`, which finds `abort` in its scope: it ends the connection at once."""

    return lambda scope, receive, send: app(scope | {ABORT: abort}, receive, send)


log = logging.getLogger(__name__)

# Connections without a request stay open so long once we leave: one may be on its way.
_LINGER_S = 1.0
_LEAVING_SLACK_S = 10.0
_LOOK_S = 0.02


class WebServer(uvicorn.Server):
    """Ends the engine's work first when told to end, so that open streams end by themselves."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        on_serving: Callable[[], None],
        *,
        leave_on_signal: bool = False,
    ) -> None:
        """
        Args:
            on_serving: called once connections are accepted.
            leave_on_signal: somebody else holds our sockets open, so what comes while we end
                is kept for the next daemon: answer what we have before we end.
        """
        super().__init__(config)
        self._service = service
        self._on_serving = on_serving
        self._leave_on_signal = leave_on_signal
        self._closing: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    async def run_on(self, listeners: list[socket.socket]) -> None:
        self._loop = asyncio.get_running_loop()
        await self.serve(sockets=listeners)

    async def main_loop(self) -> None:
        """Wait for the end. uvicorn's own loop wakes ten times a second to look for it, and to
        renew the date header, which is off."""
        if not await self.on_tick(0):
            await self._ending.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_serving()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """A first signal ends the server in order, a second one without waiting for anybody.

        Not uvicorn's own, which sends the signal again when the server has ended: that would kill
        us before the socket and the lock are cleaned up.
        """
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._on_signal)

    def _on_signal(self) -> None:
        if self._leave_on_signal and self._leaving is None and not self.should_exit:
            self._leaving = asyncio.ensure_future(self.leave())
            return
        self.force_exit = self.should_exit
        self.end()

    def end(self) -> None:
        """Stop serving. Call it on the event loop."""
        if self._closing is None:
            log.info("stopping")
            self._closing = asyncio.ensure_future(self._service.close())
        self.should_exit = True
        self._ending.set()

    async def leave(self) -> None:
        """Accept nothing more, answer what is there, and end.

        A client that has a connection and sends one more request on it is answered too; then the
        connection ends, as it does for those that have sent nothing for a while.
        """
        log.info("leaving requests=%d", self._service.admission.inside)
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        limit_s = self._service.settings.daemon.request_limit_s + _LEAVING_SLACK_S
        while self.server_state.connections and loop.time() - began_s < limit_s:
            for connection in list(self.server_state.connections):
                assert isinstance(connection, Connection)
                silent_s = loop.time() - max(connection.idle_since_s, began_s)
                if not connection.idle or silent_s > _LINGER_S:
                    connection.shutdown()
            await asyncio.sleep(_LOOK_S)
        self.end()
