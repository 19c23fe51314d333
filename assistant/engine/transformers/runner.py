"""The worker that holds a checkpoint: `python -m assistant.engine.transformers.runner`.

It speaks the frames of `assistant.engine.ipc`, as the one that holds llama.cpp does, and serves its
requests one token at a time. The next token is chosen from logits in the same order of steps as
llama.cpp's usual chain.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from assistant.engine import ipc
from assistant.engine.transformers.checkpoint import LoadedCheckpoint
from assistant.engine.types import (
    Delta,
    Done,
    EngineStats,
    GenerateRequest,
    Priority,
    Sampling,
    SlotState,
    StopReason,
    Timings,
    shared_length,
)
from assistant.engine.worker.job import AnswerText
from assistant.engine.worker.token_generation import Pieces, take_token
from assistant.engine.worker.worker_loop import BEAT_S, WorkerLoop
from assistant.errors import ContextFullError, EngineError, LoadError, RequestError, UnderkeelError

Floats = npt.NDArray[np.float32]


class Chooser:
    """For one request: its random numbers go on from token to token."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def choose(
        self, logits: Any, last: Sequence[int], only: npt.NDArray[np.int32] | None = None
    ) -> int:
        """The next token.

        Args:
            logits: one a token of the vocabulary.
            last: tokens before it, for the repetition penalty.
            only: tokens to choose from; None for all.
        """
        values: Floats = np.array(logits, np.float32)
        if only is not None:
            kept = np.full_like(values, -np.inf)
            kept[only] = values[only]
            values = kept
        for token, bias in dict(self._sampling.logit_bias).items():
            if token < len(values):
                values[token] += bias
        self._penalise(values, last)
        if self._sampling.temperature <= 0:
            return int(values.argmax())
        top_k = self._sampling.top_k if self._sampling.top_k > 0 else len(values)
        order = np.argsort(-values)[:top_k]
        scaled = values[order] / self._sampling.temperature
        shares = np.exp(scaled - scaled.max())
        shares /= shares.sum()
        keep = np.cumsum(shares) - shares < self._sampling.top_p
        keep &= shares >= self._sampling.min_p * shares[0]
        keep[0] = True
        shares = np.where(keep, shares, 0)
        return int(self._random.choice(order, p=shares / shares.sum()))

    def _penalise(self, values: Floats, last: Sequence[int]) -> None:
        """As llama.cpp does (src/llama-sampler.cpp, `llama_sampler_penalties_apply`)."""
        sampling = self._sampling
        penalty, count = sampling.repeat_penalty, sampling.repeat_last_n
        if not sampling.penalises or count == 0:
            return
        tokens = np.array(last if count < 0 else last[-count:], np.int64)
        seen, times = np.unique(tokens[tokens < len(values)], return_counts=True)
        found = values[seen]
        found = np.where(found > 0, found / penalty, found * penalty)
        values[seen] = found - times * sampling.frequency_penalty - sampling.presence_penalty


_CHUNK = 256  # prompt tokens evaluated between two looks at what has come
_ORDER = list(Priority)


@dataclass
class _Kept:
    """A KV cache and the tokens in it."""

    tokens: list[int]
    cache: Any


@dataclass
class _Job:
    request: GenerateRequest
    chooser: Chooser
    answer_text: AnswerText
    kept: _Kept
    todo: list[int]
    must_start_with: bytes
    cached: int = 0
    evaluated: int = 0
    answer: list[int] = field(default_factory=list)
    cancelled: bool = False
    came_s: float = field(default_factory=time.perf_counter)
    began_s: float = 0.0
    first_s: float = 0.0

    def done(self, reason: StopReason, stop_text: str = "") -> Done:
        now = time.perf_counter()
        began, first = self.began_s or now, self.first_s or now
        timings = Timings(
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self.cached,
            evaluated_tokens=self.evaluated,
            generated_tokens=len(self.answer),
            queue_ms=(began - self.came_s) * 1000,
            prefill_ms=(first - began) * 1000,
            decode_ms=(now - first) * 1000,
        )
        return Done(id=self.request.id, reason=reason, stop_text=stop_text, timings=timings)


