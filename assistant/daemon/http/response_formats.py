"""How an answer is written: llama-server's own format and OpenAI's two. Pure.

Field for field after llama.cpp's tools/server/server-task.cpp (`to_json_non_oaicompat`,
`to_json_oaicompat`, `to_json_oaicompat_chat`) and server-common.cpp (`server_slot_stats`,
`format_error_response`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from assistant.daemon.http.tool_calls.parser import AnswerParser, Kind, Piece
from assistant.engine.types import (
    Delta,
    Done,
    GenerateRequest,
    ModelInfo,
    StopReason,
    Timings,
    TokenLogprob,
)
from assistant.errors import ContextFullError, UnderkeelError
from assistant.wire import BudgetNow, ErrorNow, sendable

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
    the daemon left out of it; `budget` is what the next prompt may hold, known at the end, as
    `done` is. `text` is all of the answer as the model wrote it; where a parser separates its
    parts, `content`, `reasoning` and `calls` are them. `index` counts the answers to one request,
    which have one `id`.
    """

    request: GenerateRequest
    model: ModelInfo
    id: str
    index: int = 0
    built_under: BudgetNow | None = None
    cut: tuple[str, ...] = ()
    budget: BudgetNow | None = None
    done: Done | None = None
    with_tokens: bool = False
    with_usage: bool = False
    parser: AnswerParser | None = None
    tokens: list[int] = []
    logprobs: list[TokenLogprob] = []
    calls: list[Call] = []
    _texts: list[str] = []
    _contents: list[str] = []
    _thoughts: list[str] = []
    _logprobs_sent: int = 0
    _characters_sent: int = 0

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def content(self) -> str:
        return "".join(self._contents)

    @property
    def reasoning(self) -> str:
        return "".join(self._thoughts)

    @property
    def with_logprobs(self) -> bool:
        return self.request.logprobs is not None

    @property
    def reason(self) -> StopReason:
        """Why it has ended."""
        return self.done.reason if self.done else StopReason.CANCELLED

    @property
    def timings(self) -> Timings:
        return self.done.timings if self.done else Timings()

    def parts(self, delta: Delta | None) -> list[Piece]:
        """What `delta` adds to the answer's parts; None is its end."""
        if self.parser is None:
            found = [Piece(Kind.TEXT, delta.text)] if delta is not None and delta.text else []
        else:
            found = self.parser.feed(delta.text) if delta is not None else self.parser.finish()
        for piece in found:
            if piece.kind is Kind.TEXT:
                self._contents.append(piece.text)
            elif piece.kind is Kind.REASONING:
                self._thoughts.append(piece.text)
            elif piece.kind is Kind.CALL:
                self.calls.append(Call(id=piece.id, name=piece.name))
            else:
                self.calls[piece.index].arguments += piece.text
        return found

    def add(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        self.tokens.extend(delta.tokens)
        self.logprobs.extend(delta.logprobs)

    def restart_logprobs(self) -> None:
        """They are written from the start, in the whole answer."""
        self._logprobs_sent = self._characters_sent = 0

    def next_logprobs(self) -> tuple[list[TokenLogprob], int]:
        """Those that were not written yet, and how many characters of text come before them."""
        found, before = self.logprobs[self._logprobs_sent :], self._characters_sent
        self._logprobs_sent = len(self.logprobs)
        self._characters_sent += sum(_characters(one.text) for one in found)
        return found, before


class ResponseFormat(Protocol):
    """One way to write the answers to a request. There are several where `n` was requested: they
    come one after another."""

    def opening(self, answers: Sequence[Answer]) -> list[Json]:
        """Events before the first piece."""
        ...

    def piece(self, answer: Answer, delta: Delta) -> list[Json]:
        """The events of a piece; there may be none."""
        ...

    def closing(self, answer: Answer) -> list[Json]:
        """Events after an answer's last piece."""
        ...

    def ending(self, answers: Sequence[Answer]) -> list[Json]:
        """Events after the last answer."""
        ...

    def whole(self, answers: Sequence[Answer]) -> Json:
        """All answers in one object, for clients that do not stream."""
        ...


class NativeFormat:
    """POST /completion and /infill, which have one answer."""

    def opening(self, answers: Sequence[Answer]) -> list[Json]:  # noqa: ARG002
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
                **self._probabilities(answer),
            }
        ]

    def closing(self, answer: Answer) -> list[Json]:
        return [self._final(answer) | {"content": "", "tokens": []}]

    def ending(self, answers: Sequence[Answer]) -> list[Json]:  # noqa: ARG002
        return []

    def whole(self, answers: Sequence[Answer]) -> Json:
        answer = answers[0]
        answer.restart_logprobs()
        tokens = answer.tokens if answer.with_tokens else []
        return self._final(answer) | {"content": answer.text, "tokens": tokens}

    def _final(self, answer: Answer) -> Json:
        timings = answer.timings
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
            "stop_type": _STOP_TYPE[answer.reason],
            "stopping_word": answer.done.stop_text if answer.done else "",
            **self._probabilities(answer),
            **_own([answer]),
        }

    def _probabilities(self, answer: Answer) -> Json:
        if not answer.with_logprobs:
            return {}
        found, _ = answer.next_logprobs()
        return {
            "completion_probabilities": [
                {"id": one.token, **logprob_object(one, ids=True)} for one in found
            ]
        }


