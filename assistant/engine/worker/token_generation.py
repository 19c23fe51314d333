"""From logits to an answer: chooses the next token, says it, and knows when that was the last."""

from __future__ import annotations

from collections.abc import Callable

from assistant.engine.types import Delta, GenerateRequest, StopReason
from assistant.engine.worker.drafting import Drafter
from assistant.engine.worker.job import Ending, Job, Pieces, tell
from assistant.engine.worker.line_avoidance import Stance, Unlike
from assistant.engine.worker.slots import Slot, Slots
from assistant.engine.worker.speculation import Lookup
from assistant.llama.context import Context
from assistant.llama.model import Model


class Speaker:
    """Goes on with the answers of one model; what it says goes to `say`."""

    def __init__(
        self,
        model: Model,
        context: Context,
        slots: Slots,
        drafter: Drafter,
        say: Callable[[Delta], None],
    ) -> None:
        self._model, self._context = model, context
        self._slots, self._drafter = slots, drafter
        self._pieces = Pieces(model.piece, model.facts.n_vocab)
        self._say = say

    def unlike(self, request: GenerateRequest) -> Unlike | None:
        """What keeps the answer from the line it should not be; None where it may say anything."""
        line = request.unlike.rstrip().encode()
        greedy = request.sampling.temperature <= 0
        if not line or not greedy or not self._slots.partial or b"\n" in line:
            return None
        return Unlike(line, self._model.piece, self._model.ends)

    def go_on(self, job: Job, slot: Slot, row: int) -> Ending | None:
        """Read what comes after the job's tokens, whose last sure one was the batch's `row`.

        Returns:
            How the answer has ended; None where the job has more to evaluate.
        """
        if not job.draft.tokens:
            if self._drafter.sure(job, row):
                return self._take(job, slot, self._picked(job, row))
            self._drafter.rewrite(job, slot)
            return None
        found = self._drafter.read(job, row)
        before = len(slot.tokens) - 1 - len(job.draft.tokens)
        if job.drafted_from < 0:
            job.drafted_from = before
        self._slots.cut(slot, before + len(found.tokens) + found.again)
        for token in found.tokens:
            ending = self._take(job, slot, token)
            if ending:
                return ending
        if found.again:
            self._drafter.rewrite(job, slot)
        return None

    def _picked(self, job: Job, row: int) -> int:
        allowed = self._pieces.agreeing(job.wanted)
        logits = self._context.logits(row)
        token = job.sampler.pick(logits, allowed)
        if job.unlike is not None:
            job.unlike.weigh(token, logits, allowed)
        return token

    def _take(self, job: Job, slot: Slot, token: int) -> Ending | None:
        """Take a token into the answer."""
        job.generated += 1
        tokens, enough = [token], job.generated >= job.request.max_tokens or job.late
        if job.unlike is not None:
            stance = job.unlike.add(token)
            if stance is Stance.WITHIN and not enough:
                job.wanted = job.wanted[len(self._model.piece(token)) :]
                job.todo = [token]
                return None
            tokens = job.unlike.tokens
            if stance is Stance.WHOLE and not enough:
                tokens = self._leave(job, slot)
            job.unlike, job.wanted = None, job.request.must_start_with.encode()
        for one in tokens:
            ending = self._say_token(job, one)
            if ending:
                return ending
        if job.generated >= job.request.max_tokens:
            return Ending(StopReason.LENGTH)
        if job.late:
            return Ending(StopReason.TIME)
        job.todo = tokens[-1:]
        return None

    def _leave(self, job: Job, slot: Slot) -> list[int]:
        """The answer's tokens after it has gone back to where it leaves the unwanted line."""
        assert job.unlike is not None
        fork = job.unlike.fork()
        if fork is None:
            return job.unlike.tokens
        self._slots.cut(slot, len(job.request.prompt) + fork.at)
        return [*job.unlike.tokens[: fork.at], fork.token]

    def _say_token(self, job: Job, token: int) -> Ending | None:
        ending = tell(job, token, self._model, self._say)
        if ending:
            return ending
        if job.lookup is None and self._drafter.may_draft(job):
            job.lookup = Lookup(job.request.prompt)
        if job.lookup is not None:
            job.lookup.extend((token,))
        return None
