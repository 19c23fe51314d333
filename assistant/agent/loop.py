"""Decides what the agent does next. Pure: a state and an event give a state and an action.

    Started -> AskModel -> Answered -> RunTool -> ToolDone -> ... -> AskModel -> ... -> Stop

Every path ends: steps, tokens, time, repetition, unusable answers and failures are limited, and
each stop has a reason and a sentence for the user. A step is finished when all of its calls have
results; a stop in the middle of a step finishes it with results that say so, since a conversation
with an unanswered call is refused by most chat templates.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from enum import StrEnum

from assistant.agent.conversation import Answer, Step, ToolCall, ToolResult

QUESTION_TOOL = "ask_user"
"""A call of it ends the turn: the user's next prompt is the answer."""

_REPEATS_WITHIN = 16
_REPEATED = (
    "You made this call before, and its result was the same. "
    "Do something else, or say what prevents you."
)
_EMPTY = "Your answer was empty. Call a tool, or write what you found or did."
_TRUNCATED = (
    "Your answer reached its limit of tokens, so none of its calls was made. "
    "Make one smaller change at a time."
)
_CANCELLED = "Not run: the turn was stopped."


class Reason(StrEnum):
    """Why a turn ended."""

    DONE = "done"
    QUESTION = "question"
    CANCELLED = "cancelled"
    STEPS = "steps"
    TOKENS = "tokens"
    TIME = "time"
    REPETITION = "repetition"
    UNUSABLE = "unusable"
    SPACE = "space"
    FAILURE = "failure"


@dataclass(frozen=True)
class Limits:
    """Limits of one turn.

    Attributes:
        steps: answers of the model.
        tokens: evaluated and generated, in all; 0 for no limit.
        time_s: seconds from its start.
        repeats: identical calls with identical results among the last 16; one less brings a
            reminder. What was read long before may be read again: it has been shortened since.
        unusable: answers in a row that cannot be used.
        retries: failures of the daemon in a row; also refusals as too long, and summaries.
    """

    steps: int = 40
    tokens: int = 0
    time_s: float = 1800.0
    repeats: int = 4
    unusable: int = 3
    retries: int = 3


@dataclass(frozen=True)
class Started:
    """The user has sent a prompt."""


@dataclass(frozen=True)
class Answered:
    """The model has answered."""

    answer: Answer
    at_s: float


@dataclass(frozen=True)
class ToolDone:
    """The call that was to run has ended."""

    result: ToolResult
    at_s: float


@dataclass(frozen=True)
class ModelFailed:
    """No answer. `fatal`: trying again does not help."""

    message: str
    at_s: float
    fatal: bool = False


@dataclass(frozen=True)
class BudgetFell:
    """The prompt was refused as too long; nothing was evaluated."""

    at_s: float


@dataclass(frozen=True)
class Summarised:
    """The first part of the conversation gave way to a summary, which took so many tokens."""

    tokens: int
    at_s: float


@dataclass(frozen=True)
class NoSpace:
    """The least that has to be sent does not fit the budget."""

    message: str


@dataclass(frozen=True)
class Cancelled:
    """The user has stopped the turn."""


Event = Started | Answered | ToolDone | ModelFailed | BudgetFell | Summarised | NoSpace | Cancelled


@dataclass(frozen=True)
class AskModel:
    """Send the conversation. `again`: the last try failed; wait before this one."""

    again: bool = False


@dataclass(frozen=True)
class RunTool:
    """Run a call, once the user allows it."""

    call: ToolCall


@dataclass(frozen=True)
class Stop:
    """The turn is over."""

    reason: Reason
    message: str


Action = AskModel | RunTool | Stop


@dataclass(frozen=True)
class State:
    """Where a turn is.

    Attributes:
        steps: those that are finished.
        answer: the one whose calls are being run; `results` of those that have ended.
        answers, tokens: so far.
        seen: marks of the last calls with their results since a file last changed.
        unusable, failures, repacks: in a row.
        stop: set at the end, and never changed again.
    """

    limits: Limits = field(default_factory=Limits)
    steps: tuple[Step, ...] = ()
    answer: Answer | None = None
    results: tuple[ToolResult, ...] = ()
    answers: int = 0
    tokens: int = 0
    seen: tuple[str, ...] = ()
    unusable: int = 0
    failures: int = 0
    repacks: int = 0
    stop: Stop | None = None


def advance(state: State, event: Event) -> tuple[State, Action]:
    """The next state, and what to do. After the end nothing changes any more."""
    if state.stop is not None:
        return state, state.stop
    match event:
        case Started():
            return state, AskModel()
        case Answered():
            return _answered(state, event)
        case ToolDone():
            return _tool_done(state, event)
        case ModelFailed():
            return _model_failed(state, event)
        case BudgetFell():
            return _repacked(state, event.at_s)
        case Summarised():
            return _repacked(replace(state, tokens=state.tokens + event.tokens), event.at_s)
        case NoSpace():
            return _stop(state, Reason.SPACE, event.message)
        case Cancelled():
            return _stop(state, Reason.CANCELLED, "The turn was stopped.")


