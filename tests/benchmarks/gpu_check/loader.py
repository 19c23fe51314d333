"""One load in a process of its own: what it takes by llama.cpp and the driver, and its speed.

    python3 -m gpu_check.loader            (a `Job` as JSON on standard input, a `Loaded` back)

The speed is that of bare llama.cpp calls as llama-bench makes them (tools/llama-bench: random
tokens, batches of `n_batch` for prefill, then one token at a time, no sampling), in the same
library that the product uses.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import msgspec
import numpy as np

from assistant.llama import DeviceMemory, LoadSpec
from assistant.memory.devices import Nvml

_FIRST_TOKEN, _LAST_TOKEN = 300, 4000  # fillers of every vocabulary that is written here


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Load `spec`, then read `prompt_tokens` and write `decode_tokens`, `rounds` times."""

    spec: LoadSpec
    prompt_tokens: int = 64
    decode_tokens: int = 4
    rounds: int = 1


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job.

    Attributes:
        error: what was refused, as a person reads it; empty where all went well.
        memory: llama.cpp's breakdown after the load, before anything is computed.
        free_bytes: of the GPU by NVML, before the process touched it, after the load, and after
            the last round.
        own_bytes: what NVML says this process holds in the end; None where it does not say.
        finite: whether every logit was a finite number.
        prefill_s, decode_s: of each round.
    """

    error: str = ""
    memory: tuple[DeviceMemory, ...] = ()
    free_bytes: tuple[int, ...] = ()
    own_bytes: int | None = None
    finite: bool = False
    load_s: float = 0.0
    prefill_s: tuple[float, ...] = ()
    decode_s: tuple[float, ...] = ()


def load(job: Job, timeout_s: float) -> Loaded:
    """Run a job in a child; a child that dies or takes too long is an error of the job."""
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "gpu_check.loader"],
            input=msgspec.json.encode(job),
            stdout=subprocess.PIPE,
            timeout=max(timeout_s, 1.0),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Loaded(error=f"it took longer than {timeout_s:.0f} s")
    if answer.returncode != 0:
        return Loaded(error=f"the process ended with {answer.returncode}; the log says more")
    return msgspec.json.decode(answer.stdout, type=Loaded)


def _run(job: Job) -> Loaded:
    from assistant.errors import UnderkeelError
    from assistant.llama.context import Context
    from assistant.llama.model import Model

    driver = Nvml()
    free = [_free(driver)]
    started = time.perf_counter()
    try:
        model = Model(job.spec)
        context = Context(model, job.spec)
    except UnderkeelError as error:
        return Loaded(error=str(error))
    load_s = time.perf_counter() - started
    memory = context.memory
    free.append(_free(driver))
    finite = _finite(context, job)
    prefill, decode = [], []
    for _ in range(job.rounds):
        context.forget(0)
        prefill.append(_timed(context, job.prompt_tokens, job.spec.n_batch))
        decode.append(_timed(context, job.decode_tokens, 1))
    free.append(_free(driver))
    return Loaded(
        memory=memory,
        free_bytes=tuple(free),
        own_bytes=_own(driver),
        finite=finite,
        load_s=round(load_s, 3),
        prefill_s=tuple(prefill),
        decode_s=tuple(decode),
    )


def _tokens(count: int) -> list[int]:
    drawn = np.random.default_rng(count).integers(_FIRST_TOKEN, _LAST_TOKEN, count)
    return [int(token) for token in drawn]


def _finite(context: Any, job: Job) -> bool:
    """Read a prompt and write a few tokens greedily; also the warm-up of the speed loops."""
    from assistant.llama.structs import Span

    prompt = _tokens(job.prompt_tokens)
    for at in range(0, len(prompt), job.spec.n_batch):
        piece = prompt[at : at + job.spec.n_batch]
        if context.decode([Span(0, at, piece, 1)]) != 0:
            return False
    row = len(piece) - 1
    for position in range(len(prompt), len(prompt) + job.decode_tokens):
        logits = context.logits(row)
        if not np.isfinite(logits).all():
            return False
        if context.decode([Span(0, position, [int(logits.argmax())], 1)]) != 0:
            return False
        row = 0
    return bool(np.isfinite(context.logits(0)).all())


def _timed(context: Any, count: int, batch: int) -> float:
    """Seconds for `count` random tokens in batches, continuing the context's first sequence."""
    from llama_cpp import llama_cpp

    tokens = _tokens(count)
    started = time.perf_counter()
    for at in range(0, count, batch):
        piece = tokens[at : at + batch]
        array = (llama_cpp.llama_token * len(piece))(*piece)
        code = llama_cpp.llama_decode(
            context._handle, llama_cpp.llama_batch_get_one(array, len(piece))
        )
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")
    llama_cpp.llama_synchronize(context._handle)
    return round(time.perf_counter() - started, 6)


def _free(driver: Nvml) -> int:
    """Free bytes of the first GPU; 0 where the driver is not there."""
    found = driver.read()
    return found[0].free_bytes if found else 0


def _own(driver: Nvml) -> int | None:
    found = driver.read(processes=True)
    if not found:
        return None
    by_pid = {process.pid: process.used_bytes for process in found[0].processes}
    return by_pid.get(os.getpid())


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    answers.write(msgspec.json.encode(_run(job)))


if __name__ == "__main__":
    main()
