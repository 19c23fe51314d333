"""The daemon's HTTP protocol: frozen data, the same for the daemon and its clients.

The names are llama-server's where it has them; fields of our own are beside them. Times are
milliseconds, sizes bytes, token counts tokens.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from assistant.engine.types import EngineStats, ModelInfo, Priority, Sampling, StopReason, Timings
from assistant.errors import UnderkeelError, from_wire

__all__ = [
    "BUDGET_HEADER",
    "CLIENT_HEADER",
    "BudgetNow",
    "ChangeNow",
    "ChatMessage",
    "CompletionChunk",
    "CompletionRequest",
    "DeviceNow",
    "ErrorNow",
    "GenerateBody",
    "Limit",
    "PromptBody",
    "Props",
    "RungNow",
    "ServiceState",
    "SettingsNow",
    "Status",
    "TokenProbability",
    "UseBody",
]


CLIENT_HEADER = "x-underkeel-client"
"""Names the client, so that each gets its share of the queue."""


BUDGET_HEADER = "x-underkeel-budget"
"""Of each answer: how many tokens a prompt that may use the whole context can have now."""

_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# Clients send -1 for "no limit".
Limit = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
# OpenAI allows 4 stop strings, llama-server any number.
_Stops = Annotated[tuple[Annotated[str, Meta(max_length=4096)], ...], Meta(max_length=256)]
_Short = Annotated[str, Meta(max_length=4096)]

MOST_PROMPT_TOKENS = 2**20
"""No context is longer; a list of small numbers takes many times its bytes in memory."""

MOST_DRAFT_FROM = 4096
"""The most tokens that a request may give to draft from."""

MOST_LOGPROBS = 20
"""The most tokens reported at one place, as in OpenAI's API."""

PromptPart = _TokenId | str
PromptBody = str | Annotated[tuple[PromptPart, ...], Meta(max_length=MOST_PROMPT_TOKENS)]


class BudgetNow(msgspec.Struct, frozen=True, kw_only=True):
    """The budget of this moment, as it rides along with every completion.

    Attributes:
        tokens: the most a prompt may have; its answer is already provided for.
        level: 0 is the full budget; each higher level is one step down.
        reason: why not more, in words for a person; empty at level 0.
    """

    tokens: int
    level: int = 0
    reason: str = ""


class GenerateBody(Sampling, frozen=True, kw_only=True, omit_defaults=True):
    """The fields that all generating requests share.

    Attributes:
        max_tokens: the most to generate; 0 only evaluates the prompt, None and -1 are as many as
            fit.
        stop, document, priority, must_start_with, unlike, cache, exact_drafts, draft_from: see
            `assistant.engine.types.GenerateRequest`. `draft_from` is in tokens of `prompt_model`.
        time_limit_ms: ends the generation with what there is; 0 and -1 are no limit.
        budget_tokens: the budget the prompt was built under; 0 where it is unknown.
        prompt_model: name of the model whose token ids the prompt holds: if another is served by
            then, the request is refused with a ModelChangedError. Texts in such a prompt are plain.
            Empty for a text.
    """

    max_tokens: Limit | None = msgspec.field(default=None, name="n_predict")
    stream: bool = False
    stop: str | _Stops | None = None
    cache: bool = msgspec.field(default=True, name="cache_prompt")
    time_limit_ms: Limit = msgspec.field(default=0, name="t_max_predict_ms")
    document: _Short = ""
    priority: Priority = Priority.INTERACTIVE
    must_start_with: _Short = ""
    unlike: _Short = ""
    exact_drafts: bool = True
    draft_from: Annotated[tuple[_TokenId, ...], Meta(max_length=MOST_DRAFT_FROM)] = ()
    budget_tokens: _Count = 0
    prompt_model: _Short = ""
    return_tokens: bool = False
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    n_probs: Annotated[int, Meta(ge=0, le=MOST_LOGPROBS)] = 0

    @property
    def wants_usage(self) -> bool:
        """Whether a streamed answer ends with OpenAI's `usage`."""
        return False

    @property
    def choices(self) -> int:
        """How many answers are requested."""
        return 1

    def wanted_logprobs(self) -> int | None:
        """How many of the likeliest tokens to report with each token; None for no probabilities."""
        return self.n_probs or None

    def response_schema(self) -> dict[str, Any] | None:
        """The schema that the whole answer has to match; None for a free one."""
        return None

    def unsupported(self) -> list[str]:
        """Names of the fields that are set and not served."""
        return []


class CompletionRequest(GenerateBody, frozen=True, kw_only=True):
    """POST /completion, as the client writes it and the daemon reads it.

    Attributes:
        prompt: token ids, or text, or both in turn. As in llama-server, control tokens written in a
            text alone are read as such; so send what a person wrote as ids.
    """

    prompt: PromptBody


class TokenProbability(msgspec.Struct, frozen=True, kw_only=True):
    """A token of an answer: its UTF-8, which may be a part of a character, and log probability."""

    bytes: tuple[int, ...] = ()
    logprob: float = 0.0


class CompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an answer; the last one has `stop` set, a reason, timings and budgets.

    Attributes:
        built_under: the budget that this answer's prompt was held to; None where it was held to
            the context only.
        cut: what the daemon left out of the prompt, one phrase each; what a client cut from a
            prompt of its own it knows itself.
        completion_probabilities: of the tokens of `content`, for a request with `n_probs`.
        budget: what the next prompt may hold.
    """

    content: str
    stop: bool = False
    stop_reason: StopReason | None = None
    timings: Timings | None = None
    budget: BudgetNow | None = None
    built_under: BudgetNow | None = None
    cut: tuple[str, ...] = ()
    completion_probabilities: tuple[TokenProbability, ...] = ()


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation; `role` is "system", "user" or "assistant"."""

    role: str
    content: str


