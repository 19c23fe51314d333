"""`cache_prompt: false`: nothing that is cached is read (S15)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from assistant.engine.local import LlamaEngine
from assistant.engine.types import Done, GenerateRequest, LoadSpec, Timings


async def ask(engine: LlamaEngine, prompt: tuple[int, ...], *, cache: bool) -> Timings:
    request = GenerateRequest(id="r", prompt=prompt, max_tokens=4, cache=cache)
    async for event in engine.generate(request):
        if isinstance(event, Done):
            return event.timings
    raise AssertionError("no end")


def test_the_cache_is_neither_read_nor_kept(dense_model: Path) -> None:
    """S15: the same slot, another slot's sequence, and a later request that may use it."""

    async def main() -> None:
        engine = LlamaEngine()
        await engine.load(LoadSpec(path=str(dense_model), n_ctx=512, n_seq_max=2))
        prompt = tuple(await engine.tokenise("def add(a, b):\n    return a + b\n" * 4))
        assert (await ask(engine, prompt, cache=True)).cached_tokens == 0
        assert (await ask(engine, prompt, cache=True)).cached_tokens == len(prompt) - 1
        for _ in range(2):
            plain = await ask(engine, prompt, cache=False)
            assert (plain.cached_tokens, plain.evaluated_tokens) == (0, len(prompt))
        await engine.close()

    asyncio.run(main())
