"""The step: decide who works, evaluate, sample, say. Runs in the worker's main thread."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

from assistant.engine import placing
from assistant.engine.job import Job, Pieces, Said, chain_of
from assistant.engine.slots import Slot, Slots
from assistant.engine.types import (
    Delta,
    Done,
    EngineStats,
    GenerateRequest,
    LoadSpec,
    ModelInfo,
    Priority,
    StopReason,
)
from assistant.errors import ContextFullError, EngineError, RequestError, UnderkeelError
from assistant.llama.context import Context, Span, Verdict
from assistant.llama.model import Model
from assistant.llama.sampling import Sampler

PREFILL_CHUNK = 64
"""Most prompt tokens a step; the abort flag ends a step early, so this does not bound the wait."""

_SMOOTHING = 0.3

Say = Callable[[Delta | Done], None]
Fail = Callable[[str, UnderkeelError], None]


class Runner:
    """Serves requests on one loaded model and context."""

    def __init__(
        self, model: Model, context: Context, spec: LoadSpec, say: Say, fail: Fail
    ) -> None:
        self.model, self.context, self.spec = model, context, spec
        facts = model.facts
        whole_window = facts.n_swa == 0 or spec.swa_full
        self.slots = Slots(context, partial=not facts.recurrent and whole_window)
        self._pieces = Pieces(model.piece, facts.n_vocab)
        self._say, self._fail = say, fail
        self._jobs: dict[str, Job] = {}
        self._stepping: Priority | None = None
        self._totals = dict.fromkeys(
            ("requests", "cancelled", "evaluated", "cached", "generated"), 0
        )
        self._prefill_rate = self._decode_rate = 0.0

    # Told by the reader thread: sets flags only.

    def cancel(self, request_id: str) -> None:
        """End a request with what there is, within the graph node that runs."""
        job = self._jobs.get(request_id)
        if job is not None:
            job.cancelled = True
            if job.request.priority is self._stepping:
                self.context.abort.set()

    def knock(self, priority: Priority) -> None:
        """A request is coming; a step of a lower class ends at once."""
        if priority is Priority.INTERACTIVE and self._stepping not in {None, priority}:
            self.context.abort.set()

    # Told by the main thread.

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def add(self, request: GenerateRequest) -> None:
        """Take a request in; its events follow from `step`.

        Raises:
            RequestError: it is malformed. ContextFullError: it can never fit.
        """
        facts = self.model.facts
        if request.id in self._jobs:
            raise RequestError("this id is in flight already", subject=request.id)
        if not request.prompt or not all(0 <= t < facts.n_vocab for t in request.prompt):
            raise RequestError("the prompt is empty or holds unknown tokens", subject=request.id)
        room = self.context.n_cells_sequence
        if len(request.prompt) + request.max_tokens > room:
            raise ContextFullError(
                f"{len(request.prompt)} prompt tokens and {request.max_tokens} to generate"
                f" do not fit {room} cells",
                subject=request.id,
                advice="Shorten the prompt",
            )
        if request.document and request.priority is not Priority.EXPLAIN:
            for other in self._jobs.values():
                if (
                    other.request.document == request.document
                    and other.request.priority is request.priority
                ):
                    other.cancelled = True
        sampler = Sampler(chain_of(request), facts.n_vocab, request.prompt)
        wanted = request.must_start_with.encode()
        self._jobs[request.id] = Job(request, sampler, Said(request.stop), wanted=wanted)

    def step(self) -> None:
        """One batch: end what is over, admit what fits, evaluate, sample."""
        for job in list(self._jobs.values()):
            if job.cancelled:
                self._end(job, StopReason.CANCELLED)
            elif job.late and not job.todo:
                self._end(job, StopReason.TIME)
        turn = placing.working([job.request.priority for job in self._jobs.values()])
        if turn is None:
            return
        jobs = [job for job in self._jobs.values() if job.request.priority is turn]
        for job in jobs:
            if job.slot < 0:
                self._admit(job)
        running = [job for job in jobs if job.slot >= 0 and job.request.id in self._jobs]
        if not running and not self._borrow(jobs):
            time.sleep(0.001)  # every slot belongs to a class that waits for this one
            return
        if running:
            self._evaluate(running, turn)

    def _borrow(self, jobs: list[Job]) -> bool:
        """Take the slot of a lower class's job, which starts again later."""
        wanting = {job.request.id for job in jobs}
        for job in self._jobs.values():
            if job.slot >= 0 and job.request.id not in wanting and not job.generated:
                self.slots[job.slot].busy = False
                job.slot, job.todo = -1, []
                return True
        lower = [j for j in self._jobs.values() if j.slot >= 0 and j.request.id not in wanting]
        if lower:
            self._end(lower[-1], StopReason.CANCELLED)
        return bool(lower)

    def _admit(self, job: Job) -> None:
        request = job.request
        taken = self.slots.take(request.prompt, request.max_tokens, request.document)
        if taken is None:
            return
        slot, kept = taken
        job.slot, job.cached, job.todo = slot.number, kept, list(request.prompt[kept:])
        job.began_s = job.began_s or time.perf_counter()

    def _evaluate(self, running: list[Job], turn: Priority) -> None:
        room = min(self.context.n_batch, PREFILL_CHUNK)
        chosen: list[tuple[Job, Slot, Span]] = []
        for job in sorted(running, key=lambda job: len(job.todo)):
            if len(chosen) == self.context.n_outputs or not room:
                break
            slot = self.slots[job.slot]
            part = job.todo[:room]
            last = len(part) == len(job.todo)
            span = Span(slot.number, len(slot.tokens), part, outputs=int(last))
            chosen.append((job, slot, span))
            room -= len(part)
        self._stepping = turn
        started = time.perf_counter()
        verdict = self.context.decode([span for _, _, span in chosen])
        took_s = time.perf_counter() - started
        self._stepping = None
        self.context.abort.clear()
        if verdict is not Verdict.DONE:
            self._undo(chosen, verdict)
            return
        self._measure(chosen, took_s)
        row = -1
        for job, slot, span in chosen:
            row += len(span.tokens)
            slot.tokens += span.tokens
            del job.todo[: len(span.tokens)]
            if not job.generated:
                job.evaluated += len(span.tokens)
            if span.outputs:
                self._sample(job, row)

    def _undo(self, chosen: list[tuple[Job, Slot, Span]], verdict: Verdict) -> None:
        """Bring the cache back to what the slots say, and deal with the cause."""
        for job, slot, _ in chosen:
            held = len(slot.tokens)
            if self.context.last(slot.number) >= held and not self.slots.cut_after(slot, held):
                job.todo = [*job.request.prompt] if not job.generated else job.todo
                if job.generated:
                    self._lose(job, EngineError("the sequence was lost", subject=job.request.id))
        if verdict is Verdict.ABORTED:
            return
        if verdict in {Verdict.NO_CELLS, Verdict.NO_MEMORY} and self.slots.evict():
            return
        cause: EngineError
        if verdict is Verdict.NO_CELLS:
            cause = ContextFullError(
                "the KV cache is full", advice="Ask again with a shorter prompt"
            )
        elif verdict is Verdict.NO_MEMORY:
            cause = EngineError("memory for the computation was refused", advice="Ask again later")
        else:
            cause = EngineError(
                f"llama.cpp failed to evaluate ({verdict.name})", advice="Ask again"
            )
        for job, _, _ in chosen:
            self._lose(job, cause)

    def _sample(self, job: Job, row: int) -> None:
        if not job.first_s:
            job.first_s = time.perf_counter()
        request = job.request
        if not request.max_tokens:
            self._end(job, StopReason.LENGTH)
            return
        allowed = self._pieces.agreeing(job.wanted) if job.wanted else None
        if allowed is not None and not len(allowed):
            allowed = None
        token = job.sampler.pick(self.context.logits(row), allowed)
        job.generated += 1
        self._totals["generated"] += 1
        if token in self.model.ends or token in request.stop_tokens:
            self._end(job, StopReason.EOS)
            return
        piece = self.model.piece(token)
        job.wanted = job.wanted[len(piece) :]
        text, stop = job.said.add(piece)
        if text:
            self._say(Delta(id=request.id, text=text, tokens=(token,)))
        if stop:
            self._end(job, StopReason.STOP_TEXT, stop)
        elif job.generated >= request.max_tokens:
            self._end(job, StopReason.LENGTH)
        elif job.late:
            self._end(job, StopReason.TIME)
        else:
            job.todo = [token]

    def _end(self, job: Job, reason: StopReason, stop_text: str = "") -> None:
        rest = job.said.rest()
        if rest and reason is not StopReason.STOP_TEXT:
            self._say(Delta(id=job.request.id, text=rest))
        self._leave(job)
        self._totals["requests"] += 1
        self._totals["cached"] += job.cached
        self._totals["cancelled"] += reason is StopReason.CANCELLED
        self._say(job.done(reason, stop_text))

    def _lose(self, job: Job, cause: UnderkeelError) -> None:
        if job.request.id in self._jobs:
            self._leave(job)
            self._fail(job.request.id, cause)

    def _leave(self, job: Job) -> None:
        self._jobs.pop(job.request.id, None)
        job.sampler.free()
        if job.slot >= 0:
            slot = self.slots[job.slot]
            slot.busy = False
            if not job.request.cache:
                self.slots.clear(slot)

    def fail_all(self, cause: UnderkeelError) -> None:
        for job in list(self._jobs.values()):
            self._lose(job, cause)

    # Told to the outside.

    def _measure(self, chosen: list[tuple[Job, Slot, Span]], took_s: float) -> None:
        prompt = sum(len(span.tokens) for job, _, span in chosen if not job.generated)
        decoded = sum(len(span.tokens) for job, _, span in chosen if job.generated)
        self._totals["evaluated"] += prompt
        if prompt and not decoded:
            self._prefill_rate = _smooth(self._prefill_rate, prompt / took_s)
        elif decoded and not prompt:
            self._decode_rate = _smooth(self._decode_rate, decoded / took_s)

    def stats(self) -> EngineStats:
        running = sum(job.slot >= 0 for job in self._jobs.values())
        return EngineStats(
            cells_used=self.slots.cells_used,
            cells_total=self.context.n_cells,
            waiting=len(self._jobs) - running,
            running=running,
            requests=self._totals["requests"],
            cancelled=self._totals["cancelled"],
            evaluated_tokens=self._totals["evaluated"],
            cached_tokens=self._totals["cached"],
            generated_tokens=self._totals["generated"],
            prefill_tokens_per_s=self._prefill_rate,
            decode_tokens_per_s=self._decode_rate,
            rss_bytes=psutil.Process().memory_info().rss,
            slots=self.slots.states(),
        )

    def info(self, load_ms: float) -> ModelInfo:
        facts = self.model.facts
        return ModelInfo(
            name=facts.name,
            path=self.spec.path,
            architecture=facts.architecture,
            n_vocab=facts.n_vocab,
            n_ctx=self.context.n_cells,
            n_ctx_train=facts.n_ctx_train,
            n_params=facts.n_params,
            size_bytes=facts.size_bytes,
            n_seq_max=self.context.n_sequences,
            add_bos=facts.add_bos,
            bos=facts.bos,
            chat_template=facts.chat_template,
            reuse="partial" if self.slots.partial else "append",
            load_ms=load_ms,
            memory=self.context.memory,
        )


def _smooth(old: float, new: float) -> float:
    return new if not old else old + _SMOOTHING * (new - old)
