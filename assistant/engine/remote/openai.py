"""What OpenAI calls completions, as many servers speak it, and vLLM's additions to it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any

import msgspec

from assistant.engine.remote.dialect import (
    Ask,
    Gauge,
    Piece,
    Prompt,
    count_of,
    decode,
    decode_object,
    fields,
    ids_of,
    objects,
    read_gauges,
    text_of,
    unsupported,
)
from assistant.engine.remote.failures import (
    MissingRouteError,
    UnreadableError,
    failure_in_stream,
)
from assistant.engine.remote.transport import Transport
from assistant.engine.types import Constraint, GenerateRequest, ModelInfo, StopReason, Timings
from assistant.errors import RemoteError, RequestError
from assistant.models.vocabulary import Vocabulary
from assistant.models.vocabulary_import import Words


class _Entry(msgspec.Struct, frozen=True):
    """A model that a server lists."""

    id: str
    n_ctx: int = 0
    root: str = ""
    owned_by: str = ""


def listed_models(data: bytes, server: str) -> list[_Entry]:
    """The models of `GET /v1/models`, as tolerantly as OpenAI's own clients read them: a list, or
    an object by name, of objects or of names."""
    try:
        listed = decode_object(data, server)
        found: object = listed.get("data") or listed.get("models")
    except RemoteError:
        found = decode(data, list[Any], server)
    if isinstance(found, dict):
        named = [{"id": name} | fields(entry) for name, entry in found.items()]
        found = [found] if isinstance(found.get("id"), str) else named
    entries = found if isinstance(found, list) else []
    return [
        _Entry(
            id=name,
            n_ctx=_context_of(entry),
            root=text_of(entry.get("root")),
            owned_by=text_of(entry.get("owned_by")),
        )
        for entry in ({"id": one} if isinstance(one, str) else fields(one) for one in entries)
        if (name := next(filter(None, map(text_of, map(entry.get, _NAMES))), ""))
    ]


_NAMES = ("id", "name", "model")
_CONTEXTS = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx")
"""What servers call a model, and the length of its context."""


def _context_of(entry: Mapping[str, Any]) -> int:
    told = [entry.get(name) for name in _CONTEXTS] + [fields(entry.get("meta")).get("n_ctx")]
    return next(filter(None, map(count_of, told)), 0)


NO_LIST = (MissingRouteError, UnreadableError, RequestError)
"""How a server that lists no models answers: it has no such route, or sends some page."""


def named_entry(entries: Sequence[_Entry], name: str) -> _Entry | None:
    """The entry that a name means, the first one for no name: its own, or the only one that differs
    by case, or by Ollama's tag `latest`; None where there is none."""
    exact = next((entry for entry in entries if name in {"", entry.id}), None)
    if exact is not None:
        return exact
    wanted = name.casefold().removesuffix(":latest")
    near = [one for one in entries if one.id.casefold().removesuffix(":latest") == wanted]
    if len(near) == 1:
        return near[0]
    patterns = (one.id for one in entries if one.id.endswith("*"))
    return _Entry(name) if any(name.startswith(one[:-1]) for one in patterns) else None


