"""Threads and batches: how fast a CPU reads and writes with each, and how soon it can stop.

    python tests/benchmarks/threads_batches.py [--rounds 3] [--save]

For the dense starter model and the mixture of experts, each setting in a context of its own:

- threads, from one to twice the cores of this machine: prefill and decode, tokens a second;
- batches, from 64 to 1,024 tokens (n_batch and n_ubatch alike): prefill, tokens a second; the
  memory that the compute buffers take; and how long an evaluation of such a batch goes on after it
  was requested to stop, at random moments.

Rounds take turns over all settings, and the fastest of each counts: other programs can only make it
slower. `assistant.llama` and `assistant.engine.worker.scheduler` choose by what this shows.

Prints JSON; `--save` also writes it to tests/benchmarks/results/threads_batches.json.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from head import head, publish
from msgspec.structs import replace

from assistant.engine.types import LoadSpec
from assistant.llama.context import Context, DecodeStatus
from assistant.llama.model import Model
from assistant.llama.structs import Span
from assistant.models.catalogue import resolve

RESULT = Path(__file__).with_name("results") / "threads_batches.json"
SOURCE = Path(__file__).parents[2] / "assistant" / "memory" / "gguf" / "header.py"
MODELS = ("qwen2.5-coder-0.5b", "starter-moe")
BATCHES = (64, 128, 256, 512, 1024)
PROMPT_TOKENS = 1024
THREADS_PROMPT_TOKENS, DECODED_TOKENS = 128, 16
THREADS_TIMES = 3
STOPS = 3


def prefill_s(context: Context, tokens: list[int], size: int) -> float:
    """Seconds to evaluate `tokens` in batches of `size`."""
    context.forget(0)
    started = time.perf_counter()
    for at in range(0, len(tokens), size):
        part = tokens[at : at + size]
        assert (
            context.decode([Span(0, at, part, int(at + size >= len(tokens)))]) is DecodeStatus.DONE
        )
    return time.perf_counter() - started


def decode_s(context: Context, tokens: list[int], at: int) -> float:
    """Seconds to evaluate `tokens` one by one after the first `at`."""
    context.forget(0, at)
    started = time.perf_counter()
    for offset, token in enumerate(tokens):
        assert context.decode([Span(0, at + offset, [token], 1)]) is DecodeStatus.DONE
    return time.perf_counter() - started


def stop_s(context: Context, tokens: list[int], expected_s: float, rng: random.Random) -> float:
    """How long one batch of `tokens` goes on after the abort flag is raised in it."""
    context.forget(0)
    raised = 0.0

    def stop() -> None:
        nonlocal raised
        raised = time.perf_counter()
        context.abort.set()

    timer = threading.Timer(expected_s * rng.uniform(0.1, 0.8), stop)
    timer.start()
    verdict = context.decode([Span(0, 0, tokens, 1)])
    ended = time.perf_counter()
    timer.cancel()
    context.abort.clear()
    return ended - raised if verdict is DecodeStatus.ABORTED else 0.0


def measure(name: str, rounds: int, rng: random.Random) -> dict[str, Any]:
    path = resolve(name)
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    counts = range(1, 2 * cores + 1)
    base = LoadSpec(path=str(path), n_ctx=2048, n_seq_max=1, n_outputs_max=1)
    model = Model(base)
    tokens = model.tokenise(SOURCE.read_text(encoding="utf-8"))[:PROMPT_TOKENS]
    by_threads: dict[int, list[tuple[float, float]]] = {}
    by_batch: dict[int, list[float]] = {}
    stops: dict[int, list[float]] = {}
    compute: dict[int, int] = {}
    for _ in range(rounds):
        for count in [*counts] * THREADS_TIMES:
            context = Context(model, replace(base, n_threads=count, n_threads_batch=count))
            some = tokens[:THREADS_PROMPT_TOKENS]
            prefill_s(context, some[:32], 32)
            read_s = prefill_s(context, some, THREADS_PROMPT_TOKENS)
            write_s = decode_s(context, tokens[-DECODED_TOKENS:], len(some))
            by_threads.setdefault(count, []).append((read_s, write_s))
            context.free()
        for size in BATCHES:
            context = Context(model, replace(base, n_batch=size, n_ubatch=size))
            prefill_s(context, tokens[:32], 32)
            by_batch.setdefault(size, []).append(prefill_s(context, tokens, size))
            compute[size] = sum(device.compute_bytes for device in context.memory)
            one_s = by_batch[size][-1] * size / len(tokens)
            found = [stop_s(context, tokens[:size], one_s, rng) for _ in range(STOPS)]
            stops.setdefault(size, []).extend(value for value in found if value)
            context.free()
        print(name, by_threads, by_batch, file=sys.stderr)
    model.free()
    return {
        "model": path.name,
        "threads": {
            count: {
                "prefill_tokens_per_s": round(THREADS_PROMPT_TOKENS / min(r for r, _ in pairs), 1),
                "decode_tokens_per_s": round(DECODED_TOKENS / min(w for _, w in pairs), 1),
            }
            for count, pairs in by_threads.items()
        },
        "batches": {
            size: {
                "prefill_tokens_per_s": round(len(tokens) / min(times), 1),
                "compute_mib": round(compute[size] / 2**20, 1),
                "stops_after_ms_median": round(1000 * statistics.median(stops[size] or [0.0]), 2),
                "stops_after_ms_most": round(1000 * max(stops[size], default=0.0), 2),
            }
            for size, times in by_batch.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    heading = head(
        "threads_batches",
        cores_physical=psutil.cpu_count(logical=False),
        cores_logical=psutil.cpu_count(),
    )
    rng = random.Random(options.seed)
    report = {
        **heading,
        "settings": {
            "rounds": options.rounds,
            "prompt_tokens": PROMPT_TOKENS,
            "threads_prompt_tokens": THREADS_PROMPT_TOKENS,
            "decoded_tokens": DECODED_TOKENS,
            "threads_times_a_round": THREADS_TIMES,
            "stops_a_round": STOPS,
            "seed": options.seed,
        },
        "models": [measure(name, options.rounds, rng) for name in MODELS],
    }
    publish(report, RESULT, save=options.save)


if __name__ == "__main__":
    main()
