"""The editor's own chat over real stdio: the models, answers with tools, token counts, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chatting import ChattingEngine, call, play
from checked_client import CheckedClient
from daemons import until

from assistant.errors import UnderkeelError

USER = {"role": "user", "content": "What is the weather in Paris?"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]


def chat_events(client: CheckedClient, id_: str) -> list[dict[str, Any]]:
    return [
        params
        for method, params in client.told
        if method == "underkeel/chat" and params["id"] == id_
    ]


def test_the_chat_of_an_editor(home: Path, dense_model: Path) -> None:
    """Listing, a streamed text, a tool call and its result, counts, the budget, cancellation."""
    script = iter(
        ["Hello **there**.", "Let me look. " + call("weather", city="Paris"), "It rains."]
    )

    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        (model,) = await client.execute("underkeel.models", {"urgent": True})
        assert model["tools"] and model["maxInputTokens"] > 64 and model["maxOutputTokens"] >= 64

        result = await client.execute("underkeel.chat", {"id": "a", "messages": [USER]})
        assert result["stopReason"] == "stop" and result["usage"]["completionTokens"] > 0
        deltas = chat_events(client, "a")
        assert "".join(event["text"] for event in deltas) == "Hello **there**." and len(deltas) > 3

        asked = {"messages": [USER], "tools": TOOLS, "options": {"temperature": 0.5, "n": 9}}
        result = await client.execute("underkeel.chat", {"id": "b", **asked})
        assert result["stopReason"] == "tool_calls"
        *texts, made = chat_events(client, "b")
        assert "".join(event["text"] for event in texts).strip() == "Let me look."
        assert made["call"]["name"] == "weather" and made["call"]["arguments"] == {"city": "Paris"}
        assert engine.asked[-1].sampling.temperature == 0.5

        written = {"name": "weather", "arguments": json.dumps({"city": "Paris"})}
        calls = [{"id": made["call"]["id"], "type": "function", "function": written}]
        turns = [
            USER,
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "tool_call_id": made["call"]["id"], "content": "18 degrees, rain"},
        ]
        await client.execute("underkeel.chat", {"id": "c", "messages": turns, "tools": TOOLS})
        assert "18 degrees, rain" in bytes(engine.asked[-1].prompt).decode()

        text = await client.execute("underkeel.countTokens", {"text": "kiel"})
        message = await client.execute("underkeel.countTokens", {"message": USER})
        assert (text, message) == (4, len(USER["content"]) + 5), "its tokens are bytes"

        long = {"role": "user", "content": "x" * 40_000}
        with pytest.raises(UnderkeelError, match=r"the prompt has 40\d+ tokens, the budget is \d+"):
            await client.execute("underkeel.chat", {"id": "d", "messages": [long]})
        for wrong in ({}, {"id": "e"}, {"id": "e", "messages": "x"}, {"id": "e", "messages": [7]}):
            with pytest.raises(UnderkeelError):
                await client.execute("underkeel.chat", wrong)

        engine.token_ms = 5.0
        params = {"command": "underkeel.chat", "arguments": [{"id": "f", "messages": [USER]}]}
        number, response = client.send("workspace/executeCommand", params)
        await until(lambda: len(chat_events(client, "f")) > 3)
        client.cancel(number)
        assert "error" in await response
        await until(lambda: engine.in_flight == 0)

    play(dense_model, test, lambda _: next(script, "a word " * 200))


def test_a_chat_shows_no_unsafe_characters(home: Path, dense_model: Path) -> None:
    """T5: what the model says to the editor's own chat is cleaned as everywhere; the end of an
    answer too, and line ends are one."""
    said = "It is sa\u202efe\u3164, \x1b[31mred\x1b[0m\rand 👩\u200d🚀\U000e0100"

    async def test(client: CheckedClient, engine: ChattingEngine) -> None:
        await client.execute("underkeel.chat", {"id": "a", "messages": [USER]})
        shown = "".join(event["text"] for event in chat_events(client, "a"))
        assert shown == "It is safe, red\nand 👩\u200d🚀"

    play(dense_model, test, lambda _: said)
