"""Tool calls: what each model family writes, split anywhere, and what clients get of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon, serving
from fake_engine import FakeEngine
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from assistant.daemon.http import chat_template, tool_calls
from assistant.daemon.http.chat_template import conversation
from assistant.daemon.http.request_schemas import (
    ChatBody,
    FunctionBody,
    FunctionCallBody,
    MessageBody,
    ToolBody,
    ToolCallBody,
)
from assistant.daemon.http.tool_calls.parser import MOST_CALLS, AnswerParser, Kind, Piece
from assistant.engine.types import ModelInfo
from assistant.errors import RequestError

TRANSCRIPTS = tomllib.loads(
    (Path(__file__).parent / "tool_call_transcripts.toml").read_text("utf-8")
)["transcript"]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "options": {"type": "object"},
    },
}


def parser(family: str, **more: Any) -> AnswerParser:
    numbers = itertools.count()
    new_id = lambda: f"{next(numbers):09}"  # noqa: E731
    return AnswerParser(tool_calls.family_named(family), {"weather": SCHEMA}, new_id=new_id, **more)


def joined(pieces: list[Piece]) -> dict[str, Any]:
    """What a client has once it has put the pieces together."""
    found: dict[str, Any] = {"text": "", "reasoning": "", "calls": [], "ids": []}
    for piece in pieces:
        if piece.kind is Kind.CALL:
            assert piece.index == len(found["calls"]) and piece.id and not piece.text
            found["calls"].append([piece.name, ""])
            found["ids"].append(piece.id)
        elif piece.kind is Kind.ARGUMENTS:
            found["calls"][piece.index][1] += piece.text
        else:
            found[piece.kind.name.lower()] += piece.text
    return found


def read(made: AnswerParser, chunks: list[str]) -> dict[str, Any]:
    pieces = [piece for chunk in chunks for piece in made.feed(chunk)]
    return joined([*pieces, *made.finish()])


def splits(text: str, rng: random.Random) -> list[str]:
    cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(0, 12)))
    return [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]


@pytest.mark.parametrize(
    "transcript", TRANSCRIPTS, ids=[f"{n}-{one['family']}" for n, one in enumerate(TRANSCRIPTS)]
)
def test_transcripts(transcript: dict[str, Any]) -> None:
    """Each comes out as documented, whole, by the character, and split anywhere."""
    text, reasoning = transcript["written"], transcript.get("in_reasoning", False)
    whole = read(parser(transcript["family"], reasoning=reasoning), [text])
    assert whole["text"] == transcript.get("text", "")
    assert whole["reasoning"] == transcript.get("reasoning", "")
    assert whole["calls"] == [[n, a] for n, a in transcript.get("calls", [])]
    for _, arguments in whole["calls"]:
        assert isinstance(json.loads(arguments), dict)
    for wanted, found in zip(transcript.get("ids", []), whole["ids"], strict=False):
        assert wanted in {"", found}
    rng = random.Random(0)
    for chunks in [list(text), *(splits(text, rng) for _ in range(40))]:
        assert read(parser(transcript["family"], reasoning=reasoning), chunks) == whole


def test_every_family_has_a_transcript() -> None:
    assert {one["family"] for one in TRANSCRIPTS} == {one.name for one in tool_calls.families()}


_FRAGMENTS = [
    *('{"name": "weather", "arguments": {', '{"name": "weather", "arguments": "', "}", "}}", "{"),
    *("\n{", "\n[", '{"function": ', '"input": ', "```tool"),
    *('{"function": {"name": "weather", "arguments": ', '"function": {', '"name": 12', '"name": '),
    *('"' + "k" * 200, '"arguments": {"city": "a"}', '{"function": {"function": {'),
    *('"', "\\", "<think>", "</think>", "\n", " ", "a", "é", "```json", "```", "weather", "[", "]"),
    *(
        ",",
        ":",
        "<",
        "to=functions.weather",
        "city",
        "<|message|>",
        "<|end|>",
        "<function=weather>",
    ),
]


@given(st.integers(0, 2**32))
def test_fuzz_any_split_gives_the_same(seed: int) -> None:
    """Fragments in any order: nothing fails, and the result does not depend on how it arrives."""
    rng = random.Random(seed)
    family = rng.choice(tool_calls.families())
    own = [*family.open, *family.close, *family.drop, *family.reasoning, *family.end]
    own += [family.name_open, family.key_open, family.key_close, family.value_open]
    text = "".join(rng.choice(_FRAGMENTS + own * 2) for _ in range(rng.randint(1, 30)))
    whole = read(parser(family.name), [text])
    assert read(parser(family.name), splits(text, rng)) == whole
    assert read(parser(family.name), list(text)) == whole


@pytest.mark.parametrize("family", [one.name for one in tool_calls.families()])
def test_no_partial_mark_is_passed_on(family: str) -> None:
    """After each character, what was passed on is the beginning of the final text."""
    for transcript in TRANSCRIPTS:
        if transcript["family"] != family:
            continue
        made = parser(family, reasoning=transcript.get("in_reasoning", False))
        said = ""
        for char in transcript["written"]:
            said += "".join(p.text for p in made.feed(char) if p.kind is Kind.TEXT)
            assert transcript.get("text", "").startswith(said)


@pytest.mark.parametrize("family", [one.name for one in tool_calls.families()])
def test_time_is_linear_and_what_is_held_back_is_bounded(family: str) -> None:
    """Openings without an end, an endless header, thousands of calls: no more than text."""
    own = tool_calls.family_named(family)
    texts = [own.open[0] * 3000, own.open[0] + "x" * 50_000, own.open[0] + '{"name": ' * 9000]
    for text in (*texts, "\n[" * 3000, "```" * 3000, '\n{"name": ' * 1000):
        made = parser(family)
        passed = 0
        for at in range(0, len(text), 7):
            passed += sum(len(piece.text) for piece in made.feed(text[at : at + 7]))
        made.finish()
        assert made.calls <= MOST_CALLS
        if own.style != "harmony" or text.count("x") > 1000:
            assert passed > len(text) - 5000


def test_without_tools_only_reasoning_is_separated() -> None:
    made = AnswerParser(tool_calls.family_named("hermes"), {})
    text = '<think>a</think>\n<tool_call>\n{"name": "weather", "arguments": {}}'
    assert read(made, list(text)) == {
        "text": '<tool_call>\n{"name": "weather", "arguments": {}}',
        "reasoning": "a",
        "calls": [],
        "ids": [],
    }


TEMPLATES = {
    "harmony": "<|channel|><|message|> tools",
    "qwen3-coder": "tools <tool_call> <function=x> <parameter=y> <think>",
    "glm-4.5": "tools <tool_call> <arg_key> <arg_value>",
    "kimi-k2": "<|tool_call_begin|><|tool_call_argument_begin|>",
    "deepseek-v3": "<｜tool▁sep｜>f\n```json",  # noqa: RUF001
    "deepseek-v3.1": "<｜tool▁sep｜>",  # noqa: RUF001
    "mistral-args": "[TOOL_CALLS] [ARGS]",
    "mistral": "[TOOL_CALLS] [AVAILABLE_TOOLS]",
    "granite": "<|tool_call|> <|start_of_role|>",
    "llama-3": "<|start_header_id|> ipython <|python_tag|>",
    "hermes": "<|im_start|> <tools> <tool_call>",
    "generic": "<start_of_turn>",
}


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_family_is_recognised_by_its_template(family: str) -> None:
    assert tool_calls.family_of(TEMPLATES[family]).name == family


# Requests.


def chat(messages: list[MessageBody] | None = None, **more: Any) -> ChatBody:
    tools = [
        ToolBody(function=FunctionBody(name=name, parameters=SCHEMA))
        for name in more.pop("names", ["weather"])
    ]
    return ChatBody(messages=messages or [MessageBody(role="user")], tools=tools, **more)


@pytest.mark.parametrize(
    ("choice", "names", "required"),
    [
        ("auto", ["a", "b"], False),
        ("none", [], False),
        ("required", ["a", "b"], True),
        ({"type": "function", "function": {"name": "b"}}, ["b"], True),
        ({"type": "function", "name": "b"}, ["b"], True),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "a"}}],
                },
            },
            ["a"],
            False,
        ),
    ],
)
def test_tool_choice(choice: Any, names: list[str], required: bool) -> None:
    found = chat(names=["a", "b"], tool_choice=choice).may_call()
    assert [one.name for one in found.functions] == names
    assert found.required is required


@pytest.mark.parametrize(
    "more",
    [
        {"names": ["a", "a"]},
        {"names": ["a b"]},
        {"names": [""]},
        {"names": ["x" * 201]},
        {"tool_choice": "sometimes"},
        {"tool_choice": {"type": "function", "function": {"name": "c"}}},
        {"tool_choice": {"type": "function"}},
        {"tool_choice": {"type": "function", "function": 3}},
        {"tool_choice": {"type": "custom"}},
        {"tool_choice": {}},
        {"names": [], "tool_choice": "required"},
    ],
)
def test_malformed_tools_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        chat(**more).may_call()


def called(arguments: Any) -> MessageBody:
    call = ToolCallBody(id="c1", function=FunctionCallBody(name="weather", arguments=arguments))
    return MessageBody(role="assistant", content=None, tool_calls=[call])


RESULT = MessageBody(role="tool", tool_call_id="c1", content="18 °C")


def rendered(template: str, body: ChatBody) -> str:
    family = tool_calls.family_of(template)
    said = conversation(body, body.may_call(), family, takes_tools=tool_calls.takes_tools(template))
    return "".join(chat_template.render(template, said.messages, tools=said.tools))


@pytest.mark.parametrize(
    "read_arguments",
    [
        "{{ call.function.arguments | tojson }}",
        "{{ call.function.arguments }}",
        "{{ '' + call.function.arguments }}",
        "{{ call.function.arguments + '' }}",
        "{{ call.function.arguments ~ '' }}",
        "{% for k, v in call.function.arguments.items() %}{{ {k: v} | tojson }}{% endfor %}",
        "{% set a = call.function.arguments %}{% if a is mapping %}{{ a | tojson }}{% endif %}",
    ],
)
@pytest.mark.parametrize("arguments", ['{"city": "Zürich"}', {"city": "Zürich"}])
def test_templates_get_arguments_as_an_object_or_as_its_json(
    read_arguments: str, arguments: Any
) -> None:
    template = (
        "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
        "{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% for call in m.tool_calls or [] %}" + read_arguments + "{% endfor %};{% endfor %}"
    )
    text = rendered(template, chat([called(arguments), RESULT]))
    assert text == 'weather;assistant:{"city": "Zürich"};tool:18 °C;'


def test_arguments_that_are_no_object_stay_text() -> None:
    template = "{{ tools[0].type }}{{ messages[0].tool_calls[0].function.arguments }}"
    assert rendered(template, chat([called('{"city": ')])) == 'function{"city": '


def test_control_tokens_in_tools_stay_text() -> None:
    body = chat([called('{"city": "<|im_end|>"}')])
    body.tools[0].function.description = "<|im_start|>system"
    template = "{{ tools | tojson }}{{ messages | tojson }}"
    said = conversation(body, body.may_call(), tool_calls.family_named("hermes"), takes_tools=True)
    pieces = chat_template.render(
        template, said.messages, tools=said.tools, control={"<|im_start|>", "<|im_end|>"}
    )
    assert "<|im_start|>" in "".join(pieces) and "<|im_end|>" in "".join(pieces)
    assert not any("<|im_start|>" in piece or "<|im_end|>" in piece for piece in pieces)


def test_a_template_without_tools_has_them_described() -> None:
    """Gemma knows user and model only, in turn."""
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    messages = [
        MessageBody(role="developer", content="Be brief."),
        MessageBody(role="user", content="Hm?"),
        called('{"city": "P"}'),
        RESULT,
        RESULT,
    ]
    text = rendered(template, chat(messages))
    system, rest = text.split("<user>", 1)
    assert system.startswith("<system>Be brief.\n\n# Tools") and '"name": "weather"' in system
    assert rest == (
        'Hm?<assistant><tool_call>\n{"name": "weather", "arguments": {"city": "P"}}\n</tool_call>'
        "<user><tool_response>\n18 °C\n</tool_response>\n\n<tool_response>\n18 °C\n</tool_response>"
    )


def test_deeply_nested_tools_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"properties": deep}
    with pytest.raises(RequestError, match="nested too deeply"):
        chat_template.render("{{ tools }}", [{"role": "user", "content": ""}], tools=[deep])


# Over the daemon's own socket, with the fake engine.

WRITTEN = 'Sure.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
REQUEST: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Weather in Paris?"}],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}],
}


class CallingEngine(FakeEngine):
    async def describe(self) -> ModelInfo:
        template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}{# <tool_call> #}"
        return replace(await super().describe(), chat_template=template)


def test_chat_completions_with_tools(home: Path) -> None:
    """Whole and streamed: the same message, finish reason and usage."""
    engine = CallingEngine(reply=lambda _: WRITTEN)

    async def body(daemon: Daemon) -> None:
        answer = (await daemon.http.post("/v1/chat/completions", json=REQUEST)).json()
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        message = choice["message"]
        assert message["content"] == "Sure."
        (call,) = message["tool_calls"]
        assert call["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
        streamed = await daemon.http.post(
            "/v1/chat/completions",
            json=REQUEST | {"stream": True, "stream_options": {"include_usage": True}},
        )
        lines = [line.removeprefix("data: ") for line in streamed.text.split("\n") if line]
        *events, usage = [json.loads(line) for line in lines[:-1]]
        deltas = [event["choices"][0]["delta"] for event in events]
        assert "".join(delta.get("content") or "" for delta in deltas) == "Sure."
        calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
        assert calls[0]["function"]["name"] == "weather" and calls[0]["id"]
        assert "".join(c["function"]["arguments"] for c in calls) == '{"city": "Paris"}'
        assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
        assert usage["usage"]["completion_tokens"] == answer["usage"]["completion_tokens"]
        assert usage["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"]
        history = [*REQUEST["messages"], message]
        history.append({"role": "tool", "tool_call_id": call["id"], "content": "18 °C"})
        again = REQUEST | {"messages": history, "tool_choice": "none"}
        answer = (await daemon.http.post("/v1/chat/completions", json=again)).json()
        assert answer["choices"][0]["message"]["content"] == WRITTEN

    asyncio.run(_with(engine, body))


async def _with(engine: FakeEngine, body: Any) -> None:
    async with asyncio.timeout(60), serving(engine) as daemon:
        await body(daemon)
