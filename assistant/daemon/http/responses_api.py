"""OpenAI's POST /v1/responses, without memory: requests become chats, answers become items. Pure.

After OpenAI's API reference and the types of its SDK (openai.types.responses). Nothing is stored,
so a client sends the whole conversation each time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from assistant.daemon.http.request_schemas import (
    ChatBody,
    FunctionBody,
    FunctionCallBody,
    MessageBody,
    ToolBody,
    ToolCallBody,
)
from assistant.daemon.http.response_formats import Answer, Json, logprob_object, total
from assistant.daemon.http.tool_calls.parser import Kind, Piece
from assistant.engine.types import Delta, StopReason
from assistant.errors import RequestError, UnderkeelError
from assistant.wire import MOST_LOGPROBS, GenerateBody, Limit

_Short = Annotated[str, Meta(max_length=4096)]
_LOGPROBS = "message.output_text.logprobs"
# Tools that a server runs by itself. Clients offer them always, and a model may leave them unused.
_SEARCHES = {"web_search", "web_search_preview", "web_search_2025_08_26"}
# What clients may ask to include; the reasoning of a local model needs no encryption.
_INCLUDED = {_LOGPROBS, "reasoning.encrypted_content"}


class PartBody(msgspec.Struct, kw_only=True):
    """A part of an item's content. Annotations and log probabilities of an answer that a client
    sends back are accepted."""

    type: _Short = "input_text"
    text: str = ""
    annotations: list[Any] = []
    logprobs: list[Any] = []


class ItemBody(msgspec.Struct, kw_only=True):
    """One item of the input: a message, a call, its result, or what was reasoned before them.

    `id`, `status` and `encrypted_content` are accepted, since clients send items back as they came.
    """

    type: _Short = "message"
    role: _Short = ""
    content: str | list[PartBody] | None = None
    id: _Short = ""
    status: _Short = ""
    call_id: _Short = ""
    name: _Short = ""
    namespace: _Short = ""
    arguments: str = ""
    output: str | list[PartBody] = ""
    summary: list[PartBody] = []
    encrypted_content: str = ""
    phase: _Short = ""


class FunctionToolBody(msgspec.Struct, kw_only=True):
    """A function, or a namespace with functions. Web searches are accepted and never made."""

    type: _Short
    name: _Short = ""
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    strict: bool = False
    tools: Annotated[list[FunctionToolBody], Meta(max_length=1024)] = []
    search_context_size: _Short = ""
    user_location: dict[str, Any] | None = None
    filters: dict[str, Any] | None = None
    external_web_access: bool = False


class TextBody(msgspec.Struct, kw_only=True):
    """The form of the text. `verbosity`: only the default can be served."""

    format: dict[str, Any] | None = None
    verbosity: _Short = "medium"


class ReasoningBody(msgspec.Struct, kw_only=True):
    """How much to reason; summaries are accepted and never written."""

    effort: _Short = ""
    summary: _Short = ""
    generate_summary: _Short = ""


class ResponsesBody(GenerateBody, frozen=True, kw_only=True):
    """POST /v1/responses."""

    input: str | Annotated[list[ItemBody], Meta(min_length=1)]
    model: str = ""
    instructions: str = ""
    max_output_tokens: Limit | None = None
    tools: Annotated[tuple[FunctionToolBody, ...], Meta(max_length=1024)] = ()
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    text: TextBody = msgspec.field(default_factory=TextBody)
    reasoning: ReasoningBody = msgspec.field(default_factory=ReasoningBody)
    include: tuple[str, ...] = ()
    top_logprobs: Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)] = 0
    truncation: _Short = "disabled"
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    client_metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    store: bool = False
    previous_response_id: _Short = ""
    stream_options: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)

    def unsupported(self) -> list[str]:
        """Names of the fields that are set and not served."""
        found = super().unsupported()
        if self.store:
            found.append("store: responses are not kept")
        if self.previous_response_id:
            found.append("previous_response_id: responses are not kept; send the whole input")
        if self.truncation != "disabled":
            found.append(f"truncation {self.truncation!r}")
        if self.text.verbosity != "medium":
            found.append("text.verbosity")
        found += [f"include {one!r}" for one in self.include if one not in _INCLUDED]
        return found

    def chat(self) -> ChatBody:
        """The same as a chat.

        Raises:
            RequestError: a field, an item, a part of one or a tool is not served; it names it.
        """
        if names := self.unsupported():
            raise RequestError(
                f"not supported: {', '.join(names)[:300]}",
                advice="Leave these fields out of the request",
            )
        shared = {name: getattr(self, name) for name in GenerateBody.__struct_fields__}
        if self.max_output_tokens is not None:
            shared["max_tokens"] = self.max_output_tokens
        return ChatBody(
            **shared,
            model=self.model,
            messages=_messages(self),
            tools=[
                _tool(tool, namespace)
                for namespace, tool in _functions(self.tools)
                if tool.type not in _SEARCHES
            ],
            tool_choice=self.tool_choice,
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=self.text.format,
            reasoning_effort=self.reasoning.effort,
            chat_template_kwargs=self.chat_template_kwargs,
            logprobs=_LOGPROBS in self.include or self.top_logprobs > 0,
            top_logprobs=self.top_logprobs,
        )


def _functions(tools: Sequence[FunctionToolBody]) -> Iterator[tuple[str, FunctionToolBody]]:
    """The tools with their namespaces; without one it is empty."""
    for tool in tools:
        if tool.type == "namespace":
            yield from ((tool.name, one) for one in tool.tools)
        else:
            yield "", tool


def _offered_name(namespace: str, name: str) -> str:
    """What a function is called towards the model, which knows no namespaces."""
    return f"{namespace}__{name}" if namespace else name


def _tool(tool: FunctionToolBody, namespace: str) -> ToolBody:
    if tool.type != "function":
        raise RequestError(
            f"not supported: tools of type {tool.type[:80]!r}",
            advice="Only functions are served; switch the others off in the client",
        )
    return ToolBody(
        function=FunctionBody(
            name=_offered_name(namespace, tool.name),
            description=tool.description,
            parameters=tool.parameters,
            strict=tool.strict,
        )
    )


def _messages(body: ResponsesBody) -> list[MessageBody]:
    """The turns of a chat. What the assistant reasoned, said and called in a row is one turn."""
    found: list[MessageBody] = []
    if body.instructions:
        found.append(MessageBody(role="system", content=body.instructions))
    if isinstance(body.input, str):
        return [*found, MessageBody(role="user", content=body.input)]
    turn: MessageBody | None = None
    for number, item in enumerate(body.input):
        where = f"input[{number}]"
        text = _text(item, where)
        if item.type == "function_call":
            name = _offered_name(item.namespace, item.name)
            call = FunctionCallBody(name=name, arguments=item.arguments)
            if turn is None:
                turn = MessageBody(role="assistant")
                found.append(turn)
            turn.tool_calls = [*turn.tool_calls, ToolCallBody(id=item.call_id, function=call)]
        elif item.type == "reasoning":
            turn = MessageBody(role="assistant", reasoning_content=text)
            found.append(turn)
        elif item.type == "message" and item.role == "assistant":
            if turn is None or turn.content or turn.tool_calls:
                turn = MessageBody(role="assistant")
                found.append(turn)
            turn.content = text
        elif item.type == "function_call_output":
            turn = None
            found.append(MessageBody(role="tool", content=text, tool_call_id=item.call_id))
        elif item.type == "message" and item.role:
            turn = None
            found.append(MessageBody(role=item.role, content=text))
        else:
            kind = item.type if item.type != "message" else "message without a role"
            raise RequestError(
                f"not supported: {where} is an item of type {kind[:80]!r}",
                advice="Send messages, function calls, their outputs and reasoning",
            )
    return found


def _text(item: ItemBody, where: str) -> str:
    """What an item says. Raises RequestError where a part of it is no text."""
    content = item.output if item.type == "function_call_output" else item.content
    if item.type == "reasoning" and not content:
        content = item.summary
    if isinstance(content, str):
        return content
    for part in content or ():
        if part.type not in _TEXTS:
            raise RequestError(
                f"not supported: {where} has a part of type {part.type[:80]!r}",
                advice="Send text; images, files and audio are not served",
            )
    return "".join(part.text for part in content or ())


_TEXTS = {"text", "input_text", "output_text", "reasoning_text", "summary_text"}


class ResponsesFormat:
    """Writes one answer as a response with items, or as its events. Keeps count of both."""

    def __init__(self, body: ResponsesBody) -> None:
        self._body = body
        self._created = int(time.time())
        self._items: list[Json] = []
        self._open: Kind | None = None
        self._events = 0
        self._reasoning_tokens = 0
        self._answer: Answer | None = None
        self._namespaces = {
            _offered_name(namespace, tool.name): (namespace, tool.name)
            for namespace, tool in _functions(body.tools)
            if namespace
        }

    def opening(self, answers: Sequence[Answer]) -> list[Json]:
        self._answer = answers[0]
        response = self._response(answers[0], "in_progress")
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def piece(self, answer: Answer, delta: Delta) -> list[Json]:
        pieces = answer.parts(delta)
        if any(piece.kind is Kind.REASONING for piece in pieces):
            self._reasoning_tokens += len(delta.tokens)
        return [event for piece in pieces for event in self._written(answer, piece)]

    def closing(self, answer: Answer) -> list[Json]:
        rest = [event for piece in answer.parts(None) for event in self._written(answer, piece)]
        complete = answer.reason in _COMPLETE
        return [*rest, *self._close("completed" if complete else "incomplete")]

    def ending(self, answers: Sequence[Answer]) -> list[Json]:
        status = "completed" if answers[0].reason in _COMPLETE else "incomplete"
        response = self._response(answers[0], status)
        return [self._event(f"response.{status}", response=response)]

    def whole(self, answers: Sequence[Answer]) -> Json:
        status = "completed" if answers[0].reason in _COMPLETE else "incomplete"
        return self._response(answers[0], status)

    def failed(self, error: UnderkeelError) -> list[Json]:
        """The events of an answer that fails after its opening; none before that."""
        if self._answer is None:
            return []
        response = self._response(self._answer, "failed")
        response["error"] = {"code": "server_error", "message": str(error)}
        return [*self._close("incomplete"), self._event("response.failed", response=response)]

    def _written(self, answer: Answer, piece: Piece) -> list[Json]:
        """The events of a piece. Another kind of piece, or another call, is another item."""
        if piece.kind is Kind.ARGUMENTS:
            self._items[-1]["arguments"] += piece.text
            return [self._of_item("response.function_call_arguments.delta", delta=piece.text)]
        if piece.kind is Kind.CALL:
            return [*self._close("completed"), *self._begin(answer, piece)]
        events = []
        if self._open is not piece.kind:
            events = [*self._close("completed"), *self._begin(answer, piece)]
        part = self._items[-1]["content"][0]
        part["text"] += piece.text
        more: Json = {"content_index": 0, "delta": piece.text}
        found = [logprob_object(one) for one in answer.next_logprobs()[0]]
        if piece.kind is Kind.TEXT:
            part["logprobs"] += found
            more["logprobs"] = found
        return [*events, self._of_item(f"response.{_NAMES[piece.kind]}.delta", **more)]

    def _begin(self, answer: Answer, piece: Piece) -> list[Json]:
        number = f"{answer.id}{len(self._items):02}"
        self._open = piece.kind
        if piece.kind is Kind.CALL:
            namespace, name = self._namespaces.get(piece.name, ("", piece.name))
            own = {"call_id": piece.id, "name": name, "arguments": ""}
            if namespace:
                own["namespace"] = namespace
            call = {"type": "function_call", "id": f"fc_{number}", "status": "in_progress"}
            self._items.append(call | own)
            return [self._added()]
        part: Json
        item: Json
        if piece.kind is Kind.REASONING:
            part = {"type": "reasoning_text", "text": ""}
            item = {"type": "reasoning", "id": f"rs_{number}", "summary": [], "content": []}
        else:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": []}
        self._items.append(item | {"status": "in_progress"})
        events = [self._added()]
        self._items[-1]["content"].append(part)
        return [
            *events,
            self._of_item("response.content_part.added", content_index=0, part=_copy(part)),
        ]

    def _close(self, status: str) -> list[Json]:
        kind, self._open = self._open, None
        if kind is None:
            return []
        item = self._items[-1]
        item["status"] = status
        done = self._of_item
        if kind is Kind.CALL:
            told = {"name": item["name"], "arguments": item["arguments"]}
            events = [done("response.function_call_arguments.done", **told)]
        else:
            part = _copy(item["content"][0])
            more = {"logprobs": part["logprobs"]} if kind is Kind.TEXT else {}
            events = [
                done(f"response.{_NAMES[kind]}.done", content_index=0, text=part["text"], **more),
                done("response.content_part.done", content_index=0, part=part),
            ]
        index = len(self._items) - 1
        return [
            *events,
            self._event("response.output_item.done", output_index=index, item=_copy(item)),
        ]

    def _added(self) -> Json:
        index, item = len(self._items) - 1, _copy(self._items[-1])
        return self._event("response.output_item.added", output_index=index, item=item)

    def _of_item(self, kind: str, **fields: Any) -> Json:
        item_id, index = self._items[-1]["id"], len(self._items) - 1
        return self._event(kind, item_id=item_id, output_index=index, **fields)

    def _event(self, kind: str, **fields: Any) -> Json:
        number, self._events = self._events, self._events + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _response(self, answer: Answer, status: str) -> Json:
        body = self._body
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": f"resp_{answer.id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": incomplete,
            "instructions": body.instructions or None,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata,
            "model": answer.model.name,
            "output": [_copy(item) for item in self._items],
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": body.reasoning.effort or None, "summary": None},
            "store": False,
            "temperature": body.temperature,
            "text": {"format": _copy(body.text.format or {"type": "text"})},
            "tool_choice": body.tool_choice,
            "tools": [_as_offered(tool) for tool in body.tools if tool.type not in _SEARCHES],
            "top_logprobs": body.top_logprobs,
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": self._usage(answer) if answer.done else None,
        }

    def _usage(self, answer: Answer) -> Json:
        timings = total([answer])
        return {
            "input_tokens": timings.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": timings.cached_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": timings.generated_tokens,
            "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
            "total_tokens": timings.prompt_tokens + timings.generated_tokens,
        }


_NAMES = {Kind.TEXT: "output_text", Kind.REASONING: "reasoning_text"}
_COMPLETE = {StopReason.EOS, StopReason.STOP_TEXT}


def _as_offered(tool: FunctionToolBody) -> Json:
    """A tool as OpenAI's types have it."""
    own: Json = {"type": tool.type, "name": tool.name, "description": tool.description}
    if tool.type == "namespace":
        return own | {"tools": [_as_offered(one) for one in tool.tools]}
    return own | {"parameters": tool.parameters, "strict": tool.strict}


def _copy(value: Json) -> Json:
    """An item as it is now; events are written later than they are made."""
    return {
        key: [_copy(one) if isinstance(one, dict) else one for one in inner]
        if isinstance(inner, list)
        else inner
        for key, inner in value.items()
    }
