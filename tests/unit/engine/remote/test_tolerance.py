"""Servers that speak OpenAI's protocol in their own ways: what does not matter is tolerated, what
does is an error. Cases S6 and S8."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from mutated_servers import fuzz

from assistant.engine.remote import RemoteEngine
from assistant.engine.remote.dialect import _beside, ids_of
from assistant.engine.remote.failures import refusal
from assistant.engine.remote.llama_server import LlamaServer
from assistant.engine.remote.openai import OpenAI, listed_models
from assistant.engine.remote.transport import Splitter
from assistant.engine.types import Delta, Done, GenerateRequest, ModelInfo, StopReason
from assistant.errors import ContextFullError, RemoteError, UnderkeelError
from tests.unit.engine.remote.conftest import Serve, asking


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def choice(text: str = "", reason: str | None = None, **more: Any) -> bytes:
    return event(choices=[{"text": text, "finish_reason": reason, **more}])


DONE = b"data: [DONE]\n\n"
WHOLE = {"choices": [{"text": "ab", "finish_reason": "stop"}], "usage": {"completion_tokens": 2.0}}
CHAT = {"choices": [{"message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}]}

ANSWERED = {
    "choices null at the end": choice("a") + choice("b", "stop") + event(choices=None) + DONE,
    "usage of floats": choice("ab", "stop")
    + event(choices=[], usage={"prompt_tokens": 3.0, "completion_tokens": 2.0})
    + DONE,
    "usage of nulls": choice("ab", "stop") + event(usage={"prompt_tokens": None}) + DONE,
    "usage is a text": choice("ab", "stop") + event(choices=[], usage="none") + DONE,
    "one object": json.dumps(WHOLE).encode(),
    "one object on lines": json.dumps(CHAT, indent=1).encode(),
    "no empty line at the end": choice("a") + choice("b", "stop").rstrip(b"\n"),
    "no line end at the end": choice("a") + choice("b", "stop")[:-2],
    "a byte order mark": b"\xef\xbb\xbf" + choice("ab", "stop") + DONE,
    "an error of null": choice("ab", "stop", error=None) + event(error=None, choices=[]) + DONE,
    "spaces around the end": choice("ab", "stop") + b"data:  [DONE] \n\n",
    "content in parts": event(
        choices=[{"delta": {"content": [{"type": "text", "text": "ab"}]}, "finish_reason": "stop"}]
    ),
    "llama-server's own events": event(content="a", stop=False)
    + event(content="b", stop=True, stop_type="eos", timings={"predicted_n": 2}),
    "token ids of null": choice("ab", "stop", token_ids=None, logprobs=None, index=None) + DONE,
}


async def read(engine: RemoteEngine, **more: Any) -> tuple[str, Done | None, UnderkeelError | None]:
    request = GenerateRequest(**{"id": "r", "prompt": (1, 2, 3), "max_tokens": 32, **more})
    text, done = "", None
    try:
        async for item in engine.generate(request):
            if isinstance(item, Delta):
                text += item.text
            else:
                done = item
    except UnderkeelError as error:
        return text, done, error
    return text, done, None


def test_text_that_came_is_kept_whatever_its_wrapping(serve: Serve) -> None:
    """S8."""

    async def run() -> None:
        server = serve("openai")
        async with asking(server.url) as engine:
            for name, raw in ANSWERED.items():
                server.behaviour.raw = raw
                text, done, error = await read(engine)
                assert (text, error) == ("ab", None), name
                assert done is not None and done.reason is StopReason.EOS, name

    asyncio.run(run())


FAILED = {
    "no finish reason": (choice("ab") + DONE, "ab", "without a reason"),
    "an end in the middle": (choice("ab"), "ab", "without a reason"),
    "an object without a reason": (b'{"choices": [{"text": "ab"}]}', "ab", "without a reason"),
    "an error that is a text": (choice("ab") + event(error="out of memory"), "ab", "out of memory"),
    "an error object": (event(error={"message": "gone", "code": "x"}), "", "gone"),
    "a number": (b"data: 5\n\n", "", "cannot be read"),
    "half an event": (choice("ab") + b'data: {"choices": [', "ab", "cannot be read"),
}


def test_an_answer_without_an_end_is_an_error_after_its_text(serve: Serve) -> None:
    """S8: nothing is a success only because the connection ended."""

    async def run() -> None:
        server = serve("openai")
        async with asking(server.url, retries=0) as engine:
            for name, (raw, said, why) in FAILED.items():
                server.behaviour.raw = raw
                text, done, error = await read(engine)
                assert (text, done) == (said, None), name
                assert error is not None and why in str(error), (name, error)

    asyncio.run(run())


def test_a_long_prompt_is_known_in_a_stream_too() -> None:
    """S8: whatever the type of the error's code."""
    for code in ("context_length_exceeded", 400, None):
        said = {"message": "maximum context length is 4096", "code": code}
        with pytest.raises(ContextFullError):
            OpenAI().read(json.dumps({"error": said}).encode())


