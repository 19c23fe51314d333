"""What is said in a session, as frozen data, and what replaces its first part once it is too long.

Pure. The first part is replaced by the model's summary, or cut. A summary is due only once
`packing` cannot shrink steps further without losing their content. Each one covers at least
`SUMMARY_EVERY` steps more than the one before, so they cannot loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

Struct = msgspec.Struct
Message = dict[str, Any]
"""As OpenAI's chat completions have it."""

RECENT_STEPS = 2
"""The last steps, which no summary covers."""

SUMMARY_EVERY = 8
MOST_LINES = 12
"""Results that are shown as one line each."""

REQUEST = (
    "Write a summary of this session so far, for yourself: what was requested, what you found in "
    "which files, what was changed, and what is still to be done. At most 12 short lines. Call no "
    "tool."
)
"""Ends the prompt of a summary; what is before it was in the prompt before, so it is cached."""

_MOST_PROMPTS = 4
_LONG_LINE = 120


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call as the model wrote it.

    Attributes:
        id: unique in its session.
        arguments: JSON text, not yet checked.
    """

    id: str
    name: str
    arguments: str


class ToolResult(Struct, frozen=True, kw_only=True):
    """What a call returned, in three sizes: the larger ones are dropped as space runs out.

    Attributes:
        text: as the model sees it first; its tokens are bounded by the tool.
        outline: the same in fewer tokens; equal to `text` where it is short already.
        line: one line that says what was done.
        failed: the model should act on `text`, which says what was wrong.
        changed: a file of the workspace is different now.
    """

    call_id: str
    text: str
    outline: str = ""
    line: str = ""
    failed: bool = False
    changed: bool = False


class Step(Struct, frozen=True, kw_only=True):
    """One answer of the model with the results of its calls, in their order.

    Attributes:
        text: what the model said; `calls` what it called.
        results: one for each call.
        note: what the model is reminded of after them; empty for nothing.
    """

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    note: str = ""


class Turn(Struct, frozen=True, kw_only=True):
    """A prompt of the user, and the steps that followed."""

    prompt: str
    steps: tuple[Step, ...] = ()


class Summary(Struct, frozen=True, kw_only=True):
    """What stands for the first turns and steps of a session, once they no longer fit.

    Attributes:
        turns: so many turns are left out with their prompts.
        steps: so many steps are left out, also of the turn that follows those.
        by_model: false where it was only cut.
    """

    text: str
    turns: int
    steps: int
    by_model: bool = True


class Answer(Struct, frozen=True, kw_only=True):
    """An answer of the model.

    Attributes:
        text: without its tool calls and its reasoning.
        problem: why its calls cannot be used, for the model; then `calls` is empty.
        truncated: it reached the limit of its tokens.
        prompt_tokens, cached_tokens, generated_tokens: what it cost.
    """

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    problem: str = ""
    truncated: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


def summary_messages(summary: Summary) -> list[Message]:
    """In the model's own role: what a file or a command said must not become the user's words."""
    head = (
        f"[The first {summary.steps} steps and {summary.turns} requests of this session are left "
        "out here.] What happened in them?"
    )
    return [{"role": "user", "content": head}, {"role": "assistant", "content": summary.text}]


def summary_tokens(budget: int) -> int:
    """The most that a summary may have: an eighth of the budget."""
    return max(budget // 8, 96)


def coverable(turns: Sequence[Turn], before: Summary | None) -> Summary | None:
    """A summary without its text, of all turns but the current one and all steps but its last two;
    None where that is no more than the summary before has."""
    n_steps = sum(len(turn.steps) for turn in turns)
    earlier = n_steps - len(turns[-1].steps)
    made = Summary(text="", turns=len(turns) - 1, steps=max(n_steps - RECENT_STEPS, earlier))
    known = (before.turns, before.steps) if before is not None else (0, 0)
    return made if (made.turns, made.steps) > known else None


def may_ask(span: Summary, before: Summary | None) -> bool:
    """Whether the model may be asked for this summary, or it is too soon."""
    return span.steps - (before.steps if before is not None else 0) >= SUMMARY_EVERY


def prompt_of(
    sent: Sequence[Message], limit: int, tokens_of: Callable[[Message], int]
) -> tuple[list[Message], int]:
    """A start of the messages that were sent last, up to a finished step, and the request for a
    summary after it, within `limit` tokens.

    Returns:
        The messages, none where not even one step fits, and how many steps of `sent` they lack.
    """
    request: Message = {"role": "user", "content": REQUEST}
    used, end = tokens_of(request), 0
    for at, message in enumerate(sent):
        used += tokens_of(message)
        if used > limit:
            break
        is_done = message["role"] in ("assistant", "tool") and not message.get("tool_calls")
        if is_done and (at + 1 == len(sent) or sent[at + 1]["role"] != "tool"):
            end = at + 1
    lacking = sum(message["role"] == "assistant" for message in sent[end:])
    return ([*sent[:end], request] if end else []), lacking


def lines_of(turns: Sequence[Turn], first: int, stop: int) -> str:
    """One line for each result of these steps; of many only the last."""
    steps = [step for turn in turns for step in turn.steps][first:stop]
    lines = [one_line(result.line or result.text) for step in steps for result in step.results]
    left_out = len(lines) - MOST_LINES
    head = [f"[{left_out} earlier lines are left out]"] if left_out > 0 else []
    return "\n".join([*head, *(f"- {line}" for line in lines[-MOST_LINES:])])


def cut(turns: Sequence[Turn], span: Summary, before: Summary | None) -> Summary:
    """What stands for the first turns and steps where no model writes it: the last requests and
    results, one line each."""
    prompts = [one_line(turn.prompt) for turn in turns[: span.turns]]
    left_out = len(prompts) - _MOST_PROMPTS
    parts = [
        one_line(before.text, 600) if before is not None and before.steps < span.steps else "",
        f"[{left_out} earlier requests are left out]" if left_out > 0 else "",
        *(f"- Requested: {line}" for line in prompts[-_MOST_PROMPTS:]),
        lines_of(turns, 0, span.steps),
    ]
    text = "\n".join(part for part in parts if part)
    return Summary(text=text, turns=span.turns, steps=span.steps, by_model=False)


def one_line(text: str, limit: int = _LONG_LINE) -> str:
    return " ".join(text[: 20 * limit].split())[:limit]
