"""The worker's prefill and decode beside llama.cpp's own, through the same library, in one run.

    python tests/benchmarks/worker_rate.py [--rounds N] [--model NAME] [--save]

llama.cpp's own rate: a process that calls `llama_decode` in a bare loop, the prompt in batches as
large as they may be, each next token by llama.cpp's greedy sampler. The worker: the real engine,
timed from outside, so that the pipe, the schedule, sampling and text are all in it; drafts are off,
since they would make it faster than the loop. Both evaluate the same tokens with the same threads,
batch, cache and way of waiting. Rounds are short and alternate. `ratio` is of the fastest rounds,
which are those that other programs disturbed least; `cpu_ratio` is of the processor time that a
token costs (the worker's process and the asking one together), which they hardly disturb at all.

Prints JSON; `--save` also keeps it in tests/benchmarks/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RESULT = Path(__file__).resolve().with_name("results") / "worker_rate.json"
sys.path[:0] = [str(ROOT)]

import psutil  # noqa: E402
from head import head, publish  # noqa: E402

from assistant.engine.local import LlamaEngine  # noqa: E402
from assistant.engine.types import Done, GenerateRequest, LoadSpec  # noqa: E402
from assistant.models.catalogue import resolve  # noqa: E402

N_CTX = 2048
N_BATCH = 512
PROMPT_TOKENS = 960  # a prompt of the usual budget
GENERATED_TOKENS = 32
SOURCE = ROOT / "assistant" / "memory" / "gguf" / "header.py"


class Round(NamedTuple):
    """Seconds of one round, on the wall and of all processors."""

    prefill_s: float
    decode_s: float
    prefill_cpu_s: float
    decode_cpu_s: float


class Bare:
    """llama.cpp in a loop of its own, in a child process that runs a round at a word."""

    def __init__(self, model: Path, prompt: list[int]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, __file__, "--bare", str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # as `assistant.engine.local` has it
        )
        self.round(prompt)  # loads, and warms what is loaded

    def round(self, prompt: list[int]) -> Round:
        """Evaluate and generate once."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(prompt) + "\n")
        self._child.stdin.flush()
        return Round(*json.loads(self._child.stdout.readline()))

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()


def bare_main(model: str) -> None:
    """The child: a prompt a line in, seconds of prefill and decode out."""
    import ctypes

    from llama_cpp import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    handle = llama_cpp.llama_model_load_from_file(
        os.fsencode(model), llama_cpp.llama_model_default_params()
    )
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = N_CTX, N_BATCH, N_BATCH
    params.n_threads = params.n_threads_batch = threads()
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = llama_cpp.llama_init_from_model(handle, params)
    memory = llama_cpp.llama_get_memory(context)
    sampler = llama_cpp.llama_sampler_init_greedy()

    def decode(tokens: list[int]) -> int:
        """Evaluate, and pick the next token."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        assert llama_cpp.llama_decode(context, batch) == 0
        return int(llama_cpp.llama_sampler_sample(sampler, context, -1))

    for line in sys.stdin:
        prompt = json.loads(line)
        llama_cpp.llama_memory_clear(memory, True)
        started = now()
        for at in range(0, len(prompt), N_BATCH):
            token = decode(prompt[at : at + N_BATCH])
        first = now()
        for _ in range(GENERATED_TOKENS - 1):
            token = decode([token])
        print(json.dumps(between(started, first, now())), flush=True)


def now(*others: psutil.Process) -> tuple[float, float]:
    """The time on the wall, and of processors: this process's and others'."""
    taken_s = sum(sum(process.cpu_times()[:2]) for process in others)
    return time.perf_counter(), time.process_time() + taken_s


def between(
    started: tuple[float, float], first: tuple[float, float], ended: tuple[float, float]
) -> Round:
    return Round(
        first[0] - started[0], ended[0] - first[0], first[1] - started[1], ended[1] - first[1]
    )


async def worker_round(engine: LlamaEngine, prompt: list[int]) -> Round:
    """The same of the worker, as its client sees it."""
    process = psutil.Process(engine.pid)
    request = GenerateRequest(
        id=f"{time.monotonic_ns()}",
        prompt=tuple(prompt),
        max_tokens=GENERATED_TOKENS,
        cache=False,
        speculate=False,
    )
    first: tuple[float, float] | None = None
    started = now(process)
    async for event in engine.generate(request):
        first = first or now(process)
        if isinstance(event, Done):
            timings = event.timings
    ended = now(process)
    assert first is not None
    if timings.generated_tokens != GENERATED_TOKENS or timings.cached_tokens:
        sys.exit(f"the worker did other work than the loop: {timings}")
    return between(started, first, ended)


async def measure(model: Path, rounds: int) -> tuple[list[Round], list[Round]]:
    """Rounds of the worker, and of the bare loop."""
    engine = LlamaEngine()
    spec = LoadSpec(path=str(model), n_ctx=N_CTX, n_batch=N_BATCH, n_ubatch=N_BATCH, n_seq_max=1)
    try:
        await engine.load(spec)
        prompt = (await engine.tokenise(SOURCE.read_text()))[:PROMPT_TOKENS]
        bare = Bare(model, prompt)
        await worker_round(engine, prompt)
        ours, theirs = list[Round](), list[Round]()
        for _ in range(rounds):
            # Never both at once: the loop's process waits for a word, the worker for a request.
            ours.append(await worker_round(engine, prompt))
            theirs.append(bare.round(prompt))
        bare.close()
    finally:
        await engine.close()
    return ours, theirs


def threads() -> int:
    """What the worker takes where its spec does not say: see `assistant.llama.structs`."""
    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1


def summary(ours: list[Round], theirs: list[Round], phase: str, tokens: int) -> dict[str, Any]:
    """Rates of the fastest and the middle round, and what a token costs in processor time."""
    wall, cpu = f"{phase}_s", f"{phase}_cpu_s"
    found: dict[str, Any] = {}
    for name, rounds in (("worker", ours), ("llama_cpp", theirs)):
        seconds = [getattr(one, wall) for one in rounds]
        costs = [getattr(one, cpu) for one in rounds]
        found[name] = {
            "tokens_per_s": round(tokens / min(seconds), 2),
            "median_tokens_per_s": round(tokens / statistics.median(seconds), 2),
            "cpu_ms_per_token": round(1000 * statistics.median(costs) / tokens, 3),
        }
    worker, bare = found["worker"], found["llama_cpp"]
    found["ratio"] = round(worker["tokens_per_s"] / bare["tokens_per_s"], 3)
    found["cpu_ratio"] = round(bare["cpu_ms_per_token"] / worker["cpu_ms_per_token"], 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="catalogue name or path")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.bare:
        bare_main(wanted.bare)
        return
    import llama_cpp

    heading = head("worker_rate", llama_cpp_python=llama_cpp.__version__)
    ours, theirs = asyncio.run(measure(resolve(wanted.model), wanted.rounds))
    found = {
        **heading,
        "settings": {
            "model": wanted.model,
            "rounds": wanted.rounds,
            "prompt_tokens": PROMPT_TOKENS,
            "generated_tokens": GENERATED_TOKENS,
            "n_batch": N_BATCH,
            "threads": threads(),
        },
        "prefill": summary(ours, theirs, "prefill", PROMPT_TOKENS),
        "decode": summary(ours, theirs, "decode", GENERATED_TOKENS - 1),
    }
    publish(found, RESULT, save=wanted.save)


if __name__ == "__main__":
    main()
