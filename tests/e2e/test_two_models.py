"""Two real models behind one daemon: a completion's, and another one for conversations."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest
from real_daemon import answer, configure, ended_afterwards, family, until_status

from assistant.client.client import DaemonClient
from assistant.wire import ChatMessage, CompletionRequest, ServiceState, Status

ASK = (ChatMessage(role="user", content="Say yes."),)


def workers() -> list[psutil.Process]:
    return [one for one in family()[1:] if "assistant.engine.worker" in one.cmdline()]


@pytest.mark.model
def test_conversations_go_to_a_second_model_that_comes_when_first_asked_for(
    home: Path, dense_model: Path, moe_model: Path
) -> None:
    small = {"n_ctx": 1024, "n_seq_max": 1}
    configure(home, model={"name": str(dense_model)} | small, explain={"name": str(moe_model)})

    async def chat(client: DaemonClient) -> str:
        said = [chunk.content async for chunk in client.chat(ASK, max_tokens=4)]
        return "".join(said)

    def explains(now: Status) -> bool:
        return now.explain_state is ServiceState.READY

    async def sitting() -> None:
        async with asyncio.timeout(200), DaemonClient() as client:
            assert (await client.wait_ready()).path == str(dense_model)
            assert len(workers()) == 1, "nobody has asked for the second one yet"
            assert await chat(client), "the first one answers in its place"
            status = await until_status(client, explains, limit_s=120)
            assert status.explain_model is not None
            assert status.explain_model.path == str(moe_model)
            assert len(workers()) == 2
            before = (await client.status()).stats
            assert await chat(client)
            text, _ = await answer(
                client, CompletionRequest(prompt="def add(a, b):\n", temperature=0.0, max_tokens=4)
            )
            after = (await client.status()).stats
            assert text and before is not None and after is not None
            assert after.requests == before.requests + 1, "the first has had the completion alone"

    with ended_afterwards():
        asyncio.run(sitting())
