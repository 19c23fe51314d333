"""Ollama's API for clients that speak only that. Requests become chats and completions. Pure.

After Ollama's docs/api.md. What is served is what Underkeel has loaded, whatever model a request
names; how it is loaded is Underkeel's plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from assistant.daemon.http import tool_calls
from assistant.daemon.http.request_schemas import (
    ChatBody,
    FunctionCallBody,
    InfillBody,
    MessageBody,
    ToolBody,
    ToolCallBody,
)
from assistant.daemon.http.response_formats import Answer, Call, Json, logprob_object
from assistant.daemon.http.tool_calls.parser import Kind
from assistant.engine.types import Delta, ModelInfo, StopReason
from assistant.errors import RequestError
from assistant.wire import MOST_LOGPROBS, CompletionRequest, GenerateBody

API_VERSION = "0.12.11"
"""The version of Ollama whose API this follows; some clients refuse older ones."""

_Short = Annotated[str, Meta(max_length=4096)]

_OPTIONS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "num_predict": "n_predict",
    "repeat_penalty": "repeat_penalty",
    "repeat_last_n": "repeat_last_n",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""Ollama's options, by the name that they have here."""

# How a model is loaded: decided by the plan. A prompt that does not fit is refused, never cut.
_OF_LOADING = {
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "numa"),
    *("use_mmap", "use_mlock", "low_vram", "f16_kv", "vocab_only", "mirostat_tau", "mirostat_eta"),
}
_NEUTRAL = {"mirostat": 0, "tfs_z": 1, "typical_p": 1, "penalize_newline": False}


class OllamaBody(msgspec.Struct, kw_only=True):
    """What both of Ollama's generating requests share. `keep_alive` is accepted: what gives memory
    back is Underkeel's own settings."""

    model: str = ""
    stream: bool = True
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] = {}
    keep_alive: str | float | None = None
    think: bool | _Short | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)] = 0

    def shared(self) -> dict[str, Any]:
        """The fields of the same request here.

        Raises:
            RequestError: an option or the format is not served; it names it.
        """
        refused = [
            f"options.{name}"[:100]
            for name, value in self.options.items()
            if value is not None
            and name not in _OPTIONS
            and name not in _OF_LOADING
            and not (name in _NEUTRAL and value == _NEUTRAL[name])
        ]
        if refused:
            raise RequestError(
                f"not supported: {', '.join(refused)[:300]}",
                advice="Leave these options out of the request",
            )
        given = {
            _OPTIONS[name]: _whole(value)
            for name, value in self.options.items()
            if name in _OPTIONS and value is not None
        }
        if given.get("n_predict") == -2:
            given["n_predict"] = -1
        try:
            body = msgspec.convert(given, GenerateBody)
        except msgspec.ValidationError as error:
            raise RequestError(f"the options are invalid: {error}") from error
        found = {name: getattr(body, name) for name in GenerateBody.__struct_fields__}
        found["stream"] = self.stream
        if isinstance(self.format, dict):
            found["json_schema"] = self.format
        elif self.format == "json":
            found["json_schema"] = {"type": "object"}
        elif self.format:
            raise RequestError(f"not supported: format {self.format[:80]!r}")
        return found

    def of_chat(self) -> dict[str, Any]:
        """The fields that a chat has besides."""
        found: dict[str, Any] = {"logprobs": self.logprobs, "top_logprobs": self.top_logprobs}
        if self.think is not None:
            found["chat_template_kwargs"] = {"enable_thinking": bool(self.think)}
        if isinstance(self.think, str):
            found["reasoning_effort"] = self.think
        return found


class OllamaCallBody(msgspec.Struct, kw_only=True):
    function: FunctionCallBody
    id: _Short = ""
    type: str = "function"


class OllamaMessageBody(msgspec.Struct, kw_only=True):
    """One turn; the result of a call names the function instead of the call."""

    role: _Short
    content: str = ""
    thinking: str = ""
    tool_calls: list[OllamaCallBody] = []
    tool_name: _Short = ""
    tool_call_id: _Short = ""


class OllamaChatBody(OllamaBody, kw_only=True):
    """POST /api/chat; without messages it loads the model."""

    messages: list[OllamaMessageBody] = []
    tools: Annotated[list[ToolBody], Meta(max_length=1024)] = []

    def chat(self) -> ChatBody | None:
        """The same as a chat; None where nothing is to be answered. Raises RequestError."""
        shared = self.shared()
        if not self.messages:
            return None
        return ChatBody(
            **shared,
            **self.of_chat(),
            model=self.model,
            messages=_with_ids(self.messages),
            tools=self.tools,
        )


