"""What goes into the next batch: whose tokens, how many of them, and which drafts.

Drafts should not change the text. A draft rides alone: no other request is in its batch. What the
batch says is believed where it is sure (`SURE_MARGIN`). Where it is not, all cells that batches
with drafts have written for this answer are evaluated again, token by token: cells and logits are
then bit for bit those that come without drafts, and they decide. Everywhere else both ways say the
same token as long as rounding moves the lead of the best one by less than the margin. That is no
theorem about llama.cpp's kernels, but measured (tests/benchmarks/results/rounding.json).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from assistant.engine.worker import scheduler
from assistant.engine.worker.job import Job
from assistant.engine.worker.slots import Slot, Slots
from assistant.engine.worker.speculation import (
    MOST_DRAFTED,
    NO_DRAFT,
    SURE_MARGIN,
    Draft,
    Pace,
    Verified,
    verify,
)
from assistant.llama.context import Context, Span
from assistant.llama.sampling import Sampler


class Drafter:
    """Drafts for greedy requests on one context.

    Nothing is drafted where sequences cannot be cut anywhere: a wrong draft has to be forgotten.

    Attributes:
        drafted, accepted, rewritten: tokens, since the load.
    """

    def __init__(self, context: Context, slots: Slots) -> None:
        self._context = context
        self._slots = slots
        self._can_take_back = slots.partial and context.n_outputs > 1
        self.pace = Pace()
        self.drafted = self.accepted = self.rewritten = 0

    def may_draft(self, job: Job) -> bool:
        """Whether drafts are for this request at all."""
        free = job.guide is None and job.sampler.greedy and job.request.logprobs is None
        return self._can_take_back and job.request.speculate and free

    def draft(self, job: Job) -> Draft:
        """What to evaluate after the token that the job has to evaluate next; may be empty."""
        if job.lookup is None or len(job.todo) != 1 or job.singly or job.must_start_with:
            return NO_DRAFT
        most = min(MOST_DRAFTED, self._context.n_outputs - 1, job.most_left - 1)
        found = job.lookup.draft(most) if most > 0 else NO_DRAFT
        return found.cut(self.pace.length(found))

    def read(self, job: Job, first_row: int) -> Verified:
        """What the batch says after `job.draft`, whose rows begin at `first_row`."""
        draft = job.draft
        found = verify(draft.tokens, self._rows(first_row, len(draft.tokens) + 1))
        right = min(len(found.tokens), len(draft.tokens))
        while right and found.tokens[right - 1] != draft.tokens[right - 1]:
            right -= 1
        self.pace.learn(draft, right)
        job.unsure.append(draft.matched)
        self.drafted += len(draft.tokens)
        self.accepted += right
        job.drafted += len(draft.tokens)
        job.accepted += right
        return found

    def sure(self, job: Job, row: int) -> bool:
        """Whether a row that was evaluated by itself is to be believed."""
        if job.singly:
            job.drafted_from, job.singly, job.unsure = -1, False, []
        lead = Sampler.best(self._context.logits(row))[1] if job.drafted_from >= 0 else SURE_MARGIN
        return lead >= SURE_MARGIN

    def rewrite(self, job: Job, slot: Slot) -> None:
        """Evaluate the slot's cells that drafts have touched again, for the last to decide."""
        job.todo, job.singly = slot.tokens[job.drafted_from :], True
        self.rewritten += len(job.todo)
        self.pace.redid(job.unsure, len(job.todo))
        self._slots.cut(slot, job.drafted_from)

    def _rows(self, first: int, count: int) -> Iterator[tuple[int, float]]:
        return (Sampler.best(self._context.logits(first + row)) for row in range(count))


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

    def batch(self, running: Sequence[Job], prefill_rate: float = 0.0) -> list[Part]:
        """The next batch for jobs that have slots; not all of them need be in it.

        Args:
            prefill_rate: measured prompt tokens per second; 0 before the first measurement.
        """
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
            rate=prefill_rate,
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
        if self._slots.partial or job.generated or job.apart:
            return len(job.todo)
        # What is added to a sequence here stays in it: the answer gets a copy of the prompt's.
        ahead = len(job.todo) - (1 if job.request.max_tokens else 0)
        if ahead:
            return self._slots.to_checkpoint(self._slots[job.slot], ahead)
        self._slots.checkpoint(self._slots[job.slot])
        branch = self._slots.branch(self._slots[job.slot])
        job.slot, job.apart = branch.number if branch else job.slot, True
        return 1
