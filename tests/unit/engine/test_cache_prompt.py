"""`cache_prompt: false`: nothing that is cached is read (S15)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models

from assistant.engine.local import LlamaEngine
from assistant.engine.remote.dialect import Prompt
from assistant.engine.remote.llama_server import LlamaServer
from assistant.engine.remote.openai import VLLM
from assistant.engine.transformers.runner import Runner
from assistant.engine.types import (
    Delta,
    Done,
    GenerateRequest,
    LoadSpec,
    ModelInfo,
    Sampling,
    Timings,
)


async def ask(engine: LlamaEngine, prompt: tuple[int, ...], *, cache: bool) -> Timings:
    request = GenerateRequest(id="r", prompt=prompt, max_tokens=4, cache=cache)
    async for event in engine.generate(request):
        if isinstance(event, Done):
            return event.timings
    raise AssertionError("no end")


@pytest.mark.parametrize(
    "kind", [tiny_models.sliding_window, tiny_models.recurrent, tiny_models.hybrid]
)
def test_the_cache_is_neither_read_nor_kept(kind: Callable[[Path], Path], tmp_path: Path) -> None:
    """S15: the same slot, another slot's sequence, and a later request that may use it."""

    async def main() -> None:
        engine = LlamaEngine()
        await engine.load(LoadSpec(path=str(kind(tmp_path / "m.gguf")), n_ctx=512, n_seq_max=2))
        prompt = tuple(range(3, 103))
        assert (await ask(engine, prompt, cache=True)).cached_tokens == 0
        assert (await ask(engine, prompt, cache=True)).cached_tokens == len(prompt) - 1
        for _ in range(2):
            plain = await ask(engine, prompt, cache=False)
            assert (plain.cached_tokens, plain.evaluated_tokens) == (0, len(prompt))
        other = (*prompt[::-1], 7)
        await ask(engine, other, cache=False)
        assert (await ask(engine, other, cache=True)).cached_tokens == 0, "nothing was kept"
        await engine.close()

    asyncio.run(main())


class Echo:
    """What a checkpoint's runner sees of a model: it says token 5, and its cache can be cut."""

    spec = SimpleNamespace(n_seq_max=2)
    ends: tuple[int, ...] = ()

    def info(self) -> ModelInfo:
        return ModelInfo(name="echo", n_vocab=256, n_ctx=512)

    def new_cache(self) -> Any:
        return SimpleNamespace(crop=lambda _: None)

    def logits(self, ids: list[int], cache: Any) -> list[float]:  # noqa: ARG002
        return [float(token == 5) for token in range(256)]

    def piece(self, token: int, *, special: bool = False) -> bytes:  # noqa: ARG002
        return bytes([token])


def test_a_checkpoints_cache_is_not_read() -> None:
    """S15: by the other engine of this machine."""
    events: list[Delta | Done] = []
    model: Any = Echo()
    runner = Runner(model, events.append, lambda *_: None)
    found = []
    for cache in (True, True, False, False, True):
        prompt, sampling = tuple(range(50)), Sampling(seed=1)
        runner.add(
            GenerateRequest(id="r", prompt=prompt, max_tokens=1, sampling=sampling, cache=cache)
        )
        while runner.busy:
            runner.step()
        done = events[-1]
        assert isinstance(done, Done)
        found.append(done.timings.cached_tokens)
    assert found == [0, 49, 0, 0, 49]


@pytest.mark.parametrize("cache", [True, False])
def test_a_server_gets_the_field_or_a_salt(cache: bool) -> None:
    """S15: vLLM knows no such field, but never shares what was computed under another salt."""
    request = GenerateRequest(id="r", prompt=(1,), max_tokens=1, cache=cache)
    asked = LlamaServer().ask(request, Prompt(ids=[1]), None).body
    assert asked["cache_prompt"] is cache
    salts = [VLLM().ask(request, Prompt(ids=[1]), None).body.get("cache_salt") for _ in range(2)]
    assert salts == [None, None] if cache else salts[0] != salts[1] and all(salts)