class OllamaGenerateBody(OllamaBody, kw_only=True):
    """POST /api/generate; without a prompt it loads the model."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    raw: bool = False

    def request(self) -> ChatBody | CompletionRequest | InfillBody | None:
        """The same as a chat, as a place to fill where there is a suffix, or as it is where `raw`
        is set; None where nothing is to be answered.

        Raises:
            RequestError: a field is not served.
        """
        shared = self.shared()
        if self.template:
            raise RequestError(
                "not supported: template",
                advice="Send the whole prompt with raw, or use the model's own template",
            )
        if not self.prompt and not self.suffix:
            return None
        if self.raw or self.suffix:
            if self.logprobs:
                shared["n_probs"] = max(self.top_logprobs, 1)
            if self.suffix:
                return InfillBody(**shared, input_prefix=self.prompt, input_suffix=self.suffix)
            return CompletionRequest(**shared, prompt=self.prompt)
        messages = [MessageBody(role="system", content=self.system)] if self.system else []
        messages.append(MessageBody(role="user", content=self.prompt))
        return ChatBody(**shared, **self.of_chat(), model=self.model, messages=messages)


class ShowBody(msgspec.Struct, kw_only=True):
    """POST /api/show. There is one model to show, whatever is named."""

    model: str = ""
    name: str = ""
    verbose: bool = False


def _whole(value: Any) -> Any:
    """Numbers as JSON clients write them: an integral float may be an integer."""
    if isinstance(value, list):
        return tuple(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _with_ids(messages: Sequence[OllamaMessageBody]) -> list[MessageBody]:
    """Turns whose calls have ids, which their results name; results come in the calls' order."""
    found: list[MessageBody] = []
    waiting: list[ToolCallBody] = []
    count = 0
    for message in messages:
        calls = []
        for call in message.tool_calls:
            calls.append(ToolCallBody(id=call.id or f"call{count:05}", function=call.function))
            count += 1
        waiting += calls
        answered = message.tool_call_id
        if message.role == "tool" and not answered:
            named = [one for one in waiting if one.function.name == message.tool_name]
            first = next(iter(named or waiting), None)
            answered = first.id if first else ""
        waiting = [one for one in waiting if one.id != answered]
        found.append(
            MessageBody(
                role=message.role,
                content=message.content,
                name=message.tool_name,
                tool_calls=calls,
                tool_call_id=answered if message.role == "tool" else "",
                reasoning_content=message.thinking,
            )
        )
    return found


