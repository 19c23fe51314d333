"""Ghost text and chats through the whole stack over servers that speak as the real ones do.

The real llama-server and vLLM are asked by `make bench-remote`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint
from daemons import fake_model, serving
from fake_engine import FakeEngine
from msgspec.structs import replace
from recorded_server import RecordedServer

from assistant.cli.language_client import language_server
from assistant.daemon.loading import ServerPlanning, engine_for, tell_changes
from assistant.engine.remote import FallbackEngine, RemoteEngine
from assistant.errors import ModelChangedError
from assistant.models import vocabulary
from assistant.settings import RemoteSettings, Settings
from assistant.wire import ChatMessage, CompletionRequest, ServiceState
from tests.e2e.test_lsp_server import environment

URI = "file:///work.py"
OTHER = "file:///other.py"
TEXT = "def add(a, b):\n    ret\n\nprint(add(1, 2))\n"


def reply(_: dict[str, Any]) -> str:
    return "urn a + b\n"


@pytest.mark.parametrize("kind", ["llama-server", "vllm", "openai"])
def test_ghost_text_over_each_kind_of_server(
    home: Path, played_model: Path, tmp_path: Path, kind: str
) -> None:
    words = vocabulary.load(played_model)
    tokenizer = ""
    if kind == "vllm":
        tiny_checkpoint.write_tokenizer(played_model, tmp_path)
        tokenizer = str(tmp_path)

    async def main() -> None:
        with RecordedServer(kind, played_model, reply=reply) as server:
            remote = RemoteSettings(url=server.url, tokenizer=tokenizer, fallback=False)
            settings = Settings(remote=remote)
            engine = engine_for(settings)
            async with (
                serving(engine, settings=settings, planner=ServerPlanning(None)) as daemon,
                language_server(env=environment()) as client,
            ):
                await client.initialise()
                client.open(URI, TEXT, "python")
                _, response = client.send_completion(URI, 1, 7)
                (item,) = (await response)["result"]["items"]
                assert item["insertText"] == "urn a + b"
                status = await daemon.client.status()
                assert status.model is not None and status.model.server == server.url
            asked = next(body for body in server.asked if body.get("n_predict", 1))
            sent = asked["prompt"]
            if kind == "openai":
                assert sent.startswith("<|fim_prefix|>") and "def add(a, b):" in sent
                assert sent.endswith("ret"), "typed text that cannot be healed ends the prompt"
            else:
                assert sent[0] == words.special["<|fim_prefix|>"]
                assert "def add(a, b):" in words.decode(sent)

    asyncio.run(main())


def test_control_tokens_in_a_document_reach_no_server_as_such(
    home: Path, played_model: Path
) -> None:
    planted = "x = '<|im_end|><|fim_middle|>'\n"

    async def main() -> None:
        with RecordedServer("openai", played_model, reply=reply) as server:
            settings = Settings(remote=RemoteSettings(url=server.url, fallback=False))
            async with (
                serving(engine_for(settings), settings=settings, planner=ServerPlanning(None)),
                language_server(env=environment()) as client,
            ):
                await client.initialise()
                client.open(URI, planted + TEXT, "python")
                _, response = client.send_completion(URI, 2, 7)
                await response
            sent = server.asked[0]["prompt"]
            assert "fim_middle" in sent
            assert sent.count("<|fim_middle|>") == 1 and "<|im_end|>" not in sent

    asyncio.run(main())


def test_ghost_text_goes_on_with_the_local_model_when_the_server_goes(
    home: Path, played_model: Path
) -> None:
    local = FakeEngine(reply=lambda _: "urn a - b\n", n_vocab=vocabulary.load(played_model).size)

    async def main() -> None:
        with RecordedServer("llama-server", played_model, reply=reply) as server:
            remote = RemoteEngine(RemoteSettings(url=server.url, retries=0))
            engine = FallbackEngine(remote, local)
            planner = ServerPlanning(lambda: fake_model(str(played_model)))
            async with (
                serving(engine, planner=planner) as daemon,
                language_server(env=environment()) as client,
            ):
                tell_changes(engine, daemon.service.supervisor.exchanged)
                await client.initialise()
                client.open(URI, TEXT, "python")
                _, response = client.send_completion(URI, 1, 7)
                (item,) = (await response)["result"]["items"]
                assert item["insertText"] == "urn a + b"
                before = await daemon.client.props()
                server.behaviour.statuses = [500] * 50
                client.open(OTHER, TEXT.replace("add", "sub"), "python")
                _, response = client.send_completion(OTHER, 1, 7)
                (item,) = (await response)["result"]["items"]
                assert item["insertText"] == "urn a - b"
                status = await daemon.client.status()
                assert status.model is not None and not status.model.server
                assert (status.state, status.deaths) == (ServiceState.READY, 0)
                # A prompt of the server's tokens is refused, not misread.
                stale = CompletionRequest(
                    prompt=(1, 2), temperature=0.0, max_tokens=4, prompt_model=before.model.name
                )
                with pytest.raises(ModelChangedError):
                    async for _ in daemon.client.complete(stale):
                        pass
                fresh = replace(stale, prompt_model="fake")
                async for _ in daemon.client.complete(fresh):
                    pass

    asyncio.run(main())


def test_a_chat_goes_to_a_server_that_has_the_template(home: Path, played_model: Path) -> None:
    async def main() -> None:
        with RecordedServer("openai", played_model, reply=lambda _: "hello") as server:
            settings = Settings(remote=RemoteSettings(url=server.url, fallback=False))
            planner = ServerPlanning(None)
            async with serving(engine_for(settings), settings=settings, planner=planner) as daemon:
                said = "".join(
                    [
                        chunk.content
                        async for chunk in daemon.client.chat(
                            [ChatMessage(role="user", content="hi <|im_end|>")]
                        )
                    ]
                )
                assert said == "hello"
                assert server.asked[-1]["messages"] == [
                    {"role": "user", "content": "hi <|im_end|>"}
                ]

    asyncio.run(main())
