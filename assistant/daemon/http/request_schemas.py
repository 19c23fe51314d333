"""What a request may say: llama-server's and OpenAI's bodies, typed, and what we make of them.

Pure. A field that would change the answer and is not supported is refused, never dropped: unknown
ones by `request_fields`, the others here.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from assistant.engine.types import GenerateRequest, ModelInfo, Priority, Sampling
from assistant.errors import ContextFullError, ModelChangedError, RequestError
from assistant.memory.degrade.budget import BudgetNow
from assistant.wire import ChatMessage

_Share = Annotated[float, Meta(ge=0.0, le=1.0)]
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# Older clients write floats where integers belong, and -1 for "no limit" or "at random".
_Limit = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
# OpenAI allows 4 stop strings, llama-server any number.
_Stop = Annotated[list[Annotated[str, Meta(max_length=4096)]], Meta(max_length=256)]
_Short = Annotated[str, Meta(max_length=4096)]

# No context is longer; a list of small numbers takes many times its bytes in memory.
_MOST_TOKENS = 2**20
_RANDOM_SEEDS = {-1, 2**32 - 1}

PromptPart = _TokenId | str
PromptBody = str | Annotated[list[PromptPart], Meta(max_length=_MOST_TOKENS)]


class SamplingBody(msgspec.Struct, kw_only=True):
    """How tokens are chosen. Defaults are llama-server's (common/common.h)."""

    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.8
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = 40
    top_p: _Share = 0.95
    min_p: _Share = 0.05
    repeat_penalty: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    repeat_last_n: Annotated[int, Meta(ge=-1, le=2**20)] = 64
    seed: Annotated[int, Meta(ge=-1, le=2**32 - 1)] = -1

    def sampling(self) -> Sampling:
        return Sampling(
            temperature=self.temperature,
            top_k=max(self.top_k, 0),
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            repeat_last_n=self.repeat_last_n,
            seed=secrets.randbits(32) if self.seed in _RANDOM_SEEDS else self.seed,
        )


class OwnBody(SamplingBody, kw_only=True):
    """Our own fields; they ride along in every kind of request."""

    document: _Short = ""
    priority: Priority = Priority.INTERACTIVE
    must_start_with: _Short = ""
    unlike: _Short = ""
    budget_tokens: _Count = 0
    of_model: _Short = ""


class GenerateBody(OwnBody, kw_only=True):
    """What all generating requests share."""

    stream: bool = False
    stop: str | _Stop | None = None
    cache_prompt: bool = True
    t_max_predict_ms: _Limit = 0
    return_tokens: bool = False
    grammar: Any = None
    json_schema: Any = None
    logit_bias: Any = None
    n_probs: int = 0

    def stops(self) -> tuple[str, ...]:
        listed = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in listed if text)

    def unsupported(self) -> list[str]:
        """Names of the fields that are set and not served."""
        return [
            name
            for name in ("grammar", "json_schema", "logit_bias", "n_probs")
            if getattr(self, name)
        ]

    def most_tokens(self) -> int:
        """The most tokens to generate; -1 for as many as fit."""
        raise NotImplementedError


class CompletionBody(GenerateBody, kw_only=True):
    """POST /completion."""

    prompt: PromptBody
    n_predict: _Limit = -1

    def most_tokens(self) -> int:
        return self.n_predict


class ExtraBody(msgspec.Struct, kw_only=True):
    """A chunk of another file, for POST /infill."""

    text: str
    filename: str = ""


class InfillBody(GenerateBody, kw_only=True):
    """POST /infill."""

    input_prefix: str
    input_suffix: str
    input_extra: list[ExtraBody] = []
    prompt: str = ""
    n_predict: _Limit = -1

    def most_tokens(self) -> int:
        return self.n_predict


class OpenAIBody(GenerateBody, kw_only=True):
    """What OpenAI's two kinds of completion share."""

    model: str = ""
    max_tokens: _Limit | None = None
    n: int = 1
    stream_options: dict[str, Any] | None = None
    tools: Any = None
    response_format: Any = None

    def most_tokens(self) -> int:
        return -1 if self.max_tokens is None else self.max_tokens

    def unsupported(self) -> list[str]:
        plain = not self.response_format or self.response_format == {"type": "text"}
        return [
            *super().unsupported(),
            *(["n"] if self.n != 1 else []),
            *(["tools"] if self.tools else []),
            *([] if plain else ["response_format"]),
        ]

    def wants_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))


class TextCompletionBody(OpenAIBody, kw_only=True):
    """POST /v1/completions. OpenAI's default of 16 tokens is kept out, as llama-server does."""

    prompt: PromptBody
    suffix: str | None = None
    echo: bool = False

    def unsupported(self) -> list[str]:
        return [
            *super().unsupported(),
            *(["suffix"] if self.suffix else []),
            *(["echo"] if self.echo else []),
        ]