def fingerprint(call: ToolCall, result: ToolResult | None = None) -> str:
    """Equal for equal calls, whatever the order and the spacing of their arguments."""
    try:
        arguments = json.dumps(json.loads(call.arguments), sort_keys=True)
    except (ValueError, RecursionError):
        arguments = call.arguments
    text = "\0".join([call.name, arguments, result.text if result else ""])
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _answered(state: State, event: Answered) -> tuple[State, Action]:
    answer = event.answer
    evaluated = max(answer.prompt_tokens - answer.cached_tokens, 0)
    state = replace(
        state,
        answers=state.answers + 1,
        tokens=state.tokens + evaluated + answer.generated_tokens,
        failures=0,
        repacks=0,
    )
    problem = _problem(answer)
    if problem:
        state = _finish(
            replace(state, answer=replace_calls(answer), unusable=state.unusable + 1), problem
        )
        if state.unusable >= state.limits.unusable:
            return _stop(
                state,
                Reason.UNUSABLE,
                f"{state.unusable} answers in a row could not be used. The last problem: {problem}",
            )
        return _ask(state, event.at_s)
    state = replace(state, unusable=0)
    if not answer.calls:
        return _stop(_finish(replace(state, answer=answer)), Reason.DONE, "")
    state = replace(state, answer=answer, results=())
    exceeded = _exceeded(state, event.at_s, steps=False)
    return _stop(state, *exceeded) if exceeded else (state, RunTool(answer.calls[0]))


def replace_calls(answer: Answer) -> Answer:
    """The answer without its calls: they are not made, so no results can follow them."""
    return Answer(
        text=answer.text,
        problem=answer.problem,
        truncated=answer.truncated,
        prompt_tokens=answer.prompt_tokens,
        cached_tokens=answer.cached_tokens,
        generated_tokens=answer.generated_tokens,
    )


def _problem(answer: Answer) -> str:
    """Why an answer cannot be used, for the model; empty where it can."""
    if answer.problem:
        return answer.problem
    if answer.truncated:
        return _TRUNCATED
    if not answer.calls and not answer.text.strip():
        return _EMPTY
    return ""


def _tool_done(state: State, event: ToolDone) -> tuple[State, Action]:
    answer = state.answer
    assert answer is not None, "a result came without a call"
    call = answer.calls[len(state.results)]
    mark = fingerprint(call, event.result)
    # A change makes it worthwhile to look or test again; the same change again is no progress.
    changes = event.result.changed
    known = tuple(one for one in state.seen if one[0] == "!") if changes else state.seen
    mark = f"!{fingerprint(call)}" if changes else mark
    seen = (*known, mark)[-_REPEATS_WITHIN:]
    times = seen.count(mark)
    state = replace(state, results=(*state.results, event.result), seen=seen)
    if call.name == QUESTION_TOOL and not event.result.failed:
        return _stop(state, Reason.QUESTION, event.result.text)
    if times >= state.limits.repeats:
        return _stop(
            state,
            Reason.REPETITION,
            f"The same call of {call.name} gave the same result {times} times.",
        )
    exceeded = _exceeded(state, event.at_s, steps=False)
    if exceeded:
        return _stop(state, *exceeded)
    if len(state.results) < len(answer.calls):
        return state, RunTool(answer.calls[len(state.results)])
    again = 1 < times == state.limits.repeats - 1
    return _ask(_finish(state, _REPEATED if again else ""), event.at_s)


def _model_failed(state: State, event: ModelFailed) -> tuple[State, Action]:
    state = replace(state, failures=state.failures + 1)
    if event.fatal or state.failures > state.limits.retries:
        return _stop(state, Reason.FAILURE, event.message)
    exceeded = _exceeded(state, event.at_s)
    return _stop(state, *exceeded) if exceeded else (state, AskModel(again=True))


def _repacked(state: State, at_s: float) -> tuple[State, Action]:
    state = replace(state, repacks=state.repacks + 1)
    if state.repacks > state.limits.retries:
        return _stop(
            state,
            Reason.SPACE,
            f"The conversation was too long {state.repacks} times in a row.",
        )
    return _ask(state, at_s)


def _ask(state: State, at_s: float) -> tuple[State, Action]:
    exceeded = _exceeded(state, at_s)
    return _stop(state, *exceeded) if exceeded else (state, AskModel())


def _exceeded(state: State, at_s: float, *, steps: bool = True) -> tuple[Reason, str] | None:
    limits = state.limits
    if at_s >= limits.time_s:
        return Reason.TIME, f"The turn reached its limit of {limits.time_s:.0f} s."
    if limits.tokens and state.tokens >= limits.tokens:
        return Reason.TOKENS, f"The turn reached its limit of {limits.tokens} tokens."
    if steps and state.answers >= limits.steps:
        return Reason.STEPS, f"The turn reached its limit of {limits.steps} steps."
    return None


def _finish(state: State, note: str = "") -> State:
    """The current answer becomes a finished step."""
    answer = state.answer
    if answer is None:
        return state
    missing = answer.calls[len(state.results) :]
    results = (
        *state.results,
        *(ToolResult(call_id=call.id, text=_CANCELLED, failed=True) for call in missing),
    )
    step = Step(text=answer.text, calls=answer.calls, results=results, note=note)
    return replace(state, steps=(*state.steps, step), answer=None, results=())


def _stop(state: State, reason: Reason, message: str) -> tuple[State, Stop]:
    stop = Stop(reason, message)
    return replace(_finish(state), stop=stop), stop
