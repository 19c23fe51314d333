"""Request bodies of llama-server and OpenAI, typed, and how they become engine requests.

Pure. A field that would change the answer and is not supported is refused, never dropped: unknown
ones by `request_fields`, the others here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr, replace

from assistant.daemon.http.tool_calls import grammar
from assistant.engine.types import Constraint, GenerateRequest, ModelInfo, Sampling
from assistant.errors import ContextFullError, ModelChangedError, RequestError
from assistant.wire import (
    MOST_LOGPROBS,
    MOST_PROMPT_TOKENS,
    BudgetNow,
    GenerateBody,
    Limit,
    PromptBody,
)

_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Short = Annotated[str, Meta(max_length=4096)]
_TopCount = Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)]
_RANDOM_SEEDS = {-1, 2**32 - 1}
MOST_CHOICES = 16
"""Answers to one request."""


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
    n: Annotated[int, Meta(ge=1, le=MOST_CHOICES)] = 1
    stream_options: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None

    @property
    def choices(self) -> int:
        return self.n

    def response_schema(self) -> dict[str, Any] | None:
        form = self.response_format
        kind = form.get("type", "text") if form else "text"
        if not form or kind == "text":
            return None
        if kind == "json_object":
            schema = form.get("schema")
            return schema if isinstance(schema, dict) else {"type": "object"}
        if kind == "json_schema":
            inner = form.get("json_schema")
            schema = inner.get("schema") if isinstance(inner, dict) else form.get("schema")
            if isinstance(schema, dict):
                return schema
        raise RequestError("the response format is malformed or not known")

    @property
    def wants_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))


class TextCompletionBody(OpenAIBody, frozen=True, kw_only=True):
    """POST /v1/completions. OpenAI's default of 16 tokens is kept out, as llama-server does.

    With a suffix, the text between `prompt` and `suffix` is completed.
    """

    prompt: PromptBody
    suffix: str | None = None
    echo: bool = False
    logprobs: _TopCount | None = None

    def wanted_logprobs(self) -> int | None:
        return super().wanted_logprobs() if self.logprobs is None else self.logprobs

    def unsupported(self) -> list[str]:
        both = self.echo and self.logprobs is not None
        return [*super().unsupported(), *(["logprobs together with echo"] if both else [])]

    def prompt_text(self, field: str) -> str:
        """The prompt, where `field` needs it as text.

        Raises:
            RequestError: it holds token ids.
        """
        parts = prompt_parts(self.prompt)
        if len(parts) == 1 and isinstance(parts[0], str):
            return parts[0]
        raise RequestError(
            f"not supported: {field} with a prompt of token ids", advice="Send the prompt as text"
        )


class ContentPart(msgspec.Struct, kw_only=True):
    type: str = "text"
    text: str = ""


class FunctionCallBody(msgspec.Struct, kw_only=True):
    """A function that the assistant called; the arguments are JSON, written out or not."""

    name: _Short
    arguments: str | dict[str, Any] | None = ""


class ToolCallBody(msgspec.Struct, kw_only=True):
    id: _Short = ""
    type: str = "function"
    function: FunctionCallBody


class MessageBody(msgspec.Struct, kw_only=True):
    """One turn; the content may come in parts, of which only text is served."""

    role: _Short
    content: str | list[ContentPart] | None = ""
    name: _Short = ""
    tool_calls: list[ToolCallBody] = []
    tool_call_id: _Short = ""
    reasoning_content: str = ""

    def text(self) -> str:
        """Raises RequestError where a part is no text."""
        if isinstance(self.content, list):
            if any(part.type not in _TEXT_PARTS for part in self.content):
                raise RequestError("only text can be a part of a message")
            return "".join(part.text for part in self.content)
        return self.content or ""


class FunctionBody(msgspec.Struct, kw_only=True):
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: _Short
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    strict: bool = False


class ToolBody(msgspec.Struct, kw_only=True):
    type: str = "function"
    function: FunctionBody


class ChatBody(OpenAIBody, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageBody], Meta(min_length=1)]
    max_completion_tokens: Limit | None = None
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    tools: Annotated[list[ToolBody], Meta(max_length=1024)] = msgspec.field(default_factory=list)
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    reasoning_effort: _Short = ""
    reasoning_format: _Short = ""
    logprobs: bool = False
    top_logprobs: _TopCount = 0

    def __post_init__(self) -> None:
        if self.max_completion_tokens is not None:
            force_setattr(self, "max_tokens", self.max_completion_tokens)

    def wanted_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs else super().wanted_logprobs()

    def unsupported(self) -> list[str]:
        lacking = self.top_logprobs and not self.logprobs
        return [*super().unsupported(), *(["top_logprobs without logprobs"] if lacking else [])]

    def may_call(self) -> ToolChoice:
        """Which functions may be called, and whether one must be.

        Raises:
            RequestError: a tool is malformed or named twice, or the choice names none of them.
        """
        functions = {}
        for tool in self.tools:
            name = tool.function.name
            if tool.type != "function":
                raise RequestError(f"tools of type {tool.type!r} are not supported")
            if not _FUNCTION_NAME.fullmatch(name):
                raise RequestError(f"{name[:80]!r} cannot be the name of a function")
            if name in functions:
                raise RequestError(f"two tools have the name {name!r}")
            functions[name] = tool.function
        choice = self.tool_choice
        if isinstance(choice, dict):
            names, required = _chosen(choice)
        else:
            names, required = list(functions), choice == "required"
            if choice not in {"auto", "none", "required"}:
                raise RequestError(f"there is no tool choice {choice[:80]!r}")
        if unknown := [name for name in names if name not in functions]:
            raise RequestError(f"the tool choice names {unknown[0]!r}, which is no tool")
        if required and not names:
            raise RequestError("a tool call is required, and there are no tools")
        chosen = () if choice == "none" else tuple(functions[name] for name in names)
        return ToolChoice(functions=chosen, required=required, parallel=self.parallel_tool_calls)


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer may call.

    Attributes:
        functions: those that may be called; empty where none may.
        required: at least one must be called.
        parallel: one answer may hold several calls.
    """

    functions: tuple[FunctionBody, ...] = ()
    required: bool = False
    parallel: bool = True


