"""A conversation always fits its budget, is cut in a stable way, and says what was cut."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from assistant.agent import conversation
from assistant.agent.conversation import Message, Step, ToolCall, ToolResult, Turn
from assistant.agent.packing import (
    LOW_WATER,
    MESSAGE_TOKENS,
    DoesNotFitError,
    Level,
    pack,
)


def count(text: str) -> int:
    return len(text) // 3 + 1


def step(index: int, size: int = 600, text: str = "", note: str = "") -> Step:
    call = ToolCall(id=f"c{index}", name="read_file", arguments=f'{{"path": "f{index}.py"}}')
    result = ToolResult(
        call_id=call.id,
        text=f"f{index}.py:\n" + "x" * size,
        outline=f"f{index}.py: outline " + "y" * (size // 5),
        line=f"Read f{index}.py.",
    )
    return Step(text=text, calls=(call,), results=(result,), note=note)


_STEPS = st.lists(
    st.builds(step, st.integers(0, 99), st.integers(0, 3000), st.sampled_from(["", "a" * 900])),
    max_size=12,
)
_TURNS = st.lists(
    st.builds(lambda prompt, steps: Turn(prompt=prompt, steps=tuple(steps)),
              st.text("ab ", min_size=1, max_size=900), _STEPS),
    min_size=1, max_size=3,
)  # fmt: skip


def size(messages: Sequence[Message]) -> int:
    return sum(
        count(message["content"])
        + sum(count(call["function"]["arguments"]) for call in message.get("tool_calls", ()))
        for message in messages
    )


@given(_TURNS, st.integers(200, 6000), st.integers(0, 300))
def test_it_fits_or_says_that_it_cannot(turns: list[Turn], budget: int, extra: int) -> None:
    try:
        packed = pack("rules", turns, (), budget, count, extra_tokens=extra)
    except DoesNotFitError:
        return
    assert size(packed.messages) + extra <= packed.tokens <= budget
    assert packed == pack("rules", turns, (), budget, count, extra_tokens=extra)
    # The task is whole, and each call shown is followed by its result.
    texts = [message["content"] for message in packed.messages]
    assert any(turns[-1].prompt in text for text in texts)
    roles = [message["role"] for message in packed.messages]
    assert ("user", "user") not in itertools.pairwise(roles)
    waiting: list[str] = []
    for message in packed.messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] == waiting.pop(0)
        else:
            assert not waiting
            waiting = [call["id"] for call in message.get("tool_calls", ())]
    # Nothing is cut without a word.
    gone = packed.levels.count(Level.DIGEST)
    counts = re.findall(r"\[(\d+) earlier steps are shortened", "\n".join(texts))
    assert sum(map(int, counts)) == gone


@given(_TURNS, st.integers(600, 6000), st.integers(200, 600))
def test_steps_never_grow_again(turns: list[Turn], budget: int, less: int) -> None:
    try:
        first = pack("rules", turns, (), budget, count)
        second = pack("rules", turns, first.levels, budget - less, count)
        third = pack("rules", turns, second.levels, budget * 2, count)
    except DoesNotFitError:
        return
    assert all(a <= b for a, b in zip(first.levels, second.levels, strict=True))
    assert third.levels == second.levels and not third.repacked


def shared_tokens(before: Sequence[Message], now: Sequence[Message]) -> int:
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


@pytest.mark.parametrize("budget", [3000, 6000, 14_000])
def test_most_of_each_prompt_was_in_the_one_before(budget: int) -> None:
    """At least 90 % over the requests of a long turn, at windows of 4k, 8k and 16k."""
    levels: Sequence[int] = ()
    steps: list[Step] = []
    before: Sequence[Message] = ()
    tokens = shared = repacks = 0
    for index in range(120):
        turn = Turn(prompt="Do the task.", steps=tuple(steps))
        packed = pack("rules " * 150, [turn], levels, budget, count, extra_tokens=600)
        levels = packed.levels
        if before:
            # What is new since the last request is no part of what could have been kept.
            new = size(packed.messages[-2:])
            tokens += size(packed.messages) - new
            shared += min(shared_tokens(before, packed.messages), size(packed.messages) - new)
        repacks += packed.repacked
        before = packed.messages
        steps.append(step(index, size=300 + index * 37 % 400))
    assert shared / tokens >= 0.9, (shared / tokens, repacks)
    assert repacks <= 120 // 3


def test_a_repack_frees_more_than_it_must() -> None:
    steps = tuple(step(index) for index in range(20))
    packed = pack("rules", [Turn(prompt="Task", steps=steps)], (), 3000, count)
    assert packed.repacked and packed.tokens <= 3000 * LOW_WATER
    assert packed.levels[-1] is Level.FULL


def test_a_large_last_result_shrinks_only_if_it_must() -> None:
    steps = (step(0, size=6000),)
    packed = pack("rules", [Turn(prompt="Task", steps=steps)], (), 1200, count)
    assert packed.levels == (Level.OUTLINE,)


def test_a_budget_that_is_too_small_is_reported_with_numbers() -> None:
    with pytest.raises(DoesNotFitError) as found:
        pack("rules " * 500, [Turn(prompt="Task")], (), 200, count)
    assert "the budget is 200" in str(found.value)


def test_old_arguments_are_shortened_and_stay_valid() -> None:
    call = ToolCall(
        id="c", name="create_file", arguments=json.dumps({"path": "a", "text": "z" * 4000})
    )
    made = Step(calls=(call,), results=(ToolResult(call_id="c", text="Created."),))
    turn = Turn(prompt="Task", steps=(made, *(step(index) for index in range(8))))
    packed = pack("rules", [turn], (), 2600, count)
    calls = [c for m in packed.messages for c in m.get("tool_calls", ())]
    given_ = json.loads(calls[0]["function"]["arguments"])
    assert given_["path"] == "a" and "3840 characters left out" in given_["text"]


def test_unreadable_arguments_are_sent_as_valid_json() -> None:
    """Templates parse them, and fail over what is not JSON."""
    call = ToolCall(id="c", name="read_file", arguments='{"path": ')
    made = Step(calls=(call,), results=(ToolResult(call_id="c", text="Not JSON.", failed=True),))
    packed = pack("rules", [Turn(prompt="Task", steps=(made,))], (), 3000, count)
    arguments = packed.messages[2]["tool_calls"][0]["function"]["arguments"]
    assert isinstance(json.loads(arguments), dict)


# Summaries


def messages_of(n: int) -> list[Message]:
    turn = Turn(prompt="Task", steps=tuple(step(i) for i in range(n)))
    return list(pack("rules", [turn], (), 10**6, count).messages)


@given(_TURNS, st.integers(200, 6000), st.booleans())
def test_a_summary_takes_the_place_of_whole_steps(
    turns: list[Turn], budget: int, is_cut: bool
) -> None:
    """The task and the last steps stay, all that it covers is counted, and no step is in both."""
    span = conversation.coverable(turns, None)
    if span is None:
        return
    made = conversation.cut(turns, span, None) if is_cut else structs.replace(span, text="SUM")
    assert conversation.coverable(turns, made) is None, "the same steps are summed up once"
    try:
        packed = pack("rules", turns, (), budget, count, summary=made)
    except DoesNotFitError:
        return
    assert size(packed.messages) <= packed.tokens <= budget
    assert packed.levels[: span.steps] == (Level.DIGEST,) * span.steps
    texts = [message["content"] for message in packed.messages]
    assert f"The first {span.steps} steps and {span.turns} requests" in texts[1]
    assert texts[2] == made.text and texts[3].startswith(turns[-1].prompt)
    shown = sum(message["role"] == "assistant" for message in packed.messages) - 1
    counts = re.findall(r"\[(\d+) earlier steps are shortened", texts[3])
    assert shown + sum(map(int, counts)) + span.steps == len(packed.levels)


@given(st.integers(1, 20), st.integers(50, 6000))
def test_a_prompt_for_a_summary_extends_the_one_before(n_steps: int, limit: int) -> None:
    """So it is in the KV cache; it ends with a finished step, and the steps that it lacks are
    counted."""
    sent = messages_of(n_steps)

    def tokens_of(message: Message) -> int:
        return size([message])

    made, lacking = conversation.prompt_of(sent, limit, tokens_of)
    if not made:
        assert lacking == n_steps
        return
    assert size(made) <= limit
    assert tuple(made[:-1]) == tuple(sent[: len(made) - 1])
    assert made[-1] == {"role": "user", "content": conversation.REQUEST}
    assert made[-2]["role"] == "tool"
    assert sum(message["role"] == "assistant" for message in made) + lacking == n_steps


def test_shrinking_reports_when_it_is_exhausted() -> None:
    """Only then, so that a summary is the last resort."""
    steps = tuple(step(i) for i in range(12))
    roomy = pack("rules", [Turn(prompt="Task", steps=steps)], (), 2400, count)
    assert roomy.repacked and not roomy.exhausted
    many = tuple(step(i) for i in range(60))
    lost = pack("rules", [Turn(prompt="Task", steps=many)], (), 1500, count)
    assert lost.exhausted
    again = pack("rules", [Turn(prompt="Task", steps=many)], lost.levels, 1500, count)
    assert not again.repacked and not again.exhausted


def test_a_cut_keeps_the_last_requests_and_results() -> None:
    turns = [Turn(prompt=f"Request {i} " + "x" * 500, steps=(step(i),)) for i in range(30)]
    span = conversation.coverable([*turns, Turn(prompt="Now")], None)
    assert span is not None
    made = conversation.cut([*turns, Turn(prompt="Now")], span, None)
    assert "Request 29" in made.text and "Request 25" not in made.text
    assert "[26 earlier requests are left out]" in made.text
    assert "[18 earlier lines are left out]" in made.text and "- Read f29.py." in made.text
    assert not made.by_model and len(made.text) < 3000