class OpenAI:
    """Any server of OpenAI's protocol: texts go out, texts come back."""

    name = "openai"
    heals = False
    warms = False
    most_stops = 4  # OpenAI's own limit; others take more
    tells_tokens = False
    tells_folder = False
    """Whether `root` of a model is the folder that it was loaded from."""

    def __init__(self, model: str = "", n_ctx: int = 0) -> None:
        """`model`: the name to ask for; empty takes the server's first."""
        self.model = model
        self._n_ctx = n_ctx

    async def describe(self, http: Transport) -> ModelInfo:
        entry = await self._entry(http)
        self.model = entry.id
        n_ctx = self._n_ctx or entry.n_ctx
        return ModelInfo(
            name=entry.id,
            path=entry.root if self.tells_folder else "",
            n_ctx=n_ctx or 4096,  # the least that servers of code models are started with
            n_ctx_train=n_ctx,
            writes_chat=True,
            tells_tokens=self.tells_tokens,
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
        for name in ("frequency_penalty", "presence_penalty"):
            if value := getattr(sampling, name):
                body[name] = value
        if sampling.logit_bias:
            biases = dict(sampling.logit_bias).items()
            body["logit_bias"] = {str(token): bias for token, bias in biases}
        if request.stop:
            body["stop"] = list(request.stop)[: self.most_stops]
        body |= self._constraint(request)
        if prompt.turns:
            turns = [{"role": role, "content": text} for role, text in prompt.turns]
            return Ask("/v1/chat/completions", body | {"messages": turns})
        sent = list(prompt.ids) if prompt.ids is not None else prompt.text
        return Ask("/v1/completions", body | {"prompt": sent})

    def _constraint(self, request: GenerateRequest) -> dict[str, Any]:
        """Fields that keep the answer to the request's schema.

        Raises:
            RequestError: the server may ignore them.
        """
        if request.constraint is None:
            return {}
        raise unsupported(self.name, _constraint_fields(request.constraint))

    def read(self, data: bytes) -> Piece:
        """One event of a completion or a chat, or the whole answer of a server that does not
        stream. llama-server's own events are understood too (case S6)."""
        if data.strip() in {b"", b"null"}:
            return Piece()  # sent to keep the connection
        event = decode_object(data)
        if event.get("error"):
            raise failure_in_stream(event["error"])
        if "choices" not in event and "content" in event:
            return read_native(event)
        if "choices" not in event and _is_error(event):
            raise failure_in_stream(event)
        choices = event.get("choices")
        choice = next(iter(objects([choices] if isinstance(choices, dict) else choices)), {})
        message = choice.get("delta") or choice.get("message")
        said = fields(message).get("content") if isinstance(message, dict) else message
        stop = choice.get("stop_reason")
        ids = choice.get("token_ids")
        return Piece(
            text_of(choice.get("text")) or text_of(said) or text_of(choice.get("content")),
            tuple(ids_of(ids)),
            reason=_reason(choice),
            stop_text=text_of(stop),
            timings=_timings(event["usage"]) if fields(event.get("usage")) else None,
        )

    async def gauge(self, http: Transport) -> Gauge:  # noqa: ARG002
        return Gauge()

    async def _entry(self, http: Transport) -> _Entry:
        try:
            found = listed_models(await http.get("/v1/models"), http.server)
        except NO_LIST:
            if self.model:
                return _Entry(self.model)
            raise RemoteError(
                "the server does not list its models",
                subject=http.server,
                advice="Name one: model = ... under [remote]",
            ) from None
        entry = named_entry(found, self.model)
        if entry is not None:
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
    most_stops = sys.maxsize
    tells_tokens = True
    tells_folder = True

    async def tokenise(self, http: Transport, text: str, *, special: bool) -> list[int] | None:  # noqa: ARG002
        """Its tokeniser takes control tokens in a text for such, whatever `special` says."""
        body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        found = decode_object(await http.post("/tokenize", body), http.server).get("tokens")
        return ids_of(found) if isinstance(found, list) else None

    async def detokenise(self, http: Transport, tokens: Sequence[int]) -> str | None:
        body = {"model": self.model, "tokens": list(tokens)}
        answer = decode_object(await http.post("/detokenize", body), http.server)
        return text_of(answer.get("prompt"))

    def ask(self, request: GenerateRequest, prompt: Prompt, words: Vocabulary | None) -> Ask:
        asked = super().ask(request, prompt, words)
        sampling = request.sampling
        body = dict(asked.body)
        if sampling.temperature > 0:
            body |= {"top_k": sampling.top_k or -1, "min_p": sampling.min_p}
        if sampling.repeat_penalty != 1.0:
            body["repetition_penalty"] = sampling.repeat_penalty
        if stops := stop_ids(request, words):
            body["stop_token_ids"] = sorted(stops)
        if not request.cache:
            body["cache_salt"] = token_hex(16)  # no other request has computed with it
        if not prompt.turns:
            body |= {"return_token_ids": True, "add_special_tokens": False}
        return Ask(asked.path, body)

    def _constraint(self, request: GenerateRequest) -> dict[str, Any]:
        constraint = request.constraint
        if constraint is None or not constraint.json_schema:
            return super()._constraint(request)
        schema = {"name": "answer", "schema": decode(constraint.json_schema.encode(), Any)}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    async def gauge(self, http: Transport) -> Gauge:
        text = (await http.get("/metrics")).decode("utf-8", "replace")
        found = read_gauges(text, self.model)
        used = found.get("vllm:kv_cache_usage_perc", found.get("vllm:gpu_cache_usage_perc", 0.0))
        return Gauge(
            free_share=min(max(1.0 - used, 0.0), 1.0),
            running=int(found.get("vllm:num_requests_running", 0)),
            waiting=int(found.get("vllm:num_requests_waiting", 0)),
        )


def _constraint_fields(constraint: Constraint) -> str:
    """The fields of a request that may have set it."""
    if constraint.gbnf:
        return "grammar"
    return "response_format, json_schema" if constraint.json_schema else "tool_choice"


def stop_ids(request: GenerateRequest, words: Vocabulary | None) -> set[int]:
    """Ids that end an answer: those of the request, and of its stop texts that are tokens."""
    found = set(request.stop_tokens)
    if words is not None:
        found |= {words.special[text] for text in request.stop if text in words.special}
    return found


def _is_error(event: Mapping[str, Any]) -> bool:
    """Whether an event without choices is an error of vLLM's or FastAPI's form."""
    return "error" in (event.get("object"), event.get("type")) or bool(event.get("detail"))


_NO_REASON = {"", "null", "none"}
_ENDED = {
    *("stop", "eos", "eos_token", "end", "end_turn", "stop_sequence", "stop_token", "endoftext"),
    *("complete", "completed", "done", "tool_calls", "function_call"),
}
"""What servers write where OpenAI has `null`, and `stop`."""


def _reason(choice: Mapping[str, Any]) -> StopReason | None:
    given = choice.get("finish_reason")
    said = given.casefold() if isinstance(given, str) else ""
    if said in _NO_REASON:
        return None
    if said in _ENDED:
        by_text = isinstance(choice.get("stop_reason"), str)
        return StopReason.STOP_TEXT if by_text else StopReason.EOS
    return StopReason.CANCELLED if said == "abort" else StopReason.LENGTH


def _timings(usage: Mapping[str, Any]) -> Timings:
    prompt = count_of(usage.get("prompt_tokens"))
    cached = count_of(fields(usage.get("prompt_tokens_details")).get("cached_tokens"))
    return Timings(
        prompt_tokens=prompt,
        cached_tokens=cached,
        evaluated_tokens=max(prompt - cached, 0),
        generated_tokens=count_of(usage.get("completion_tokens")),
    )


_STOPS = {
    "eos": StopReason.EOS,
    "word": StopReason.STOP_TEXT,
    "limit": StopReason.LENGTH,
}


def read_native(event: Mapping[str, Any]) -> Piece:
    """One event of llama-server's own `/completion`."""
    ids = event.get("tokens")
    text = text_of(event.get("content"))
    tokens = tuple(ids_of(ids))
    if not event.get("stop"):
        return Piece(text, tokens)
    timings = fields(event.get("timings"))
    cached, evaluated = count_of(timings.get("cache_n")), count_of(timings.get("prompt_n"))
    return Piece(
        text,
        tokens,
        reason=_STOPS.get(text_of(event.get("stop_type")), StopReason.LENGTH),
        stop_text=text_of(event.get("stopping_word")),
        timings=Timings(
            prompt_tokens=cached + evaluated,
            cached_tokens=cached,
            evaluated_tokens=evaluated,
            generated_tokens=count_of(timings.get("predicted_n")),
            drafted_tokens=count_of(timings.get("draft_n")),
            accepted_tokens=count_of(timings.get("draft_n_accepted")),
            prefill_ms=_ms(timings.get("prompt_ms")),
            decode_ms=_ms(timings.get("predicted_ms")),
        ),
    )


def _ms(value: object) -> float:
    return float(value) if isinstance(value, int | float) and value >= 0 else 0.0
