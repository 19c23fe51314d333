"""POST /v1/responses: checked by the types of OpenAI's SDK, and streams put together by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from daemons import Daemon, serving
from fake_engine import DEFAULT_REPLY, FakeEngine
from msgspec.structs import replace
from openai import AsyncOpenAI, BadRequestError
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from assistant import paths
from assistant.daemon.http.request_fields import checked
from assistant.daemon.http.responses_api import ResponsesBody
from assistant.engine.types import ModelInfo
from assistant.errors import EngineError, RequestError

TEMPLATE = (
    "{% for t in tools or [] %}{{ t.function.name }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}</tool_call>{% endfor %}\n"
    "{% endfor %}{# <think> </think> #}"
)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Thinking(FakeEngine):
    """The fake engine with a chat template of a model that reasons and calls."""

    async def describe(self) -> ModelInfo:
        return replace(await super().describe(), chat_template=TEMPLATE)


SEARCH: dict[str, Any] = {"type": "web_search", "external_web_access": False}


@asynccontextmanager
async def sdk() -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client on the daemon's socket; it checks each answer against its types."""
    transport = httpx2.AsyncHTTPTransport(uds=str(paths.socket_path()))
    async with httpx2.AsyncClient(transport=transport, timeout=30) as http:
        yield AsyncOpenAI(
            api_key="none",
            base_url="http://daemon/v1",
            http_client=http,
            max_retries=0,
            _strict_response_validation=True,
        )


def run(
    engine: FakeEngine, body: Callable[[AsyncOpenAI, Daemon], Awaitable[None]], **more: Any
) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), serving(engine, **more) as daemon, sdk() as client:
            await body(client, daemon)

    asyncio.run(main())


def test_a_text_whole_and_streamed(home: Path) -> None:
    async def body(client: AsyncOpenAI, _: Daemon) -> None:
        whole = await client.responses.create(model="m", input="say", instructions="be brief")
        assert whole.output_text == DEFAULT_REPLY and whole.status == "completed"
        assert whole.usage is not None and whole.usage.output_tokens == len(DEFAULT_REPLY) + 1
        assert whole.to_dict()["store"] is False and whole.error is None
        kinds, numbers = [], []
        async with client.responses.stream(model="m", input="say") as stream:
            async for event in stream:
                kinds.append(event.type)
                numbers.append(event.sequence_number)
            folded = await stream.get_final_response()
        assert folded.output_text == DEFAULT_REPLY
        assert numbers == list(range(len(numbers)))
        assert kinds[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[-4:] == [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert set(kinds[4:-4]) == {"response.output_text.delta"}

    run(Thinking(), body)


def test_reasoning_text_and_calls_are_items_in_their_order(home: Path) -> None:
    """And a second turn sends them back with the call's result."""
    engine = Thinking(reply=lambda _: f"<think>hm</think>Sure.\n{CALL}\n{CALL}")

    async def body(client: AsyncOpenAI, daemon: Daemon) -> None:
        asked: dict[str, Any] = {"model": "m", "input": "weather?", "tools": [WEATHER]}
        whole = await client.responses.create(**asked)
        kinds = [item.type for item in whole.output]
        assert kinds == ["reasoning", "message", "function_call", "function_call"]
        assert whole.output[0].to_dict()["content"] == [{"type": "reasoning_text", "text": "hm"}]
        assert whole.output[2].to_dict()["arguments"] == '{"city": "Paris"}'
        assert whole.usage is not None
        assert 0 < whole.usage.output_tokens_details.reasoning_tokens < whole.usage.output_tokens

        answer = await daemon.http.post("/v1/responses", json=asked | {"stream": True})
        events = [
            msgspec.json.decode(line.removeprefix("data: "))
            for line in answer.text.splitlines()
            if line.startswith("data: ")
        ]
        named = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
        assert named == [event["type"] for event in events]
        for event in events:
            EVENT.validate_python(event)
        without_ids = [
            {key: value for key, value in item.items() if key not in {"id", "call_id"}}
            for response in (whole.to_dict(), events[-1]["response"])
            for item in response["output"]
        ]
        assert without_ids[:4] == without_ids[4:]
        async with client.responses.stream(**asked) as stream:
            folded = await stream.get_final_response()
        assert [item.type for item in folded.output] == kinds

        call = whole.output[2].to_dict()
        history = [
            {"role": "user", "content": "weather?"},
            *(item.to_dict() for item in whole.output[:3]),
            {"type": "function_call_output", "call_id": call["call_id"], "output": "18 C"},
        ]
        await client.responses.create(**asked | {"input": history, "tool_choice": "none"})
        sent = bytes(engine.requests[-1].prompt).decode()
        assert "user: weather?" in sent and "tool: 18 C" in sent
        assert sent.count("assistant: ") == 1 and "assistant: Sure." in sent

    run(engine, body)


def test_functions_in_a_namespace_are_called_by_their_own_names(home: Path) -> None:
    """As Codex offers them; the model knows only one list of functions."""
    written = CALL.replace('"weather"', '"maps__weather"')
    engine = Thinking(reply=lambda _: written)
    inner = {key: value for key, value in WEATHER.items() if key != "namespace"}
    space = {"type": "namespace", "name": "maps", "description": "Maps", "tools": [inner]}
    asked: dict[str, Any] = {"model": "m", "input": "weather?", "tools": [space, SEARCH]}

    async def body(client: AsyncOpenAI, daemon: Daemon) -> None:
        del daemon
        (call,) = [one.to_dict() for one in (await client.responses.create(**asked)).output]
        assert (call["namespace"], call["name"]) == ("maps", "weather")
        async with client.responses.stream(**asked) as stream:
            folded = await stream.get_final_response()
        assert folded.tools[0].type == "namespace" and len(folded.tools) == 1
        history = [
            call,
            {"type": "function_call_output", "call_id": call["call_id"], "output": "1"},
        ]
        await client.responses.create(**asked | {"input": history, "tool_choice": "none"})
        assert "<tool_call>maps__weather" in bytes(engine.requests[-1].prompt).decode()

    run(engine, body)


def test_a_schema_and_log_probabilities_reach_the_engine(home: Path) -> None:
    engine = Thinking(reply=lambda _: "{}")

    async def body(client: AsyncOpenAI, _: Daemon) -> None:
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
        found = await client.responses.create(
            model="m",
            input="x",
            text={"format": {"type": "json_schema", "name": "n", "schema": schema}},
            include=["message.output_text.logprobs"],
            top_logprobs=2,
            max_output_tokens=1,
        )
        sent = engine.requests[-1]
        assert sent.constraint is not None and sent.constraint.at_once
        assert (sent.logprobs, sent.max_tokens) == (2, 1)
        assert found.status == "incomplete" and found.incomplete_details is not None
        assert found.incomplete_details.reason == "max_output_tokens"
        part = found.output[0].to_dict()["content"][0]  # type: ignore[index]
        assert [len(one["top_logprobs"]) for one in part["logprobs"]] == [2]

    run(engine, body)


def test_an_answer_that_fails_midway_ends_with_its_event(home: Path) -> None:
    engine = Thinking(token_ms=20)

    async def body(client: AsyncOpenAI, _: Daemon) -> None:
        kinds = []
        async for event in await client.responses.create(model="m", input="x", stream=True):
            if event.type == "response.output_text.delta" and "failed" not in kinds:
                engine.fail_running(EngineError("broken"))
            kinds.append(event.type)
            last = event
        assert last.type == "response.failed" and kinds.count("response.failed") == 1
        assert last.response.error is not None and "broken" in last.response.error.message

    run(engine, body)


def body_of(**fields: Any) -> ResponsesBody:
    raw = {"input": "x"} | fields
    return msgspec.convert(checked(raw, ResponsesBody), ResponsesBody, str_keys=True)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"store": True}, "store: responses are not kept"),
        ({"previous_response_id": "resp_1"}, "previous_response_id: responses are not kept"),
        ({"truncation": "auto"}, "truncation 'auto'"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"include": ["file_search_call.results"]}, "include 'file_search_call.results'"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"tools": [{"type": "file_search"}]}, "tools of type 'file_search'"),
        (
            {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}]},
            "'custom'",
        ),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools of type 'custom'"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, r"input\[0\].*'item_reference'"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, r"input\[0\].*'web_search_call'"),
        ({"input": [{"content": "x"}]}, r"input\[0\].*without a role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            r"input\[0\].*'input_image'",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}]},
            r"input\[0\].content\[0\].image_url",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            r"input\[0\].*'input_file'",
        ),
        (
            {
                "input": [
                    {"type": "function_call_output", "output": [{"type": "input_image"}]},
                ]
            },
            r"input\[0\].*'input_image'",
        ),
    ],
)
def test_what_is_not_served_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError, match=f"not supported: .*{named}"):
        body_of(**fields).chat()


