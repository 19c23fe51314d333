"""Servers that speak OpenAI's protocol in their own ways: what does not matter is tolerated, what
does is an error. Cases S6 and S8."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from mutated_servers import Script, engine_for, fuzz, mutated_server

from assistant.engine.remote import RemoteEngine
from assistant.engine.remote.dialect import _beside, ids_of
from assistant.engine.remote.failures import refusal
from assistant.engine.remote.llama_server import LlamaServer
from assistant.engine.remote.openai import OpenAI, listed_models, named_entry
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
    "no reason as a text": choice("a", "null", usage=None) + choice("b", "stop") + DONE,
    "usage with each event, no reason as a text": b"".join(
        choice(text, reason) for text, reason in (("a", "null"), ("b", "stop"))
    ).replace(b'{"choices"', b'{"usage": {"prompt_tokens": 1}, "choices"'),
    "an empty reason": choice("a", "") + choice("b", "STOP") + DONE,
    "the reason of other makers": choice("a", "None") + choice("b", "eos_token") + DONE,
    "null and empty events to keep the connection": b"data: null\n\ndata:\n\n"
    + choice("a")
    + b"data: \n\n: ping\n\n"
    + choice("b", "stop"),
    "no empty lines between events": (choice("a") + choice("b", "stop") + DONE).replace(
        b"\n\n", b"\n"
    ),
    "an object on each line": b"".join(
        json.dumps({"choices": [{"text": text, "finish_reason": reason}]}).encode() + b"\n"
        for text, reason in (("a", None), ("b", "stop"))
    ),
    "an infinite log probability": (choice("a", logprobs=[1.5]) + choice("b", "stop")).replace(
        b"1.5", b"-Infinity"
    ),
    "something else after the end": choice("ab", "stop") + b"data: bye\n\n",
    "an error after the end": choice("ab", "stop") + event(error="cannot count"),
    "a text as the delta": event(choices=[{"delta": "ab", "finish_reason": "stop"}]),
    "content as one part": event(
        choices=[{"delta": {"content": {"text": "ab"}}, "finish_reason": "stop"}]
    ),
    "content as texts": event(
        choices=[{"message": {"content": ["a", "b"]}, "finish_reason": "stop"}]
    ),
    "one choice, not in a list": event(choices={"text": "ab", "finish_reason": "stop"}) + DONE,
    "content beside the message": event(choices=[{"content": "ab", "finish_reason": "stop"}]),
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
    "an error of vLLM's form": (event(object="error", message="gone", code=400), "", "gone"),
    "an error by its type": (choice("a") + event(type="error", message="gone"), "a", "gone"),
    "an error of FastAPI's form": (event(detail="gone"), "", "gone"),
    "half a surrogate pair in an error": (b'data: {"error": "gone \\ud83d"}\n\n', "", "gone ?"),
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
        ({"models": [{"name": "m", "context_window": 8192}]}, 8192),
        ({"data": ["m"]}, 0),
        (["m"], 0),
        ({"data": {"m": {"max_context_length": 512}}}, 512),
        ({"data": {"id": "m", "n_ctx": 512}}, 512),
        ({"data": [{"id": 5}, {"model": "m", "meta": {"n_ctx": 4096}}]}, 4096),
    ],
)
def test_models_are_listed_in_many_ways(body: object, n_ctx: int) -> None:
    """S8."""
    (entry,) = listed_models(json.dumps(body).encode(), "")
    assert (entry.id, entry.n_ctx) == ("m", n_ctx)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("", "Coder:latest"),
        ("Coder:latest", "Coder:latest"),
        ("coder", "Coder:latest"),
        ("CODER:LATEST", "Coder:latest"),
        ("chat", "chat"),
        ("chat:latest", "chat"),
        ("openai/gpt", "openai/gpt"),
        ("cod", None),
        ("twin", None),
        ("twiN", "twiN"),
    ],
)
def test_a_model_is_named_in_more_than_one_way(name: str, entry: str | None) -> None:
    """S6: by its tag or without, in any case, or by a wildcard; never by a guess among several."""
    ids = ["Coder:latest", "chat", "openai/*", "Twin", "twiN"]
    entries = listed_models(json.dumps({"data": ids}).encode(), "")
    found = named_entry(entries, name)
    assert (found and found.id) == entry


@pytest.mark.parametrize(
    "body", [b"<!doctype html><title>x</title>", b"5", b'"m"', b"null", b'{"data": "m"}', b"[]"]
)
def test_a_page_in_place_of_a_list_of_models(serve: Serve, body: bytes) -> None:
    """S8: as good as no list, where the settings name the model."""

    async def run() -> None:
        server = serve("openai")
        server.behaviour.models = body
        if body == b"[]" or b"data" in body:
            with pytest.raises(RemoteError, match="has no model"):
                async with asking(server.url, model="m"):
                    pass
            return
        async with asking(server.url, model="m") as engine:
            assert (await engine.describe()).name == "m"

    asyncio.run(run())


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
            server.behaviour.refuses = "max_tokens"
            assert (await read(engine))[0]
            assert (await read(engine))[0]
            limits = [
                (one.get("max_tokens"), one.get("max_completion_tokens")) for one in server.asked
            ]
            assert limits[-2:] == [(None, 32)] * 2
            server.behaviour.refuses = "temperature"
            _, _, error = await read(engine)
            assert error is not None and "temperature" in str(error)

    asyncio.run(run())


@pytest.mark.parametrize("error", ["Bad Request", "", '{"error": "unsupported parameter"}'])
def test_optional_fields_are_left_out_where_the_refusal_names_none(error: str) -> None:
    """S8: a refusal without the name of a field."""
    bodies: list[Any] = []

    async def run() -> None:
        async with mutated_server() as server:
            engine = await engine_for(server, "openai")
            assert engine._http is not None
            stream = engine._http.stream

            async def refusing(path: str, body: Any) -> AsyncGenerator[bytes, None]:
                bodies.append(body)
                if "stream_options" in body:
                    raise refusal(400, error.encode(), "")
                async for data in stream(path, body):
                    yield data

            engine._http.stream = refusing  # type: ignore[method-assign]
            whole = b"HTTP/1.1 200 OK\r\n\r\n" + choice("ab", "stop") + DONE
            server.answers = {"*": Script((whole,), reset=False)}
            text, done, failure = await read(engine)
            assert (text, failure) == ("ab", None) and done is not None
            await engine.close()

    asyncio.run(run())
    assert ["stream_options" in body for body in bodies] == [True, False]


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
            await engine._look()
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


@pytest.mark.parametrize(
    ("pieces", "stops", "said", "stopped"),
    [
        (["ab", "cd", "ef"], ["1", "2", "3", "4", "cd"], "ab", "cd"),
        (["abc", "def"], ["1", "2", "3", "4", "cd"], "ab", "cd"),
        (["a", "b", "c", "d"], ["1", "2", "3", "4", "bcd"], "a", "bcd"),
        (["a", "b", "c"], ["1", "2", "3", "4", "bcd"], "abc", ""),
        (["ab\n\n", "x"], ["1", "2", "3", "4", "5", "\n\n"], "ab", "\n\n"),
        (["ab", "\u00e9", "x"], [str(n) for n in range(16)] + ["\u00e9"], "ab", "\u00e9"),
        (["x" * 100] * 4, [*"1234", "x" * 300], "", "x" * 300),
        (["ab", "cd"], [*"1234", "1", ""], "abcd", ""),
    ],
)
def test_stop_texts_that_a_server_cannot_take_end_the_answer_here(
    serve: Serve, pieces: list[str], stops: list[str], said: str, stopped: str
) -> None:
    """S20: OpenAI takes four; the others are not dropped silently."""

    async def run() -> None:
        server = serve("openai")
        async with asking(server.url) as engine:
            server.behaviour.raw = b"".join(map(choice, pieces)) + choice("", "stop") + DONE
            text, done, error = await read(engine, stop=tuple(stops))
            assert (text, error) == (said, None) and done is not None
            assert done.stop_text == stopped
            assert done.reason is (StopReason.STOP_TEXT if stopped else StopReason.EOS)

    asyncio.run(run())
