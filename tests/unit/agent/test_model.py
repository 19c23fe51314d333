"""Answers as servers stream them, and tool calls as models write them."""

# ruff: noqa: E501 - one case a line

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steps import linear

from assistant.agent.model import Assembler, calls_in_text, without_tools

NAMES = ["read_file", "run_command"]


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def piece(index: int, arguments: str = "", name: str = "", id_: str = "") -> dict[str, Any]:
    return {"index": index, "id": id_, "function": {"name": name, "arguments": arguments}}


def test_streamed_calls_are_put_together() -> None:
    made = Assembler(NAMES)
    shown = [
        made.feed(event)
        for event in (
            chunk(role="assistant", content=""),
            chunk(reasoning_content="I should look."),
            chunk(content="Looking."),
            chunk(tool_calls=[piece(0, "", "read_file", "x")]),
            chunk(tool_calls=[piece(0, '{"path": '), piece(1, "{}", "list_folder", "x")]),
            chunk(tool_calls=[piece(0, '"a"}')]),
            chunk("tool_calls"),
            {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}},
            {"choices": [], "timings": {"cache_n": 7, "prompt_n": 3, "predicted_n": 5},
             "budget": {"tokens": 900, "level": 1, "reason": ""}},
        )
    ]  # fmt: skip
    answer = made.answer()
    assert [(one.name, one.arguments) for one in answer.calls] == [
        ("read_file", '{"path": "a"}'),
        ("list_folder", "{}"),
    ]
    assert len({one.id for one in answer.calls}) == 2
    assert answer.text == "Looking." and ("", "I should look.") in shown
    assert (answer.prompt_tokens, answer.cached_tokens, answer.generated_tokens) == (10, 7, 5)
    assert made.budget_tokens == 900 and not answer.truncated


def test_a_cut_answer_is_marked() -> None:
    """The file is reported done although the write was cut (mistral-vibe#667)."""
    made = Assembler(NAMES)
    made.feed(chunk(tool_calls=[piece(0, '{"path": "a", "text": "half', "create_file")]))
    made.feed(chunk("length"))
    assert made.answer().truncated


AS_TEXT: list[tuple[str, str]] = [
    ("Hermes", '<tool_call>\n{"name": "read_file", "arguments": {"path": "a"}}\n</tool_call>'),
    ("without its end", '<tool_call>{"name": "read_file", "arguments": {"path": "a"}}'),
    ("plain JSON", '{"name": "read_file", "arguments": {"path": "a"}}'),
    ("Llama's parameters", '{"name": "read_file", "parameters": {"path": "a"}}'),
    ("in a fence", 'I read it.\n```json\n{"name": "read_file", "arguments": {"path": "a"}}\n```'),
    ("OpenAI's form", '{"type": "function", "function": {"name": "read_file", "arguments": "{\\"path\\": \\"a\\"}"}}'),
    ("a list", '[{"name": "read_file", "arguments": {"path": "a"}}]'),
    ("Mistral", '[TOOL_CALLS] [{"name": "read_file", "arguments": {"path": "a"}}]'),
    ("Qwen3-Coder", "<tool_call>\n<function=read_file>\n<parameter=path>\na\n</parameter>\n</function>\n</tool_call>"),
    ("XML without its end", "<function=read_file><parameter=path>a</parameter>"),
    ("function_call", '<function_call>{"name": "read_file", "input": {"path": "a"}}</function_call>'),
]  # fmt: skip


@pytest.mark.parametrize(("why", "text"), AS_TEXT)
def test_calls_as_text_are_read(why: str, text: str) -> None:
    """Tool call as plain JSON text (opencode#7083); malformed XML (llama.cpp#24807)."""
    rest, (call,), problem = calls_in_text(text, NAMES)
    assert call.name == "read_file" and json.loads(call.arguments) == {"path": "a"}
    assert not problem and "{" not in rest and "<" not in rest


@pytest.mark.parametrize(("why", "text"), AS_TEXT)
def test_calls_as_text_are_never_shown(why: str, text: str) -> None:
    made = Assembler(NAMES)
    shown = "".join(made.feed(chunk(content=char))[0] for char in text)
    assert "{" not in shown and "<" not in shown and "`" not in shown


