"""Packs a conversation into the current budget. Pure, deterministic, and stable.

Steps shrink from the oldest on: their results to outlines, then to one line, then whole steps to a
line each after the user's prompt. A step never grows again, and a repack frees more than it
must, so that many requests in a row extend the one before: their prompt is in the KV cache.
Where that is not enough, a summary takes the place of the older part; see `summary`. Whatever is
shortened says so in the text that the model sees.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from assistant.agent.conversation import (
    MOST_LINES,
    RECENT_STEPS,
    Message,
    Step,
    Summary,
    ToolCall,
    Turn,
    one_line,
    summary_messages,
)

Count = Callable[[str], int]

MESSAGE_TOKENS = 8
"""What a chat template adds to a message, at most, before the first answer shows what it adds."""

LOW_WATER = 0.6
"""A repack shrinks to this share of the budget, so that the next one is many steps away."""

SMALL_BUDGET = 6000
"""Below this only the core tools are offered, and the instructions are brief."""

_LONG_ARGUMENT = 160
_LONG_TEXT = 240
_LONG_PROMPT = 400
_FULL_SHARE = 0.85


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
        exhausted: shrinking steps further would lose what they say, or frees too little.
    """

    messages: tuple[Message, ...]
    tokens: int
    levels: tuple[Level, ...]
    repacked: bool
    shortened: int
    exhausted: bool = False


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
    summary: Summary | None = None,
    extra_tokens: int = 0,
) -> Packed:
    """The messages of a conversation within `budget` tokens.

    Args:
        system: instructions and project rules; always in full.
        turns: the last one is the current task; its prompt is always in full.
        levels: of the steps, as returned before; missing ones are FULL.
        count: tokens of a text.
        summary: in place of the first turns and steps.
        extra_tokens: what the tools take, and what was observed beyond our counts.

    Raises:
        DoesNotFitError: not even the least of it fits.
    """
    n_steps = sum(len(turn.steps) for turn in turns)
    before = tuple(Level(level) for level in levels[:n_steps])
    before += (Level.FULL,) * (n_steps - len(before))
    sizes = _Sizes(system, turns, summary, count)
    now = list(before)
    covered = min(summary.steps, n_steps) if summary else 0
    now[:covered] = [Level.DIGEST] * covered
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
            if total <= (target if index < n_steps - RECENT_STEPS else budget):
                break
        if total > budget:
            raise DoesNotFitError(total, budget)
    repacked = tuple(now) != before
    older = now[: max(n_steps - RECENT_STEPS, 0)]
    used_up = total > budget * _FULL_SHARE and all(level is Level.DIGEST for level in older)
    return Packed(
        tuple(render(system, turns, now, summary)),
        total,
        tuple(now),
        repacked,
        sum(level is not Level.FULL for level in now),
        repacked and (used_up or _loses_lines(turns, now, summary)),
    )


def _shrinking(n_steps: int) -> Iterator[tuple[int, Level]]:
    """Which step becomes how small, in this order."""
    older = range(max(n_steps - RECENT_STEPS, 0))
    for level in (Level.OUTLINE, Level.LINE, Level.DIGEST):
        for index in older:
            yield index, level
    for index in range(len(older), n_steps):
        last = index == n_steps - 1
        for level in (Level.OUTLINE, Level.LINE) if last else tuple(Level)[1:]:
            yield index, level


def message_tokens(message: Message, count: Count) -> int:
    """An upper bound of a message's tokens in a prompt."""
    texts = [message.get("content") or ""]
    for call in message.get("tool_calls", ()):
        texts += [call["function"]["name"], call["function"]["arguments"], call["id"]]
        texts.append('{"name": "", "arguments": }')
    return MESSAGE_TOKENS + sum(count(text) for text in texts)


class _Sizes:
    """Token counts of parts, each counted once."""

    def __init__(
        self, system: str, turns: Sequence[Turn], summary: Summary | None, count: Count
    ) -> None:
        self._system = system
        self._turns = turns
        self._summary = summary
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
        return message_tokens(message, self._text)

    def _text(self, text: str) -> int:
        known = self._texts.get(text)
        if known is None:
            known = self._texts[text] = self._count(text)
        return known

    def total(self, levels: Sequence[Level]) -> int:
        heads = render(self._system, self._turns, levels, self._summary, steps=False)
        steps = sum(self.step(index, level) for index, level in enumerate(levels))
        return sum(self.message(message) for message in heads) + steps


def render(
    system: str,
    turns: Sequence[Turn],
    levels: Sequence[Level],
    summary: Summary | None = None,
    *,
    steps: bool = True,
) -> list[Message]:
    """The messages, as OpenAI's chat completions have them; prompts in a row are one message, since
    many chat templates demand that roles alternate. Without `steps` each prompt is on its own."""
    messages: list[Message] = [{"role": "system", "content": system}]
    if summary is not None:
        messages += summary_messages(summary)
    for number, (turn, own, gone) in enumerate(_shown_turns(turns, levels, summary)):
        if own is None:
            continue
        last = number == len(turns) - 1
        prompt = turn.prompt
        if not last and gone and len(gone) == len(turn.steps):
            prompt = _short(prompt, _LONG_PROMPT)
        text = prompt + _digest(gone)
        if steps and messages[-1]["role"] == "user":
            text = f"{messages.pop()['content']}\n\n{text}"
        messages.append({"role": "user", "content": text})
        for step, level in zip(turn.steps, own, strict=True):
            if steps and level is not Level.DIGEST:
                messages += step_messages(step, level)
    return messages


def _shown_turns(
    turns: Sequence[Turn], levels: Sequence[Level], summary: Summary | None
) -> Iterator[tuple[Turn, list[Level] | None, list[Step]]]:
    """Each turn with the levels of its steps, None where the summary holds all of it, and its steps
    that are shown as one line each."""
    at = 0
    for number, turn in enumerate(turns):
        own = [Level(level) for level in levels[at : at + len(turn.steps)]]
        covered = max(summary.steps - at, 0) if summary else 0
        at += len(turn.steps)
        if summary is not None and number < summary.turns:
            yield turn, None, []
            continue
        pairs = list(zip(turn.steps, own, strict=True))
        yield turn, own, [step for step, level in pairs[covered:] if level is Level.DIGEST]


def _loses_lines(turns: Sequence[Turn], levels: Sequence[Level], summary: Summary | None) -> bool:
    """Whether more results are shown as one line than a turn has lines."""
    return any(
        sum(len(step.results) for step in gone) > MOST_LINES
        for _, _, gone in _shown_turns(turns, levels, summary)
    )


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
    lines = [one_line(result.line or result.text) for step in steps for result in step.results]
    shown = lines[-MOST_LINES:]
    head = f"[{len(steps)} earlier steps are shortened to these lines"
    if len(lines) > len(shown):
        head += f", the first {len(lines) - len(shown)} of which are left out"
    return "\n\n" + "\n".join([f"{head}:", *(f"- {line}" for line in shown)]) + "]"
