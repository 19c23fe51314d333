"""What OpenAI calls completions, as many servers speak it, and vLLM's additions to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from assistant.engine.remote.dialect import Ask, Gauge, Piece, Prompt, decode, read_gauges
from assistant.engine.remote.failures import refusal
from assistant.engine.remote.transport import Transport
from assistant.engine.types import GenerateRequest, ModelInfo, StopReason, Timings
from assistant.errors import RemoteError, UnderkeelError
from assistant.models.vocabulary import Vocabulary
from assistant.models.vocabulary_import import Words

_MOST_STOPS = 4  # OpenAI's own limit; others take more


class Failure(msgspec.Struct):
    """An error object inside a stream."""

    message: str = ""
    type: str = ""
    code: int | str | None = None

    def rebuild(self) -> UnderkeelError:
        status = self.code if isinstance(self.code, int) else 500
        return refusal(status, msgspec.json.encode({"error": self}), "")


class _Entry(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    context_length: int | None = None
    root: str | None = None
    owned_by: str = ""


class _Models(msgspec.Struct):
    data: list[_Entry] = []


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Failure | None = None


class OpenAI:
    """Any server of OpenAI's protocol: texts go out, texts come back."""

    name = "openai"
    heals = False
    warms = False
    tells_folder = False
    """Whether `root` of a model is the folder that it was loaded from."""

    def __init__(self, model: str = "", n_ctx: int = 0) -> None:
        """`model`: the name to ask for; empty takes the server's first."""
        self.model = model
        self._n_ctx = n_ctx

    async def describe(self, http: Transport) -> ModelInfo:
        entry = await self._entry(http)
        self.model = entry.id
        n_ctx = self._n_ctx or entry.max_model_len or entry.context_length or 0
        return ModelInfo(
            name=entry.id,
            path=(entry.root or "") if self.tells_folder else "",
            n_ctx=n_ctx or 4096,  # the least that servers of code models are started with
            n_ctx_train=n_ctx,
            writes_chat=True,
        )

    async def words(self, http: Transport, info: ModelInfo) -> Words | None:  # noqa: ARG002
        return None

    async def tokenise(self, http: Transport, text: str, *, special: bool) -> list[int] | None:  # noqa: ARG002
        return None

    async def detokenise(self, http: Transport, tokens: Sequence[int]) -> str | None:  # noqa: ARG002
        return None

    def ask(self, request: GenerateRequest, prompt: Prompt, words: Vocabulary | None) -> Ask:  # noqa: ARG002
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": max(request.max_tokens, 1),
            "temperature": sampling.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.temperature > 0:
            body |= {"top_p": sampling.top_p, "seed": sampling.seed}
        if request.stop:
            body["stop"] = list(request.stop)[:_MOST_STOPS]
        if prompt.turns:
            turns = [{"role": role, "content": text} for role, text in prompt.turns]
            return Ask("/v1/chat/completions", body | {"messages": turns})
        sent = list(prompt.ids) if prompt.ids is not None else prompt.text
        return Ask("/v1/completions", body | {"prompt": sent})

    def read(self, data: bytes) -> Piece:
        event = decode(data, _Event)
        if event.error is not None:
            raise event.error.rebuild()
        choice = event.choices[0] if event.choices else _Choice()
        text = choice.text if choice.text is not None else (choice.delta or _Delta()).content
        return Piece(
            text or "",
            tuple(choice.token_ids or ()),
            reason=_reason(choice),
            stop_text=choice.stop_reason if isinstance(choice.stop_reason, str) else "",
            timings=_timings(event.usage) if event.usage else None,
        )

    async def gauge(self, http: Transport) -> Gauge:  # noqa: ARG002
        return Gauge()

    async def _entry(self, http: Transport) -> _Entry:
        found = decode(await http.get("/v1/models"), _Models, http.server).data
        for entry in found:
            if self.model in {"", entry.id}:
                return entry
        names = ", ".join(entry.id for entry in found[:20])
        raise RemoteError(
            f"the server has no model {self.model!r}" if found else "the server has no model",
            subject=http.server,
            advice=f"Its models are: {names}" if found else "Load one there",
        )


class VLLM(OpenAI):
    """vLLM: token ids go out, its cache's gauge comes back, and it can count."""

    name = "vllm"
    warms = True
    tells_folder = True

    async def tokenise(self, http: Transport, text: str, *, special: bool) -> list[int] | None:  # noqa: ARG002
        """Its tokeniser takes control tokens in a text for such, whatever `special` says."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        answer = decode(await http.post("/tokenize", body), dict[str, Any], http.server)
        found = answer.get("tokens")
        return [int(token) for token in found] if isinstance(found, list) else None

    async def detokenise(self, http: Transport, tokens: Sequence[int]) -> str | None:
        body = {"model": self.model, "tokens": list(tokens)}
        return decode(await http.post("/detokenize", body), dict[str, str], http.server).get(
            "prompt"
        )

    def ask(self, request: GenerateRequest, prompt: Prompt, words: Vocabulary | None) -> Ask:
        asked = super().ask(request, prompt, words)
        sampling = request.sampling
        body = asked.body | {"stop": list(request.stop)}
        if sampling.temperature > 0:
            body |= {"top_k": sampling.top_k or -1, "min_p": sampling.min_p}
        if sampling.repeat_penalty != 1.0:
            body["repetition_penalty"] = sampling.repeat_penalty
        if stops := stop_ids(request, words):
            body["stop_token_ids"] = sorted(stops)
        if not prompt.turns:
            body |= {"return_token_ids": True, "add_special_tokens": False}
        return Ask(asked.path, body)

    async def gauge(self, http: Transport) -> Gauge:
        text = (await http.get("/metrics")).decode("utf-8", "replace")
        found = read_gauges(text, self.model)
        used = found.get("vllm:kv_cache_usage_perc", found.get("vllm:gpu_cache_usage_perc", 0.0))
        return Gauge(
            free_share=min(max(1.0 - used, 0.0), 1.0),
            running=int(found.get("vllm:num_requests_running", 0)),
            waiting=int(found.get("vllm:num_requests_waiting", 0)),
        )


def stop_ids(request: GenerateRequest, words: Vocabulary | None) -> set[int]:
    """Ids that end an answer: those of the request, and of its stop texts that are tokens."""
    found = set(request.stop_tokens)
    if words is not None:
        found |= {words.special[text] for text in request.stop if text in words.special}
    return found


def _reason(choice: _Choice) -> StopReason | None:
    if choice.finish_reason is None:
        return None
    if choice.finish_reason == "stop":
        return StopReason.STOP_TEXT if isinstance(choice.stop_reason, str) else StopReason.EOS
    return StopReason.CANCELLED if choice.finish_reason == "abort" else StopReason.LENGTH


def _timings(usage: _Usage) -> Timings:
    cached = (usage.prompt_tokens_details or _Details()).cached_tokens or 0
    return Timings(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=cached,
        evaluated_tokens=max(usage.prompt_tokens - cached, 0),
        generated_tokens=usage.completion_tokens or 0,
    )