class TextFormat:
    """POST /v1/completions."""

    def __init__(self, echo: str = "") -> None:
        """`echo`: a text to send before the answer."""
        self._echo = echo

    def opening(self, answers: Sequence[Answer]) -> list[Json]:
        return [self._frame(answer, self._echo, None) for answer in answers if self._echo]

    def piece(self, answer: Answer, delta: Delta) -> list[Json]:
        return [self._frame(answer, delta.text, None)]

    def closing(self, answer: Answer) -> list[Json]:
        return [self._frame(answer, "", _finish_reason(answer)) | _own([answer])]

    def ending(self, answers: Sequence[Answer]) -> list[Json]:
        return _usage_event(answers, "cmpl", "text_completion")

    def whole(self, answers: Sequence[Answer]) -> Json:
        choices = []
        for answer in answers:
            answer.restart_logprobs()
            text = self._echo + answer.text
            choices.append(self._choice(answer, text, _finish_reason(answer)))
        envelope = _envelope(answers[0], "cmpl", "text_completion") | {"choices": choices}
        return envelope | {"usage": usage(answers)} | _own(answers)

    def _frame(self, answer: Answer, text: str, finish_reason: str | None) -> Json:
        choice = self._choice(answer, text, finish_reason)
        return _envelope(answer, "cmpl", "text_completion") | {"choices": [choice]}

    def _choice(self, answer: Answer, text: str, finish_reason: str | None) -> Json:
        return {
            "text": text,
            "index": answer.index,
            "logprobs": self._logprobs(answer),
            "finish_reason": finish_reason,
        }

    def _logprobs(self, answer: Answer) -> Json | None:
        """OpenAI's older shape: lists, one item for each token."""
        if not answer.with_logprobs:
            return None
        found, offset = answer.next_logprobs()
        offsets = []
        for one in found:
            offsets.append(offset)
            offset += _characters(one.text)
        top = [{_shown(other.text): other.logprob for other in one.top} for one in found]
        return {
            "tokens": [_shown(one.text) for one in found],
            "token_logprobs": [one.logprob for one in found],
            "top_logprobs": top if answer.request.logprobs else None,
            "text_offset": offsets,
        }


class ChatFormat:
    """POST /v1/chat/completions."""

    def opening(self, answers: Sequence[Answer]) -> list[Json]:
        role = {"role": "assistant", "content": None}
        return [self._frame(answer, role, None) for answer in answers]

    def piece(self, answer: Answer, delta: Delta) -> list[Json]:
        return [self._frame(answer, _chat_delta(part), None) for part in answer.parts(delta)]

    def closing(self, answer: Answer) -> list[Json]:
        rest = [self._frame(answer, _chat_delta(part), None) for part in answer.parts(None)]
        return [*rest, self._frame(answer, {}, _finish_reason(answer)) | _own([answer])]

    def ending(self, answers: Sequence[Answer]) -> list[Json]:
        return _usage_event(answers, "chatcmpl", "chat.completion.chunk")

    def whole(self, answers: Sequence[Answer]) -> Json:
        envelope = _envelope(answers[0], "chatcmpl", "chat.completion")
        choices = [self._message(answer) for answer in answers]
        return envelope | {"choices": choices, "usage": usage(answers)} | _own(answers)

    def _message(self, answer: Answer) -> Json:
        answer.parts(None)
        answer.restart_logprobs()
        message: Json = {"role": "assistant", "content": answer.content}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["content"] = answer.content or None
            message["tool_calls"] = [call.written() for call in answer.calls]
        finish = _finish_reason(answer)
        choice = {"index": answer.index, "message": message, "finish_reason": finish}
        return choice | self._logprobs(answer)

    def _frame(self, answer: Answer, delta: Json, finish_reason: str | None) -> Json:
        choice = {"index": answer.index, "delta": delta, "finish_reason": finish_reason}
        envelope = _envelope(answer, "chatcmpl", "chat.completion.chunk")
        return envelope | {"choices": [choice | self._logprobs(answer)]}

    def _logprobs(self, answer: Answer) -> Json:
        if not answer.with_logprobs:
            return {}
        found, _ = answer.next_logprobs()
        return {"logprobs": {"content": [logprob_object(one) for one in found], "refusal": None}}


