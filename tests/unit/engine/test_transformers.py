"""A tiny mixture-of-experts checkpoint through the real Transformers, on the CPU.

Runs where torch can be imported: `make test-transformers` makes such an environment. Elsewhere it
is skipped, and says so.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoint

from assistant import paths
from assistant.engine.transformers import TransformersEngine
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, Sampling, StopReason
from assistant.errors import ContextFullError, LoadError, RequestError
from assistant.models import families, vocabulary

torch = pytest.importorskip(
    "torch", reason="torch is not installed: run 'make test-transformers' for these tests"
)
PROMPT = "def fibonacci(n):\n    return"


@dataclass
class Loaded:
    """One engine for all tests: most of a load's time is the import of torch."""

    folder: Path
    engine: TransformersEngine
    run: Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(scope="module")
def loaded(dense_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """The checkpoint at 16 bits."""
    folder = tmp_path_factory.mktemp("checkpoint") / "qwen2.5-coder-tiny"
    tiny_checkpoint.make(folder, dense_model, Path(sys.executable))
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setenv("UNDERKEEL_MODELS", str(paths.models_dir()))
        patch.setenv("UNDERKEEL_HOME", str(tmp_path_factory.mktemp("home")))
        engine = runner.run(_engine())
        runner.run(engine.load(LoadSpec(path=str(folder), n_ctx=512)))
        yield Loaded(folder, engine, runner.run)
        runner.run(engine.close())


async def _engine() -> TransformersEngine:
    return TransformersEngine()  # its events belong to a running loop


def request(ids: list[int], **requirements: Any) -> GenerateRequest:
    return GenerateRequest(**{"id": "r", "prompt": tuple(ids), "max_tokens": 8, **requirements})


async def answer(engine: TransformersEngine, asked: GenerateRequest) -> tuple[list[Delta], Done]:
    events = [event async for event in engine.generate(asked)]
    assert isinstance(events[-1], Done)
    return [event for event in events if isinstance(event, Delta)], events[-1]


def reference(folder: Path, ids: list[int], count: int) -> tuple[list[int], int]:
    """What Transformers' own `generate` says, and how many parameters it finds."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    said = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return list(said[0, len(ids) :].tolist()), parameters


def test_tokens_are_those_of_transformers_and_come_one_by_one(loaded: Loaded) -> None:
    async def run() -> None:
        engine = loaded.engine
        info = await engine.describe()
        assert (info.architecture, info.n_ctx) == ("qwen2_moe", 512)
        ids = await engine.tokenise(PROMPT)
        deltas, done = await answer(engine, request(ids))
        tokens = [token for delta in deltas for token in delta.tokens]
        said, n_params = reference(loaded.folder, ids, 8)
        assert tokens == said[: len(tokens)]
        assert info.n_params == n_params
        assert len(deltas) > 4, "streamed"
        assert done.timings.evaluated_tokens == len(ids)

    loaded.run(run())


def test_the_language_server_can_count_and_lay_out_for_it(loaded: Loaded) -> None:
    async def run() -> None:
        engine = loaded.engine
        info = await engine.describe()
        words = vocabulary.load(info.vocabulary)
        text = "x = größe + 12  # 汉字\n"
        assert words.encode(text) == await engine.tokenise(text)
        layout = families.layout_for(words)
        assert layout is not None and layout.family == "qwen2.5-coder"

    loaded.run(run())


def test_a_prefix_is_evaluated_once_and_says_the_same(loaded: Loaded) -> None:
    async def run() -> None:
        engine = loaded.engine
        before = await engine.stats()
        ids = await engine.tokenise("\n\n" + PROMPT * 8)
        first, _ = await answer(engine, request(ids))
        again, done = await answer(engine, request(ids))
        assert (done.timings.cached_tokens, done.timings.evaluated_tokens) == (len(ids) - 1, 1)
        assert [one.text for one in again] == [one.text for one in first]
        stats = await engine.stats()
        assert stats.requests - before.requests == 2
        assert stats.cached_tokens - before.cached_tokens == len(ids) - 1

    loaded.run(run())


def test_hanging_up_frees_the_worker(loaded: Loaded) -> None:
    async def run() -> None:
        engine = loaded.engine
        before = await engine.stats()
        ids = await engine.tokenise(PROMPT)
        stream = engine.generate(request(ids, max_tokens=400))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            while (await engine.stats()).running:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await engine.stats()).cancelled == before.cancelled + 1

    loaded.run(run())


def test_a_newer_request_of_a_document_ends_the_older(loaded: Loaded) -> None:
    async def run() -> None:
        engine = loaded.engine
        ids = await engine.tokenise(PROMPT)
        old = asyncio.create_task(
            answer(engine, request(ids, id="a", document="d", max_tokens=400))
        )
        await asyncio.sleep(0.5)
        _, new = await answer(engine, request(ids, id="b", document="d"))
        assert (await old)[1].reason is StopReason.CANCELLED
        assert new.reason is StopReason.LENGTH

    loaded.run(run())


def test_what_was_typed_begins_the_answer_and_stops_end_it(loaded: Loaded) -> None:
    async def run() -> None:
        engine = loaded.engine
        ids = await engine.tokenise(PROMPT)
        deltas, _ = await answer(engine, request(ids, must_start_with=" fibonacci(n"))
        text = "".join(one.text for one in deltas)
        assert text.startswith(" fibonacci(n")
        stop = text[len(" fibonacci(n") :][:3]
        requirements = {"must_start_with": " fibonacci(n", "stop": (stop,)}
        deltas, done = await answer(engine, request(ids, **requirements))
        assert (done.reason, done.stop_text) == (StopReason.STOP_TEXT, stop)
        assert "".join(one.text for one in deltas) == " fibonacci(n"

    loaded.run(run())


def test_chance_repeats_with_its_seed(loaded: Loaded) -> None:
    async def run() -> None:
        engine = loaded.engine
        ids = await engine.tokenise(PROMPT)
        said = []
        for seed in (1, 1, 2):
            sampling = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
            deltas, _ = await answer(engine, request(ids, sampling=sampling))
            said.append("".join(one.text for one in deltas))
        assert said[0] == said[1] != said[2]

    loaded.run(run())


def test_what_cannot_be_answered_is_reported(loaded: Loaded) -> None:
    async def run() -> None:
        with pytest.raises(ContextFullError):
            await answer(loaded.engine, request([1] * 600))
        with pytest.raises(RequestError):
            await answer(loaded.engine, request([10**6]))

    loaded.run(run())


# These load something else, so they come last.


def test_four_bits_with_experts_quantised_as_whole_groups(loaded: Loaded) -> None:
    """What is quantised falls to less than half: routers and norms stay at 16 bits."""

    async def run() -> None:
        engine = loaded.engine
        whole = await engine.describe()
        small = await engine.load(LoadSpec(path=str(loaded.folder), n_ctx=512, scheme="nf4"))
        deltas, _ = await answer(engine, request(await engine.tokenise(PROMPT)))
        assert deltas
        kept = 2 * 151_936 * 256 * 2  # embeddings and output stay at 16 bits
        assert small.size_bytes - kept < 0.45 * (whole.size_bytes - kept)
        assert small.n_params == whole.n_params

    loaded.run(run())


def test_what_is_no_checkpoint_is_reported_and_the_worker_lives(
    loaded: Loaded, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such"}')

    async def run() -> None:
        pid = loaded.engine.pid
        with pytest.raises(LoadError, match="Transformers cannot load it"):
            await loaded.engine.load(LoadSpec(path=str(tmp_path)))
        assert loaded.engine.pid == pid

    loaded.run(run())