class Runner:
    """Takes the requests in the order of their priority; keeps a few caches for reuse."""

    def __init__(
        self,
        model: LoadedCheckpoint,
        event: Callable[[Delta | Done], None],
        failed: Callable[[str, UnderkeelError], None],
    ) -> None:
        self.model = model
        self._info = model.info()
        self._event = event
        self._failed = failed
        self._jobs: list[_Job] = []
        self._kept: list[_Kept] = []
        self._pieces = Pieces(model.piece, self._info.n_vocab)
        self._totals = EngineStats()

    @property
    def busy(self) -> bool:
        return bool(self._jobs) or not self._pieces.complete

    def add(self, request: GenerateRequest) -> None:
        """Put a request in line; a newer one of a document ends the older.

        Raises:
            RequestError: its prompt is empty, or holds tokens of another vocabulary.
            ContextFullError: it does not fit the context.
        """
        if not request.prompt or max(request.prompt) >= self._info.n_vocab:
            raise RequestError("the prompt is empty or holds unknown tokens", subject=request.id)
        if request.logprobs is not None:
            raise RequestError(
                "not supported by this engine: logprobs",
                subject=request.id,
                advice="Serve the model as a GGUF",
            )
        constraint = request.constraint
        if constraint is not None and (constraint.at_once or constraint.after):
            raise RequestError(
                "this engine does not support grammars or required tool calls",
                subject=request.id,
                advice="Serve the model as a GGUF",
            )
        if len(request.prompt) + request.max_tokens > self._info.n_ctx:
            raise ContextFullError(
                f"{len(request.prompt)} prompt tokens and {request.max_tokens} to generate do not"
                f" fit {self._info.n_ctx}",
                advice="Shorten the prompt",
            )
        for job in self._jobs:
            job.cancelled |= bool(request.document) and job.request.document == request.document
        self._jobs.append(
            _Job(
                request=request,
                chooser=Chooser(request.sampling),
                answer_text=AnswerText(request.stop),
                kept=_Kept([], None),
                todo=[],
                must_start_with=request.must_start_with.encode(),
            )
        )

    def cancel(self, request_id: str) -> None:
        """Called by any thread."""
        for job in list(self._jobs):
            job.cancelled |= job.request.id == request_id

    def fail_all(self, error: UnderkeelError) -> None:
        for job in self._jobs:
            self._failed(job.request.id, error)
        self._jobs.clear()

    def drop_idle(self) -> int:
        cells = sum(len(kept.tokens) for kept in self._kept)
        self._kept.clear()
        return cells

    def step(self) -> None:
        """One piece of work for the request whose turn it is; without one, for those to come."""
        if not self._jobs:
            self._pieces.read()
        for job in [job for job in self._jobs if job.cancelled]:
            self._end(job, job.done(StopReason.CANCELLED))
        if not self._jobs:
            return
        job = min(self._jobs, key=lambda job: _ORDER.index(job.request.priority))
        try:
            self._advance(job)
        except RuntimeError as error:  # torch's own, want of memory among them
            self._jobs.remove(job)
            self._kept.clear()
            said = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            self._failed(job.request.id, EngineError(f"Transformers failed: {said}"))

    def stats(self) -> EngineStats:
        from msgspec.structs import replace

        busy = [job.kept for job in self._jobs]
        slots = [(kept, False) for kept in self._kept] + [(kept, True) for kept in busy]
        return replace(
            self._totals,
            cells_used=sum(len(kept.tokens) for kept, _ in slots),
            cells_total=self._info.n_ctx,
            running=min(len(self._jobs), 1),
            waiting=max(len(self._jobs) - 1, 0),
            slots=tuple(
                SlotState(id=number, tokens=len(kept.tokens), busy=taken)
                for number, (kept, taken) in enumerate(slots)
            ),
        )

    def _advance(self, job: _Job) -> None:
        if not job.began_s:
            self._begin(job)
        request = job.request
        if 0 < request.time_limit_ms <= (time.perf_counter() - job.came_s) * 1000:
            self._end(job, job.done(StopReason.TIME))
            return
        chunk, job.todo = job.todo[:_CHUNK], job.todo[_CHUNK:]
        logits = self.model.logits(chunk, job.kept.cache)
        job.kept.tokens += chunk
        if not job.answer:
            job.evaluated += len(chunk)
        if job.todo:
            return
        job.first_s = job.first_s or time.perf_counter()
        if not request.max_tokens:
            self._end(job, job.done(StopReason.LENGTH))
            return
        self._say(job, self._choose(job, logits))

    def _begin(self, job: _Job) -> None:
        job.began_s = time.perf_counter()
        prompt = list(job.request.prompt)
        usable = self._kept if job.request.cache else []
        best = max(usable, key=lambda kept: shared_length(kept.tokens, prompt), default=None)
        shared = min(shared_length(best.tokens, prompt), len(prompt) - 1) if best else 0
        if best is not None and shared and self._cut(best, shared):
            self._kept.remove(best)
            job.kept, job.cached = best, shared
        else:
            job.kept = _Kept([], self.model.new_cache())
        job.todo = prompt[job.cached :]

    @staticmethod
    def _cut(kept: _Kept, length: int) -> bool:
        """Cut a cache back; False where its kind cannot be (recurrent, sliding window)."""
        surplus = len(kept.tokens) - length
        if surplus:
            try:
                kept.cache.crop(-surplus)
            except (ValueError, NotImplementedError, AttributeError, RuntimeError):
                return False
        del kept.tokens[length:]
        return True

    def _choose(self, job: _Job, logits: Any) -> int:
        last = [*job.request.prompt, *job.answer]
        allowed = self._pieces.agreeing(job.must_start_with, logits)
        return job.chooser.choose(logits, last, allowed)

    def _say(self, job: _Job, token: int) -> None:
        job.answer.append(token)
        ending = take_token(job, token, self.model, self._event)
        if ending:
            self._end(job, job.done(*ending))
        elif len(job.answer) >= job.request.max_tokens:
            self._end(job, job.done(StopReason.LENGTH))
        else:
            job.todo = [token]

    def _end(self, job: _Job, done: Done) -> None:
        self._jobs.remove(job)
        rest = job.answer_text.rest() if done.reason is not StopReason.STOP_TEXT else ""
        tokens = job.answer_text.take_tokens()
        if rest or tokens:
            self._event(Delta(id=job.request.id, text=rest, tokens=tokens))
        if job.request.cache and job.kept.tokens:
            self._kept.append(job.kept)
            del self._kept[: -self.model.spec.n_seq_max]
        self._totals = self._totals.after(done)
        self._event(done)


