"""Changing the model of the real daemon: `underkeel models use`, with real GGUFs."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from real_daemon import answer, configure, ended_afterwards, underkeel

from assistant.client.client import DaemonClient
from assistant.errors import ModelChangedError
from assistant.memory.gguf.header import read_header
from assistant.wire import CompletionRequest


def broken(model: Path, target: Path) -> Path:
    """A GGUF whose header and sizes are sound, and whose name of a tensor llama.cpp misses."""
    shutil.copyfile(model, target)
    header = read_header(target)
    name = next(t.name for t in header.tensors if t.name == "output_norm.weight").encode()
    with target.open("r+b") as file:
        head = file.read(header.data_offset)
        file.seek(head.rindex(name))
        file.write(b"output_nope.weight")
    return target


@pytest.mark.model
def test_a_running_daemon_changes_its_model_and_goes_back_where_it_cannot(
    home: Path, dense_model: Path, moe_model: Path, tmp_path: Path
) -> None:
    configure(home, model={"name": str(moe_model), "n_ctx": 1024, "n_seq_max": 1})
    bad = broken(dense_model, tmp_path / "bad.gguf")

    async def served() -> str:
        async with DaemonClient() as client:
            return (await client.wait_ready()).path

    async def ask(prompt_model: str) -> int:
        async with DaemonClient(autostart=False) as client:
            request = CompletionRequest(
                prompt=(750, 912), temperature=0.0, max_tokens=4, prompt_model=prompt_model
            )
            _, last = await answer(client, request)
            assert last.timings is not None
            return last.timings.generated_tokens

    async def name() -> str:
        async with DaemonClient(autostart=False) as client:
            return (await client.props()).model.name

    with ended_afterwards():
        assert asyncio.run(served()) == str(moe_model)
        before = asyncio.run(name())

        done = underkeel("models", "use", str(bad), timeout_s=120)
        assert done.returncode == 1
        assert "serves again" in done.stderr and "Traceback" not in done.stderr
        assert asyncio.run(served()) == str(moe_model)
        assert str(moe_model) in (home / "config.toml").read_text(), "the settings are as they were"
        assert asyncio.run(ask(before)) > 0

        async def during() -> tuple[int, str]:
            """An answer that is under way, and a text that comes meanwhile."""
            async with DaemonClient(autostart=False) as client:
                request = CompletionRequest(
                    prompt=(750, 912), temperature=0.0, max_tokens=48, prompt_model=before
                )
                long = asyncio.create_task(answer(client, request))
                while not (await client.status()).in_flight:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                use = asyncio.create_task(
                    asyncio.to_thread(underkeel, "models", "use", str(dense_model), timeout_s=120)
                )
                _, last = await long
                done = await use
                assert done.returncode == 0, done.stderr
                assert last.timings is not None
                return last.timings.generated_tokens, done.stdout

        generated, printed = asyncio.run(during())
        assert generated == 48, "a running request ends on the old model"
        assert "The running daemon serves it" in printed
        assert asyncio.run(served()) == str(dense_model)
        assert str(dense_model) in (home / "config.toml").read_text()
        with pytest.raises(ModelChangedError):
            asyncio.run(ask(before))
        assert asyncio.run(ask(asyncio.run(name()))) > 0
