"""Request bodies of llama-server and OpenAI, typed, and how they become engine requests.

Pure. A field that would change the answer and is not supported is refused, never dropped: unknown
ones by `request_fields`, the others here.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr, replace

from assistant.engine.types import GenerateRequest, ModelInfo, Sampling
from assistant.errors import ContextFullError, ModelChangedError, RequestError
from assistant.memory.degrade.budget import BudgetNow
from assistant.wire import MOST_PROMPT_TOKENS, ChatMessage, GenerateBody, Limit, PromptBody

_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Short = Annotated[str, Meta(max_length=4096)]
_RANDOM_SEEDS = {-1, 2**32 - 1}


class ExtraBody(msgspec.Struct, kw_only=True):
    """A chunk of another file, for POST /infill."""

    text: str
    filename: str = ""


class InfillBody(GenerateBody, frozen=True, kw_only=True):
    """POST /infill."""

    input_prefix: str
    input_suffix: str
    input_extra: tuple[ExtraBody, ...] = ()
    prompt: str = ""


class OpenAIBody(GenerateBody, frozen=True, kw_only=True):
    """What OpenAI's two kinds of completion share."""

    model: str = ""
    max_tokens: Limit | None = msgspec.field(default=None, name="max_tokens")
    n: int = 1
    stream_options: dict[str, Any] | None = None
    tools: Any = None
    response_format: Any = None

    def unsupported(self) -> list[str]:
        plain = not self.response_format or self.response_format == {"type": "text"}
        return [
            *super().unsupported(),
            *(["n"] if self.n != 1 else []),
            *(["tools"] if self.tools else []),
            *([] if plain else ["response_format"]),
        ]

    @property
    def wants_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))


class TextCompletionBody(OpenAIBody, frozen=True, kw_only=True):
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


class ChatBody(OpenAIBody, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageBody], Meta(min_length=1)]
    max_completion_tokens: Limit | None = None
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_completion_tokens is not None:
            force_setattr(self, "max_tokens", self.max_completion_tokens)


class TokenizeBody(msgspec.Struct, kw_only=True):
    """POST /tokenize."""

    content: PromptBody = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(msgspec.Struct, kw_only=True):
    """POST /detokenize."""

    tokens: Annotated[list[_TokenId], Meta(max_length=MOST_PROMPT_TOKENS)] = []


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
        RequestError: a token is not in the vocabulary, or a field is not served.
        ContextFullError: the prompt is over the current budget, or leaves no space for an answer.
    """
    _check_served(body)
    if body.prompt_model and body.prompt_model != model.name:
        raise ModelChangedError(
            f"the prompt is of {body.prompt_model}, {model.name} is served now",
            advice="Encode it again for that",
        )
    if not ids:
        raise RequestError("the prompt is empty", advice="Send a text or token ids")
    check_vocabulary(ids, model)
    wanted = -1 if body.max_tokens is None else body.max_tokens
    _check_fits(len(ids), wanted, model, budget)
    free = max(model.n_ctx - len(ids), 0) if model.n_ctx else wanted
    limits = [limit for limit in (body.time_limit_ms, request_limit_ms) if limit > 0]
    stops = (body.stop,) if isinstance(body.stop, str) else body.stop or ()
    return GenerateRequest(
        id=secrets.token_hex(8),
        prompt=tuple(ids),
        max_tokens=free if wanted < 0 else min(wanted, free),
        sampling=_sampling(body),
        stop=tuple(text for text in stops if text),
        stop_tokens=tuple(stop_tokens),
        priority=body.priority,
        document=body.document,
        must_start_with=body.must_start_with,
        unlike=body.unlike,
        time_limit_ms=min(limits, default=0),
        cache=body.cache,
        prompt_model=model.name,
        turns=turns,
    )


def _sampling(body: Sampling) -> Sampling:
    """The sampling fields of a body; a seed is drawn where a random one is requested."""
    seed = secrets.randbits(32) if body.seed in _RANDOM_SEEDS else body.seed
    return replace(msgspec.convert(body, Sampling, from_attributes=True), seed=seed)


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


def _check_fits(n_prompt: int, wanted: int, model: ModelInfo, budget: BudgetNow | None) -> None:
    if budget is not None and n_prompt > budget.tokens:
        why = f" ({budget.reason})" if budget.reason else ""
        raise ContextFullError(
            f"the prompt has {n_prompt} tokens, the budget is {budget.tokens}{why}",
            advice="Build it again under the current budget",
        )
    if model.n_ctx and n_prompt + (1 if wanted else 0) > model.n_ctx:
        raise ContextFullError(
            f"the prompt has {n_prompt} tokens, the context holds {model.n_ctx} with the answer",
            advice="Send a shorter prompt, or serve with a larger context",
        )
