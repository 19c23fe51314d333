"""What goes into the next batch: whose tokens, how many of them, and which drafts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from assistant.engine.worker import scheduler
from assistant.engine.worker.drafting import Drafter
from assistant.engine.worker.job import Job
from assistant.engine.worker.slots import Slot, Slots
from assistant.engine.worker.speculation import NO_DRAFT
from assistant.llama.context import Context, Span


class Part(NamedTuple):
    """What a batch holds of one job, and where it goes."""

    job: Job
    slot: Slot
    span: Span


class BatchBuilder:
    """Puts together the batches for one context.

    Args:
        gpu: the model, or part of it, is on a GPU.
    """

    def __init__(self, context: Context, slots: Slots, drafter: Drafter, *, gpu: bool) -> None:
        self._context, self._slots, self._drafter = context, slots, drafter
        self._gpu = gpu

    def batch(self, running: Sequence[Job]) -> list[Part]:
        """The next batch for jobs that have slots; not all of them need be in it."""
        alone = len(running) == 1
        jobs = {job.request.id: job for job in running}
        drafts = {
            name: self._drafter.draft(job) if alone else NO_DRAFT for name, job in jobs.items()
        }
        demands = [
            scheduler.Demand(name, self._sure(job), len(drafts[name].tokens))
            for name, job in jobs.items()
        ]
        most = scheduler.most_rows(
            gpu=self._gpu,
            decoding=any(job.decoding for job in running),
            evaluated=min(job.evaluated for job in running),
        )
        rows = min(self._context.n_batch, most)
        parts = []
        for portion in scheduler.divide_batch(demands, rows, self._context.n_outputs):
            job = jobs[portion.id]
            slot = self._slots[job.slot]
            job.draft = drafts[portion.id].cut(portion.drafted)
            tokens = [*job.todo[: portion.sure], *job.draft.tokens]
            span = Span(slot.number, len(slot.tokens), tokens, portion.outputs)
            parts.append(Part(job, slot, span))
        return parts

    def _sure(self, job: Job) -> int:
        """How many of its tokens the next batch may hold."""
        if job.singly:
            return 1
        if self._slots.partial or job.generated or job.apart or not job.request.max_tokens:
            return len(job.todo)
        # What is added to a sequence here stays in it: the answer gets a copy of the prompt's.
        if len(job.todo) > 1:
            return len(job.todo) - 1
        branch = self._slots.branch(self._slots[job.slot])
        job.slot, job.apart = branch.number if branch else job.slot, True
        return 1
