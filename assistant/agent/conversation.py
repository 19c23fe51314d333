"""What is said in a session, as frozen data: turns, steps, tool calls and their results."""

from __future__ import annotations

from typing import Any

import msgspec

Struct = msgspec.Struct
Message = dict[str, Any]
"""As OpenAI's chat completions have it."""


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
