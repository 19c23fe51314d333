"""Speculation in a step: which drafts ride along, and what the rows of a batch say of them."""

from __future__ import annotations

from collections.abc import Iterator

from assistant.engine.job import Job
from assistant.engine.speculation import MOST_DRAFTED, NO_DRAFT, Draft, Pace, Verified, verify
from assistant.llama.context import Context
from assistant.llama.sampling import Sampler


class Drafter:
    """Drafts for greedy requests on one context.

    Args:
        can_take_back: sequences may be cut anywhere, so that a wrong draft can be forgotten; where
            not, nothing is drafted.
    """

    def __init__(self, context: Context, *, can_take_back: bool) -> None:
        self._context = context
        self._can_take_back = can_take_back and context.n_outputs > 1
        self.pace = Pace()
        self.drafted = self.accepted = 0

    def may_draft(self, job: Job) -> bool:
        """Whether drafts are for this request at all."""
        return self._can_take_back and job.request.speculate and job.sampler.greedy

    def draft(self, job: Job) -> Draft:
        """What to evaluate after the token that the job has to evaluate next; may be empty."""
        if job.lookup is None or len(job.todo) != 1 or job.alone or job.wanted:
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
        self.drafted += len(draft.tokens)
        self.accepted += right
        job.drafted += len(draft.tokens)
        job.accepted += right
        return found

    def _rows(self, first: int, count: int) -> Iterator[tuple[int, float]]:
        return (Sampler.best(self._context.logits(first + row)) for row in range(count))
