"""The model behind the daemon: sends packed messages, streams the answer, reads its tool calls.

Where the server does not serve tools, they are described in the instructions and calls are read
from the text. Calls that a model writes as plain text are read in any case.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from assistant.agent.conversation import Answer, Message, ToolCall
from assistant.client.client import DaemonClient
from assistant.engine.types import Counting, Priority
from assistant.errors import ContextFullError, RequestError, UnderkeelError
from assistant.models import token_estimate
from assistant.wire import Props
from context.syntax.text import Encoder

OnText = Callable[[str], Awaitable[None]]

MAX_ANSWER_CHARS = 200_000
_MOST_CALLS = 16
_DEFAULT_BUDGET = 4096
_FULL = re.compile(r"has (\d{1,12}) tokens, the (?:budget is|context holds) (\d{1,12})")


class Model(Protocol):
    """What the agent needs of a model."""

    encoder: Encoder

    @property
    def budget_tokens(self) -> int:
        """What a prompt may have now, its answer provided for."""
        ...

    @property
    def extra_tokens(self) -> int:
        """What the last prompts had beyond our counts."""
        ...

    async def ready(self) -> None:
        """Wait for the model. Raises UnderkeelError."""
        ...

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
        """The next answer, of at most `limit` tokens.

        Raises:
            ContextFullError: the prompt is over the budget, which is lower from now on.
            UnderkeelError: no answer is available.
        """
        ...


class DaemonModel:
    """The model that the daemon serves.

    Args:
        answer_tokens: the most of one answer.
        document: names the conversation, so that its requests share a slot.
    """

    def __init__(
        self, client: DaemonClient, *, answer_tokens: int = 2048, document: str = ""
    ) -> None:
        self._client = client
        self._answer_tokens = answer_tokens
        self._document = document or f"agent {secrets.token_hex(8)}"
        self._budget = _DEFAULT_BUDGET
        self._n_ctx = 0
        self._native = True
        self.extra_tokens = 0
        self.encoder = Encoder(token_estimate.Estimate())

    @property
    def budget_tokens(self) -> int:
        return self._budget

    @property
    def answer_tokens(self) -> int:
        """Of one answer: at most a quarter of the context."""
        limit = self._n_ctx // 4 if self._n_ctx else self._answer_tokens
        return max(min(self._answer_tokens, limit), 64)

    async def ready(self) -> None:
        info = await self._client.wait_ready()
        self._set_limits(await self._client.props())
        if info.counting is not Counting.ESTIMATE and info.vocabulary_path:
            words = await asyncio.to_thread(token_estimate.load, Path(info.vocabulary_path))
            self.encoder = Encoder(words)

    def _set_limits(self, props: Props) -> None:
        self._n_ctx = props.model.n_ctx
        self._set_budget(props.explain_budget.tokens if props.explain_budget else 1 << 30)

    def _set_budget(self, tokens: int) -> None:
        most = self._n_ctx - self.answer_tokens if self._n_ctx else _DEFAULT_BUDGET
        self._budget = max(min(tokens, most), 0)

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
        try:
            return await self._answer(
                messages, tools, counted_tokens, on_text, on_thought, limit=limit
            )
        except RequestError as error:
            if not (self._native and tools and "tool" in error.message):
                raise
            self._native = False
            return await self._answer(
                messages, tools, counted_tokens, on_text, on_thought, limit=limit
            )

    async def _answer(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        counted_tokens: int,
        on_text: OnText,
        on_thought: OnText,
        *,
        limit: int | None,
    ) -> Answer:
        body: dict[str, Any] = {
            "messages": list(messages) if self._native else without_tools(messages, tools),
            "max_tokens": min(limit or self.answer_tokens, self.answer_tokens),
            "temperature": 0.0,
            "document": self._document,
            "priority": Priority.EXPLAIN.value,
            "budget_tokens": self._budget,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if tools and self._native:
            body |= {"tools": list(tools), "tool_choice": "auto"}
        names = [tool["function"]["name"] for tool in tools]
        made = Assembler(names)
        try:
            async with aclosing(self._client.chat_events(body)) as stream:
                async for event in stream:
                    text, thought = made.feed(event)
                    if thought:
                        await on_thought(thought)
                    if text:
                        await on_text(text)
        except ContextFullError as error:
            self._refused(error, counted_tokens)
            raise
        answer = made.answer()
        if rest := made.rest(answer):
            await on_text(rest)
        if answer.prompt_tokens:
            self.extra_tokens = max(self.extra_tokens + answer.prompt_tokens - counted_tokens, 0)
        if made.budget_tokens is not None:
            self._set_budget(made.budget_tokens)
        return answer

    def _refused(self, error: ContextFullError, counted_tokens: int) -> None:
        """Learn from a refusal how long the prompt was, and what the budget is."""
        found = _FULL.search(error.message)
        if found is None:
            self._budget = self._budget * 3 // 4
            return
        prompt, budget = int(found[1]), int(found[2])
        self.extra_tokens = max(self.extra_tokens + prompt - counted_tokens, 0)
        self._set_budget(min(budget, self._budget))


@dataclass
class Assembler:
    """Puts the streamed pieces of an answer together (OpenAI's `chat.completion.chunk`).

    Attributes:
        names: of the tools, for calls that come as text.
        budget_tokens: of the next prompt, as the daemon reported it.
    """

    names: Sequence[str]
    budget_tokens: int | None = None
    _text: str = ""
    _shown: int = 0
    _blanks: int = 0  # at the start of the text
    _calls: dict[int, dict[str, str]] = field(default_factory=dict)
    _finish: str = ""
    _prompt: int = 0
    _cached: int = 0
    _generated: int = 0

    def feed(self, event: Mapping[str, Any]) -> tuple[str, str]:
        """One event; returns the new text and the new reasoning, to be shown."""
        self._numbers(event)
        choices = event.get("choices") or []
        if not choices or not isinstance(choices[0], dict):
            return "", ""
        self._finish = choices[0].get("finish_reason") or self._finish
        delta = choices[0].get("delta") or {}
        text = delta.get("content") or ""
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        if len(self._text) + len(text) > MAX_ANSWER_CHARS:
            raise UnderkeelError("the model's answer is far too long", advice="Try again")
        self._text += text
        for position, piece in enumerate(delta.get("tool_calls") or ()):
            self._call(piece, position)
        while self._blanks < len(self._text) and self._text[self._blanks].isspace():
            self._blanks += 1
        stop = self._shown
        if self._text[self._blanks : self._blanks + 1] not in {"{", "["}:
            stop = _call_start(self._text, self._shown)
        shown, self._shown = self._text[self._shown : stop], stop
        return shown, thought

    def rest(self, answer: Answer) -> str:
        """What is still to be shown: text that might have been a call, and is none."""
        whole = not answer.calls and not answer.problem
        return self._text[self._shown :] if whole else ""

    def _call(self, piece: Mapping[str, Any], position: int) -> None:
        index = piece.get("index", position)
        if not isinstance(index, int) or len(self._calls) > 4 * _MOST_CALLS:
            return
        call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        function = piece.get("function") or {}
        call["id"] = call["id"] or piece.get("id") or ""
        call["name"] += function.get("name") or ""
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments)
        call["arguments"] += arguments or ""
        if len(call["arguments"]) > MAX_ANSWER_CHARS:
            raise UnderkeelError("the model's tool call is far too long", advice="Try again")

    def _numbers(self, event: Mapping[str, Any]) -> None:
        timings, usage = event.get("timings") or {}, event.get("usage") or {}
        if timings:
            self._cached = int(timings.get("cache_n", 0))
            self._prompt = self._cached + int(timings.get("prompt_n", 0))
            self._generated = int(timings.get("predicted_n", 0))
        elif usage:
            self._prompt = int(usage.get("prompt_tokens", 0))
            self._generated = int(usage.get("completion_tokens", 0))
            details = usage.get("prompt_tokens_details") or {}
            self._cached = int(details.get("cached_tokens", 0))
        budget = event.get("budget")
        if isinstance(budget, dict) and isinstance(budget.get("tokens"), int):
            self.budget_tokens = budget["tokens"]

    def answer(self) -> Answer:
        """The whole answer, once the stream has ended."""
        text = self._text
        calls = [
            ToolCall(id=_new_id(), name=one["name"].strip(), arguments=one["arguments"] or "{}")
            for _, one in sorted(self._calls.items())
        ]
        problem = ""
        if not calls:
            text, calls, problem = calls_in_text(text, self.names)
        if len(calls) > _MOST_CALLS:
            problem, calls = f"More than {_MOST_CALLS} calls at once. Make fewer.", []
        truncated = self._finish == "length"
        return Answer(
            text=text.strip(),
            calls=() if problem else tuple(calls),
            problem="" if truncated else problem,
            truncated=truncated,
            prompt_tokens=self._prompt,
            cached_tokens=self._cached,
            generated_tokens=self._generated,
        )


_CALL_START = re.compile(r"<tool_call|<function|<tool>|```(?:json|tool)|\[TOOL_CALLS")
_LONGEST_START = 12


def _call_start(text: str, shown: int) -> int:
    """Up to where a text may be shown: what follows may be a call, or the start of one.

    Args:
        shown: so many characters have been found to be no part of a call.
    """
    found = _CALL_START.search(text, shown)
    if found is not None:
        return found.start()
    for at in range(max(len(text) - _LONGEST_START, shown), len(text)):
        if text[at] in "<`[" and _may_start(text[at:]):
            return at
    return len(text)


def _may_start(tail: str) -> bool:
    starts = ("<tool_call", "<function", "<tool>", "```json", "```tool", "[TOOL_CALLS")
    return any(start.startswith(tail) for start in starts)


_TAGGED = re.compile(r"<(tool_call|function_call|tool)>")
_XML_CALL = re.compile(r"<function=([\w.-]{1,80})>(.*?)(?:</function>|\Z)", re.DOTALL)
_XML_PARAMETER = re.compile(r"<parameter=([\w.-]{1,80})>")
_FENCE = re.compile(r"```(?:json|tool_call|tool)?[ \t]*\n")
_FENCE_END = re.compile(r"\n[ \t]*```")


@dataclass(frozen=True)
class _Part:
    """A part of a text between two marks: the name in the first one, what is between them, and
    where both marks are."""

    name: str
    body: str
    start: int
    stop: int


def _tagged(text: str) -> list[_Part]:
    """Calls in tags; the last one may lack its end."""
    found, at = [], 0
    while (opening := _TAGGED.search(text, at)) is not None:
        closing = f"</{opening[1]}>"
        end = text.find(closing, opening.end())
        at = end + len(closing) if end >= 0 else len(text)
        body = text[opening.end() : end if end >= 0 else at]
        found.append(_Part(opening[1], body.strip(), opening.start(), at))
    return found


def _parameters(text: str) -> dict[str, Any]:
    found, at = {}, 0
    while (opening := _XML_PARAMETER.search(text, at)) is not None:
        end = text.find("</parameter>", opening.end())
        if end < 0:
            break
        body = text[opening.end() : end].removeprefix("\n").removesuffix("\n")
        found[opening[1]] = _value(body)
        at = end
    return found


def _fenced(text: str) -> list[_Part]:
    found, at = [], 0
    while (opening := _FENCE.search(text, at)) is not None:
        # The line end before the closing fence may be the one behind the opening fence.
        end = _FENCE_END.search(text, opening.end() - 1)
        if end is None:
            break
        body = text[opening.end() : end.start()]
        found.append(_Part("", body, opening.start(), end.end()))
        at = end.end()
    return found


def calls_in_text(text: str, names: Sequence[str]) -> tuple[str, list[ToolCall], str]:
    """Tool calls that a model wrote as text.

    Returns:
        The text without them, the calls, and a problem, for the model, where something was meant as
        a call and cannot be read.
    """
    xml = list(_XML_CALL.finditer(text))
    if xml:
        calls = []
        for match in xml:
            given = _parameters(match[2])
            if "<parameter=" in match[2] and not given:
                return text, [], f"The call of {match[1]} is cut off. Make it again."
            calls.append(_call(match[1], given))
        rest = _XML_CALL.sub("", text).replace("<tool_call>", "").replace("</tool_call>", "")
        return rest, calls, ""
    tagged = _tagged(text)
    if tagged:
        calls = []
        for part in tagged:
            found = _json_calls(part.body)
            if not found:
                return (
                    text,
                    [],
                    ("The tool call is not valid JSON. Write one object with name and arguments."),
                )
            calls += found
        stops = [0, *(part.stop for part in tagged)]
        starts = [*(part.start for part in tagged), len(text)]
        rest = "".join(text[a:b] for a, b in zip(stops, starts, strict=True))
        return rest, calls, ""
    for part in _fenced(text):
        found = [call for call in _json_calls(part.body) if call.name in names]
        if found:
            return text[: part.start] + text[part.stop :], found, ""
    stripped = text.strip().removeprefix("[TOOL_CALLS]").strip()
    if stripped.startswith(("{", "[")):
        found = [call for call in _json_calls(stripped) if call.name in names]
        if found:
            return "", found, ""
    return text, [], ""


def _json_calls(text: str) -> list[ToolCall]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return []
    rows = data if isinstance(data, list) else [data]
    calls = []
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("function"), dict):
            row = row["function"]  # noqa: PLW2901
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            return []
        given = row.get("arguments", row.get("parameters", row.get("input", {})))
        calls.append(_call(row["name"], given))
    return calls


def _call(name: str, given: Any) -> ToolCall:
    arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    return ToolCall(id=_new_id(), name=name, arguments=arguments)


def _value(text: str) -> Any:
    """A parameter in XML: a number or a truth value where it is exactly one, else the text."""
    return json.loads(text) if re.fullmatch(r"-?\d{1,9}|true|false", text) else text


def _new_id() -> str:
    # Ids of a server may repeat, and some templates demand nine letters or digits (Mistral).
    return secrets.token_hex(5)[:9]


def without_tools(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """The same conversation for a server without tools: described in the instructions, called and
    answered in text, with the roles in turn."""
    lines = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    rules = (
        "\n\nTools, one JSON object each:\n" + "\n".join(lines) + "\nTo call one, write:\n"
        '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>'
    )
    made: list[Message] = []
    for message in messages:
        role, text = message["role"], message.get("content") or ""
        if role == "system":
            text += rules if tools else ""
        elif role == "tool":
            role, text = "user", f"<tool_response>\n{text}\n</tool_response>"
        for call in message.get("tool_calls", ()):
            function = call["function"]
            data = f'{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}'
            text = f"{text}\n<tool_call>\n{data}\n</tool_call>".strip()
        if made and made[-1]["role"] == role:
            made[-1]["content"] += f"\n{text}"
        else:
            made.append({"role": role, "content": text})
    return made
