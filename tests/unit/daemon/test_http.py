"""The daemon over its real socket, with the fake engine behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from daemons import Daemon, fake_model, serving, until
from fake_engine import DEFAULT_REPLY, FakeEngine

from assistant import paths
from assistant.daemon.loading import Loadable
from assistant.engine.types import Priority, StopReason
from assistant.errors import (
    ContextFullError,
    DaemonError,
    LoadError,
    OverloadedError,
    RequestError,
    UnknownModelError,
)
from assistant.settings import DaemonSettings, ModelSettings, Settings
from assistant.wire import ChatMessage, CompletionRequest, ServiceState


def run(
    body: Callable[[Daemon], Awaitable[None]], engine: FakeEngine | None = None, **options: Any
) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), serving(engine, **options) as daemon:
            await body(daemon)

    asyncio.run(main())


async def events_of(answer: httpx.Response) -> list[Any]:
    data = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def ask(text: str = "def f", **more: Any) -> CompletionRequest:
    return CompletionRequest(**{"prompt": text, "temperature": 0.0, "max_tokens": 64, **more})


async def collect(daemon: Daemon, request: CompletionRequest) -> tuple[str, Any]:
    text, last = "", None
    async for chunk in daemon.client.complete(request):
        text += chunk.content
        last = chunk
    return text, last


def test_completion_streams_in_llama_servers_shape(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        answer = await daemon.http.post(
            "/completion", json={"prompt": "abc", "n_predict": 100, "stream": True}
        )
        assert answer.headers["content-type"] == "text/event-stream"
        *pieces, last = await events_of(answer)
        assert "".join(piece["content"] for piece in pieces) == DEFAULT_REPLY
        assert all(piece["stop"] is False for piece in pieces)
        assert last["stop"] is True and last["content"] == ""
        assert last["stop_type"] == "eos"
        assert last["tokens_evaluated"] == 3
        assert last["tokens_predicted"] == len(DEFAULT_REPLY) + 1
        assert last["timings"]["prompt_n"] == 3
        assert "budget" in last

    run(body)


def test_completion_whole(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        answer = await daemon.http.post(
            "/completion", json={"prompt": [100, 101], "n_predict": 6, "return_tokens": True}
        )
        found = answer.json()
        assert found["content"] == DEFAULT_REPLY[:6]
        assert found["tokens"] == list(DEFAULT_REPLY[:6].encode())
        assert found["stop_type"] == "limit"

    run(body)


def test_mixed_prompts_reach_the_engine_in_order(home: Path) -> None:
    engine = FakeEngine()

    async def body(daemon: Daemon) -> None:
        await daemon.http.post("/completion", json={"prompt": [1, 2, "ab", 3], "n_predict": 1})
        assert engine.requests[-1].prompt == (1, 2, 97, 98, 3)

    run(body, engine)


def test_our_fields_reach_the_engine(home: Path) -> None:
    engine = FakeEngine()

    async def body(daemon: Daemon) -> None:
        request = ask(
            document="file:///a.py",
            priority=Priority.EXPLAIN,
            must_start_with="ret",
            unlike="return 1",
            stop=("\n",),
            time_limit_ms=5000,
            cache=False,
        )
        text, last = await collect(daemon, request)
        assert text == DEFAULT_REPLY.rstrip("\n")
        assert last.stop_reason is StopReason.STOP_TEXT
        sent = engine.requests[-1]
        assert (sent.document, sent.priority) == ("file:///a.py", Priority.EXPLAIN)
        assert (sent.must_start_with, sent.unlike) == ("ret", "return 1")
        assert sent.stop == ("\n",)
        assert (sent.time_limit_ms, sent.cache) == (5000, False)
        assert sent.sampling.temperature == 0

    run(body, engine)


def test_openai_completion(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        request = {"model": "x", "prompt": "abc", "max_tokens": 100}
        found = (await daemon.http.post("/v1/completions", json=request)).json()
        assert found["object"] == "text_completion"
        assert found["choices"][0]["text"] == DEFAULT_REPLY
        assert found["choices"][0]["finish_reason"] == "stop"
        assert found["usage"]["prompt_tokens"] == 3
        options = {"stream": True, "stream_options": {"include_usage": True}}
        answer = await daemon.http.post("/v1/completions", json=request | options)
        *pieces, last, marker = await events_of(answer)
        assert marker == "[DONE]"
        assert "".join(p["choices"][0]["text"] for p in pieces) == DEFAULT_REPLY
        assert last["usage"]["completion_tokens"] == len(DEFAULT_REPLY) + 1

    run(body)


class Templated(FakeEngine):
    """The fake engine with a chat template."""

    async def describe(self) -> Any:
        template = (
            "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
        return msgspec.structs.replace(await super().describe(), chat_template=template)


def test_chat_renders_the_models_template(home: Path) -> None:
    engine = Templated()

    async def body(daemon: Daemon) -> None:
        messages = [
            ChatMessage(role="system", content="Be brief."),
            ChatMessage(role="user", content="Why?"),
        ]
        chunks = [chunk async for chunk in daemon.client.chat(messages)]
        assert "".join(chunk.content for chunk in chunks) == DEFAULT_REPLY
        assert chunks[-1].stop and chunks[-1].stop_reason is StopReason.EOS
        assert chunks[-1].timings is not None
        sent = bytes(engine.requests[-1].prompt).decode()
        assert sent == "<system>Be brief.\n<user>Why?\n<assistant>"

        whole = await daemon.http.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Why?"}]}
        )
        assert whole.json()["choices"][0]["message"]["content"] == DEFAULT_REPLY

    run(body, engine)


def test_chat_without_template_is_a_clear_error(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        with pytest.raises(RequestError, match="no chat template"):
            async for _ in daemon.client.chat([ChatMessage(role="user", content="hi")]):
                pass

    run(body)


def test_tokenise_and_back(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        ids = await daemon.client.tokenise("añ")
        assert ids == list("añ".encode())
        back = await daemon.http.post("/detokenize", json={"tokens": ids})
        assert back.json() == {"content": "añ"}

    run(body)


def test_models_and_props(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        models = (await daemon.http.get("/v1/models")).json()
        assert [entry["id"] for entry in models["data"]] == ["fake"]
        raw = (await daemon.http.get("/props")).json()
        assert raw["default_generation_settings"]["n_ctx"] == 4096
        props = await daemon.client.props()
        assert (props.model.n_ctx, props.n_slots) == (4096, 4)

    run(body)


BAD_REQUESTS = [
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b'{"other": ' + b"[" * 100_000, "not JSON"),
    (b'{"prompt": 5}', "prompt"),
    (b'{"prompt": [[1]]}', "prompt"),
    (b'{"prompt": "a", "n_predict": "many"}', "n_predict"),
    (b'{"prompt": "a", "temperature": -1}', "temperature"),
    (b'{"prompt": "a", "priority": "mine"}', "priority"),
    (b'{"prompt": [1, -2]}', "prompt"),
    (b'{"prompt": [1, 99999999999]}', "prompt"),
    (b'{"prompt": []}', "empty"),
    (b'{"prompt": ""}', "empty"),
    (b'{"prompt": ["a", "b"]}', "several prompts"),
    (b'{"prompt": [5000]}', "not of the model's vocabulary"),
    (b'{"prompt": "a", "grammar": "root ::= x"}', "grammar"),
    (b"{}", "prompt"),
    (b"[]", "object"),
    (b"", "prompt"),
]


def test_bad_requests_are_explained(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        for content, what in BAD_REQUESTS:
            answer = await daemon.http.post("/completion", content=content)
            error = answer.json()["error"]
            assert answer.status_code == 400, content[:60]
            assert error["code"] == 400 and error["type"] == "invalid_request_error"
            assert what in error["message"], content[:60]
        assert (await collect(daemon, ask()))[0] == DEFAULT_REPLY

    run(body)


def test_too_large_a_request(home: Path) -> None:
    settings = Settings(daemon=DaemonSettings(max_body_bytes=1000))

    async def body(daemon: Daemon) -> None:
        answer = await daemon.http.post("/completion", json={"prompt": "x" * 2000})
        assert answer.status_code == 413

        async def endless() -> Any:
            while True:
                yield b"x" * 100

        answer = await daemon.http.post("/completion", content=endless())
        assert answer.status_code == 413

    run(body, settings=settings)


def test_a_client_that_stalls_is_sent_away_and_harms_nobody(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assistant.daemon.http.bodies._BODY_LIMIT_S", 0.3)

    async def body(daemon: Daemon) -> None:
        reader, writer = await asyncio.open_unix_connection(str(paths.socket_path()))
        head = b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        writer.write(head + b'{"prompt": "')
        await writer.drain()
        assert (await collect(daemon, ask()))[0] == DEFAULT_REPLY
        said = await reader.read()
        assert said.startswith(b"HTTP/1.1 408") and b"did not come within" in said
        writer.close()

    run(body)


def test_silent_connections_harm_nobody(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        path = str(paths.socket_path())
        silent = [await asyncio.open_unix_connection(path) for _ in range(200)]
        for _, writer in silent[::2]:
            writer.write(b"GET /health HT")
        assert (await collect(daemon, ask()))[0] == DEFAULT_REPLY
        for _, writer in silent:
            writer.close()

    run(body)


def test_what_is_not_http_is_refused(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        for junk in (b"\x00\xff" * 500 + b"\r\n\r\n", b"GET\r\n\r\n", b"x" * 200_000):
            reader, writer = await asyncio.open_unix_connection(str(paths.socket_path()))
            writer.write(junk)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
        assert (await collect(daemon, ask()))[0] == DEFAULT_REPLY

    run(body)


def test_unknown_routes_and_methods(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        missing = await daemon.http.get("/no/such")
        assert missing.status_code == 404 and "no /no/such" in missing.json()["error"]["message"]
        wrong = await daemon.http.get("/completion")
        assert wrong.status_code == 405 and "error" in wrong.json()

    run(body)


def test_too_long_a_prompt(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        with pytest.raises(ContextFullError, match="5000 tokens"):
            await collect(daemon, ask("x" * 5000))
        answer = await daemon.http.post("/completion", json={"prompt": "x" * 5000})
        assert answer.json()["error"]["type"] == "exceed_context_size_error"
        # One that just fits gets what room is left.
        text, last = await collect(daemon, ask("x" * 4090))
        assert text == DEFAULT_REPLY[:6] and last.stop_reason is StopReason.LENGTH

    run(body)


def test_too_long_a_prompt_on_openais_routes(home: Path) -> None:
    """Clients shorten a conversation when they see OpenAI's code, or its words."""

    async def body(daemon: Daemon) -> None:
        long, turn = "x" * 5000, {"role": "user", "content": "x" * 5000}
        for path, sent in (
            ("/v1/completions", {"prompt": long}),
            ("/v1/completions", {"prompt": long, "stream": True}),
            ("/v1/chat/completions", {"messages": [turn]}),
            ("/chat/completions", {"messages": [turn], "stream": True}),
            ("/v1/completions", {"prompt": "x" * 3000, "budget_tokens": 1}),
        ):
            answer = await daemon.http.post(path, json=sent)
            error = answer.json()["error"]
            assert answer.status_code == 400
            assert error["code"] == "context_length_exceeded"
            assert error["type"] == "invalid_request_error"
            assert "maximum context length is" in error["message"]
            assert str(error["n_prompt_tokens"]) in error["message"]
            assert str(error["n_ctx"]) in error["message"]
            assert error["underkeel"]["code"] == "context_full"
        with pytest.raises(ContextFullError, match="the context holds 4096"):
            async for _ in daemon.client.chat([ChatMessage(role="user", content=long)]):
                pass

    run(body, Templated())


