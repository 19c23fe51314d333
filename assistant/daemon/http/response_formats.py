"""How an answer is written: llama-server's own format and OpenAI's two. Pure.

Field for field after llama.cpp's tools/server/server-task.cpp (`to_json_non_oaicompat`,
`to_json_oaicompat`, `to_json_oaicompat_chat`) and server-common.cpp (`server_slot_stats`,
`format_error_response`).
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import msgspec

from assistant.daemon.http.tool_calls.parser import AnswerParser, Kind, Piece
from assistant.engine.types import Delta, Done, GenerateRequest, ModelInfo, StopReason, Timings
from assistant.errors import ContextFullError, UnderkeelError
from assistant.memory.degrade.budget import BudgetNow
from assistant.wire import ErrorNow

Json = dict[str, Any]

_STOP_TYPE = {
    StopReason.EOS: "eos",
    StopReason.STOP_TEXT: "word",
    StopReason.LENGTH: "limit",
    StopReason.TIME: "limit",
    StopReason.CANCELLED: "none",
}
_ERROR_TYPE = {
    400: "invalid_request_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "unavailable_error",
    503: "unavailable_error",
}


class Call(msgspec.Struct, kw_only=True):
    """A tool call in an answer."""

    id: str
    name: str
    arguments: str = ""

    def written(self) -> Json:
        """OpenAI's object of it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


class Answer(msgspec.Struct, kw_only=True):
    """An answer so far, and what it is an answer to.

    `built_under` is the budget that the prompt was held to (None: to the context only), `cut` what
    the daemon left out of it; `budget` is what the next prompt may hold, known at the end. `text`
    is all of the answer as the model wrote it; where a parser separates its parts, `content`,
    `reasoning` and `calls` are them.
    """

    request: GenerateRequest
    model: ModelInfo
    built_under: BudgetNow | None = None
    cut: tuple[str, ...] = ()
    budget: BudgetNow | None = None
    with_tokens: bool = False
    with_usage: bool = False
    parser: AnswerParser | None = None
    text: str = ""
    tokens: list[int] = []
    content: str = ""
    reasoning: str = ""
    calls: list[Call] = []

    def parts(self, delta: Delta | None) -> list[Piece]:
        """What `delta` adds to the answer's parts; None is its end."""
        if self.parser is None:
            found = [Piece(Kind.TEXT, delta.text)] if delta is not None and delta.text else []
        else:
            found = self.parser.feed(delta.text) if delta is not None else self.parser.finish()
        for piece in found:
            if piece.kind is Kind.TEXT:
                self.content += piece.text
            elif piece.kind is Kind.REASONING:
                self.reasoning += piece.text
            elif piece.kind is Kind.CALL:
                self.calls.append(Call(id=piece.id, name=piece.name))
            else:
                self.calls[piece.index].arguments += piece.text
        return found

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.tokens.extend(delta.tokens)


class ResponseFormat(Protocol):
    """One way to write answers."""

    def opening(self, answer: Answer) -> list[Json]:
        """Events before the first piece."""
        ...

    def piece(self, answer: Answer, delta: Delta) -> list[Json]:
        """The events of a piece; there may be none."""
        ...

    def closing(self, answer: Answer, done: Done) -> list[Json]:
        """Events after the last piece."""
        ...

    def whole(self, answer: Answer, done: Done) -> Json:
        """The answer in one object, for clients that do not stream."""
        ...


class NativeFormat:
    """POST /completion and /infill."""

    def opening(self, answer: Answer) -> list[Json]:  # noqa: ARG002
        return []

    def piece(self, answer: Answer, delta: Delta) -> list[Json]:
        return [
            {
                "index": 0,
                "content": delta.text,
                "tokens": list(delta.tokens),
                "stop": False,
                "id_slot": -1,
                "tokens_predicted": len(answer.tokens),
                "tokens_evaluated": len(answer.request.prompt),
            }
        ]

    def closing(self, answer: Answer, done: Done) -> list[Json]:
        return [self._final(answer, done) | {"content": "", "tokens": []}]

    def whole(self, answer: Answer, done: Done) -> Json:
        tokens = answer.tokens if answer.with_tokens else []
        return self._final(answer, done) | {"content": answer.text, "tokens": tokens}

    def _final(self, answer: Answer, done: Done) -> Json:
        timings = done.timings
        return {
            "index": 0,
            "id_slot": -1,
            "stop": True,
            "model": answer.model.name,
            "tokens_predicted": timings.generated_tokens,
            "tokens_evaluated": len(answer.request.prompt),
            # The tokens the slot holds now; the last one sampled is not in the cache yet.
            "tokens_cached": len(answer.request.prompt) + max(timings.generated_tokens - 1, 0),
            "has_new_line": "\n" in answer.text,
            "truncated": bool(answer.cut),
            "stop_type": _STOP_TYPE[done.reason],
            "stopping_word": done.stop_text,
            **_own(answer, done),
        }


class TextFormat:
    """POST /v1/completions."""

    def __init__(self, echo: str = "") -> None:
        """`echo`: a text to send before the answer."""
        self._echo = echo

    def opening(self, answer: Answer) -> list[Json]:
        return [self._frame(answer, self._echo, None)] if self._echo else []

    def piece(self, answer: Answer, delta: Delta) -> list[Json]:
        return [self._frame(answer, delta.text, None)]

    def closing(self, answer: Answer, done: Done) -> list[Json]:
        last = self._frame(answer, "", _finish_reason(done)) | _own(answer, done)
        if answer.with_usage:
            last["usage"] = _usage(done.timings)
        return [last]

    def whole(self, answer: Answer, done: Done) -> Json:
        frame = self._frame(answer, self._echo + answer.text, _finish_reason(done))
        return frame | {"usage": _usage(done.timings)} | _own(answer, done)

    def _frame(self, answer: Answer, text: str, finish_reason: str | None) -> Json:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish_reason}
        return _envelope(answer, "cmpl", "text_completion") | {"choices": [choice]}