@pytest.mark.parametrize(
    "fields",
    [
        {"store": False, "previous_response_id": None, "background": False},
        {"metadata": {"a": "b"}, "user": "u", "service_tier": "auto", "truncation": "disabled"},
        {"client_metadata": {"turn_id": "t"}, "prompt_cache_key": "k"},
        {"tools": [{"type": "web_search", "external_web_access": True}]},
        {"tools": [{"type": "web_search_preview", "search_context_size": "low"}]},
        {"include": ["reasoning.encrypted_content"], "text": {"format": {"type": "text"}}},
        {"reasoning": {"effort": "low", "summary": "auto"}, "text": {"verbosity": "medium"}},
    ],
)
def test_what_changes_no_answer_is_accepted(fields: dict[str, Any]) -> None:
    assert body_of(**fields).chat().messages[0].content == "x"


def test_what_the_assistant_did_in_a_row_is_one_turn() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": "rules"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "why"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        call,
        call | {"call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"text": "2"}]},
        call,
        {"type": "message", "role": "assistant", "content": "b"},
    ]
    found = body_of(input=items, instructions="sys").chat().messages
    assert [one.role for one in found] == [
        *("system", "developer", "assistant", "tool", "tool", "assistant", "assistant"),
    ]
    assert (found[2].reasoning_content, found[2].content) == ("why", "a")
    assert [one.id for one in found[2].tool_calls] == ["c1", "c2"]
    assert [one.text() for one in found[3:5]] == ["1", "2"]


def test_errors_are_openais(home: Path) -> None:
    async def body(client: AsyncOpenAI, _: Daemon) -> None:
        with pytest.raises(BadRequestError, match="previous_response_id") as caught:
            await client.responses.create(model="m", input="x", previous_response_id="resp_1")
        assert caught.value.type == "invalid_request_error"
        with pytest.raises(BadRequestError) as caught:
            await client.responses.create(model="m", input="word " * 9000)
        assert caught.value.code == "context_length_exceeded"

    run(Thinking(), body)