def test_the_budget_is_a_header(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        await until(lambda: daemon.service.budgets.of(Priority.EXPLAIN) is not None)
        budget = daemon.service.budgets.of(Priority.EXPLAIN)
        assert budget is not None
        sent = {"prompt": "a", "max_tokens": 2}
        answers = [
            await daemon.http.get("/props"),
            await daemon.http.get("/v1/models"),
            await daemon.http.post("/v1/completions", json=sent),
            await daemon.http.post("/v1/completions", json=sent | {"stream": True}),
            await daemon.http.post("/v1/completions", json=sent | {"prompt": "x" * 5000}),
        ]
        for answer in answers:
            assert answer.headers["x-underkeel-budget"] == str(budget.tokens)
        (entry,) = answers[1].json()["data"]
        assert (entry["context_length"], entry["budget_tokens"]) == (4096, budget.tokens)

    run(body)


def test_the_model_is_named_as_in_the_settings(home: Path) -> None:
    def planner() -> Loadable:
        found = fake_model()
        return Loadable(found.ladder, margins=found.margins, model=ModelSettings(name="my-coder"))

    async def body(daemon: Daemon) -> None:
        (entry,) = (await daemon.http.get("/v1/models")).json()["data"]
        assert (entry["id"], entry["meta"]["name"]) == ("my-coder", "fake")

    run(body, planner=planner)


def test_penalties_biases_and_echo(home: Path) -> None:
    engine = FakeEngine()

    async def body(daemon: Daemon) -> None:
        sent = {"prompt": "ab", "max_tokens": 6, "presence_penalty": 1, "frequency_penalty": -0.5}
        sent |= {"logit_bias": {"97": -100, "98": 1.5}, "echo": True}
        answer = await daemon.http.post("/v1/completions", json=sent)
        assert answer.json()["choices"][0]["text"] == "ab" + DEFAULT_REPLY[:6]
        sampling = engine.requests[-1].sampling
        assert (sampling.presence_penalty, sampling.frequency_penalty) == (1.0, -0.5)
        assert sampling.logit_bias == {97: -100.0, 98: 1.5}
        events = await events_of(
            await daemon.http.post("/v1/completions", json=sent | {"stream": True})
        )
        texts = [event["choices"][0]["text"] for event in events[:-1]]
        assert "".join(texts) == "ab" + DEFAULT_REPLY[:6]
        native = {"prompt": "ab", "n_predict": 1, "logit_bias": [[97, 2]]}
        assert (await daemon.http.post("/completion", json=native)).status_code == 200
        assert dict(engine.requests[-1].sampling.logit_bias) == {97: 2.0}
        for wrong in (
            {"logit_bias": {"x": 1}},
            {"logit_bias": {"97": 101}},
            {"presence_penalty": 3},
            {"prompt": [97], "echo": True},
            {"prompt": [97], "suffix": "b"},
        ):
            answer = await daemon.http.post("/v1/completions", json={"prompt": "a"} | wrong)
            assert answer.status_code == 400, wrong

    run(body, engine)


def test_a_suffix_is_filled_in_as_infill_does(home: Path, dense_model: Path) -> None:
    class Coder(FakeEngine):
        async def describe(self) -> Any:
            found = await super().describe()
            return msgspec.structs.replace(found, vocabulary=str(dense_model))

    engine = Coder(n_vocab=200_000)

    async def body(daemon: Daemon) -> None:
        place = {"input_prefix": "def f(", "input_suffix": "):\n    pass\n", "n_predict": 4}
        assert (await daemon.http.post("/infill", json=place)).status_code == 200
        sent = {"prompt": "def f(", "suffix": "):\n    pass\n", "max_tokens": 4}
        assert (await daemon.http.post("/v1/completions", json=sent)).status_code == 200
        infill, suffix = engine.requests[-2:]
        assert infill.prompt == suffix.prompt and infill.stop_tokens == suffix.stop_tokens
        assert suffix.max_tokens == 4

    run(body, engine)


def test_a_flood_is_refused_and_the_queue_recovers(home: Path) -> None:
    engine = FakeEngine()
    settings = Settings(daemon=DaemonSettings(max_waiting=8))

    async def body(daemon: Daemon) -> None:
        engine.pause()
        tasks = [asyncio.create_task(collect(daemon, ask(document=str(n)))) for n in range(10)]
        await until(lambda: engine.in_flight == 4 and daemon.service.admission.refused == 6)
        # The flooder has what one may have; any other client still finds a place.
        other = asyncio.create_task(daemon.http.post("/completion", json={"prompt": "a"}))
        await until(lambda: engine.in_flight == 5)
        answer = await daemon.http.post("/tokenize", json={"content": "a"})
        assert answer.status_code == 200
        engine.resume()
        assert (await other).status_code == 200
        results = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [result for result in results if isinstance(result, OverloadedError)]
        assert len(refused) == 6
        assert all(r[0] == DEFAULT_REPLY for r in results if not isinstance(r, BaseException))
        await daemon.idle()
        assert (await collect(daemon, ask()))[0] == DEFAULT_REPLY

    run(body, engine, settings=settings)


def test_who_is_refused_may_ask_again_on_the_same_connection(home: Path) -> None:
    """A client that keeps connections open need not open one for each try."""
    settings = Settings(daemon=DaemonSettings(max_waiting=0))

    async def body(daemon: Daemon) -> None:
        reader, writer = await asyncio.open_unix_connection(str(paths.socket_path()))
        asked = b'{"prompt": "a"}'
        for _ in range(3):
            writer.write(
                b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n" + asked
            )
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert head.startswith(b"HTTP/1.1 429")
            assert b"retry-after: 1" in head.lower() and b"connection: close" not in head.lower()
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(size)
        writer.close()

    run(body, settings=settings)


def test_bodies_are_bounded_all_together(home: Path) -> None:
    """Senders that stall in the middle hold no more than four full bodies, and then a 429."""
    engine = FakeEngine()
    settings = Settings(daemon=DaemonSettings(max_body_bytes=10_000))

    async def body(daemon: Daemon) -> None:
        path = str(paths.socket_path())
        head = b"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n"
        stalled = [await asyncio.open_unix_connection(path) for _ in range(4)]
        for _, writer in stalled:
            writer.write(head + b"x" * 8900)
        await until(lambda: daemon.service.intake.held_bytes == 4 * 8900)
        answer = await daemon.http.post("/completion", content=b"x" * 9000)
        assert answer.status_code == 429
        assert answer.headers["connection"] == "close" and answer.headers["retry-after"]
        assert (await collect(daemon, ask()))[0] == DEFAULT_REPLY  # a small one still fits
        for _, writer in stalled:
            writer.close()
        await until(lambda: daemon.service.intake.held_bytes == 0)
        assert (await daemon.http.post("/completion", content=b"x" * 9000)).status_code == 400
        assert daemon.service.intake.held_bytes == 0

    run(body, engine, settings=settings)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_engine(home: Path, stream: bool) -> None:
    engine = FakeEngine()

    async def body(daemon: Daemon) -> None:
        engine.pause()
        task = asyncio.create_task(
            daemon.http.post("/completion", json={"prompt": "a", "stream": stream})
        )
        await until(lambda: engine.in_flight == 1)
        task.cancel()
        await daemon.idle()
        assert engine.in_flight == 0
        engine.resume()
        assert (await collect(daemon, ask()))[0] == DEFAULT_REPLY

    run(body, engine)


def test_closing_the_iterator_cancels(home: Path) -> None:
    engine = FakeEngine(reply=lambda _: "x" * 2000, token_ms=5)

    async def body(daemon: Daemon) -> None:
        async with aclosing(daemon.client.complete(ask(max_tokens=2000))) as chunks:
            async for _ in chunks:
                break
        await daemon.idle()
        assert engine.in_flight == 0

    run(body, engine)


def test_storm_of_cancelled_requests(home: Path) -> None:
    """Forty requests, each cancelling the one before: one answer, no leak, the next is served."""
    engine = FakeEngine(token_ms=5)

    async def body(daemon: Daemon) -> None:
        tasks: list[asyncio.Task[tuple[str, Any]]] = []
        for number in range(40):
            if tasks:
                tasks[-1].cancel()
            request = ask("x" * (number + 1), document="file:///a.py")
            tasks.append(asyncio.create_task(collect(daemon, request)))
            await asyncio.sleep(0.002 * (number % 4))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        answers = [result for result in results if not isinstance(result, BaseException)]
        assert [text for text, _ in answers] == [DEFAULT_REPLY]
        await daemon.idle()
        assert (engine.in_flight, daemon.service.admission.inside) == (0, 0)
        assert (await collect(daemon, ask()))[0] == DEFAULT_REPLY

    run(body, engine)


def test_a_newer_request_of_the_document_ends_the_older_one(home: Path) -> None:
    engine = FakeEngine()

    async def body(daemon: Daemon) -> None:
        engine.pause()
        older = asyncio.create_task(collect(daemon, ask(document="a")))
        await until(lambda: engine.in_flight == 1)
        newer = asyncio.create_task(collect(daemon, ask(document="a")))
        await until(lambda: engine.in_flight == 2)
        engine.resume()
        assert (await older)[1].stop_reason is StopReason.CANCELLED
        assert (await newer)[0] == DEFAULT_REPLY

    run(body, engine)


def test_an_answer_that_takes_too_long_is_ended(home: Path) -> None:
    engine = FakeEngine()
    settings = Settings(daemon=DaemonSettings(request_limit_s=0.2))

    async def body(daemon: Daemon) -> None:
        engine.pause()
        answer = await daemon.http.post("/completion", json={"prompt": "a"})
        assert answer.status_code == 500
        assert "longer than" in answer.json()["error"]["message"]
        await daemon.idle()
        engine.resume()

    run(body, engine, settings=settings)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
def test_an_answer_without_an_end_arrives_as_far_as_it_came(
    home: Path, stream: bool, n: int
) -> None:
    """A client that names no most tokens, and a model that does not stop: no error at the limit."""
    engine = FakeEngine(reply=lambda _: "x" * 5000, token_ms=5)
    settings = Settings(daemon=DaemonSettings(request_limit_s=1))
    ask = {"prompt": "a", "max_tokens": 4000, "n": n, "stream": stream}

    async def body(daemon: Daemon) -> None:
        answer = await daemon.http.post("/v1/completions", json=ask)
        assert answer.status_code == 200, answer.text
        if stream:
            events = [event for event in await events_of(answer) if event != "[DONE]"]
            choices = [choice for event in events for choice in event["choices"]]
            texts = [choice["text"] for choice in choices]
            reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
        else:
            choices = answer.json()["choices"]
            texts = [choice["text"] for choice in choices]
            reasons = [choice["finish_reason"] for choice in choices]
        assert reasons == ["length"] * n
        assert len("".join(texts)) > 20

    run(body, engine, settings=settings)


def test_first_load_reports_progress_and_refuses_meanwhile(home: Path) -> None:
    engine = FakeEngine(load_ms=600)
    seen: list[tuple[str, float]] = []

    async def body(daemon: Daemon) -> None:
        health = await daemon.http.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "loading"
        with pytest.raises(LoadError, match="still loading"):
            await collect(daemon, ask())
        model = await daemon.client.wait_ready(lambda stage, share: seen.append((stage, share)))
        assert model.name == "fake"
        assert (await daemon.http.get("/health")).json() == {"status": "ok"}
        shares = [share for _, share in seen]
        assert shares == sorted(shares) and any(0 < share < 1 for share in shares)

    run(body, engine, ready=False)


def test_a_failed_load_is_explained_and_can_be_tried_again(home: Path) -> None:
    tries: list[int] = []

    def planner() -> Loadable:
        tries.append(1)
        if len(tries) < 3:
            raise UnknownModelError("there is no such file", subject="x", advice="Pull it")
        return fake_model()

    async def body(daemon: Daemon) -> None:
        with pytest.raises(UnknownModelError, match="Pull it"):
            await daemon.client.wait_ready()
        assert len(tries) == 2
        with pytest.raises(UnknownModelError, match="Pull it"):
            await collect(daemon, ask())
        status = await daemon.client.status()
        assert status.state is ServiceState.FAILED
        assert status.error is not None and status.error.advice == "Pull it"
        assert (await daemon.http.get("/health")).status_code == 503
        # Fixed: the next client brings it up without a restart of the daemon.
        assert (await daemon.client.wait_ready()).name == "fake"
        assert (await collect(daemon, ask()))[0] == DEFAULT_REPLY

    run(body, ready=False, planner=planner)


def test_death_before_the_first_token_is_survived(home: Path) -> None:
    engine = FakeEngine()

    async def body(daemon: Daemon) -> None:
        engine.pause()
        waiting = [asyncio.create_task(collect(daemon, ask(document=str(n)))) for n in range(3)]
        await until(lambda: engine.in_flight == 3)
        engine.kill()
        assert [text for text, _ in await asyncio.gather(*waiting)] == [DEFAULT_REPLY] * 3
        assert len(engine.loads) == 2
        assert (await daemon.client.status()).deaths == 1

    run(body, engine)


def test_an_answer_goes_on_after_a_death_in_its_middle(home: Path) -> None:
    engine = FakeEngine(token_ms=5)

    async def body(daemon: Daemon) -> None:
        chunks = daemon.client.complete(ask())
        assert (await anext(chunks)).content == DEFAULT_REPLY[0]
        engine.kill()
        rest = [chunk.content async for chunk in chunks]
        assert "".join([DEFAULT_REPLY[0], *rest]) == DEFAULT_REPLY
        assert (await daemon.client.status()).deaths == 1
        assert (await collect(daemon, ask()))[0] == DEFAULT_REPLY

    run(body, engine)


def test_stop_while_busy_ends_streams_with_a_reason(home: Path) -> None:
    engine = FakeEngine(reply=lambda _: "x" * 5000, token_ms=2)

    async def body(daemon: Daemon) -> None:
        started = asyncio.Event()

        async def busy() -> None:
            async for _ in daemon.client.complete(ask(max_tokens=4000)):
                started.set()

        task = asyncio.create_task(busy())
        await started.wait()
        await daemon.client.stop()
        with pytest.raises(DaemonError, match="stopping"):
            await task

    run(body, engine)


def test_status_tells_all(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        await collect(daemon, ask())
        status = await daemon.client.status()
        assert status.state is ServiceState.READY
        assert status.model is not None and status.model.name == "fake"
        assert status.stats is not None and status.stats.requests == 1
        assert status.socket.startswith(str(home)) and status.log.startswith(str(home))

    run(body)


def test_metrics_count_answers_and_errors(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        await collect(daemon, ask("abc"))
        await collect(daemon, ask("abcd", priority=Priority.EXPLAIN))
        await daemon.http.post("/completion", json={"prompt": ""})
        answer = await daemon.http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = answer.text.splitlines()
        for line in (
            "llamacpp:prompt_tokens_total 4.0",
            "llamacpp:prompt_tokens_cached_total 3.0",
            f"llamacpp:tokens_predicted_total {2 * len(DEFAULT_REPLY) + 2}.0",
            'underkeel_requests_total{priority="explain",reason="eos"} 1.0',
            'underkeel_errors_total{code="request"} 1.0',
            "underkeel_ready 1.0",
            "underkeel_kv_cells 4096.0",
            "underkeel_budget_tokens 1024.0",
            'underkeel_device_free_bytes{device="CPU"} 1.2884901888e+10',
            "underkeel_ladder_rung 0.0",
            "underkeel_engine_requests 2.0",
            f"underkeel_engine_generated_tokens {2 * len(DEFAULT_REPLY) + 2}.0",
        ):
            assert line in lines, line

    run(body)


def test_metrics_count_answers_whose_reader_went_away(home: Path) -> None:
    """Editors do that all the time: they have all that they can use."""

    async def body(daemon: Daemon) -> None:
        async with contextlib.aclosing(daemon.client.complete(ask())) as stream:
            await anext(stream)
        await daemon.idle()
        lines = (await daemon.http.get("/metrics")).text.splitlines()
        counted = 'underkeel_requests_total{priority="interactive",reason="cancelled"} 1.0'
        assert counted in lines
        assert 'underkeel_request_seconds_count{priority="interactive"} 1.0' in lines

    run(body, FakeEngine(token_ms=20))


def test_tokens_of_no_vocabulary_never_reach_the_engine(home: Path) -> None:
    """llama.cpp aborts its process over one."""

    async def body(daemon: Daemon) -> None:
        for path, content in (
            ("/detokenize", {"tokens": [65, 256]}),
            ("/tokenize", {"content": [65, 4711], "with_pieces": True}),
            ("/completion", {"prompt": [256]}),
        ):
            answer = await daemon.http.post(path, json=content)
            assert answer.status_code == 400 and "vocabulary" in answer.json()["error"]["message"]
        answer = await daemon.http.post(
            "/detokenize", content=b'{"tokens": [' + b"1," * 2**20 + b"1]}"
        )
        assert answer.status_code == 400 and "1048576" in answer.json()["error"]["message"]

    run(body)