class OllamaFormat:
    """Writes an answer as a chat's message, or as a completion's text. Calls come whole."""

    def __init__(self, model: str, kind: Literal["chat", "generate"]) -> None:
        """`model`: as the client named it."""
        self._model, self._kind = model, kind
        self._calls_written = 0

    def opening(self, answers: Sequence[Answer]) -> list[Json]:  # noqa: ARG002
        return []

    def piece(self, answer: Answer, delta: Delta) -> list[Json]:
        return self._events(answer, delta)

    def closing(self, answer: Answer) -> list[Json]:
        rest = self._events(answer, None)
        if calls := self._calls(answer, ended=True):
            rest.append(self._frame(answer, calls=calls))
        return [*rest, self._frame(answer) | self._final(answer)]

    def ending(self, answers: Sequence[Answer]) -> list[Json]:  # noqa: ARG002
        return []

    def whole(self, answers: Sequence[Answer]) -> Json:
        answer = answers[0]
        answer.restart_logprobs()
        self._calls_written = 0
        frame = self._frame(
            answer, answer.content, answer.reasoning, self._calls(answer, ended=True)
        )
        return frame | self._final(answer)

    def loaded(self) -> Json:
        """The answer to a request that only loads the model."""
        written = self._written("", "", [])
        return self._head() | written | {"done": True, "done_reason": "load"}

    def _events(self, answer: Answer, delta: Delta | None) -> list[Json]:
        events = []
        for piece in answer.parts(delta):
            if piece.kind is Kind.ARGUMENTS:
                continue
            if calls := self._calls(answer, ended=piece.kind is not Kind.CALL):
                events.append(self._frame(answer, calls=calls))
            if piece.kind is Kind.TEXT:
                events.append(self._frame(answer, piece.text))
            elif piece.kind is Kind.REASONING:
                events.append(self._frame(answer, thinking=piece.text))
        return events

    def _calls(self, answer: Answer, *, ended: bool) -> list[Json]:
        """Calls that are complete and were not written yet; one that was cut off is left out."""
        until = len(answer.calls) - (0 if ended else 1)
        calls, self._calls_written = answer.calls[self._calls_written : until], until
        return [written for call in calls if (written := _call(call)) is not None]

    def _frame(
        self, answer: Answer, content: str = "", thinking: str = "", calls: Sequence[Json] = ()
    ) -> Json:
        found = self._head() | self._written(content, thinking, calls) | {"done": False}
        if answer.with_logprobs:
            found["logprobs"] = [logprob_object(one) for one in answer.next_logprobs()[0]]
        return found

    def _head(self) -> Json:
        return {"model": self._model, "created_at": datetime.now(UTC).isoformat()}

    def _written(self, content: str, thinking: str, calls: Sequence[Json]) -> Json:
        more: Json = {"thinking": thinking} if thinking else {}
        if self._kind == "generate":
            return {"response": content, **more}
        if calls:
            more["tool_calls"] = list(calls)
        return {"message": {"role": "assistant", "content": content, **more}}

    def _final(self, answer: Answer) -> Json:
        timings = answer.timings
        stopped = answer.reason in {StopReason.EOS, StopReason.STOP_TEXT}
        spent_ms = timings.queue_ms + timings.prefill_ms + timings.decode_ms
        return {
            "done": True,
            "done_reason": "stop" if stopped else "length",
            "total_duration": int(spent_ms * 1e6),
            "load_duration": 0,
            "prompt_eval_count": timings.prompt_tokens,
            "prompt_eval_duration": int(timings.prefill_ms * 1e6),
            "eval_count": timings.generated_tokens,
            "eval_duration": int(timings.decode_ms * 1e6),
        }


def _call(call: Call) -> Json | None:
    try:
        arguments = msgspec.json.decode(call.arguments)
    except (ValueError, RecursionError):
        return None
    return {"id": call.id, "function": {"name": call.name, "arguments": arguments}}


def tag(name: str, model: ModelInfo) -> Json:
    """A model's entry in /api/tags."""
    return {
        "name": name,
        "model": name,
        "modified_at": datetime.fromtimestamp(0, UTC).isoformat(),
        "size": model.size_bytes,
        "digest": "",
        "details": _details(model),
    }


def running(name: str, model: ModelInfo) -> Json:
    """A model's entry in /api/ps."""
    gpus = sum(
        one.weights_bytes + one.kv_bytes + one.compute_bytes
        for one in model.memory
        if one.device != "CPU"
    )
    held = sum(one.weights_bytes + one.kv_bytes + one.compute_bytes for one in model.memory)
    found = tag(name, model) | {"size": held or model.size_bytes, "size_vram": gpus}
    return found | {"context_length": model.n_ctx, "expires_at": _NEVER}


_NEVER = "2318-01-01T00:00:00Z"
"""What Ollama writes where `keep_alive` is negative."""


def shown(model: ModelInfo, *, fills: bool) -> Json:
    """What /api/show says of a model. `fills`: it can complete between a prefix and a suffix."""
    architecture = model.architecture or "unknown"
    capabilities = ["completion"]
    if template := model.chat_template or model.tool_template:
        family = tool_calls.family_of(template)
        capabilities.append("tools")
        if family.answer(template, "").separate:
            capabilities.append("thinking")
    if fills:
        capabilities.append("insert")
    return {
        "modelfile": "",
        "parameters": "",
        "template": template,
        "details": _details(model),
        "model_info": {
            "general.architecture": architecture,
            "general.parameter_count": model.n_params,
            f"{architecture}.context_length": model.n_ctx,
        },
        "capabilities": capabilities,
    }


def _details(model: ModelInfo) -> Json:
    billions = model.n_params / 1e9
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.architecture,
        "families": [model.architecture] if model.architecture else [],
        "parameter_size": f"{billions:.1f}B" if billions >= 1 else f"{model.n_params / 1e6:.0f}M",
        "quantization_level": "",
    }
