"""Runs load specs one after another in a process of its own, and tells what came out.

The parent sends a JSON list of `Job` on standard input and gets a list of `Outcome` back. A job
ends in an outcome even where llama.cpp refuses it; what llama.cpp writes goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
from simulated import Machine, read_usage

from assistant.errors import LoadError
from assistant.llama import DeviceMemory, LoadSpec

if TYPE_CHECKING:  # the parent must not load llama.cpp
    from assistant.llama.context import Context
    from assistant.llama.model import Model
    from assistant.llama.structs import Span

Rows = npt.NDArray[np.float32]
REPOSITORY = Path(__file__).resolve().parents[2]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Load `spec`, read `prompt`, generate `n_predict` tokens greedily.

    `reference` asks for the mean KL divergence (nats) of the model's next-token distributions
    over the prompt from those of an earlier job: sum p_ref (log p_ref - log p).
    """

    name: str
    spec: LoadSpec
    prompt: str = ""
    n_predict: int = 0
    reference: str = ""
    keep_distributions: bool = False

    @property
    def compares(self) -> bool:
        return self.keep_distributions or bool(self.reference)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job.

    `error` names the stage that was refused ("weights", "context", "decode: NO_MEMORY"), or is
    empty; `says` is the load's error as a person sees it. `actual` is llama.cpp's breakdown after
    the load, `after` and `held` (what the GPUs count) are from when the answer was there.
    """

    name: str
    error: str = ""
    says: str = ""
    tokens: tuple[int, ...] = ()
    planned: tuple[DeviceMemory, ...] = ()
    actual: tuple[DeviceMemory, ...] = ()
    after: tuple[DeviceMemory, ...] = ()
    held: dict[str, dict[str, int]] = {}
    kl: float = 0.0
    same_best: float = 0.0


def run(jobs: Sequence[Job], machine: Machine, *, timeout_s: float = 560) -> list[Outcome]:
    """Run jobs in one child that sees the machine's GPUs."""
    answer = subprocess.run(
        [sys.executable, str(Path(__file__)), str(machine.folder)],
        input=msgspec.json.encode(jobs),
        capture_output=True,
        # spinning threads starve each other where the machine is busy
        env={
            **machine.environment(),
            "PYTHONPATH": str(REPOSITORY),
            "OMP_WAIT_POLICY": "passive",
        },
        timeout=timeout_s,
        check=False,
    )
    if answer.returncode != 0:
        tail = answer.stderr.decode("utf-8", "replace")[-3000:]
        raise AssertionError(f"the child ended with {answer.returncode}:\n{tail}")
    return msgspec.json.decode(answer.stdout, type=list[Outcome])


class _RefusedError(Exception):
    """llama.cpp did not evaluate a batch."""


def _generate(model: Model, context: Context, job: Job) -> tuple[Rows, list[int]]:
    """Distributions over the prompt (its last row alone if nobody compares), and the answer."""
    from assistant.llama.structs import Span

    prompt = model.tokenise(job.prompt)
    if not prompt:
        return np.empty((0, 0), np.float32), []
    outputs = len(prompt) if job.compares else 1
    _decode(context, Span(0, 0, prompt, outputs), "prefill")
    rows = np.stack([context.logits(i) for i in range(len(prompt) - outputs, len(prompt))])
    best, tokens = int(rows[-1].argmax()), []
    for position in range(len(prompt), len(prompt) + job.n_predict):
        tokens.append(best)
        _decode(context, Span(0, position, [best], 1), "decode")
        best = int(context.logits(0).argmax())
    return rows, tokens


def _decode(context: Context, span: Span, stage: str) -> None:
    verdict = context.decode([span])
    if verdict != 0:
        raise _RefusedError(f"{stage}: {verdict.name}")


class _Runner:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.distributions: dict[str, Rows] = {}

    def outcome(self, job: Job) -> Outcome:
        from assistant.llama import breakdown
        from assistant.llama.context import Context
        from assistant.llama.model import Model

        planned = breakdown.dry_run(job.spec)
        with contextlib.ExitStack() as stack:
            stage = "weights"
            try:
                model = Model(job.spec)
                stack.callback(model.free)
                stage = "context"
                context = Context(model, job.spec)
                stack.callback(context.free)
            except LoadError as error:
                return Outcome(name=job.name, error=stage, says=str(error), planned=planned)
            loaded = context.memory
            try:
                rows, tokens = _generate(model, context, job)
            except _RefusedError as error:
                return Outcome(name=job.name, error=str(error), planned=planned)
            kl, same = self._compare(job, rows)
            return Outcome(
                name=job.name,
                tokens=tuple(tokens),
                planned=planned,
                actual=loaded,
                after=context.memory,
                held=self._held(),
                kl=kl,
                same_best=same,
            )

    def _compare(self, job: Job, logits: Rows) -> tuple[float, float]:
        if not job.compares:
            return 0.0, 0.0
        logs = logits - logits.max(axis=1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
        if job.keep_distributions:
            self.distributions[job.name] = logs
        if not job.reference:
            return 0.0, 0.0
        wanted = self.distributions[job.reference]
        kl = (np.exp(wanted) * (wanted - logs)).sum(axis=1).mean()
        return float(kl), float((wanted.argmax(axis=1) == logs.argmax(axis=1)).mean())

    def _held(self) -> dict[str, dict[str, int]]:
        usage = read_usage(self.folder)
        return {item.gpu: item.bytes_by_stage for item in usage if item.pid == os.getpid()}


def main() -> None:
    runner = _Runner(Path(sys.argv[1]))
    jobs = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Job])
    outcomes = [runner.outcome(job) for job in jobs]
    sys.stdout.buffer.write(msgspec.json.encode(outcomes))


if __name__ == "__main__":
    main()
