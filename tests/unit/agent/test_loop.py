"""Properties of the agent's state machine: every path ends, with a reason, and well-formed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.agent.conversation import Answer, ToolCall, ToolResult
from assistant.agent.loop import (
    Action,
    Answered,
    AskModel,
    BudgetFell,
    Cancelled,
    Event,
    Limits,
    ModelFailed,
    NoSpace,
    Reason,
    RunTool,
    Started,
    State,
    Stop,
    Summarised,
    ToolDone,
    advance,
    fingerprint,
)


def call(name: str = "read", arguments: str = "{}", id_: str = "c1") -> ToolCall:
    return ToolCall(id=id_, name=name, arguments=arguments)


def result(text: str = "ok", id_: str = "c1", **more: Any) -> ToolResult:
    return ToolResult(call_id=id_, text=text, **more)


def calling(*calls: ToolCall, at_s: float = 0.0) -> Answered:
    return Answered(Answer(text="", calls=calls, prompt_tokens=10, generated_tokens=5), at_s)


SAYING = Answered(Answer(text="Done.", prompt_tokens=10, generated_tokens=5), 0.0)

_CALLS = st.lists(
    st.builds(
        call,
        st.sampled_from(["read", "edit", "ask_user"]),
        st.sampled_from(["{}", '{"a": 1}', "{"]),
        st.sampled_from(["c1", "c2"]),
    ),
    max_size=3,
)
_ANSWERS = st.builds(
    Answer,
    text=st.sampled_from(["", "text"]),
    calls=_CALLS.map(tuple),
    problem=st.sampled_from(["", "", "bad JSON"]),
    truncated=st.booleans(),
    prompt_tokens=st.integers(0, 5000),
    cached_tokens=st.integers(0, 5000),
    generated_tokens=st.integers(0, 500),
)


@given(st.data(), st.builds(Limits, st.integers(1, 12), st.integers(0, 20_000), st.just(100.0)))
def test_every_turn_ends_and_its_conversation_is_well_formed(
    data: st.DataObject, limits: Limits
) -> None:
    """Whatever the model, the tools and the daemon do."""
    state, action = advance(State(limits=limits), Started())
    now_s = 0.0
    most = (limits.steps + 1) * (3 + limits.retries * 2 + 2) + 10
    for _ in range(most):
        if isinstance(action, Stop):
            break
        now_s += data.draw(st.floats(0, 3))
        event: Event
        if isinstance(action, RunTool):
            text, changed = data.draw(st.sampled_from(["a", "b"])), data.draw(st.booleans())
            event = ToolDone(result(text, action.call.id, changed=changed), now_s)
        else:
            event = data.draw(
                st.one_of(
                    st.builds(Answered, _ANSWERS, st.just(now_s)),
                    st.just(ModelFailed("died", now_s)),
                    st.just(BudgetFell(now_s)),
                    st.just(Summarised(100, now_s)),
                )
            )
        state, action = advance(state, event)
    assert isinstance(action, Stop)
    assert action.message or action.reason is Reason.DONE
    assert state.stop == action and state.answer is None
    assert state.answers <= limits.steps
    for step in state.steps:
        assert [one.call_id for one in step.results] == [one.id for one in step.calls]
    # Nothing brings it back.
    for event in (Started(), SAYING, Cancelled(), NoSpace("x")):
        assert advance(state, event) == (state, action)


@given(st.integers(0, 3), st.integers(0, 3))
def test_a_cancel_at_any_point_keeps_finished_results(n_calls: int, done: int) -> None:
    calls = tuple(call(id_=f"c{i}") for i in range(n_calls))
    state, action = advance(State(), Started())
    state, action = advance(state, calling(*calls) if calls else SAYING)
    for at in range(min(done, n_calls)):
        if isinstance(action, RunTool):
            state, action = advance(state, ToolDone(result(f"r{at}", f"c{at}"), 0.0))
    ended = len(state.steps)
    state, action = advance(state, Cancelled())
    assert isinstance(action, Stop)
    if calls and done < n_calls:
        assert action.reason is Reason.CANCELLED
        assert len(state.steps) == ended + 1
        texts = [one.text for one in state.steps[-1].results]
        assert texts[:done] == [f"r{at}" for at in range(done)]
        assert all(one.failed for one in state.steps[-1].results[done:])


def test_an_answer_without_calls_is_the_end() -> None:
    state, action = advance(State(), SAYING)
    assert action == Stop(Reason.DONE, "")
    assert state.steps[-1].text == "Done."


def test_calls_run_one_after_another_then_the_model_is_called() -> None:
    state, action = advance(State(), calling(call(id_="a"), call("list", id_="b")))
    assert action == RunTool(call(id_="a"))
    state, action = advance(state, ToolDone(result(id_="a"), 1.0))
    assert action == RunTool(call("list", id_="b"))
    state, action = advance(state, ToolDone(result(id_="b"), 1.0))
    assert action == AskModel()


def test_the_same_call_with_the_same_result_brings_a_reminder_then_the_end() -> None:
    state, reminders = State(), 0
    for times in range(1, 5):
        state, _ = advance(
            state, calling(call(arguments='{"b":1, "a":2}' if times % 2 else '{"a":2,"b":1}'))
        )
        state, action = advance(state, ToolDone(result(), 0.0))
        reminders += bool(state.steps[-1].note)
        if times < 4:
            assert action == AskModel()
    assert isinstance(action, Stop) and action.reason is Reason.REPETITION
    assert reminders == 1


def test_two_calls_in_turn_are_a_repetition_too() -> None:
    state = State()
    action: Action = AskModel()
    for times in range(8):
        state, action = advance(state, calling(call(arguments=f'{{"a": {times % 2}}}')))
        state, action = advance(state, ToolDone(result(), 0.0))
        if isinstance(action, Stop):
            break
    assert isinstance(action, Stop) and action.reason is Reason.REPETITION


def test_a_test_run_after_each_change_is_no_repetition() -> None:
    state = State()
    for times in range(10):
        state, _ = advance(state, calling(call("edit", f'{{"n": {times}}}')))
        state, _ = advance(state, ToolDone(result(changed=True), 0.0))
        state, _ = advance(state, calling(call("run", '{"command": "pytest"}')))
        state, action = advance(state, ToolDone(result("1 failed"), 0.0))
        assert action == AskModel()


def test_the_same_change_again_and_again_is_a_repetition() -> None:
    """Such as an edit and its reversal, for ever."""
    state = State()
    action: Action = AskModel()
    for times in range(20):
        state, _ = advance(state, calling(call("edit", f'{{"n": {times % 2}}}')))
        state, action = advance(state, ToolDone(result(f"r{times}", changed=True), 0.0))
        if isinstance(action, Stop):
            break
    assert isinstance(action, Stop) and action.reason is Reason.REPETITION
    assert times < 8


@pytest.mark.parametrize(
    "answer",
    [
        Answer(text="", problem="the arguments are not JSON"),
        Answer(text="half of it", calls=(call(),), truncated=True),
        Answer(text="  \n"),
    ],
)
def test_unusable_answers_are_returned_to_the_model_then_end_the_turn(answer: Answer) -> None:
    """A truncated answer's calls are never made: the file it writes would be cut too."""
    state = State()
    for _ in range(2):
        state, action = advance(state, Answered(answer, 0.0))
        assert action == AskModel()
        assert state.steps[-1].note and not state.steps[-1].calls
    state, action = advance(state, Answered(answer, 0.0))
    assert isinstance(action, Stop) and action.reason is Reason.UNUSABLE


