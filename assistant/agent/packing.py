"""Packs a conversation into the current budget. Pure, deterministic, and stable.

Steps shrink from the oldest on: their results to outlines, then to one line, then whole steps to a
line each in front of the user's prompt. A step never grows again, and a repack frees more than it
must, so that many requests in a row extend the one before: their prompt is in the KV cache.
Whatever is shortened says so in the text that the model sees.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from assistant.agent.conversation import Step, ToolCall, Turn

Message = dict[str, Any]
Count = Callable[[str], int]

MESSAGE_TOKENS = 8
"""What a chat template adds to a message, at most, before the first answer shows what it adds."""

LOW_WATER = 0.6
"""A repack shrinks to this share of the budget, so that the next one is many steps away."""

SMALL_BUDGET = 6000
"""Below this only the core tools are offered, and the instructions are brief."""

_RECENT_STEPS = 2
_LONG_ARGUMENT = 160
_LONG_TEXT = 240
_LONG_PROMPT = 400
_MOST_DIGEST_LINES = 12
_LONG_DIGEST_LINE = 120


class Level(IntEnum):
    """How much of a step is shown."""

    FULL = 0
    OUTLINE = 1
    LINE = 2
    DIGEST = 3


@dataclass(frozen=True)
class Packed:
    """Messages that fit.

    Attributes:
        tokens: an upper bound of their tokens, tools included.
        levels: of all steps in order, for the next pack.
        repacked: some step became smaller this time.
        shortened: how many steps are not shown in full.
    """

    messages: tuple[Message, ...]
    tokens: int
    levels: tuple[Level, ...]
    repacked: bool
    shortened: int


class DoesNotFitError(Exception):
    """The least that has to be sent is over the budget."""

    def __init__(self, needed: int, budget: int) -> None:
        super().__init__(
            f"The task, the rules and the last step take {needed} tokens, and the budget is "
            f"{budget}. Write a shorter prompt, or free memory (see: underkeel status)."
        )
        self.needed = needed
        self.budget = budget


def result_tokens(budget: int) -> int:
    """The most that one tool result may have: a fifth of the budget."""
    return min(max(budget // 5, 160), 4000)


def pack(
    system: str,
    turns: Sequence[Turn],
    levels: Sequence[int],
    budget: int,
    count: Count,
    *,
    extra_tokens: int = 0,
) -> Packed:
    """The messages of a conversation within `budget` tokens.

    Args:
        system: instructions and project rules; always in full.
        turns: the last one is the current task; its prompt is always in full.
        levels: of the steps, as returned before; missing ones are FULL.
        count: tokens of a text.
        extra_tokens: what the tools take, and what was observed beyond our counts.

    Raises:
        DoesNotFitError: not even the least of it fits.
    """
    n_steps = sum(len(turn.steps) for turn in turns)
    before = tuple(Level(level) for level in levels[:n_steps])
    before += (Level.FULL,) * (n_steps - len(before))
    sizes = _Sizes(system, turns, count)
    now = list(before)
    total = extra_tokens + sizes.total(now)
    if total > budget:
        target = int(budget * LOW_WATER)
        for index, level in _shrinking(n_steps):
            if now[index] >= level:
                continue
            now[index] = level
            if level is Level.DIGEST or sizes.step(index, level) < sizes.step(index, level - 1):
                total = extra_tokens + sizes.total(now)
            # Past the older steps, only what must be.
            if total <= (target if index < n_steps - _RECENT_STEPS else budget):
                break
        if total > budget:
            raise DoesNotFitError(total, budget)
    return Packed(
        tuple(render(system, turns, now)),
        total,
        tuple(now),
        tuple(now) != before,
        sum(level is not Level.FULL for level in now),
    )


def _shrinking(n_steps: int) -> Iterator[tuple[int, Level]]:
    """Which step becomes how small, in this order."""
    older = range(max(n_steps - _RECENT_STEPS, 0))
    for level in (Level.OUTLINE, Level.LINE, Level.DIGEST):
        for index in older:
            yield index, level
    for index in range(len(older), n_steps):
        last = index == n_steps - 1
        for level in (Level.OUTLINE, Level.LINE) if last else tuple(Level)[1:]:
            yield index, level


class _Sizes:
    """Token counts of parts, each counted once."""

    def __init__(self, system: str, turns: Sequence[Turn], count: Count) -> None:
        self._system = system
        self._turns = turns
        self._count = count
        self._steps = [step for turn in turns for step in turn.steps]
        self._known: dict[tuple[int, int], int] = {}
        self._texts: dict[str, int] = {}

    def step(self, index: int, level: int) -> int:
        if level == Level.DIGEST:
            return 0
        known = self._known.get((index, level))
        if known is None:
            messages = step_messages(self._steps[index], Level(level))
            known = sum(self.message(message) for message in messages)
            self._known[index, level] = known
        return known

    def message(self, message: Message) -> int:
        texts = [message.get("content") or ""]
        for call in message.get("tool_calls", ()):
            texts += [call["function"]["name"], call["function"]["arguments"], call["id"]]
            texts.append('{"name": "", "arguments": }')
        return MESSAGE_TOKENS + sum(self._text(text) for text in texts)

    def _text(self, text: str) -> int:
        known = self._texts.get(text)
        if known is None:
            known = self._texts[text] = self._count(text)
        return known

    def total(self, levels: Sequence[Level]) -> int:
        heads = [
            message
            for message in render(self._system, self._turns, levels, steps=False)
            if message["role"] != "assistant"
        ]
        steps = sum(self.step(index, level) for index, level in enumerate(levels))
        return sum(self.message(message) for message in heads) + steps


def render(
    system: str, turns: Sequence[Turn], levels: Sequence[Level], *, steps: bool = True
) -> list[Message]:
    """The messages, as OpenAI's chat completions have them."""
    messages: list[Message] = [{"role": "system", "content": system}]
    at = 0
    for number, turn in enumerate(turns):
        own = [Level(level) for level in levels[at : at + len(turn.steps)]]
        at += len(turn.steps)
        last = number == len(turns) - 1
        gone = [step for step, level in zip(turn.steps, own, strict=True) if level is Level.DIGEST]
        prompt = turn.prompt
        if not last and gone and len(gone) == len(turn.steps):
            prompt = _short(prompt, _LONG_PROMPT)
        messages.append({"role": "user", "content": prompt + _digest(gone)})
        for step, level in zip(turn.steps, own, strict=True):
            if steps and level is not Level.DIGEST:
                messages += step_messages(step, level)
    return messages


