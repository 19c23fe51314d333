"""The step: decide who works, evaluate, sample, say. Runs in the worker's main thread.

What is served, in the words of the engine's contract.

What a runner has done since its load, in counts and rates.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import psutil
from msgspec.structs import replace

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
from assistant.engine.worker import scheduler
from assistant.engine.worker.constraint import Compiler, Guide
from assistant.engine.worker.job import AnswerText, Job, cause_of, check, replaces
from assistant.engine.worker.slots import Slot, Slots
from assistant.engine.worker.speculation import Pace
from assistant.engine.worker.token_generation import BatchBuilder, Drafter, Part, TokenGenerator
from assistant.errors import (
    ContextFullError,
    RefusedError,
    RequestError,
    UnderkeelError,
)
from assistant.llama import ggml
from assistant.llama.context import Context, DecodeStatus, Sampler
from assistant.llama.model import Model


def described(model: Model, context: Context, path: str, *, load_ms: float) -> ModelInfo:
    """A loaded model with its context."""
    facts = model.facts
    return ModelInfo(
        name=facts.name,
        path=path,
        architecture=facts.architecture,
        n_vocab=facts.n_vocab,
        n_ctx=context.n_cells,
        n_ctx_train=facts.n_ctx_train,
        n_params=facts.n_params,
        size_bytes=facts.size_bytes,
        n_seq_max=context.n_sequences,
        add_bos=facts.add_bos,
        bos=facts.bos,
        chat_template=facts.chat_template,
        tool_template=facts.tool_template,
        special_tokens=facts.special_tokens,
        reuse="append" if facts.recurrent else "partial",
        load_ms=load_ms,
        memory=context.memory,
    )


_SMOOTHING = 0.3


class Meter:
    """Totals since the load, and moving averages of the speed.

    Attributes:
        totals: requests, cancelled, refused, and tokens evaluated (`ahead`: by warm-ups), cached,
            generated.
        prefill_rate, decode_rate: tokens a second; 0 before the first.
    """

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.prefill_rate = self.decode_rate = 0.0

    def batch(self, parts: Sequence[tuple[Job, int]], took_s: float, pace: Pace) -> None:
        """Count a batch that took `took_s`: each job with its tokens in it, drafts included."""
        prompt = sum(count for job, count in parts if not job.generated)
        # What an interrupted job evaluates again is neither prompt nor answer.
        decoding = [(job, count) for job, count in parts if job.generated]
        again = any(count > 1 + len(job.draft.tokens) for job, count in decoding)
        self.totals["evaluated"] += prompt
        self.totals["ahead"] += sum(
            count for job, count in parts if not job.generated and not job.request.max_tokens
        )
        if again:
            return
        if prompt and not decoding:
            self.prefill_rate = _smooth(self.prefill_rate, prompt / took_s)
        elif decoding and not prompt:
            self.decode_rate = _smooth(self.decode_rate, len(decoding) / took_s)
            pace.took(sum(count for _, count in decoding), took_s)

    def stats(self) -> EngineStats:
        """The counters; the gauges are at their defaults."""
        return EngineStats(
            requests=self.totals["requests"],
            cancelled=self.totals["cancelled"],
            refused=self.totals["refused"],
            evaluated_tokens=self.totals["evaluated"],
            ahead_tokens=self.totals["ahead"],
            cached_tokens=self.totals["cached"],
            generated_tokens=self.totals["generated"],
            prefill_tokens_per_s=self.prefill_rate,
            decode_tokens_per_s=self.decode_rate,
        )

    def ended(self, job: Job, reason: StopReason) -> None:
        """A request has been answered."""
        self.totals["requests"] += 1
        self.totals["cached"] += job.cached
        self.totals["cancelled"] += reason is StopReason.CANCELLED


def _smooth(old: float, new: float) -> float:
    return new if not old else old + _SMOOTHING * (new - old)


Say = Callable[[Delta | Done], None]
Fail = Callable[[str, UnderkeelError], None]


class Runner:
    """Serves requests on one loaded model and context.

    Attributes:
        together: what is being answered for a lower class goes on in the batches of a higher one;
            on a GPU a few rows more cost next to nothing, on a CPU each has its price.
    """

    def __init__(
        self, model: Model, context: Context, spec: LoadSpec, say: Say, fail: Fail
    ) -> None:
        self.model, self.context, self.spec = model, context, spec
        facts = model.facts
        self.slots = Slots(
            context,
            recurrent=facts.recurrent,
            window=facts.n_swa,  # llama.cpp reuses cells outside it also in a full-length cache
            most_checkpoint_bytes=spec.checkpoint_bytes,
        )
        self.together = bool(spec.devices)
        self.drafter = Drafter(context, self.slots)
        self._builder = BatchBuilder(context, self.slots, self.drafter, gpu=bool(spec.devices))
        self._generator = TokenGenerator(model, context, self.slots, self.drafter, say)
        self._say, self._fail = say, fail
        self._compiler = Compiler(partial(model.piece, special=True), facts.n_vocab, model.ends)
        self._jobs: dict[str, Job] = {}
        self._stepping: Priority | None = None
        self._knocked = False
        self._meter = Meter()

    # Told by the reader thread: sets flags only.

    def cancel(self, request_id: str) -> None:
        """End a request with what there is, within the graph node that runs."""
        job = self._jobs.get(request_id)
        if job is not None:
            job.cancelled = True
            if job.request.priority is self._stepping:
                self.context.abort.set()

    def knock(self, request: GenerateRequest) -> None:
        """A request is coming: the step of what it takes the place of, or goes before, ends."""
        for job in list(self._jobs.values()):
            if replaces(request, job.request):
                self.cancel(job.request.id)
        if request.priority is Priority.INTERACTIVE:
            self._knocked = True
            if self._stepping not in {None, request.priority}:
                self.context.abort.set()

    # Told by the main thread.

    @property
    def busy(self) -> bool:
        return bool(self._jobs) or not self._generator.pieces.complete

    def add(self, request: GenerateRequest) -> None:
        """Take a request in; its events follow from `step`.

        Raises:
            RequestError: it is malformed. ContextFullError: it can never fit.
        """
        self._knocked = False
        if request.id in self._jobs:
            raise RequestError("this id is in flight already", subject=request.id)
        n_vocab = self.model.facts.n_vocab
        check(request, n_vocab=n_vocab, room=self.context.n_cells_sequence)
        for other in self._jobs.values():
            if replaces(request, other.request):
                other.cancelled = True
        sampler = Sampler(request.sampling, n_vocab, request.prompt)
        self._jobs[request.id] = Job(
            request,
            sampler,
            AnswerText(request.stop),
            must_start_with=request.must_start_with.encode(),
            unlike=self._generator.unlike(request),
            guide=self._guide(request),
        )

    def suspend(self) -> list[Job]:
        """Take all jobs out, to be taken in by another runner of the same model (`resume`)."""
        for job in self._jobs.values():
            self._interrupt(job)
        jobs, self._jobs = list(self._jobs.values()), {}
        return jobs

    def resume(self, jobs: Iterable[Job]) -> None:
        """Continue jobs that were suspended; one that does not fit any more ends here."""
        for job in jobs:
            self._jobs[job.request.id] = job
            room = self.context.n_cells_sequence
            if len(job.text) + job.most_left <= room:
                continue
            if job.generated:
                self._end(job, StopReason.LENGTH)
            else:
                needed = len(job.text) + job.most_left
                self._lose(
                    job,
                    ContextFullError(
                        f"{needed} tokens no longer fit: the context was cut to {room} cells",
                        subject=job.request.id,
                        advice="Try again with a shorter prompt",
                    ),
                )

    def _interrupt(self, job: Job) -> None:
        """Give the job's slot back; it goes on where it was once it is admitted again."""
        if job.slot >= 0:
            slot = self.slots[job.slot]
            job.text = [*slot.tokens, *job.todo]
            slot.busy, job.slot, job.todo = False, -1, []
            job.singly = job.apart = False
            job.doubted = None

    def step(self) -> None:
        """One batch: end what is over, admit what fits, evaluate, sample.

        Without a request, a part of what the first ones will need is made.
        """
        if not self._jobs:
            self._generator.pieces.read()
            return
        for job in list(self._jobs.values()):
            if job.cancelled:
                self._end(job, StopReason.CANCELLED)
            elif job.late and not job.todo:
                self._end(job, StopReason.TIME)
        ready = [job for job in list(self._jobs.values()) if self._compiled(job)]
        turn = scheduler.working([job.request.priority for job in ready])
        if turn is None:
            time.sleep(0.001)  # for grammars that are being compiled
            return
        jobs = [job for job in ready if job.request.priority is turn]
        for job in jobs:
            if job.slot < 0 and not job.parked and not self._is_under_way(job, jobs):
                self._admit(job)
        running = [job for job in jobs if job.slot >= 0 and job.request.id in self._jobs]
        if not running and not self._borrow(jobs):
            time.sleep(0.001)  # every slot belongs to a class that waits for this one
            return
        if running and self.together:
            lower = [job for job in self._jobs.values() if job.request.priority is not turn]
            running += [job for job in lower if job.slot >= 0 and job.decoding]
        if running:
            self._evaluate(running, turn)

    def _guide(self, request: GenerateRequest) -> Guide | None:
        constraint = request.constraint
        if constraint is None:
            return None
        return Guide(constraint, self._compiler.compile(constraint), self._compiler)

    def _compiled(self, job: Job) -> bool:
        """Whether its grammar is ready; a job whose grammar cannot be used fails."""
        if job.guide is None:
            return True
        try:
            return job.guide.ready()
        except RequestError as error:
            self._lose(job, error)
            return False

    def _borrow(self, jobs: list[Job]) -> bool:
        """Take the slot of a lower class's job, which goes on later."""
        wanting = {job.request.id for job in jobs}
        for job in self._jobs.values():
            if job.slot >= 0 and job.request.id not in wanting:
                self._interrupt(job)
                return True
        return False

    def _is_under_way(self, job: Job, jobs: Sequence[Job]) -> bool:
        """Whether one of the jobs is evaluating what this one begins with."""
        if not job.request.cache:
            return False
        coming = [one.text for one in jobs if one.slot >= 0 and not one.generated and not one.apart]
        # A sequence that cannot be shared is taken over once its own answer grows apart from it.
        held = [slot.tokens for slot in self.slots if not (slot.busy and self.slots.recurrent)]
        return scheduler.is_under_way(job.text, held, coming)

    def _admit(self, job: Job) -> None:
        request = job.request
        taken = self.slots.take(
            job.text, job.most_left, request.document, reuse=request.cache or job.generated > 0
        )
        if taken is None:
            return
        slot, kept = taken
        job.slot, job.todo = slot.number, list(job.text[kept:])
        if self.slots.recurrent and not request.max_tokens:
            job.todo.pop()  # a question with this prompt has to have something to evaluate
        if not job.began_s:
            job.cached, job.began_s = kept, time.perf_counter()
        if not job.todo:
            self._end(job, StopReason.LENGTH)

    def _evaluate(self, running: list[Job], turn: Priority) -> None:
        chosen = self._builder.batch(running, self._meter.prefill_rate)
        self._stepping = turn
        if self._overtaken(chosen, turn):
            self._stepping = None
            return
        started = time.perf_counter()
        verdict = self.context.decode([span for _, _, span in chosen])
        took_s = time.perf_counter() - started
        self._stepping = None
        self.context.abort.clear()
        if verdict is not DecodeStatus.DONE:
            self._undo(chosen, verdict)
            return
        parts = [(job, len(span.tokens)) for job, _, span in chosen]
        self._meter.batch(parts, took_s, self.drafter.pace)
        row = 0
        for job, slot, span in chosen:
            sure, before = len(span.tokens) - len(job.draft.tokens), len(slot.tokens)
            slot.tokens += span.tokens
            del job.todo[:sure]
            if not job.generated:
                job.evaluated += sure
            if span.outputs and not job.todo:
                self._go_on(job, slot, row + sure - 1)
            if self.context.nextn is not None:
                self.context.nextn.follow(slot.number, before, slot.tokens[before:], row)
            row += len(span.tokens)

    def _overtaken(self, chosen: list[Part], turn: Priority) -> bool:
        """Whether what the reader thread has taken in makes this batch needless."""
        knocked = self._knocked and turn is not Priority.INTERACTIVE
        return knocked or any(job.cancelled for job, _, _ in chosen)

    def _undo(self, chosen: list[Part], verdict: DecodeStatus) -> None:
        """Bring the cache back to what the slots say, and deal with the cause."""
        for job, slot, _ in chosen:
            held_tokens, held = [*slot.tokens], len(slot.tokens)
            if self.context.ends_before(slot.number, held):
                continue
            kept = self.slots.cut(slot, held)
            if kept < held:
                job.todo, job.singly = [*held_tokens[kept:], *job.todo], False
                job.doubted = None
        if verdict is DecodeStatus.ABORTED:
            return
        if verdict in {DecodeStatus.NO_CELLS, DecodeStatus.NO_MEMORY} and self.slots.evict():
            return
        if verdict is DecodeStatus.NO_CELLS and self._park():
            return
        cause = cause_of(verdict)
        self._meter.totals["refused"] += isinstance(cause, RefusedError)
        for job, _, _ in chosen:
            self._lose(job, cause)

    def _park(self) -> bool:
        """Let one of several jobs wait until another one has ended; False for a single."""
        holding = [job for job in self._jobs.values() if job.slot >= 0]
        if len(holding) < 2:
            return False
        job = holding[scheduler.yielding([job.request.priority for job in holding])]
        self._interrupt(job)
        job.parked = True
        return True

    def _go_on(self, job: Job, slot: Slot, row: int) -> None:
        """Its tokens are evaluated, the last sure one as the batch's `row`."""
        if not job.first_s:
            job.first_s = time.perf_counter()
        if not job.request.max_tokens:
            self._end(job, StopReason.LENGTH)
            return
        if not job.generated:
            self.slots.before_answer(slot, job.request.max_tokens)
        before = job.generated
        ending = self._generator.go_on(job, slot, row)
        self._meter.totals["generated"] += job.generated - before
        if ending:
            self._end(job, *ending)

    def _end(self, job: Job, reason: StopReason, stop_text: str = "") -> None:
        stopped = reason is StopReason.STOP_TEXT
        rest = "" if stopped else job.answer_text.rest()
        if delta := job.answer_text.report(job.request.id, rest, stopped=stopped):
            self._say(delta)
        self._leave(job)
        self._meter.ended(job, reason)
        self._say(job.done(reason, stop_text))

    def _lose(self, job: Job, cause: UnderkeelError) -> None:
        if job.request.id in self._jobs:
            self._leave(job)
            self._fail(job.request.id, cause)

    def _leave(self, job: Job) -> None:
        self._jobs.pop(job.request.id, None)
        for other in self._jobs.values():
            other.parked = False
        job.sampler.free()
        if job.guide is not None:
            job.guide.drop()
        if job.slot >= 0:
            slot = self.slots[job.slot]
            slot.busy = False
            if job.apart:
                self.slots.drop_checkpoints(slot)
            if not job.request.cache:
                self.slots.clear(slot)

    def fail_all(self, cause: UnderkeelError) -> None:
        for job in list(self._jobs.values()):
            self._lose(job, cause)

    # Told to the outside.

    def stats(self) -> EngineStats:
        running = sum(job.slot >= 0 for job in self._jobs.values())
        return replace(
            self._meter.stats(),
            cells_used=self.slots.cells_used,
            cells_total=self.context.n_cells,
            waiting=len(self._jobs) - running,
            running=running,
            dropped=self.slots.dropped,
            drafted_tokens=self.drafter.drafted,
            accepted_tokens=self.drafter.accepted,
            rss_bytes=psutil.Process().memory_info().rss,
            devices=tuple(ggml.memory(name) for name in self.spec.devices),
            slots=self.slots.states(),
        )

    def info(self, load_ms: float) -> ModelInfo:
        return described(self.model, self.context, self.spec.path, load_ms=load_ms)
