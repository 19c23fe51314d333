"""The remote engine keeps the engine's contract with each kind of server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint
from recorded_server import RecordedServer

from assistant.engine.remote import RemoteEngine
from assistant.engine.types import (
    Counting,
    Delta,
    Done,
    GenerateRequest,
    LoadSpec,
    Priority,
    StopReason,
)
from assistant.errors import (
    ContextFullError,
    OverloadedError,
    RemoteError,
    SettingsError,
    UnderkeelError,
)
from assistant.models import vocabulary
from assistant.settings import RemoteSettings
from tests.unit.engine.remote.conftest import Serve, asking

PROMPT = "def fibonacci(n):\n    return"


def request(ids: list[int], **requirements: Any) -> GenerateRequest:
    return GenerateRequest(**{"id": "r", "prompt": tuple(ids), "max_tokens": 32, **requirements})


async def answer(engine: RemoteEngine, asked: GenerateRequest) -> tuple[str, Done]:
    text, done = "", None
    async for event in engine.generate(asked):
        if isinstance(event, Delta):
            text += event.text
        else:
            done = event
    assert done is not None
    return text, done


async def gone(server: RecordedServer, count: int = 1) -> None:
    async with asyncio.timeout(5):
        while server.hung_up < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_llama_server_is_counted_by_its_own_vocabulary(serve: Serve, dense_model: Path) -> None:
    async def run() -> None:
        server = serve("llama-server")
        async with asking(server.url) as engine:
            info = await engine.describe()
            assert (info.counting, info.n_ctx, info.n_seq_max) == (Counting.EXACT, 4096, 1)
            assert (info.name, info.path) == ("qwen2.5-coder-0.5b", "")
            assert info.server == server.url
            dense, told = vocabulary.load(dense_model), vocabulary.load(info.vocabulary)
            assert told.encode(PROMPT) == dense.encode(PROMPT)
            assert told.special == dense.special
            ids = await engine.tokenise(PROMPT)
            text, done = await answer(engine, request(ids))
            assert text == " fibonacci(n - 1)\n"
            assert done.reason is StopReason.EOS
            assert (done.timings.cached_tokens, done.timings.prefill_ms) == (2, 10)
            assert server.asked[-1]["prompt"] == ids, "ids are sent, not a text to be read again"
            stats = await engine.stats()
            assert (stats.requests, stats.cached_tokens) == (1, 2)

    asyncio.run(run())


def test_a_vllm_with_a_tokenizer_file_is_counted_exactly(
    serve: Serve, dense_model: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        tiny_checkpoint.write_tokenizer(dense_model, tmp_path)
        server = serve("vllm")
        async with asking(server.url, tokenizer=str(tmp_path / "tokenizer.json")) as engine:
            info = await engine.describe()
            assert (info.counting, info.n_ctx) == (Counting.EXACT, 4096)
            ids = await engine.tokenise(PROMPT)
            text, done = await answer(engine, request(ids, stop=("<|fim_pad|>", "\n\n")))
            assert text == " fibonacci(n - 1)\n"
            assert done.timings.cached_tokens == 1
            sent = server.asked[-1]
            assert (sent["path"], sent["prompt"]) == ("/v1/completions", ids)
            assert sent["stop_token_ids"] == [vocabulary.load(dense_model).special["<|fim_pad|>"]]

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["vllm", "openai"])
def test_a_server_that_tells_no_vocabulary_is_estimated_and_sent_texts(
    serve: Serve, kind: str
) -> None:
    async def run() -> None:
        server = serve(kind)
        async with asking(server.url, n_ctx=2000) as engine:
            info = await engine.describe()
            assert (info.counting, info.vocabulary) == (Counting.ESTIMATE, "")
            assert info.tells_tokens == (kind == "vllm"), "S14"
            assert info.n_ctx == 1900, "a twentieth is kept free"
            ids = await engine.tokenise("<|fim_prefix|>" + PROMPT, special=True)
            text, _ = await answer(engine, request(ids))
            assert text == " fibonacci(n - 1)\n"
            assert server.asked[-1]["prompt"] == "<|fim_prefix|>" + PROMPT

    asyncio.run(run())


@pytest.mark.parametrize("text", ["x = 1", "<|endoftext|>x = 1", "\ufffdx"])
def test_a_text_for_a_server_has_the_servers_bos_once(
    serve: Serve, dense_model: Path, text: str
) -> None:
    """S21: llama-server puts its BOS before a text; here its id would stand for another token."""

    async def run() -> None:
        server = serve("llama-server")
        server.behaviour.bos = vocabulary.load(dense_model).special["<|endoftext|>"]
        server.behaviour.tells_words = False
        async with asking(server.url) as engine:
            info = await engine.describe()
            assert (info.counting, info.add_bos, info.bos) == (Counting.ESTIMATE, False, -1)
            ids = await engine.tokenise(text, special=True)
            await answer(engine, request(ids))
            assert server.asked[-1]["prompt"] == text.removeprefix("<|endoftext|>")

    asyncio.run(run())


@pytest.mark.parametrize("tokens", [{"bos"}, {"eos"}, {"bos", "eos"}, set()])
def test_only_a_bos_is_taken_for_one(serve: Serve, dense_model: Path, tokens: set[str]) -> None:
    """S21: some vocabularies add an end instead."""

    async def run() -> None:
        server = serve("llama-server")
        special = vocabulary.load(dense_model).special["<|endoftext|>"]
        for name in tokens:
            setattr(server.behaviour, name, special)
        async with asking(server.url) as engine:
            info = await engine.describe()
        assert (info.add_bos, info.bos) == ((True, special) if "bos" in tokens else (False, -1))

    asyncio.run(run())


def test_a_tokenizer_of_another_model_is_refused(
    serve: Serve, dense_model: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        tiny_checkpoint.write_tokenizer(dense_model, tmp_path)
        path = tmp_path / "tokenizer.json"
        whole = json.loads(path.read_text("utf-8"))
        words = whole["model"]["vocab"]
        words["def"], words["if"] = words["if"], words["def"]
        path.write_text(json.dumps(whole), "utf-8")
        server = serve("vllm")
        with pytest.raises(SettingsError, match="tokenizer"):
            async with asking(server.url, tokenizer=str(path)):
                pass

    asyncio.run(run())


def test_tokens_are_healed_by_a_grammar_or_by_the_prompt(serve: Serve) -> None:
    async def run() -> None:
        llama, other = serve("llama-server"), serve("openai")
        async with asking(llama.url) as engine:
            ids = await engine.tokenise(PROMPT)
            text, _ = await answer(engine, request(ids, must_start_with='re"t'))
            assert text.startswith('re"t fibonacci')
            assert llama.asked[-1]["grammar"] == 'root ::= "re\\"t" [^\\x00]*'
        async with asking(other.url) as engine:
            ids = await engine.tokenise(PROMPT)
            text, _ = await answer(engine, request(ids, must_start_with=" fib"))
            assert text.startswith(" fib")
            assert other.asked[-1]["prompt"] == PROMPT + " fib"

    asyncio.run(run())


def test_hanging_up_ends_the_work_there(serve: Serve) -> None:
    async def run() -> None:
        server = serve("llama-server")
        async with asking(server.url) as engine:
            server.behaviour.token_s = 0.05
            ids = await engine.tokenise(PROMPT)
            stream = engine.generate(request(ids))
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            await gone(server)

    asyncio.run(run())


def test_a_newer_request_of_a_document_ends_the_older(serve: Serve) -> None:
    async def run() -> None:
        server = serve("llama-server")
        async with asking(server.url) as engine:
            server.behaviour.token_s = 0.1
            ids = await engine.tokenise(PROMPT)
            old = asyncio.create_task(answer(engine, request(ids, document="d")))
            other = asyncio.create_task(answer(engine, request(ids, document="e")))
            await asyncio.sleep(0.15)
            _, done = await answer(engine, request(ids, document="d", max_tokens=1))
            assert done.reason is StopReason.LENGTH
            assert (await old)[1].reason is StopReason.CANCELLED
            assert (await other)[1].reason is StopReason.EOS
            await gone(server)

    asyncio.run(run())


def test_what_nobody_waits_for_gives_way_where_the_server_is_full(serve: Serve) -> None:
    async def run() -> None:
        server = serve("llama-server")
        async with asking(server.url) as engine:
            server.behaviour.token_s = 0.1
            ids = await engine.tokenise(PROMPT)
            ahead = request(ids, priority=Priority.BACKGROUND)
            idle = asyncio.create_task(answer(engine, ahead))
            await asyncio.sleep(0.15)
            await answer(engine, request(ids, max_tokens=1))
            assert (await idle)[1].reason is StopReason.CANCELLED

    asyncio.run(run())


def test_time_runs_out_with_what_there_is(serve: Serve) -> None:
    async def run() -> None:
        server = serve("vllm")
        async with asking(server.url) as engine:
            server.behaviour.token_s = 0.1
            ids = await engine.tokenise(PROMPT)
            text, done = await answer(engine, request(ids, time_limit_ms=250))
            assert done.reason is StopReason.TIME
            assert 0 < len(text) < len(" fibonacci(n - 1)\n")
            await gone(server)

    asyncio.run(run())


def test_a_warm_up_is_sent_where_it_costs_no_answer(serve: Serve) -> None:
    async def run() -> None:
        llama, other = serve("llama-server"), serve("openai")
        async with asking(llama.url) as engine:
            ids = await engine.tokenise(PROMPT)
            _, done = await answer(engine, request(ids, max_tokens=0))
            assert llama.asked[-1]["n_predict"] == 0
            assert done.timings.generated_tokens == 0
        async with asking(other.url) as engine:
            await answer(engine, request(await engine.tokenise(PROMPT), max_tokens=0))
            assert not other.asked, "a server that is paid by the token is not asked for nothing"

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["llama-server", "vllm"])
def test_too_long_a_prompt_is_reported_as_such(serve: Serve, kind: str) -> None:
    async def run() -> None:
        server = serve(kind, n_ctx=64)
        async with asking(server.url) as engine:
            ids = await engine.tokenise("x = 1\n")
            # As a list of ids: that is what the server measures.
            engine._words = engine._words or vocabulary.load(server.vocabulary)
            with pytest.raises(ContextFullError):
                await answer(engine, request(ids[:1] * 80))

    asyncio.run(run())


def test_a_failing_server_is_tried_again_before_the_first_token(serve: Serve) -> None:
    async def run() -> None:
        server = serve("llama-server")
        async with asking(server.url, retries=2) as engine:
            ids = await engine.tokenise(PROMPT)
            server.behaviour.statuses = [503, 429]
            text, _ = await answer(engine, request(ids))
            assert text == " fibonacci(n - 1)\n"
            assert len(server.asked) == 3

    asyncio.run(run())


def test_an_answer_that_has_started_is_never_requested_twice(serve: Serve) -> None:
    async def run() -> None:
        server = serve("vllm")
        async with asking(server.url, retries=2) as engine:
            ids = await engine.tokenise(PROMPT)
            server.behaviour.cut_after = 2
            with pytest.raises(RemoteError, match="broke off"):
                await answer(engine, request(ids))
            assert len(server.asked) == 1

    asyncio.run(run())


def test_busy_without_end_is_reported_and_a_broken_server_is_left_alone(serve: Serve) -> None:
    async def run() -> None:
        server = serve("vllm")
        async with asking(server.url, retries=1) as engine:
            ids = await engine.tokenise(PROMPT)
            server.behaviour.statuses = [429, 429]
            with pytest.raises(OverloadedError):
                await answer(engine, request(ids))
            server.behaviour.statuses = [500] * 9
            before = len(server.asked)
            for _ in range(4):
                with pytest.raises(RemoteError):
                    await answer(engine, request(ids))
            assert len(server.asked) - before == 3, "the circuit is open after three failures"
            with pytest.raises(RemoteError, match="left alone"):
                await answer(engine, request(ids))

    asyncio.run(run())


def test_a_conversation_goes_to_a_server_that_writes_it(serve: Serve) -> None:
    async def run() -> None:
        server = serve("openai")
        async with asking(server.url) as engine:
            assert (await engine.describe()).writes_chat
            ids = await engine.tokenise("hello")
            text, _ = await answer(engine, request(ids, turns=(("user", "hello"),)))
            assert text == " fibonacci(n - 1)\n"
            sent = server.asked[-1]
            assert sent["path"] == "/v1/chat/completions"
            assert sent["messages"] == [{"role": "user", "content": "hello"}]

    asyncio.run(run())


def test_the_caches_gauge_is_read(serve: Serve) -> None:
    async def run() -> None:
        server = serve("vllm")
        server.behaviour.metrics = 'vllm:kv_cache_usage_perc{model_name="qwen2.5-coder-0.5b"} 0.9\n'
        async with asking(server.url) as engine:
            assert (await engine.stats()).free_share == 1.0, "not looked at yet"
            async with asyncio.timeout(5):
                while (await engine.stats()).free_share == 1.0:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert (await engine.stats()).free_share == pytest.approx(0.1)

    asyncio.run(run())


def test_a_key_is_sent_and_a_wrong_one_told(serve: Serve, tmp_path: Path) -> None:
    async def run() -> None:
        server = serve("llama-server")
        server.behaviour.key = "sk-right"
        key = tmp_path / "key"
        key.write_text("sk-right\n")
        key.chmod(0o600)
        async with asking(server.url, key_file=str(key)) as engine:
            await answer(engine, request(await engine.tokenise(PROMPT)))
        key.write_text("sk-wrong\n")
        with pytest.raises(RemoteError, match="refuses the key") as caught:
            async with asking(server.url, key_file=str(key)):
                pass
        assert "sk-wrong" not in str(caught.value)
        assert "key_file" in caught.value.advice

    asyncio.run(run())


def test_a_key_that_others_may_read_is_not_used(serve: Serve, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-secret\n")
    key.chmod(0o644)
    server = serve("vllm")

    async def run() -> None:
        async with asking(server.url, key_file=str(key)):
            pass

    with pytest.raises(SettingsError, match="others may read") as caught:
        asyncio.run(run())
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://host", "http"),
        ("nonsense", "http"),
        ("http://gpu.example:8000", "unencrypted"),
    ],
)
def test_addresses_that_cannot_be_used(home: Path, tmp_path: Path, url: str, says: str) -> None:
    key = tmp_path / "key"
    key.write_text("sk-x\n")
    key.chmod(0o600)
    engine = RemoteEngine(RemoteSettings(url=url, key_file=str(key)))
    with pytest.raises(SettingsError, match=says):
        asyncio.run(engine.load(LoadSpec(path="")))


def test_tls_is_checked_against_the_named_authority(
    serve: Serve, certificate: tuple[Path, Path]
) -> None:
    async def run() -> None:
        server = serve("llama-server", certificate=certificate)
        with pytest.raises(RemoteError, match="not trusted") as caught:
            async with asking(server.url, retries=0):
                pass
        assert "certificates" in caught.value.advice
        async with asking(server.url, certificates=str(certificate[0])) as engine:
            text, _ = await answer(engine, request(await engine.tokenise(PROMPT)))
            assert text == " fibonacci(n - 1)\n"

    asyncio.run(run())


def test_nobody_there_and_no_such_model(serve: Serve) -> None:
    async def run() -> None:
        server = serve("vllm")
        with pytest.raises(RemoteError, match="qwen2"):
            async with asking(server.url, model="another"):
                pass
        url = server.url
        server.__exit__()
        with pytest.raises(UnderkeelError, match="cannot be reached"):
            async with asking(url, retries=0):
                pass

    asyncio.run(run())