_FUNCTION_NAME = re.compile(r"[\w.:/-]{1,200}")
_TEXT_PARTS = {"text", "input_text", "output_text"}


def _chosen(choice: dict[str, Any]) -> tuple[list[str], bool]:
    """The names in a tool choice that is an object, and whether one of them must be called."""
    try:
        if choice["type"] == "allowed_tools":
            inner = choice.get("allowed_tools", choice)
            tools = [tool.get("function", tool)["name"] for tool in inner["tools"]]
            return [str(name) for name in tools], inner.get("mode") == "required"
        if choice["type"] == "function":
            return [str(choice.get("function", choice)["name"])], True
    except (KeyError, TypeError, AttributeError):
        pass
    raise RequestError("the tool choice is malformed", advice='Send "auto", "none" or "required"')


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
    stop_texts: Sequence[str] = (),
    turns: tuple[tuple[str, str], ...] = (),
    visible_tokens: Sequence[int] = (),
    constraint: Constraint | None = None,
) -> GenerateRequest:
    """The engine's request for `body` whose prompt is `ids`.

    Raises:
        ModelChangedError: the prompt is of another model's tokens.
        RequestError: a token is not in the vocabulary, or a field is not served.
        ContextFullError: the prompt is over the current budget, or leaves no space for an answer.
    """
    _check_served(body)
    if body.return_tokens and not model.tells_tokens:
        raise RequestError(
            "not supported by this remote server: return_tokens",
            subject=model.server,
            advice="Leave it out, or serve the model with llama-server, vLLM or on this machine",
        )
    if body.prompt_model and body.prompt_model != model.name:
        raise ModelChangedError(
            f"the prompt is of {body.prompt_model}, {model.name} is served now",
            advice="Encode it again for that",
        )
    if not ids:
        raise RequestError("the prompt is empty", advice="Send a text or token ids")
    check_vocabulary(ids, model)
    check_vocabulary(tuple(dict(body.logit_bias)), model)
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
        stop=tuple(text for text in (*stops, *stop_texts) if text),
        stop_tokens=tuple(stop_tokens),
        priority=body.priority,
        document=body.document,
        must_start_with=body.must_start_with,
        unlike=body.unlike,
        time_limit_ms=min(limits, default=0),
        cache=body.cache,
        exact_drafts=body.exact_drafts,
        draft_from=body.draft_from,
        prompt_model=model.name,
        turns=turns,
        visible_tokens=tuple(visible_tokens),
        constraint=_constraint(body) or constraint,
        logprobs=body.wanted_logprobs(),
    )


def further_choice(request: GenerateRequest, index: int) -> GenerateRequest:
    """The request for another answer to the same prompt: the next seed."""
    seed = (request.sampling.seed + index) % 2**32
    sampling = replace(request.sampling, seed=seed)
    return replace(request, id=secrets.token_hex(8), sampling=sampling)


def _constraint(body: GenerateBody) -> Constraint | None:
    """What the whole answer has to match.

    Raises:
        RequestError: the request says so twice, or what it says cannot be used.
    """
    requested = body.response_schema()
    given = [one for one in (requested, body.json_schema, body.grammar) if one is not None]
    if len(given) > 1:
        raise RequestError("only one of response_format, json_schema and grammar can be given")
    if not given:
        return None
    if body.grammar is not None:
        text = grammar.of_gbnf(body.grammar)
        return Constraint(grammar=text, at_once=True, ends=True, gbnf=body.grammar)
    text, schema = grammar.of_schema(given[0]), msgspec.json.encode(given[0]).decode()
    return Constraint(grammar=text, at_once=True, ends=True, json_schema=schema)


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
        error = ContextFullError(
            f"the prompt has {n_prompt} tokens, the budget is {budget.tokens}{why}",
            advice="Build it again under the current budget",
        )
        error.prompt_tokens, error.limit_tokens = n_prompt, budget.tokens
        raise error
    if model.n_ctx and n_prompt + (1 if wanted else 0) > model.n_ctx:
        error = ContextFullError(
            f"the prompt has {n_prompt} tokens, the context holds {model.n_ctx} with the answer",
            advice="Send a shorter prompt, or serve with a larger context",
        )
        error.prompt_tokens, error.limit_tokens = n_prompt, model.n_ctx
        raise error
