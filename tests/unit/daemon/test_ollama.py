"""Ollama's routes: what is mapped, what is refused by name, and the shape of answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from daemons import Daemon, serving
from fake_engine import DEFAULT_REPLY, FakeEngine
from msgspec.structs import replace

from assistant.daemon.http.ollama_api import OllamaChatBody, OllamaGenerateBody, shown
from assistant.daemon.http.request_fields import checked
from assistant.daemon.http.request_schemas import ChatBody, InfillBody
from assistant.engine.types import ModelInfo
from assistant.errors import RequestError
from assistant.wire import CompletionRequest

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{{ tools }}{# <think> </think> #}"
)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
ASKED: dict[str, Any] = {"model": "mine", "messages": [{"role": "user", "content": "hello"}]}


class Thinking(FakeEngine):
    """The fake engine with a chat template of a model that reasons and calls."""

    async def describe(self) -> ModelInfo:
        return replace(await super().describe(), chat_template=TEMPLATE)


def run(body: Callable[[Daemon], Awaitable[None]], engine: FakeEngine | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), serving(engine or Thinking()) as daemon:
            await body(daemon)

    asyncio.run(main())


async def lines(daemon: Daemon, path: str, body: dict[str, Any]) -> list[Any]:
    answer = await daemon.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_chat_streams_by_default_and_comes_whole_without(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        *pieces, last = await lines(daemon, "/api/chat", ASKED)
        assert "".join(one["message"]["content"] for one in pieces) == DEFAULT_REPLY
        assert not any(one["done"] for one in pieces)
        assert last["done"] is True and last["done_reason"] == "stop"
        assert last["eval_count"] == len(DEFAULT_REPLY) + 1 and last["prompt_eval_count"] > 5
        assert {one["model"] for one in [*pieces, last]} == {"mine"}
        whole = (await daemon.http.post("/api/chat", json=ASKED | {"stream": False})).json()
        assert whole["message"] == {"role": "assistant", "content": DEFAULT_REPLY}
        assert whole["eval_count"] == last["eval_count"] and whole["done"] is True

    run(body)


def test_calls_come_whole_and_reasoning_is_apart(home: Path) -> None:
    """Streamed or not: arguments are an object."""
    engine = Thinking(reply=lambda _: f"<think>hm</think>Sure.\n{CALL}\n{CALL}")

    async def body(daemon: Daemon) -> None:
        asked = ASKED | {"tools": [TOOL]}
        *pieces, _ = await lines(daemon, "/api/chat", asked)
        messages = [one["message"] for one in pieces]
        assert "".join(one.get("thinking", "") for one in messages) == "hm"
        assert "".join(one["content"] for one in messages).strip() == "Sure."
        calls = [call for one in messages for call in one.get("tool_calls", ())]
        assert [call["function"] for call in calls] == [
            {"name": "weather", "arguments": {"city": "Paris"}}
        ] * 2
        whole = (await daemon.http.post("/api/chat", json=asked | {"stream": False})).json()
        message = whole["message"]
        assert message["thinking"] == "hm" and len(message["tool_calls"]) == 2
        results = [{"role": "tool", "content": "18 C", "tool_name": "weather"}] * 2
        again = asked | {"messages": [*ASKED["messages"], message, *results]}
        await daemon.http.post("/api/chat", json=again)
        assert bytes(engine.requests[-1].prompt).decode().count("tool: 18 C") == 2

    run(body, engine)


def test_completions_with_a_system_text_raw_and_with_nothing(home: Path) -> None:
    engine = Thinking()

    async def body(daemon: Daemon) -> None:
        asked = {"model": "mine", "prompt": "abc", "system": "rules"}
        *pieces, last = await lines(daemon, "/api/generate", asked)
        assert "".join(one["response"] for one in pieces) == DEFAULT_REPLY and last["done"]
        assert bytes(engine.requests[-1].prompt).startswith(b"system: rules\nuser: abc\n")
        await daemon.http.post("/api/generate", json=asked | {"raw": True, "stream": False})
        assert bytes(engine.requests[-1].prompt) == b"abc"
        [loaded] = await lines(daemon, "/api/generate", {"model": "mine"})
        assert (loaded["done_reason"], loaded["response"]) == ("load", "")
        empty = {"model": "mine", "messages": [], "keep_alive": 0, "stream": False}
        loaded = (await daemon.http.post("/api/chat", json=empty)).json()
        assert loaded["done_reason"] == "load" and loaded["message"]["content"] == ""
        assert len(engine.requests) == 2

    run(body, engine)


def test_what_is_served(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        assert (await daemon.http.get("/api/version")).json()["version"]
        names = [one["id"] for one in (await daemon.http.get("/v1/models")).json()["data"]]
        for path in ("/api/tags", "/api/ps"):
            found = (await daemon.http.get(path)).json()["models"]
            assert [one["name"] for one in found] == [one["model"] for one in found] == names
        found = (await daemon.http.post("/api/show", json={"model": names[0]})).json()
        assert found["capabilities"] == ["completion", "tools", "thinking"]
        assert found["model_info"]["bytes.context_length"] == 4096

    run(body)


def test_an_error_is_ollamas(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        for asked in ({"options": {"mirostat": 2}}, {"messages": 3}):
            answer = await daemon.http.post("/api/chat", json=ASKED | asked)
            assert answer.status_code == 400 and isinstance(answer.json()["error"], str)
        long = {"messages": [{"role": "user", "content": "word " * 9000}]}
        answer = await daemon.http.post("/api/chat", json=ASKED | long)
        assert answer.status_code == 400 and "4096" in answer.json()["error"]
        for path, status in (("/api/embed", 404), ("/api/chat", 405)):
            answer = await daemon.http.request("DELETE" if status == 405 else "POST", path, json={})
            assert answer.status_code == status and path in answer.json()["error"]

    run(body)


def chat_of(**fields: Any) -> ChatBody:
    raw = checked(ASKED | fields, OllamaChatBody)
    found = msgspec.convert(raw, OllamaChatBody, str_keys=True).chat()
    assert found is not None
    return found


def test_options_and_formats_are_mapped() -> None:
    options = {
        "temperature": 0,
        "num_predict": 7.0,
        "stop": ["a"],
        "seed": 3,
        "repeat_penalty": 1.5,
        "num_ctx": 2048,
        "mirostat": 0,
        "typical_p": 1.0,
        "top_p": None,
    }
    found = chat_of(options=options, format={"type": "object"}, think=False, keep_alive="5m")
    assert (found.temperature, found.max_tokens, found.seed) == (0, 7, 3)
    assert (found.stop, found.repeat_penalty) == (("a",), 1.5)
    assert found.json_schema == {"type": "object"}
    assert found.chat_template_kwargs == {"enable_thinking": False}
    assert chat_of(format="json").json_schema == {"type": "object"}
    assert chat_of(format="").json_schema is None
    assert chat_of(options={"num_predict": -2}).max_tokens == -1
    assert chat_of(think="high").reasoning_effort == "high"
    assert chat_of(logprobs=True, top_logprobs=2).wanted_logprobs() == 2


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"options": {"mirostat": 2}}, "options.mirostat"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": {"penalize_newline": True}}, "options.penalize_newline"),
        ({"options": {"temprature": 1}}, "options.temprature"),
        ({"format": "xml"}, "format 'xml'"),
        (
            {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]},
            r"messages\[0\].images",
        ),
        ({"dimensions": 3}, "dimensions"),
    ],
)
def test_what_is_not_served_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError, match=f"not supported: {named}"):
        chat_of(**fields)


@pytest.mark.parametrize("options", [{"temperature": "hot"}, {"top_p": 7}, {"seed": 1.5}])
def test_options_of_the_wrong_type_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="options are invalid"):
        chat_of(options=options)


def generate_of(**fields: Any) -> Any:
    raw = checked({"model": "m"} | fields, OllamaGenerateBody)
    return msgspec.convert(raw, OllamaGenerateBody, str_keys=True).request()


def test_what_kind_of_request_a_completion_is() -> None:
    assert isinstance(generate_of(prompt="a"), ChatBody)
    assert isinstance(generate_of(prompt="a", raw=True), CompletionRequest)
    place = generate_of(prompt="a", suffix="b")
    assert isinstance(place, InfillBody) and place.input_suffix == "b"
    assert generate_of(prompt="a", images=[]) is not None
    for fields in ({"template": "x"}, {"images": ["aGk="]}, {"context": [1, 2]}):
        with pytest.raises(RequestError, match=f"not supported: {next(iter(fields))}"):
            generate_of(prompt="a", **fields)


def test_results_answer_the_calls_that_they_name() -> None:
    calls = [{"function": {"name": name, "arguments": {}}} for name in "fgf"]
    found = chat_of(
        messages=[
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "content": "1", "tool_name": "g"},
            {"role": "tool", "content": "2", "tool_name": "f"},
            {"role": "tool", "content": "3"},
        ]
    ).messages
    ids = [one.id for one in found[0].tool_calls]
    assert len(set(ids)) == 3 and all(len(one) == 9 for one in ids)
    assert [one.tool_call_id for one in found[1:]] == [ids[1], ids[0], ids[2]]


def test_a_model_that_fills_in_the_middle_says_so() -> None:
    assert shown(ModelInfo(name="m"), fills=True)["capabilities"] == ["completion", "insert"]