@pytest.mark.parametrize(
    ("body", "n_ctx"),
    [
        ({"data": [{"id": "m", "owned_by": None, "max_model_len": 4096.0}]}, 4096),
        ({"data": [{"id": "m", "owned_by": 5, "max_model_len": "4096"}]}, 4096),
        ({"data": [None, {"id": "m", "context_length": 2048, "max_model_len": None}]}, 2048),
        ([{"id": "m", "root": None}], 0),
        ({"object": "list", "data": [{"name": "m", "max_model_len": -1}]}, 0),
    ],
)
def test_models_are_listed_in_many_ways(body: object, n_ctx: int) -> None:
    """S8."""
    (entry,) = listed_models(json.dumps(body).encode(), "")
    assert (entry.id, entry.n_ctx) == ("m", n_ctx)


def test_a_server_without_a_list_of_models(serve: Serve) -> None:
    """S8: it is served if the settings name the model."""

    async def run() -> None:
        server = serve("openai")
        for models, why in ((b"", "does not list"), (b'{"data": null}', "has no model")):
            server.behaviour.models = models
            with pytest.raises(RemoteError, match=why):
                async with asking(server.url):
                    pass
        server.behaviour.models = b""
        async with asking(server.url, model="m") as engine:
            assert (await engine.describe()).name == "m"
            assert (await read(engine))[0]

    asyncio.run(run())


def test_a_refused_optional_field_is_left_out(serve: Serve) -> None:
    """S8: `stream_options`, `seed`; what matters is not left out."""

    async def run() -> None:
        server = serve("openai")
        async with asking(server.url) as engine:
            server.behaviour.refuses = "stream_options"
            assert (await read(engine))[0]
            assert (await read(engine))[0]
            assert ["stream_options" in one for one in server.asked] == [True, False, False]
            server.behaviour.refuses = "temperature"
            _, _, error = await read(engine)
            assert error is not None and "temperature" in str(error)

    asyncio.run(run())


def test_a_router_is_asked_for_its_model_on_every_route(serve: Serve) -> None:
    """S6."""

    async def run() -> None:
        server = serve("llama-server")
        server.behaviour.models = json.dumps(
            {"data": [{"id": "chat", "owned_by": "llamacpp"}, {"id": "coder", "meta": None}]}
        ).encode()
        async with asking(server.url, model="coder") as engine:
            assert (await engine.describe()).name == "coder"
            assert (await read(engine))[2] is None
            await engine.tokenise("<|x|>", special=True)
        assert set(server.named) == {"coder"}
        assert {one.get("model") for one in (*server.asked, *server.tokenised)} == {"coder"}

    asyncio.run(run())


def test_a_byte_order_mark_may_come_in_pieces() -> None:
    """S8."""
    splitter, found = Splitter(), []
    for byte in b"\xef\xbb\xbfdata: x":
        found += splitter.feed(bytes([byte]))
    assert (found, splitter.end()) == ([], [b"x"])
    assert Splitter().end() == []


def test_native_events_bear_odd_numbers() -> None:
    """S8: in llama-server's protocol too."""
    last = {"content": None, "stop": True, "stop_type": None, "timings": {"prompt_n": 3.0}}
    piece = LlamaServer().read(json.dumps(last | {"tokens": None}).encode())
    assert piece.text == "" and piece.reason is StopReason.LENGTH
    assert piece.timings is not None and piece.timings.prompt_tokens == 3


def test_servers_that_answer_wrongly_in_any_way(home: object) -> None:
    """S8: 40 of the 10,000 streams of tests/benchmarks/fuzz.py; every one ends, or with an error of
    ours."""
    found = asyncio.run(fuzz(8, 40))
    assert found["wrong"] == []
    assert found["ends"]["done"] and found["ends"]["remote"]


@pytest.mark.parametrize("path", ["x" * 5000 + ".gguf", "a\x00b.gguf", "/" + "y" * 5000, "\ud800"])
def test_paths_of_servers_that_no_file_can_have(path: str) -> None:
    """S8: such a file is not beside us."""
    assert list(_beside(ModelInfo(name="m", path=path, n_ctx=1))) == []


DEEP = b"[" * 5000


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        ({"tokens": [1, 2.0, "3", None, True, -1, 2**40], "count": 3, "x": "y"}, [1, 2]),
        ({"tokens": None}, []),
        ({"tokens": "1"}, []),
        ({}, []),
    ],
)
def test_token_ids_are_read_whatever_is_beside_them(body: Any, ids: list[int]) -> None:
    """S8: further fields, floats, and what is no id."""
    assert ids_of(body.get("tokens")) == ids


@pytest.mark.parametrize("data", [DEEP, b'{"a":' * 5000, b'{"error":' + DEEP, b'{"a":' + DEEP])
def test_deeply_nested_events_are_errors(data: bytes) -> None:
    """S8: of ours, and not the interpreter's."""
    for dialect in (OpenAI(), LlamaServer()):
        with pytest.raises(RemoteError):
            dialect.read(data)
    assert isinstance(refusal(500, data, ""), RemoteError)
