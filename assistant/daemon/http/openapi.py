"""The daemon described for programs: OpenAPI 3.1 at /openapi.json.

Requests are described by the types that read them (`assistant.daemon.http.request_schemas`).
Responses are described by the types that are written, and by `response_examples.json` for the
formats of llama-server and OpenAI. Tests compare the paths with the routes and fuzz the rest.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import msgspec

from assistant import __version__
from assistant.daemon.http import ollama_api, request_schemas, responses_api
from assistant.engine.types import ModelInfo
from assistant.wire import CompletionRequest, SettingsNow, Status, UseBody

_REFERENCE = "#/components/schemas/{name}"
_STREAM = "text/event-stream"
_LINES = "application/x-ndjson"
# What each event holds: a piece of the answer as JSON, or OpenAI's [DONE].
_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "minLength": 1}},
}


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked for.

    Attributes:
        body: the type that reads what is sent; None where nothing is.
        answer: a type that is written, or the name of a schema in `response_examples.json`.
        streams: the media type of an answer that is streamed; empty where none is.
        refusals: statuses of errors that are normal, besides those that any request may get.
        media: what an answer is that is not JSON.
    """

    path: str
    method: str
    summary: str
    answer: type | str
    body: type | None = None
    streams: str = ""
    refusals: tuple[int, ...] = ()
    media: str = "application/json"


_GENERATING = (400, 404, 408, 409, 413, 429, 500, 502, 503, 507)
_SERVED = (404, 429, 500, 502, 503, 507)

OPERATIONS = (
    Operation("/health", "get", "Whether a model is served", "Health", refusals=(503,)),
    Operation("/v1/health", "get", "As /health", "Health", refusals=(503,)),
    Operation("/props", "get", "What is served, as llama-server", "Props", refusals=_SERVED),
    Operation("/models", "get", "As /v1/models", "Models", refusals=_SERVED),
    Operation("/v1/models", "get", "What is served, as OpenAI", "Models", refusals=_SERVED),
    Operation(
        "/tokenize",
        "post",
        "Token ids of a text",
        "Tokens",
        request_schemas.TokenizeBody,
        refusals=_GENERATING,
    ),
    Operation(
        "/detokenize",
        "post",
        "The text of token ids",
        "Text",
        request_schemas.DetokenizeBody,
        refusals=_GENERATING,
    ),
    *(
        Operation(path, "post", summary, answer, body, streams=_STREAM, refusals=_GENERATING)
        for path, summary, answer, body in (
            ("/completion", "Go on from a prompt", "Completion", CompletionRequest),
            ("/completions", "As /completion", "Completion", CompletionRequest),
            ("/infill", "Fill in between two texts", "Completion", request_schemas.InfillBody),
            (
                "/v1/completions",
                "Go on from a prompt, as OpenAI",
                "TextCompletion",
                request_schemas.TextCompletionBody,
            ),
            (
                "/v1/chat/completions",
                "The next turn of a conversation, as OpenAI",
                "ChatCompletion",
                request_schemas.ChatBody,
            ),
            (
                "/v1/responses",
                "The next turn of a conversation as items, as OpenAI; nothing is stored",
                "Response",
                responses_api.ResponsesBody,
            ),
            (
                "/chat/completions",
                "As /v1/chat/completions",
                "ChatCompletion",
                request_schemas.ChatBody,
            ),
        )
    ),
    Operation("/api/version", "get", "Of Ollama's API", "OllamaVersion"),
    Operation("/api/tags", "get", "What is served, as Ollama", "OllamaModels", refusals=_SERVED),
    Operation("/api/ps", "get", "What is loaded, as Ollama", "OllamaModels", refusals=_SERVED),
    Operation(
        "/api/show",
        "post",
        "The served model, as Ollama",
        "OllamaModel",
        ollama_api.ShowBody,
        refusals=_GENERATING,
    ),
    *(
        Operation(path, "post", summary, "OllamaAnswer", body, _LINES, _GENERATING)
        for path, summary, body in (
            ("/api/chat", "The next turn, as Ollama", ollama_api.OllamaChatBody),
            ("/api/generate", "Go on from a prompt, as Ollama", ollama_api.OllamaGenerateBody),
        )
    ),
    Operation("/metrics", "get", "Prometheus metrics", "Exposition", media="text/plain"),
    Operation("/underkeel/status", "get", "State of the daemon, model and memory", Status),
    Operation("/underkeel/load", "post", "Load the model, if it is not", "State"),
    Operation(
        "/underkeel/model",
        "post",
        "Serve another model",
        ModelInfo,
        UseBody,
        refusals=_GENERATING,
    ),
    Operation("/underkeel/reload", "post", "Read the settings file again", SettingsNow),
    Operation("/underkeel/stop", "post", "End the daemon", "State"),
    Operation("/openapi.json", "get", "This description", "Description"),
)