class ChatFormat:
    """POST /v1/chat/completions."""

    def opening(self, answer: Answer) -> list[Json]:
        return [self._frame(answer, {"role": "assistant", "content": None}, None)]

    def piece(self, answer: Answer, delta: Delta) -> list[Json]:
        return [self._frame(answer, _chat_delta(part), None) for part in answer.parts(delta)]

    def closing(self, answer: Answer, done: Done) -> list[Json]:
        rest = [self._frame(answer, _chat_delta(part), None) for part in answer.parts(None)]
        last = self._frame(answer, {}, _finish_reason(done, answer)) | _own(answer, done)
        if not answer.with_usage:
            return [*rest, last]
        usage = _envelope(answer, "chatcmpl", "chat.completion.chunk")
        return [*rest, last, usage | {"choices": [], "usage": _usage(done.timings)}]

    def whole(self, answer: Answer, done: Done) -> Json:
        answer.parts(None)
        message: Json = {"role": "assistant", "content": answer.content}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["content"] = answer.content or None
            message["tool_calls"] = [call.written() for call in answer.calls]
        finish = _finish_reason(done, answer)
        choice = {"index": 0, "message": message, "finish_reason": finish}
        envelope = _envelope(answer, "chatcmpl", "chat.completion")
        return envelope | {"choices": [choice], "usage": _usage(done.timings)} | _own(answer, done)

    def _frame(self, answer: Answer, delta: Json, finish_reason: str | None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _envelope(answer, "chatcmpl", "chat.completion.chunk") | {"choices": [choice]}


def error_object(error: UnderkeelError, *, openai: bool = False) -> Json:
    """llama-server's error object, with our own fields under `underkeel`.

    Args:
        openai: for OpenAI's routes, whose clients know a prompt that is too long by its `code`.
    """
    status = error.http_status
    own = msgspec.to_builtins(ErrorNow.of(error))
    found: Json = {
        "code": status,
        "message": str(error),
        "type": _ERROR_TYPE.get(status, "server_error"),
        "underkeel": own,
    }
    if isinstance(error, ContextFullError):
        found |= _too_long(error) if openai else {"type": "exceed_context_size_error"}
        if error.limit_tokens:
            found |= {"n_prompt_tokens": error.prompt_tokens, "n_ctx": error.limit_tokens}
    return {"error": found}


def _too_long(error: ContextFullError) -> Json:
    """OpenAI's `context_length_exceeded`. Clients also search the message for its first words."""
    message = str(error)
    if error.limit_tokens:
        message = (
            f"This model's maximum context length is {error.limit_tokens} tokens now."
            f" However, your prompt has {error.prompt_tokens} tokens ({message})"
        )
    return {"code": "context_length_exceeded", "message": message, "param": None}


def timings_object(timings: Timings) -> Json:
    """llama-server's `timings`, with our queue time beside."""
    found = {
        "cache_n": timings.cached_tokens,
        "prompt_n": timings.evaluated_tokens,
        "prompt_ms": timings.prefill_ms,
        "prompt_per_token_ms": _ratio(timings.prefill_ms, timings.evaluated_tokens),
        "prompt_per_second": _ratio(1000.0 * timings.evaluated_tokens, timings.prefill_ms),
        "predicted_n": timings.generated_tokens,
        "predicted_ms": timings.decode_ms,
        "predicted_per_token_ms": _ratio(timings.decode_ms, timings.generated_tokens),
        "predicted_per_second": _ratio(1000.0 * timings.generated_tokens, timings.decode_ms),
        "queue_ms": timings.queue_ms,
    }
    if timings.drafted_tokens:
        found["draft_n"] = timings.drafted_tokens
        found["draft_n_accepted"] = timings.accepted_tokens
    return found


def _own(answer: Answer, done: Done) -> Json:
    return {
        "timings": timings_object(done.timings),
        "stop_reason": done.reason.value,
        "budget": msgspec.to_builtins(answer.budget),
        "built_under": msgspec.to_builtins(answer.built_under),
        "cut": list(answer.cut),
    }


def _envelope(answer: Answer, prefix: str, kind: str) -> Json:
    return {
        "id": f"{prefix}-{answer.request.id}",
        "object": kind,
        "created": int(time.time()),
        "model": answer.model.name,
    }


def _chat_delta(piece: Piece) -> Json:
    """OpenAI's `delta` for a part of an answer."""
    if piece.kind is Kind.TEXT:
        return {"content": piece.text}
    if piece.kind is Kind.REASONING:
        return {"reasoning_content": piece.text}
    call: Json = {"index": piece.index}
    if piece.kind is Kind.CALL:
        function = {"name": piece.name, "arguments": ""}
        call |= {"id": piece.id, "type": "function", "function": function}
    else:
        call["function"] = {"arguments": piece.text}
    return {"tool_calls": [call]}


def _finish_reason(done: Done, answer: Answer | None = None) -> str:
    if answer is not None and answer.calls and done.reason is StopReason.EOS:
        return "tool_calls"
    return "stop" if done.reason in {StopReason.EOS, StopReason.STOP_TEXT} else "length"


def _usage(timings: Timings) -> Json:
    return {
        "prompt_tokens": timings.prompt_tokens,
        "completion_tokens": timings.generated_tokens,
        "total_tokens": timings.prompt_tokens + timings.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": timings.cached_tokens},
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
