"""A tiny mixture-of-experts checkpoint through the real Transformers, on the CPU.

Runs where torch can be imported: `make test-transformers` makes such an environment. Elsewhere it
is skipped, and says so.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint

from assistant.engine.transformers_engine import TransformersEngine
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, Sampling, StopReason
from assistant.errors import ContextFullError, LoadError, RequestError
from assistant.models import families, vocabulary

torch = pytest.importorskip(
    "torch", reason="torch is not installed: run 'make test-transformers' for these tests"
)
PROMPT = "def fibonacci(n):\n    return"


@pytest.fixture(scope="module")
def checkpoint(dense_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "qwen2.5-coder-tiny"
    return tiny_checkpoint.make(folder, dense_model, Path(sys.executable))


@asynccontextmanager
async def loaded(folder: Path, **spec: Any) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine()
    try:
        await engine.load(LoadSpec(**{"path": str(folder), "n_ctx": 512} | spec))
        yield engine
    finally:
        await engine.close()


def request(ids: list[int], **wishes: Any) -> GenerateRequest:
    return GenerateRequest(**{"id": "r", "prompt": tuple(ids), "max_tokens": 8, **wishes})


async def answer(engine: TransformersEngine, asked: GenerateRequest) -> tuple[list[Delta], Done]:
    events = [event async for event in engine.generate(asked)]
    assert isinstance(events[-1], Done)
    return [event for event in events if isinstance(event, Delta)], events[-1]


def reference(folder: Path, ids: list[int], count: int) -> list[int]:
    """What Transformers' own `generate` says."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    prompt = torch.tensor([ids])
    said = model.generate(prompt, max_new_tokens=count, do_sample=False)
    return list(said[0, len(ids) :].tolist())


def test_tokens_are_those_of_transformers_and_come_one_by_one(home: Path, checkpoint: Path) -> None:
    async def run() -> None:
        async with loaded(checkpoint) as engine:
            info = await engine.describe()
            assert (info.architecture, info.n_ctx) == ("qwen2_moe", 512)
            assert info.n_params == sum(
                parameter.numel()
                for parameter in __import__("transformers")
                .AutoModelForCausalLM.from_pretrained(checkpoint)
                .parameters()
            )
            ids = await engine.tokenise(PROMPT)
            deltas, done = await answer(engine, request(ids))
            tokens = [token for delta in deltas for token in delta.tokens]
            assert tokens == reference(checkpoint, ids, 8)[: len(tokens)]
            assert len(deltas) > 4, "streamed"
            assert done.timings.evaluated_tokens == len(ids)

    asyncio.run(run())


def test_the_language_server_can_count_and_lay_out_for_it(home: Path, checkpoint: Path) -> None:
    async def run() -> None:
        async with loaded(checkpoint) as engine:
            info = await engine.describe()
            words = vocabulary.load(info.vocabulary)
            text = "x = größe + 12  # 汉字\n"
            assert words.encode(text) == await engine.tokenise(text)
            layout = families.layout_for(words)
            assert layout is not None and layout.family == "qwen2.5-coder"

    asyncio.run(run())


def test_a_prefix_is_evaluated_once_and_says_the_same(home: Path, checkpoint: Path) -> None:
    async def run() -> None:
        async with loaded(checkpoint) as engine:
            ids = await engine.tokenise(PROMPT * 8)
            first, _ = await answer(engine, request(ids))
            again, done = await answer(engine, request(ids))
            assert (done.timings.cached_tokens, done.timings.evaluated_tokens) == (len(ids) - 1, 1)
            assert [one.text for one in again] == [one.text for one in first]
            stats = await engine.stats()
            assert (stats.requests, stats.cached_tokens) == (2, len(ids) - 1)

    asyncio.run(run())


def test_four_bits_with_experts_quantised_as_whole_groups(home: Path, checkpoint: Path) -> None:
    """The experts' share of the bytes falls to a bit over a quarter, and answers stay near."""

    async def run() -> None:
        async with loaded(checkpoint) as engine:
            whole = await engine.describe()
        async with loaded(checkpoint, scheme="nf4") as engine:
            small = await engine.describe()
            deltas, _ = await answer(engine, request(await engine.tokenise(PROMPT)))
            assert deltas
        kept = 2 * 151_936 * 256 * 2  # embeddings and output stay at 16 bits
        linear = (whole.size_bytes - kept, small.size_bytes - kept)
        assert linear[1] < 0.45 * linear[0]
        assert small.n_params == whole.n_params

    asyncio.run(run())


def test_hanging_up_frees_the_worker(home: Path, checkpoint: Path) -> None:
    async def run() -> None:
        async with loaded(checkpoint) as engine:
            ids = await engine.tokenise(PROMPT)
            stream = engine.generate(request(ids, max_tokens=400))
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            async with asyncio.timeout(20):
                while (await engine.stats()).running:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert (await engine.stats()).cancelled == 1

    asyncio.run(run())


def test_a_newer_request_of_a_document_ends_the_older(home: Path, checkpoint: Path) -> None:
    async def run() -> None:
        async with loaded(checkpoint) as engine:
            ids = await engine.tokenise(PROMPT)
            old = asyncio.create_task(
                answer(engine, request(ids, id="a", document="d", max_tokens=400))
            )
            await asyncio.sleep(0.5)
            _, new = await answer(engine, request(ids, id="b", document="d"))
            assert (await old)[1].reason is StopReason.CANCELLED
            assert new.reason is StopReason.LENGTH

    asyncio.run(run())


def test_what_was_typed_begins_the_answer_and_stops_end_it(home: Path, checkpoint: Path) -> None:
    async def run() -> None:
        async with loaded(checkpoint) as engine:
            ids = await engine.tokenise(PROMPT)
            deltas, _ = await answer(engine, request(ids, must_start_with=" fibonacci(n"))
            text = "".join(one.text for one in deltas)
            assert text.startswith(" fibonacci(n")
            stop = text[len(" fibonacci(n") :][:3]
            wishes = {"must_start_with": " fibonacci(n", "stop": (stop,)}
            deltas, done = await answer(engine, request(ids, **wishes))
            assert (done.reason, done.stop_text) == (StopReason.STOP_TEXT, stop)
            assert "".join(one.text for one in deltas) == " fibonacci(n"

    asyncio.run(run())


def test_chance_repeats_with_its_seed(home: Path, checkpoint: Path) -> None:
    async def run() -> None:
        async with loaded(checkpoint) as engine:
            ids = await engine.tokenise(PROMPT)
            said = []
            for seed in (1, 1, 2):
                sampling = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
                deltas, _ = await answer(engine, request(ids, sampling=sampling))
                said.append("".join(one.text for one in deltas))
            assert said[0] == said[1] != said[2]

    asyncio.run(run())


def test_what_cannot_be_is_told(home: Path, checkpoint: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with loaded(checkpoint, n_ctx=32) as engine:
            with pytest.raises(ContextFullError):
                await answer(engine, request([1] * 40))
            with pytest.raises(RequestError):
                await answer(engine, request([10**6]))
        (tmp_path / "config.json").write_text('{"model_type": "no_such"}')
        with pytest.raises(LoadError, match="Transformers cannot load it"):
            async with loaded(tmp_path):
                pass

    asyncio.run(run())
