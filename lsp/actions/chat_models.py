"""The served model for an editor's own chat: listed, requested with tools, its tokens counted.

Three commands; see editors/PROTOCOL.md. Messages and tools are those of OpenAI's chat completions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assistant.errors import (
    AnswerError,
    ContextFullError,
    DaemonError,
    RequestError,
    WorkerDiedError,
)
from context.syntax.text import CharacterStream
from lsp.actions.document_range import command_argument, text_argument
from lsp.actions.feature import ProtocolErrors

if TYPE_CHECKING:
    from pygls.lsp.server import LanguageServer

    from lsp.backend import Backend
    from lsp.served_model import Served

MODELS = "underkeel.models"
CHAT = "underkeel.chat"
COUNT_TOKENS = "underkeel.countTokens"
NOTIFICATION = "underkeel/chat"

_ATTEMPTS = 2
_ANSWER_TOKENS = 4096
_UNKNOWN_CONTEXT = 8192
_OPTIONS = ("temperature", "top_p", "top_k", "seed", "stop", "max_tokens")
_FIELDS = ("messages", "tools", "tool_choice")
_MOST_CALLS = 128
_MESSAGE_TOKENS = 5
"""What ChatML writes around a message: `<|im_start|>`, the role, two line ends, `<|im_end|>`."""


class ChatModels:
    """The chat commands of one client."""

    def __init__(self, server: LanguageServer, backend: Backend) -> None:
        self._server, self._backend = server, backend

    async def models(self, *, urgent: bool) -> list[dict[str, Any]]:
        """The models that answer chats: one, or none while no model is available.

        Args:
            urgent: the user waits: why there is none is an error.

        Raises:
            UnderkeelError: no model is available.
        """
        served = await (self._backend.needed() if urgent else self._backend.served())
        return [_entry(served)] if served is not None else []

    async def chat(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Stream an answer to the client; text as it arrives, tool calls once they are complete.

        Raises:
            RequestError: the request is malformed.
            ContextFullError: the messages are over the budget.
            UnderkeelError: no answer is available.
        """
        id_ = text_argument(raw, "id")
        if not id_:
            raise RequestError("the chat has no id", advice="See editors/PROTOCOL.md")
        answer = _Answer()
        for attempt in range(_ATTEMPTS):
            body = _body(raw, await self._backend.needed())
            try:
                await self._stream(id_, body, answer)
                break
            except (ContextFullError, DaemonError, WorkerDiedError) as error:
                self._backend.forget()
                last = isinstance(error, ContextFullError) or attempt + 1 == _ATTEMPTS
                if last or answer.events:
                    raise
        for call in answer.finished_calls():
            self._notify(id_, "call", call=call)
        return {"id": id_, "stopReason": answer.finish, "usage": answer.usage}

    async def _stream(self, id_: str, body: Mapping[str, Any], answer: _Answer) -> None:
        async with aclosing(self._backend.chat_events(body)) as stream:
            async for event in stream:
                self._say(id_, *answer.feed(event))
        self._say(id_, *answer.rest())

    def _say(self, id_: str, text: str, thought: str) -> None:
        for kind, part in (("thought", thought), ("text", text)):
            if part:
                self._notify(id_, kind, text=part)

    async def count(self, raw: Mapping[str, Any]) -> int:
        """The tokens of a text, or of a message with what a template writes around it."""
        message = raw.get("message")
        if message is None:
            return len(await self._backend.tokenise(text_argument(raw, "text")))
        if not isinstance(message, Mapping):
            raise RequestError("the message is no object", advice="See editors/PROTOCOL.md")
        calls = message.get("tool_calls")
        written = json.dumps(calls, ensure_ascii=False) if calls else ""
        content = message.get("content")
        text = content if isinstance(content, str) else ""
        return len(await self._backend.tokenise(text + written)) + _MESSAGE_TOKENS

    def _notify(self, id_: str, kind: str, **fields: Any) -> None:
        self._server.protocol.notify(NOTIFICATION, {"id": id_, "kind": kind, **fields})