def openai_error(error: UnderkeelError) -> Json:
    """For OpenAI's routes, whose clients know a prompt that is too long by its `code`."""
    found = error_object(error)
    if isinstance(error, ContextFullError):
        found["error"] |= _too_long(error) | {"type": _ERROR_TYPE[400]}
    return found


def error_object(error: UnderkeelError) -> Json:
    """llama-server's error object, with our own fields under `underkeel`."""
    status = error.http_status
    own = msgspec.to_builtins(ErrorNow.of(error))
    found: Json = {
        "code": status,
        "message": sendable(str(error)),
        "type": _ERROR_TYPE.get(status, "server_error"),
        "underkeel": own,
    }
    if isinstance(error, ContextFullError):
        found |= {"type": "exceed_context_size_error"}
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


def _own(answers: Sequence[Answer]) -> Json:
    last = answers[-1]
    return {
        "timings": timings_object(total(answers)),
        "stop_reason": last.reason.value,
        "budget": msgspec.to_builtins(last.budget),
        "built_under": msgspec.to_builtins(last.built_under),
        "cut": list(last.cut),
    }


def _envelope(answer: Answer, prefix: str, kind: str) -> Json:
    return {
        "id": f"{prefix}-{answer.id}",
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


def _finish_reason(answer: Answer) -> str:
    if answer.calls and answer.reason is StopReason.EOS:
        return "tool_calls"
    return "stop" if answer.reason in {StopReason.EOS, StopReason.STOP_TEXT} else "length"


def logprob_object(one: TokenLogprob, *, ids: bool = False) -> Json:
    """OpenAI's object of a token, with llama-server's `id` of those in `top_logprobs`."""
    return _token(one) | {
        "top_logprobs": [_token(other) | ({"id": other.token} if ids else {}) for other in one.top]
    }


def _token(one: TokenLogprob) -> Json:
    return {
        "token": one.text.decode("utf-8", "replace"),
        "bytes": list(one.text),
        "logprob": one.logprob,
    }


def _shown(text: bytes) -> str:
    """A token as a text; one that is no UTF-8 as OpenAI writes it, for keys that stay different."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in text)


def _characters(text: bytes) -> int:
    """How many characters of UTF-8 begin in `text`."""
    return sum(byte & 0xC0 != 0x80 for byte in text)


def total(answers: Sequence[Answer]) -> Timings:
    """What all answers have cost; the prompt, which they share, is counted once."""
    first, *others = [answer.timings for answer in answers]
    if not others:
        return first
    summed = {
        field: sum(getattr(one, field) for one in (first, *others))
        for field in Timings.__struct_fields__
        if field not in {"prompt_tokens", "cached_tokens"}
    }
    return msgspec.structs.replace(first, **summed)


def usage(answers: Sequence[Answer]) -> Json:
    """OpenAI's counts of tokens."""
    timings = total(answers)
    return {
        "prompt_tokens": timings.prompt_tokens,
        "completion_tokens": timings.generated_tokens,
        "total_tokens": timings.prompt_tokens + timings.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": timings.cached_tokens},
    }


def _usage_event(answers: Sequence[Answer], prefix: str, kind: str) -> list[Json]:
    if not answers[0].with_usage:
        return []
    return [_envelope(answers[0], prefix, kind) | {"choices": [], "usage": usage(answers)}]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
