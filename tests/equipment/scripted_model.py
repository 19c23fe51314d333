# ruff: noqa: ARG002 - the signatures are those of protocols
"""A model that plays a script for the agent, with exact counts and a KV cache of one sequence."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from assistant.agent import conversation
from assistant.agent.conversation import Answer, Message, ToolCall
from assistant.agent.packing import MESSAGE_TOKENS
from assistant.agent.session import AgentSession, Approval
from assistant.agent.tools import Outcome, Planned
from assistant.engine.types import shared_length
from assistant.errors import ContextFullError, UnderkeelError
from assistant.models.token_estimate import Estimate
from context.syntax.text import Encoder

OnText = Callable[[str], Awaitable[None]]
Line = Answer | UnderkeelError | Callable[[Sequence[Message]], Answer]

_ENCODER = Encoder(Estimate())


def say(text: str) -> Answer:
    return Answer(text=text, generated_tokens=10)


def use(tool: str, /, **given: Any) -> Answer:
    call = ToolCall(
        id=f"{abs(hash((tool, str(given)))) % 10**9:09d}", name=tool, arguments=json.dumps(given)
    )
    return Answer(calls=(call,), generated_tokens=20)


class ScriptedModel:
    """Plays `script` line by line, then says that it is done.

    Attributes:
        budget: may be changed at any time, also by `budgets` before each request.
        prompts: the messages of each request but those for a summary.
        overflows: how many were over the budget.
        summary: the answer where a summary is requested; `summaries` counts them.
    """

    def __init__(
        self, script: Sequence[Line], budget: int = 12_000, budgets: Sequence[int] = ()
    ) -> None:
        self.encoder = _ENCODER
        self.script = list(script)
        self.budget = budget
        self.budgets = list(budgets)
        self.extra_tokens = 0
        self.prompts: list[Sequence[Message]] = []
        self.overflows = 0
        self.summaries = 0
        self.summary: Line = say("Read some files; the task is still to be done.")
        self.evaluated: list[int] = []
        self.cached: list[int] = []
        self.cached_by_summaries: list[int] = []
        self._cache: list[int] = []

    @property
    def budget_tokens(self) -> int:
        return self.budget

    async def ready(self) -> None:
        if self.budgets:
            self.budget = self.budgets.pop(0)

    async def answer(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        counted_tokens: int,
        on_text: OnText,
        on_thought: OnText,
        *,
        limit: int | None = None,
    ) -> Answer:
        ids = self._ids(messages, tools)
        is_summary = messages[-1]["content"] == conversation.REQUEST
        if not is_summary:
            self.prompts.append(messages)
        if len(ids) > self.budget:
            self.overflows += 1
            self.extra_tokens += len(ids) - counted_tokens
            raise ContextFullError(f"the prompt has {len(ids)} tokens, the budget is {self.budget}")
        assert len(ids) <= counted_tokens, "the count is no upper bound"
        cached = shared_length(ids, self._cache)
        self._cache = ids
        self.cached.append(cached)
        self.evaluated.append(len(ids) - cached)
        if is_summary:
            self.summaries += 1
            self.cached_by_summaries.append(cached)
        line: Line = self.summary if is_summary else say("Done.")
        if self.script and not is_summary:
            line = self.script.pop(0)
        if isinstance(line, UnderkeelError):
            raise line
        answer = line if isinstance(line, Answer) else line(messages)
        if answer.text:
            await on_text(answer.text)
        return Answer(
            text=answer.text,
            calls=answer.calls,
            problem=answer.problem,
            truncated=answer.truncated,
            prompt_tokens=len(ids),
            cached_tokens=cached,
            generated_tokens=answer.generated_tokens,
        )

    def _ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[int]:
        """As a template would write it: the tools after the instructions, marks around messages."""
        ids: list[int] = []
        for at, message in enumerate(messages):
            ids += [-1] * (MESSAGE_TOKENS - 2)
            ids += self.encoder.text_ids(message.get("content") or "")
            for call in message.get("tool_calls", ()):
                ids += self.encoder.text_ids(call["function"]["name"])
                ids += self.encoder.text_ids(call["function"]["arguments"])
            ids += [-2]
            for tool in tools if at == 0 else ():
                ids += self.encoder.text_ids(str(tool))
        return ids


class Recorder:
    """A user who answers `approval` to everything, and remembers what was shown."""

    def __init__(self, approval: Approval | Callable[[Planned], Approval] = Approval.ONCE) -> None:
        self.approval = approval
        self.said = ""
        self.asked: list[Planned] = []
        self.outcomes: list[tuple[str, Outcome]] = []
        self.used: list[tuple[int, int]] = []
        self.session: AgentSession | None = None

    async def text(self, text: str) -> None:
        self.said += text

    async def thought(self, text: str) -> None:
        pass

    async def usage(self, used: int, size: int) -> None:
        self.used.append((used, size))

    async def call_started(self, call: ToolCall, planned: Planned | None) -> None:
        pass

    async def call_ended(self, call: ToolCall, planned: Planned | None, outcome: Outcome) -> None:
        self.outcomes.append((call.name, outcome))

    async def approve(self, call: ToolCall, planned: Planned) -> Approval:
        self.asked.append(planned)
        return self.approval(planned) if callable(self.approval) else self.approval
