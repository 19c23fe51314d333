"""Reads the daemon's answers: server-sent events, completions, edits, errors. No I/O of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from assistant.engine.types import ModelInfo, StopReason, Timings
from assistant.errors import BY_CODE, DaemonError, EngineError, UnderkeelError
from assistant.wire import BudgetNow, CompletionChunk, ErrorNow, Props, TokenProbability

if TYPE_CHECKING:
    from context.edits.model_edits import Answer, EditPrompt

T = TypeVar("T")

# What a server that is not ours says through its status alone.
_BY_STATUS = {429: "overloaded", 400: "request", 404: "request", 413: "request", 503: "load"}
_BY_STOP_TYPE = {
    "eos": StopReason.EOS,
    "word": StopReason.STOP_TEXT,
    "limit": StopReason.LENGTH,
    "none": StopReason.CANCELLED,
}
_BY_FINISH_REASON = {"stop": StopReason.EOS, "length": StopReason.LENGTH}


class WireTimings(msgspec.Struct, kw_only=True):
    """llama-server's `timings`, with our queue time beside."""

    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0
    draft_n: int = 0
    draft_n_accepted: int = 0
    queue_ms: float = 0.0

    def to_timings(self) -> Timings:
        return Timings(
            prompt_tokens=self.cache_n + self.prompt_n,
            cached_tokens=self.cache_n,
            evaluated_tokens=self.prompt_n,
            generated_tokens=self.predicted_n,
            drafted_tokens=self.draft_n,
            accepted_tokens=self.draft_n_accepted,
            queue_ms=self.queue_ms,
            prefill_ms=self.prompt_ms,
            decode_ms=self.predicted_ms,
        )


class WireError(msgspec.Struct, kw_only=True):
    """llama-server's error object; `underkeel` holds what ours adds."""

    code: int | str = 500
    message: str = ""
    type: str = ""
    underkeel: ErrorNow | None = None

    def rebuild(self) -> UnderkeelError:
        if self.underkeel is not None:
            return self.underkeel.rebuild()
        kind = BY_CODE[_BY_STATUS[self.code]] if self.code in _BY_STATUS else EngineError
        return kind(self.message)


class _Delta(msgspec.Struct, kw_only=True):
    content: str | None = None


class _Choice(msgspec.Struct, kw_only=True):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Event(msgspec.Struct, kw_only=True):
    content: str = ""
    stop: bool = False
    stop_type: str = ""
    stop_reason: StopReason | None = None
    choices: list[_Choice] = []
    timings: WireTimings | None = None
    budget: BudgetNow | None = None
    built_under: BudgetNow | None = None
    cut: tuple[str, ...] = ()
    completion_probabilities: tuple[TokenProbability, ...] = ()
    error: WireError | None = None


class _ErrorBody(msgspec.Struct, kw_only=True):
    error: WireError


class _UnderkeelProps(msgspec.Struct, kw_only=True):
    model: ModelInfo
    budget: BudgetNow | None = None
    explain_budget: BudgetNow | None = None


class _Props(msgspec.Struct, kw_only=True):
    default_generation_settings: dict[str, Any] = {}
    total_slots: int = 1
    model_path: str = ""
    chat_template: str = ""
    underkeel: _UnderkeelProps | None = None


def decode(data: bytes, kind: type[T]) -> T:
    """JSON into `kind`. Raises DaemonError where it is something else."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DaemonError(
            f"the daemon's answer cannot be read ({error})",
            advice="Run: underkeel stop, and start again",
        ) from error


def error_of(status: int, body: bytes) -> UnderkeelError:
    """The error that an answer with `status` and `body` stands for."""
    try:
        return msgspec.json.decode(body, type=_ErrorBody).error.rebuild()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return WireError(code=status, message=f"the daemon answered {status}").rebuild()


class EventSplitter:
    """Cuts a stream of server-sent events into the data of each.

    Lines end with a line feed only, as both our daemon and llama-server write them: the answers
    hold U+2028 and other line ends of Unicode unescaped.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._last = b""

    def feed(self, part: bytes) -> list[bytes]:
        """The data of the events that `part` completes. Each byte is searched once."""
        ends = b"\n\n" in self._last + part
        self._rest.append(part)
        self._last = part[-1:] or self._last
        if not ends:
            return []
        *events, rest = b"".join(self._rest).split(b"\n\n")
        self._rest, self._last = [rest], rest[-1:]
        lines = (line for event in events for line in event.split(b"\n"))
        return [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]


def completion_chunk(data: bytes) -> CompletionChunk:
    """One event of POST /completion. Raises the error that the event carries."""
    event = _checked(data)
    reason = event.stop_reason or _BY_STOP_TYPE.get(event.stop_type)
    return CompletionChunk(
        content=event.content,
        stop=event.stop,
        stop_reason=reason if event.stop else None,
        timings=event.timings.to_timings() if event.timings else None,
        budget=event.budget,
        built_under=event.built_under,
        cut=event.cut,
        completion_probabilities=event.completion_probabilities,
    )


def chat_chunk(data: bytes) -> CompletionChunk:
    """One event of POST /v1/chat/completions. Raises the error that the event carries."""
    event = _checked(data)
    choice = event.choices[0] if event.choices else _Choice()
    stop = choice.finish_reason is not None
    reason = event.stop_reason or _BY_FINISH_REASON.get(choice.finish_reason or "")
    return CompletionChunk(
        content=choice.delta.content or "",
        stop=stop,
        stop_reason=reason if stop else None,
        timings=event.timings.to_timings() if event.timings else None,
        budget=event.budget,
        built_under=event.built_under,
        cut=event.cut,
    )


def chat_event(data: bytes) -> dict[str, Any]:
    """One event of POST /v1/chat/completions as it is. Raises the error that the event carries."""
    event = decode(data, dict[str, Any])
    if event.get("error") is not None:
        _checked(data)
    return event


async def read_edit(
    stream: AsyncGenerator[CompletionChunk, None], prompt: EditPrompt
) -> Answer | None:
    """The model's answer to a prompt for the next edit, until it is settled or ends; None where it
    was cut."""
    from context.edits.model_edits import Answer, AnswerToken

    made = Answer(prompt)
    async with aclosing(stream):
        async for chunk in stream:
            tokens = [
                AnswerToken(bytes(one.bytes), one.logprob) for one in chunk.completion_probabilities
            ]
            if made.add(chunk.content, tokens):
                return made
            if chunk.stop and chunk.stop_reason not in {StopReason.EOS, StopReason.STOP_TEXT}:
                return None
    return made


def _checked(data: bytes) -> _Event:
    event = decode(data, _Event)
    if event.error is not None:
        raise event.error.rebuild()
    return event


def props_of(body: bytes) -> Props:
    """GET /props, of our daemon or of a plain llama-server."""
    raw = decode(body, _Props)
    if raw.underkeel is not None:
        return Props(
            model=raw.underkeel.model,
            n_slots=raw.total_slots,
            budget=raw.underkeel.budget,
            explain_budget=raw.underkeel.explain_budget,
        )
    n_ctx = raw.default_generation_settings.get("n_ctx", 0)
    model = ModelInfo(
        name=raw.model_path.rsplit("/", 1)[-1].removesuffix(".gguf"),
        path=raw.model_path,
        n_ctx=n_ctx if isinstance(n_ctx, int) else 0,
        n_seq_max=raw.total_slots,
        chat_template=raw.chat_template,
    )
    return Props(model=model, n_slots=raw.total_slots)