@given(st.text(alphabet="<tool_cal>{`json[T\n", max_size=60))
def test_other_text_is_shown_whole(text: str) -> None:
    made = Assembler(NAMES)
    shown = "".join(made.feed(chunk(content=char))[0] for char in text)
    answer = made.answer()
    if not answer.calls and not answer.problem:
        assert shown + made.rest(answer) == text


@pytest.mark.parametrize(
    "text",
    [
        "Done.",
        'The file has {"name": "read_file"} in it.',
        '```json\n{"name": "harbour", "version": 1}\n```',
        '{"answer": 42}',
        "```python\nprint(1)\n```",
    ],
)
def test_other_text_is_no_call(text: str) -> None:
    assert calls_in_text(text, NAMES) == (text, [], "")


@pytest.mark.parametrize(
    "text",
    ["<tool_call>{bad}</tool_call>", "<function=read_file><parameter=path>cut", "<tool_call>"],
)
def test_a_broken_call_is_a_problem_for_the_model(text: str) -> None:
    _, calls, problem = calls_in_text(text, NAMES)
    assert not calls and problem


@given(st.text(alphabet='<tool_cal>{}"name:[]`\n', max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    rest, calls, problem = calls_in_text(text, NAMES)
    assert len(rest) <= len(text) and not (calls and problem)
    assert all(isinstance(call.arguments, str) for call in calls)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["index", "function", "name"]), inner)))  # fmt: skip
def test_odd_usage_and_finish_do_not_break_it(value: Any) -> None:
    made = Assembler(NAMES)
    made.feed({"choices": [], "budget": value})
    assert made.answer().calls == ()


def test_a_conversation_for_a_server_without_tools() -> None:
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "read_file", "arguments": '{"path": "a"}'},
    }
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Rules"},
        {"role": "user", "content": "Task"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "name": "read_file", "content": "text"},
        {"role": "user", "content": "note"},
    ]
    tools = [{"type": "function", "function": {"name": "read_file", "parameters": {}}}]
    made = without_tools(messages, tools)
    assert [one["role"] for one in made] == ["system", "user", "assistant", "user"]
    assert "<tool_call>" in made[0]["content"] and made[3]["content"].endswith("note")
    assert calls_in_text(made[2]["content"], NAMES)[1][0].name == "read_file"


MARKS = [
    "<tool>", "<tool_call>", "<tool> x", "<tool_call>{}", "</tool_call>", "<function=a>", "<parameter=a>", "<parameter=a>\n",
    "```\n", "```\na", "```json\n{", "```tool\n\n", "[TOOL_CALLS]", "[", "{", "<", " ", "\n", "`",
]  # fmt: skip


@pytest.mark.parametrize("part", MARKS)
def test_calls_are_found_in_linear_time(part: str) -> None:
    """T1: in the whole text of an answer, and in each piece as it comes."""

    def made(size: int) -> str:
        return part * (size // len(part))

    def streamed(text: str) -> None:
        made = Assembler(NAMES)
        for at in range(0, len(text), 3):
            made.feed({"choices": [{"delta": {"content": text[at : at + 3]}}]})
        made.rest(made.answer())

    assert linear(lambda text: calls_in_text(text, NAMES), made, 4_000)
    assert linear(lambda text: calls_in_text(f"<function=a>{text}", NAMES), made, 4_000)
    assert linear(streamed, made, 4_000)


@pytest.mark.parametrize(
    ("text", "rest", "arguments"),
    [
        ("a<tool>\n {} \n</tool>b", "ab", ["{}"]),
        ("a<tool_call>{}</tool_call>b<tool>{}</tool>c", "abc", ["{}", "{}"]),
        ("a<tool_call>{}", "a", ["{}"]),
        ("a<tool_call>{}</tool>", "a<tool_call>{}</tool>", None),
        ("a\n```json\n{}\n  ```b", "a\nb", ["{}"]),
        ("a```\n{}\n```", "a", ["{}"]),
    ],
)
def test_calls_in_text_are_taken_out_of_it(
    text: str, rest: str, arguments: list[str] | None
) -> None:
    """T1: the marks of a call, one after the other, and one without its end."""
    call = '{"name": "read_file", "arguments": {}}'
    found, calls, problem = calls_in_text(text.replace("{}", call), NAMES)
    assert found == rest.replace("{}", call)
    assert [one.arguments for one in calls] == (arguments or []) and bool(problem) == (
        arguments is None
    )