class ServiceState(StrEnum):
    """The state of the daemon's model.

    `loading` covers reloads; `released` gave its memory back and returns with the next request;
    `failed` waits until the cause is fixed and a new load is requested.
    """

    LOADING = "loading"
    READY = "ready"
    RELEASED = "released"
    FAILED = "failed"
    STOPPING = "stopping"


def sendable(text: str) -> str:
    """The text with what UTF-8 cannot carry (half a surrogate pair) escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


class ErrorNow(msgspec.Struct, frozen=True, kw_only=True):
    """An `UnderkeelError` as it crosses the socket."""

    code: str
    message: str
    subject: str = ""
    advice: str = ""

    @classmethod
    def of(cls, error: UnderkeelError) -> ErrorNow:
        texts = (error.message, error.subject, error.advice)
        # Names of files may hold bytes that are no UTF-8, which JSON cannot carry.
        message, subject, advice = (sendable(text) for text in texts)
        return cls(code=error.code, message=message, subject=subject, advice=advice)

    def rebuild(self) -> UnderkeelError:
        return from_wire(self.code, self.message, self.subject, self.advice)


class Props(msgspec.Struct, frozen=True, kw_only=True):
    """What is served and under which limits.

    Attributes:
        budget: of a completion's prompt; `explain_budget`: of an explanation's.
    """

    model: ModelInfo
    n_slots: int = 1
    budget: BudgetNow | None = None
    explain_budget: BudgetNow | None = None


class DeviceNow(msgspec.Struct, frozen=True, kw_only=True):
    """One device's memory at this moment.

    Attributes:
        name: ggml's name of it ("CUDA0"); "CPU" for host memory.
        ours_bytes: what the served model holds of it, as llama.cpp counts; 0 where it is released.
        margin_bytes: what the plan keeps free.
        lost: the driver has seen it and does not see it now.
    """

    name: str
    total_bytes: int
    free_bytes: int
    ours_bytes: int = 0
    margin_bytes: int = 0
    lost: bool = False


class RungNow(msgspec.Struct, frozen=True, kw_only=True):
    """Where the service stands on the ladder of giving memory back.

    Attributes:
        index: 0 is the whole plan; `of` rungs in all.
        name, says: of the rung: its stable name, and what is given up there, for a person.
        reason: why the last move was made.
        moves: how many were made since the daemon started.
    """

    index: int
    of: int
    name: str
    says: str = ""
    reason: str = ""
    moves: int = 0


class ChangeNow(msgspec.Struct, frozen=True, kw_only=True):
    """A setting that changed while the daemon runs.

    Attributes:
        key: "table.name"; `old` and `new` as written in TOML.
        effect: "now", or when it takes effect: "next load", "restart", or "editors" for what each
            editor reads when it starts.
    """

    key: str
    old: str
    new: str
    effect: str


class SettingsNow(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon has made of the settings file.

    Attributes:
        path: the file, empty where none is followed; `read_at` when it was read last, in seconds
            since 1970.
        changes: what the last reading changed.
        pending: what has changed since the start and has not taken effect yet.
        problems: what was wrong with the file, in words.
    """

    path: str
    read_at: float = 0.0
    changes: tuple[ChangeNow, ...] = ()
    pending: tuple[ChangeNow, ...] = ()
    problems: tuple[str, ...] = ()


class ModelNow(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the daemon serves, whether it is loaded or not.

    Attributes:
        purposes: what it answers.
        name: as the settings name it.
        loaded: when it is loaded and freed, in words.
        bytes: by device, what it holds now; empty where it is not loaded.
    """

    purposes: tuple[str, ...]
    name: str
    state: ServiceState
    loaded: str
    bytes: dict[str, int] = {}


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """GET /underkeel/status: everything a person or an editor's status line may want.

    Attributes:
        state, stage, progress: where the service stands; `progress` is 0 to 1 while loading.
        error: why the last load failed, or None.
        in_flight: requests admitted and not yet answered; max_waiting: the most of them.
        deaths: how often the worker ended by itself since the daemon started; `refusals`: how often
            a load was refused memory, and a smaller shape was taken.
        devices: those that the plan uses, host memory last.
        caveats: what to know of the plan, such as a context that was reduced to what the model was
            trained for, and sizes that were estimated.
        load: what the last load took on each device against its plan, in words;
            `load_error_percent` is positive where more was taken.
        supervisor: the service manager that started the daemon: "systemd", "launchd" or "".
        explain_model, explain_state: the second model, for explanations, where there is one.
        models: those that are served; more than one where there is a second model.
    """

    version: str
    pid: int
    uptime_s: float
    state: ServiceState
    stage: str = ""
    progress: float = 0.0
    error: ErrorNow | None = None
    model: ModelInfo | None = None
    stats: EngineStats | None = None
    budget: BudgetNow | None = None
    in_flight: int = 0
    max_waiting: int = 0
    deaths: int = 0
    refusals: int = 0
    devices: tuple[DeviceNow, ...] = ()
    rung: RungNow | None = None
    explain_model: ModelInfo | None = None
    explain_state: ServiceState | None = None
    models: tuple[ModelNow, ...] = ()
    caveats: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    load_error_percent: float | None = None
    socket: str = ""
    log: str = ""
    settings: SettingsNow | None = None
    supervisor: str = ""


class UseBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /underkeel/model: serve the model `name` from now on.

    `purpose`: "complete", or "explain" for the second model.
    """

    name: str
    purpose: str = "complete"