class ContentPart(msgspec.Struct, kw_only=True):
    type: str = "text"
    text: str = ""


class MessageBody(msgspec.Struct, kw_only=True):
    """One turn; the content may come in parts, of which only text is served."""

    role: _Short
    content: str | list[ContentPart] | None = ""

    def message(self) -> ChatMessage:
        if isinstance(self.content, list):
            if any(part.type != "text" for part in self.content):
                raise RequestError("only text can be a part of a message")
            return ChatMessage(role=self.role, content="".join(p.text for p in self.content))
        return ChatMessage(role=self.role, content=self.content or "")


class ChatBody(OpenAIBody, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageBody], Meta(min_length=1)]
    max_completion_tokens: _Limit | None = None
    chat_template_kwargs: dict[str, Any] = {}

    def most_tokens(self) -> int:
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return super().most_tokens()


class TokenizeBody(msgspec.Struct, kw_only=True):
    """POST /tokenize."""

    content: PromptBody = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(msgspec.Struct, kw_only=True):
    """POST /detokenize."""

    tokens: Annotated[list[_TokenId], Meta(max_length=_MOST_TOKENS)] = []


def prompt_parts(prompt: PromptBody) -> list[str | list[int]]:
    """Runs of text and of token ids, in order.

    Raises:
        RequestError: it holds several prompts, or nothing.
    """
    if isinstance(prompt, str):
        return [prompt]
    parts: list[str | list[int]] = []
    for item in prompt:
        if isinstance(item, str):
            parts.append(item)
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(item)
        else:
            parts.append([item])
    if len(parts) > 1 and all(isinstance(part, str) for part in parts):
        raise RequestError(
            "several prompts in one request are not served", advice="Send them one by one"
        )
    if not parts:
        raise RequestError("the prompt is empty", advice="Send a text or token ids")
    return parts


def generate_request(
    body: GenerateBody,
    ids: Sequence[int],
    model: ModelInfo,
    budget: BudgetNow | None,
    *,
    request_limit_ms: int,
    stop_tokens: Sequence[int] = (),
    turns: tuple[tuple[str, str], ...] = (),
) -> GenerateRequest:
    """The engine's request for `body` whose prompt is `ids`.

    Raises:
        ModelChangedError: the prompt is of another model's tokens.
        RequestError: a token is not of the vocabulary, or something asked for is not served.
        ContextFullError: the prompt is over the budget of now, or leaves no room for an answer.
    """
    _check_served(body)
    if body.of_model and body.of_model != model.name:
        raise ModelChangedError(
            f"the prompt is of {body.of_model}, {model.name} is served now",
            advice="Encode it again for that",
        )
    if not ids:
        raise RequestError("the prompt is empty", advice="Send a text or token ids")
    check_vocabulary(ids, model)
    wanted = body.most_tokens()
    _check_room(len(ids), wanted, model, budget)
    room = max(model.n_ctx - len(ids), 0) if model.n_ctx else wanted
    limits = [limit for limit in (body.t_max_predict_ms, request_limit_ms) if limit > 0]
    return GenerateRequest(
        id=secrets.token_hex(8),
        prompt=tuple(ids),
        max_tokens=room if wanted < 0 else min(wanted, room),
        sampling=body.sampling(),
        stop=body.stops(),
        stop_tokens=tuple(stop_tokens),
        priority=body.priority,
        document=body.document,
        must_start_with=body.must_start_with,
        unlike=body.unlike,
        time_limit_ms=min(limits, default=0),
        cache=body.cache_prompt,
        model=model.name,
        turns=turns,
    )


def check_vocabulary(ids: Sequence[int], model: ModelInfo) -> None:
    """Raises RequestError where a token is not the model's: llama.cpp would abort over it."""
    if ids and model.n_vocab and max(ids) >= model.n_vocab:
        raise RequestError(
            f"token {max(ids)} is not of the model's vocabulary of {model.n_vocab}",
            subject=model.name,
            advice="Encode with this model's own vocabulary",
        )


def _check_served(body: GenerateBody) -> None:
    if names := body.unsupported():
        raise RequestError(
            f"not served: {', '.join(names)}", advice="Leave these fields out of the request"
        )


def _check_room(n_prompt: int, wanted: int, model: ModelInfo, budget: BudgetNow | None) -> None:
    if budget is not None and n_prompt > budget.tokens:
        why = f" ({budget.reason})" if budget.reason else ""
        raise ContextFullError(
            f"the prompt has {n_prompt} tokens, the budget is {budget.tokens}{why}",
            advice="Build it again under the budget of now",
        )
    if model.n_ctx and n_prompt + (1 if wanted else 0) > model.n_ctx:
        raise ContextFullError(
            f"the prompt has {n_prompt} tokens, the context holds {model.n_ctx} with the answer",
            advice="Send a shorter prompt, or serve with a larger context",
        )
