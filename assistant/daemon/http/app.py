"""The daemon's HTTP routes: llama-server's protocol, and what is ours under /underkeel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from assistant import __version__
from assistant.daemon.http import metrics, openapi
from assistant.daemon.http.bodies import (
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
from assistant.errors import RequestError, UnderkeelError
from assistant.wire import (
    CompletionRequest,
    GenerateBody,
    ServiceState,
    SettingsNow,
    UseBody,
)

B = TypeVar("B", bound=GenerateBody | OllamaBody)


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
        return Json(
            {
                "default_generation_settings": {"n_ctx": found.model.n_ctx},
                "total_slots": found.n_slots,
                "model_path": found.model.path,
                "chat_template": found.model.chat_template,
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
        service.host.start_load()
        return Json({"state": service.host.state})

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
        service.host.start_load()
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
    host = service.host
    if host.state is ServiceState.READY:
        return Json({"status": "ok"})
    error = host.error.rebuild() if host.error else None
    said = {
        "status": host.state,
        "stage": host.stage,
        "progress": host.progress,
        "failure": host.error,
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
    ollama = request.url.path.startswith("/api/")
    return error_response(error, write=(OLLAMA if ollama else NATIVE).error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    what = {404: f"there is no {path[:100]} here", 405: f"{request.method} is not for {path}"}
    mapped = RequestError(
        what.get(error.status_code, error.detail), advice="See: underkeel help api"
    )
    answer = error_response(mapped)
    answer.status_code = error.status_code
    answer.headers.update(error.headers or {})
    return answer


async def _unexpected_error(_: Request, error: Exception) -> Response:
    return error_response(unexpected(error))
