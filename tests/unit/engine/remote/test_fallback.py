"""A server that goes: the local model answers, and the server again when it is back."""

from __future__ import annotations

import asyncio

import pytest
from fake_engine import FakeEngine

from assistant.engine.remote import FallbackEngine, RemoteEngine
from assistant.engine.types import Delta, GenerateRequest, LoadSpec, ModelInfo
from assistant.errors import LoadError, ModelChangedError, RemoteError
from assistant.settings import RemoteSettings
from tests.unit.engine.remote.conftest import Serve

SPEC = LoadSpec(path="/fake/model.gguf", n_ctx=512)


def request(model: str, ids: tuple[int, ...] = (750, 282)) -> GenerateRequest:
    return GenerateRequest(id="r", prompt=ids, max_tokens=16, prompt_model=model)


async def said(engine: FallbackEngine, asked: GenerateRequest) -> str:
    events = [event async for event in engine.generate(asked)]
    return "".join(event.text for event in events if isinstance(event, Delta))


def engine_for(url: str, local: FakeEngine, told: list[ModelInfo]) -> FallbackEngine:
    remote = RemoteEngine(RemoteSettings(url=url, retries=0, connect_s=1))
    engine = FallbackEngine(remote, local, return_s=0)
    engine.on_change = told.append
    return engine


def test_the_local_model_answers_while_the_server_is_gone(serve: Serve) -> None:
    async def run() -> None:
        server, local = serve("llama-server"), FakeEngine()
        told: list[ModelInfo] = []
        engine = engine_for(server.url, local, told)
        info = await engine.load(SPEC)
        assert info.server and not local.loads, "nothing local is loaded while the server answers"
        assert await said(engine, request(info.name)) == " fibonacci(n - 1)\n"

        server.behaviour.statuses = [500]
        with pytest.raises(ModelChangedError, match="cannot answer"):
            await said(engine, request(info.name))
        assert [one.name for one in told] == ["fake"]
        assert local.loads == [SPEC]
        assert "fails" in engine.reason

        with pytest.raises(ModelChangedError, match="served now"):
            await said(engine, request(info.name))
        assert not local.requests, "ids of the server's model never reach the local one"
        assert await said(engine, request("fake", (100, 101))) == "return answer\n"

        async with asyncio.timeout(60):
            while len(told) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert told[1].server == server.url
        assert await said(engine, request(info.name)) == " fibonacci(n - 1)\n"
        await engine.close()

    asyncio.run(run())


def test_the_local_model_answers_where_the_environment_prevents_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Case S7: certificates that cannot be read, a proxy that cannot be used."""

    async def run() -> None:
        local = FakeEngine()
        engine = engine_for("https://127.0.0.1:9", local, [])
        info = await engine.load(SPEC)
        assert info.name == "fake" and local.loads == [SPEC] and engine.reason
        assert await said(engine, request("fake", (100, 101))) == "return answer\n"
        await engine.close()

    for name, value in [
        ("SSL_CERT_FILE", "/no/such/file.pem"),
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:9"),
    ]:
        with monkeypatch.context() as environment:
            environment.setenv(name, value)
            asyncio.run(run())


def test_the_local_model_ends_its_answers_before_it_gives_way(serve: Serve) -> None:
    async def run() -> None:
        server, local = serve("llama-server"), FakeEngine(token_ms=20)
        told: list[ModelInfo] = []
        engine = engine_for(server.url, local, told)
        info = await engine.load(SPEC)
        server.behaviour.statuses = [502]
        with pytest.raises(ModelChangedError):
            await said(engine, request(info.name))
        stream = engine.generate(request("fake", (1, 2)))
        text = ""
        async for event in stream:
            if isinstance(event, Delta):
                text += event.text
                if len(told) == 2:
                    assert local._loaded, "it is not taken away in the middle of an answer"
        assert text == "return answer\n"
        async with asyncio.timeout(60):
            while local._loaded:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert told[-1].server == server.url
        await engine.close()

    asyncio.run(run())


def test_a_server_that_is_not_there_at_the_start(serve: Serve) -> None:
    async def run() -> None:
        local: FakeEngine = FakeEngine()
        engine = engine_for("http://127.0.0.1:9", local, [])
        assert (await engine.load(SPEC)).name == "fake"
        assert await said(engine, request("fake", (1, 2))) == "return answer\n"
        await engine.close()

    asyncio.run(run())


def test_neither_available(serve: Serve) -> None:
    async def run() -> None:
        engine = engine_for("http://127.0.0.1:9", FakeEngine(), [])
        with pytest.raises(RemoteError, match="cannot be reached"):
            await engine.load(LoadSpec(path=""))
        local = FakeEngine()
        local.fail_next(LoadError("no memory", advice="Free some"))
        engine = engine_for("http://127.0.0.1:9", local, [])
        with pytest.raises(LoadError, match="no memory"):
            await engine.load(SPEC)

    asyncio.run(run())


def test_a_refusal_is_no_reason_to_leave_the_server(serve: Serve) -> None:
    async def run() -> None:
        server, local = serve("llama-server", n_ctx=64), FakeEngine()
        engine = engine_for(server.url, local, [])
        info = await engine.load(SPEC)
        with pytest.raises(Exception, match="refuses the prompt"):
            await said(engine, request(info.name, (1,) * 100))
        assert not local.loads
        await engine.close()

    asyncio.run(run())