def step_messages(step: Step, level: Level) -> list[Message]:
    """One step as messages: the answer, the results of its calls, and a reminder."""
    text = step.text if level < Level.LINE else _short(step.text, _LONG_TEXT)
    answer: Message = {"role": "assistant", "content": text}
    if step.calls:
        answer["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call, level)},
            }
            for call in step.calls
        ]
    elif not text:
        answer["content"] = "(nothing)"
    messages = [answer]
    for call, result in zip(step.calls, step.results, strict=True):
        shown = {
            Level.FULL: result.text,
            Level.OUTLINE: _shorter(result.outline, result.text),
            Level.LINE: _shorter(result.line, _short(result.text, _LONG_TEXT)),
        }[level]
        messages.append(
            {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": shown}
        )
    if step.note:
        messages.append({"role": "user", "content": step.note})
    return messages


def _shorter(short: str, text: str) -> str:
    return short if short and len(short) < len(text) else text


def _short(text: str, limit: int) -> str:
    if len(text) <= limit + 40:
        return text
    return f"{text[:limit]} [{len(text) - limit} characters left out]"


def _arguments(call: ToolCall, level: Level) -> str:
    """The arguments as JSON; long texts in them are shortened once the step is old."""
    try:
        given = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return json.dumps({"unreadable": _short(call.arguments, _LONG_ARGUMENT)})
    if not isinstance(given, dict):
        given = {"unreadable": given}
    if level > Level.FULL:
        given = {
            key: _short(value, _LONG_ARGUMENT) if isinstance(value, str) else value
            for key, value in given.items()
        }
    return json.dumps(given, ensure_ascii=False)


def _digest(steps: Sequence[Step]) -> str:
    """One line for each result of steps that are not shown any more, the newest last."""
    if not steps:
        return ""
    lines = [
        " ".join((result.line or result.text).split())[:_LONG_DIGEST_LINE]
        for step in steps
        for result in step.results
    ]
    shown = lines[-_MOST_DIGEST_LINES:]
    head = f"[{len(steps)} earlier steps are shortened to these lines"
    if len(lines) > len(shown):
        head += f", the first {len(lines) - len(shown)} of which are left out"
    return "\n\n" + "\n".join([f"{head}:", *(f"- {line}" for line in shown)]) + "]"


def shared_tokens(before: Sequence[Message], now: Sequence[Message], count: Count) -> int:
    """How many of the tokens of `now` are a prefix that `before` had, too: whole messages and the
    common start of the first that differs."""
    shared = 0
    for old, new in zip(before, now, strict=False):
        if old == new:
            shared += MESSAGE_TOKENS + count(json.dumps(new, ensure_ascii=False))
            continue
        one, other = str(old.get("content")), str(new.get("content"))
        same = 0
        while same < min(len(one), len(other)) and one[same] == other[same]:
            same += 1
        return shared + (count(other[:same]) if old["role"] == new["role"] else 0)
    return shared