class Worker(WorkerLoop[Runner]):
    """The worker whose model is a checkpoint."""

    def run(self) -> None:
        # A forward pass of a large model may take longer than the daemon's patience.
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        super().run()

    def load(self, command: ipc.Load) -> None:
        old, self.runner = self.runner, None
        if old is not None:
            old.fail_all(LoadError("the model is being reloaded", advice="Try again"))
            del old

        def goes_on(share: float) -> bool:
            self.say(ipc.Progress(id=command.id, share=share))
            return not self.given_up.is_set()

        model = LoadedCheckpoint(command.spec, goes_on)
        self.runner = Runner(model, self.report, self.failed)
        self.say(ipc.Loaded(id=command.id, info=model.info()))

    def tokenise(self, text: str, *, special: bool) -> Sequence[int]:
        return self.ready().model.encode(text, special=special)

    def detokenise(self, tokens: Sequence[int]) -> str:
        return self.ready().model.decode(tokens)

    def drop_idle(self) -> int:
        return self.ready().drop_idle()

    def deserted(self) -> NoReturn:
        os._exit(0)  # torch has no way to end a forward pass

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            self.say(ipc.Beat())


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    # What libraries print goes to stderr, and nothing is fetched.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    Worker(sys.stdin.buffer, sink).run()


if __name__ == "__main__":
    main()
