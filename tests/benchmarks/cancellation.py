"""How soon a cancelled request frees the engine, and what a completion waits for an explanation.

    python tests/benchmarks/cancellation.py [--times 40] [--save]

On the real worker: a request is cancelled at a random moment of its prefill or of its decoding, and
the time is taken until the worker has ended it. Then short completions are asked for, with the
engine idle and in the middle of an explanation; the prompts are in the cache, so what differs is
the way past the explanation.

Prints JSON; `--save` also writes it to tests/benchmarks/results/cancellation.json.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

from head import head, publish

from assistant.engine.local import LlamaEngine
from assistant.engine.types import Delta, Done, GenerateRequest, LoadSpec, Priority
from assistant.models import vocabulary
from assistant.models.catalogue import resolve

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).with_name("results") / "cancellation.json"
PROMPT_TOKENS = 900


async def ended(engine: LlamaEngine) -> None:
    """Ask for the counters until nothing runs: the worker answers between two steps."""
    while True:
        stats = await engine.stats()
        if not stats.running + stats.waiting:
            return


async def cancelled(engine: LlamaEngine, prompt: tuple[int, ...], after_s: float) -> float:
    """Milliseconds from the cancellation of a request that has run for `after_s` to its end."""
    request = GenerateRequest(
        id="x", prompt=prompt, max_tokens=400, cache=False, priority=Priority.INTERACTIVE
    )
    async with aclosing(cast("AsyncGenerator[Delta | Done]", engine.generate(request))) as stream:
        task = asyncio.ensure_future(anext(stream))
        done, _ = await asyncio.wait({task}, timeout=after_s)
        while done:  # decoding has heading
            task = asyncio.ensure_future(anext(stream))
            after_s -= 0.02
            done, _ = await asyncio.wait({task}, timeout=max(after_s, 0.001))
            if after_s <= 0:
                break
        started = time.perf_counter()
        task.cancel()
        await asyncio.wait({task})
    await ended(engine)
    return (time.perf_counter() - started) * 1000


async def first_token(engine: LlamaEngine, prompt: tuple[int, ...]) -> float:
    """Milliseconds to the first token of a completion whose prompt is cached."""
    request = GenerateRequest(id="y", prompt=prompt, max_tokens=1)
    started = time.perf_counter()
    first = 0.0
    async for event in engine.generate(request):
        if isinstance(event, Delta) and not first:
            first = (time.perf_counter() - started) * 1000
    return first or (time.perf_counter() - started) * 1000


async def measure(model: Path, times: int, threads: int, seed: int) -> dict[str, Any]:
    heading = head("cancellation")
    words = vocabulary.load(model)
    text = (ROOT / "lsp" / "completion" / "session.py").read_text(encoding="utf-8")
    ids = tuple(words.encode(text * 2))
    rng = random.Random(seed)
    engine = LlamaEngine()
    prefill, decode, beside, asked = [], [], [], []
    try:
        spec = LoadSpec(path=str(model), n_ctx=4096, n_threads=threads, n_threads_batch=threads)
        await engine.load(spec)
        for _ in range(times):
            started = time.perf_counter()
            await ended(engine)
            asked.append((time.perf_counter() - started) * 1000)
            start = rng.randrange(200)
            long = ids[start : start + PROMPT_TOKENS]
            prefill.append(await cancelled(engine, long, rng.uniform(0.1, 0.8)))
            decode.append(await cancelled(engine, ids[:8], rng.uniform(0.3, 0.8)))
        short = ids[:200]
        await first_token(engine, short)
        explanation = GenerateRequest(
            id="z", prompt=ids[300:500], max_tokens=3000, priority=Priority.EXPLAIN
        )
        idle = [await first_token(engine, short) for _ in range(times)]
        events = cast("AsyncGenerator[Delta | Done]", engine.generate(explanation))
        async with aclosing(events) as stream:
            await anext(stream)
            for _ in range(times):
                await anext(stream)
                beside.append(await first_token(engine, short))
    finally:
        await engine.close()
    return {
        **heading,
        "settings": {"model": model.name, "times": times, "threads": threads, "seed": seed},
        "asking_an_idle_worker_ms": summary(asked),
        "cancelled_in_prefill_ms": summary(prefill),
        "cancelled_in_decode_ms": summary(decode),
        "first_token_idle_ms": summary(idle),
        "first_token_during_an_explanation_ms": summary(beside),
    }


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 2),
        "p90": round(ordered[int(len(ordered) * 0.9)], 2),
        "max": round(ordered[-1], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    report = asyncio.run(
        measure(resolve(options.model), options.times, options.threads, options.seed)
    )
    publish(report, RESULT, save=options.save)


if __name__ == "__main__":
    main()