def register(server: LanguageServer, backend: Backend) -> ChatModels:
    """Register the commands with the server."""
    chat_models = ChatModels(server, backend)

    @server.command(MODELS)
    async def models(*given: Any) -> list[dict[str, Any]]:
        with ProtocolErrors():
            urgent = bool(given and isinstance(given[0], Mapping) and given[0].get("urgent"))
            return await chat_models.models(urgent=urgent)

    @server.command(CHAT)
    async def chat(*given: Any) -> dict[str, Any]:
        with ProtocolErrors():
            return await chat_models.chat(command_argument(given))

    @server.command(COUNT_TOKENS)
    async def count_tokens(*given: Any) -> int:
        with ProtocolErrors():
            return await chat_models.count(command_argument(given))

    return chat_models


def _answer_tokens(served: Served) -> int:
    """The most of one answer: a quarter of the context, so that most of it is for the prompt."""
    return min(_ANSWER_TOKENS, (served.info.n_ctx or _UNKNOWN_CONTEXT) // 4)


def _input_tokens(served: Served) -> int:
    wanted = (served.info.n_ctx or _UNKNOWN_CONTEXT) - _answer_tokens(served)
    return served.explain_tokens(wanted, _answer_tokens(served))


def _entry(served: Served) -> dict[str, Any]:
    info = served.info
    return {
        "id": info.name,
        "name": info.name,
        "family": info.family or info.architecture or "local",
        "version": info.server or "1",
        "maxInputTokens": _input_tokens(served),
        "maxOutputTokens": _answer_tokens(served),
        # A remote server that writes conversations itself is sent no tools.
        "tools": bool(info.chat_template) or not info.writes_chat,
    }


def _body(raw: Mapping[str, Any], served: Served) -> dict[str, Any]:
    """The request to the daemon."""
    options = raw.get("options")
    given = options if isinstance(options, Mapping) else {}
    body = {name: given[name] for name in _OPTIONS if given.get(name) is not None}
    body |= {name: raw[name] for name in _FIELDS if raw.get(name)}
    if not isinstance(body.get("messages"), list):
        raise RequestError("the chat has no messages", advice="See editors/PROTOCOL.md")
    most = _answer_tokens(served)
    wanted = body.get("max_tokens")
    body["max_tokens"] = min(wanted, most) if isinstance(wanted, int) and wanted > 0 else most
    return body | {
        "document": f"{os.getpid()}:chat",
        "priority": "explain",
        "budget_tokens": max(_input_tokens(served), 1),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@dataclass
class _Answer:
    """An answer, put together from OpenAI's `chat.completion.chunk` events, and without characters
    that cannot be seen."""

    events: int = 0
    finish: str = ""
    usage: dict[str, int] = field(default_factory=dict)
    _calls: dict[int, dict[str, str]] = field(default_factory=dict)
    _text: CharacterStream = field(default_factory=CharacterStream)
    _thought: CharacterStream = field(default_factory=CharacterStream)

    def feed(self, event: Mapping[str, Any]) -> tuple[str, str]:
        """One event; returns the new text and the new reasoning."""
        self.events += 1
        usage = event.get("usage")
        if isinstance(usage, dict):
            self.usage = {
                "promptTokens": usage.get("prompt_tokens", 0),
                "completionTokens": usage.get("completion_tokens", 0),
            }
        choices = event.get("choices") or [{}]
        self.finish = choices[0].get("finish_reason") or self.finish
        delta = choices[0].get("delta") or {}
        for piece in delta.get("tool_calls") or ():
            if piece["index"] >= _MOST_CALLS:
                continue
            call = self._calls.setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
            function = piece.get("function") or {}
            call["id"] = call["id"] or piece.get("id") or ""
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""
        text, thought = delta.get("content") or "", delta.get("reasoning_content") or ""
        return self._text.feed(text), self._thought.feed(thought)

    def rest(self) -> tuple[str, str]:
        """What was held back, at the end."""
        return self._text.finish(), self._thought.finish()

    def finished_calls(self) -> list[dict[str, Any]]:
        """The calls, with their arguments as objects.

        Raises:
            AnswerError: the last one is cut off.
        """
        found = []
        for _, call in sorted(self._calls.items()):
            try:
                arguments = json.loads(call["arguments"] or "{}")
            except (ValueError, RecursionError):
                arguments = None
            if not isinstance(arguments, dict):
                raise AnswerError(
                    f"the arguments of {call['name']} are cut off or no JSON object",
                    advice="Try again, with fewer or shorter messages",
                )
            found.append({"id": call["id"], "name": call["name"], "arguments": arguments})
        return found