def test_a_question_ends_the_turn() -> None:
    state, _ = advance(State(), calling(call("ask_user", '{"question": "Which?"}')))
    state, action = advance(state, ToolDone(result("Which?"), 0.0))
    assert action == Stop(Reason.QUESTION, "Which?")
    assert len(state.steps[-1].results) == 1


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(steps=3), Reason.STEPS),
        (Limits(tokens=30), Reason.TOKENS),
        (Limits(time_s=5.0), Reason.TIME),
    ],
)
def test_each_limit_ends_the_turn_with_its_reason(limits: Limits, reason: Reason) -> None:
    state = State(limits=limits)
    action: Action = AskModel()
    for times in range(20):
        state, action = advance(state, calling(call(arguments=f'{{"n": {times}}}'), at_s=times))
        if not isinstance(action, Stop):
            state, action = advance(state, ToolDone(result(f"r{times}"), float(times)))
        if isinstance(action, Stop):
            break
    assert isinstance(action, Stop) and action.reason is reason and action.message


def test_failures_are_retried_and_a_success_forgives_them() -> None:
    state = State(limits=Limits(retries=2))
    for _ in range(5):
        state, action = advance(state, ModelFailed("the worker died", 0.0))
        assert action == AskModel(again=True)
        state, action = advance(state, calling(call(arguments=str(len(state.steps)))))
        state, action = advance(state, ToolDone(result(str(len(state.steps))), 0.0))
    for _ in range(3):
        state, action = advance(state, ModelFailed("the worker died", 0.0))
    assert action == Stop(Reason.FAILURE, "the worker died")


def test_a_fatal_failure_is_not_retried() -> None:
    _, action = advance(State(), ModelFailed("no chat template", 0.0, fatal=True))
    assert isinstance(action, Stop) and action.reason is Reason.FAILURE


def test_refused_prompts_in_a_row_end_in_a_clear_state() -> None:
    """No loop of compactions."""
    state = State()
    action: Action = AskModel()
    for _ in range(10):
        state, action = advance(state, BudgetFell(0.0))
        if isinstance(action, Stop):
            break
    assert isinstance(action, Stop) and action.reason is Reason.SPACE
    assert state.repacks == State().limits.retries + 1


def test_equal_arguments_in_another_order_are_the_same_call() -> None:
    assert fingerprint(call(arguments='{"a":1,"b":2}')) == fingerprint(
        call(arguments='{ "b": 2, "a": 1 }')
    )
    assert fingerprint(call(arguments="{")) != fingerprint(call(arguments="{ "))


def test_a_state_is_never_changed_in_place() -> None:
    before = State()
    advance(before, calling(call()))
    assert before == replace(before)
    assert before == State()