@functools.cache
def document() -> dict[str, Any]:
    """The whole description."""
    schemas = _written() | _typed()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Underkeel",
            "version": __version__,
            "description": "llama-server's protocol on a private Unix socket, or on a loopback "
            "port with a token, and what is our own under /underkeel.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _described(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {operation.media: {"schema": _schema(operation.answer)}}
    if operation.streams:
        event = _EVENT if operation.streams == _STREAM else _schema(operation.answer)
        content[operation.streams] = {"schema": event}
    kind = "OllamaError" if operation.path.startswith("/api/") else "Error"
    error = {"application/json": {"schema": {"$ref": _REFERENCE.format(name=kind)}}}
    answers: dict[str, Any] = {"200": {"description": "The answer", "content": content}}
    for status in sorted({401, *operation.refusals}):
        shape = content if operation.answer == "Health" and status == 503 else error
        answers[str(status)] = {"description": _MEANING[status], "content": shape}
    found: dict[str, Any] = {
        "operationId": f"{operation.method} {operation.path}",
        "summary": operation.summary,
        "responses": answers,
    }
    if operation.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _schema(operation.body)}},
        }
    return found


_MEANING: Mapping[int, str] = {
    400: "The request is malformed, or does not fit the context",
    401: "Over TCP, the token is missing or wrong",
    404: "The model is not on this machine",
    408: "The request did not come in time",
    409: "The prompt is made of another model's tokens than are served now",
    413: "The request is too large",
    429: "Too many requests wait; try again",
    500: "The engine failed",
    502: "A server that this one asks failed",
    503: "No model is served now; try again",
    507: "No plan fits the memory",
}


def _schema(kind: type | str) -> dict[str, str]:
    name = kind if isinstance(kind, str) else kind.__name__
    return {"$ref": _REFERENCE.format(name=name)}


def _typed() -> dict[str, Any]:
    """Schemas of the types that read and write."""
    answers = {operation.answer for operation in OPERATIONS if isinstance(operation.answer, type)}
    bodies = {operation.body for operation in OPERATIONS if operation.body is not None}
    requests = _components(bodies)
    for schema in requests.values():
        for name, field in schema.get("properties", {}).items():
            if name not in schema.get("required", ()):
                schema["properties"][name] = _or_null(field)
        if seed := schema.get("properties", {}).get("seed"):
            # Of a longer one, such as OpenAI's clients draw, the lower 32 bits count.
            schema["properties"]["seed"] = {
                key: value for key, value in seed.items() if key not in {"minimum", "maximum"}
            }
    return _components(answers) | requests


def _components(kinds: set[type]) -> dict[str, Any]:
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=_REFERENCE)
    return components


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    """In a request null means the default."""
    if isinstance(field.get("type"), str):
        found = field | {"type": [field["type"], "null"]}
        return found | {"enum": [*field["enum"], None]} if "enum" in field else found
    if "anyOf" in field:
        null = {"type": "null"}
        return field if null in field["anyOf"] else field | {"anyOf": [*field["anyOf"], null]}
    if "$ref" in field:
        own = {name: value for name, value in field.items() if name != "default"}
        return {"anyOf": [own, {"type": "null"}]} | {
            name: value for name, value in field.items() if name == "default"
        }
    return field


def _written() -> dict[str, Any]:
    """Schemas of the shapes that follow others' servers."""
    text = (
        resources.files("assistant.daemon.http")
        .joinpath("response_examples.json")
        .read_text("utf-8")
    )
    found: dict[str, Any] = json.loads(text)
    return found
