"""What goes into the next batch, and from its logits to an answer: chooses the next token, reports
its text, and detects the end.

Drafts should not change the text, unless a request allows it (`exact_drafts`). A draft is alone in
its batch. Batches of a few rows that give the same bits as single rows always decide; which ones do
is found out by comparing (`SameBits`). Any other batch with a draft decides where its logits are
sure (`SURE_MARGIN`). Where they are not, all cells that such batches have written for this answer
are evaluated again as without drafts: cells and logits are then bit for bit the same, and they
decide. Everywhere else both choose the same token as long as rounding moves the lead of the best
one by less than the margin. That is not proven of llama.cpp's kernels, but measured
(tests/benchmarks/results/rounding.json).
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from assistant.engine.types import Delta, GenerateRequest, StopReason, TokenLogprob
from assistant.engine.worker import scheduler
from assistant.engine.worker.job import AnswerText, Doubted, Job, Stance, Unlike
from assistant.engine.worker.slots import Slot, Slots
from assistant.engine.worker.speculation import (
    FEW_ROWS,
    MOST_DRAFTED,
    MOST_PREDICTED,
    NEXTN,
    NO_ASIDE,
    NO_DRAFT,
    SURE_MARGIN,
    Aside,
    Draft,
    Lookup,
    Pace,
    SameBits,
    Verified,
    verify,
)
from assistant.llama.context import Context, Logits, Sampler, Tokens
from assistant.llama.model import Model
from assistant.llama.structs import Span

_PIECES_AT_ONCE = 2048
"""Tokens whose bytes are read while no request waits: some 3 ms."""


class Words(Protocol):
    """What a model's tokens are."""

    @property
    def ends(self) -> Container[int]:
        """The tokens that end an answer."""
        ...

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token; a control token has some only with `special`."""
        ...


def shown_piece(request: GenerateRequest, words: Words, token: int) -> bytes:
    """The bytes that a token adds to the text of the request's answer."""
    return words.piece(token, special=token in request.visible_tokens)


class Drafter:
    """Drafts for greedy requests on one context.

    A wrong draft has to be forgotten. Where a layer is recurrent, that goes back as far as the
    context keeps earlier states; where it keeps none, to a checkpoint before each draft, and what
    was right of the draft is evaluated again. A checkpoint is also taken before cells that may have
    to be evaluated again.

    Attributes:
        drafted, accepted, rewritten: tokens, since the load.
    """

    def __init__(self, context: Context, slots: Slots) -> None:
        self._context = context
        self._slots = slots
        self._by_checkpoint = slots.recurrent and not context.n_rs_seq
        most = MOST_DRAFTED if self._by_checkpoint or not slots.recurrent else context.n_rs_seq
        self._most_drafted = min(most, context.n_outputs - 1)
        self.pace = Pace()
        self.same_bits = SameBits()
        self._aside = NO_ASIDE
        self.drafted = self.accepted = self.rewritten = 0

    def may_draft(self, job: Job) -> bool:
        """Whether drafts are for this request at all."""
        return self._most_drafted > 0 and job.request.speculate and job.sampler.greedy

    def lookup(self, request: GenerateRequest) -> Lookup:
        """What a request's drafts are from."""
        if request.draft_from != self._aside.tokens:
            self._aside = Aside(request.draft_from)
        return Lookup(request.prompt, self._aside)

    def draft(self, job: Job) -> Draft:
        """What to evaluate after the token that the job has to evaluate next; may be empty."""
        if job.lookup is None or len(job.todo) != 1 or job.singly or job.must_start_with:
            return NO_DRAFT
        most = min(self._most_drafted, job.most_left - 1)
        if most < 1:
            return NO_DRAFT
        free = self._free(job)
        forced = job.guide.forced(most) if job.guide is not None else ()
        found = Draft(forced, len(forced)) if forced else job.lookup.draft(most)
        found = found.cut(self.pace.length(found, free, self._by_checkpoint))
        if not found.tokens and not forced:
            found = self._predicted(job, min(most, MOST_PREDICTED), free)
        return found if found.tokens and self._can_return(job, len(found.tokens) + 1) else NO_DRAFT

    def _can_return(self, job: Job, rows: int) -> bool:
        """Whether the cells of a batch of so many rows can be evaluated again, or forgotten."""
        if not self._slots.recurrent:
            return True
        returns = job.drafted_from >= 0 or self._same_bits(job, rows)
        if returns and not self._by_checkpoint:
            return True
        started_s = time.perf_counter()
        slot = self._slots[job.slot]
        done = self._slots.checkpoint(slot, only=job.apart, beside=job.drafted_from)
        if self._by_checkpoint:
            self.pace.kept_state(time.perf_counter() - started_s)
        return done

    def _free(self, job: Job) -> int:
        """How long a draft may be without costing anything besides its batch."""
        if not job.request.exact_drafts:
            return MOST_DRAFTED
        if job.drafted_from >= 0:
            return 0
        cells = self._slots.cells_used + FEW_ROWS
        rows = 1
        while rows < FEW_ROWS and self.same_bits.known(rows + 1, cells) is not False:
            rows += 1
        return rows - 1

    def _predicted(self, job: Job, most: int, free: int) -> Draft:
        """What the model's own layers for multi-token prediction expect."""
        nextn = self._context.nextn
        if nextn is None:
            return NO_DRAFT
        length = self.pace.length(Draft((0,) * most, NEXTN), free, self._by_checkpoint)
        position = len(self._slots[job.slot].tokens)
        if not length:
            return NO_DRAFT
        started_s = time.perf_counter()
        tokens = nextn.draft(job.slot, position, job.todo[0], length)
        self.pace.predicted(len(tokens), time.perf_counter() - started_s)
        return Draft(tokens, NEXTN)

    def read(self, job: Job, slot: Slot, first_row: int, words: Words) -> Verified:
        """What the batch says after `job.draft`, whose rows begin at `first_row`."""
        draft, count = job.draft, len(job.draft.tokens) + 1
        same = self._same_bits(job, count)
        margin = 0.0 if same else SURE_MARGIN
        if job.guide is not None:
            rows = self._guided_rows(job, first_row, count, words, margin)
        else:
            rows = self._rows(first_row, count)
        found = verify(draft.tokens, rows, margin)
        right = min(len(found.tokens), len(draft.tokens))
        while right and found.tokens[right - 1] != draft.tokens[right - 1]:
            right -= 1
        self.pace.learn(draft, right)
        self.drafted += len(draft.tokens)
        self.accepted += right
        job.drafted += len(draft.tokens)
        job.accepted += right
        if same:
            return found
        job.unsure.append(draft.matched)
        if job.drafted_from < 0:
            job.drafted_from = len(slot.tokens) - count
        if same is None:
            if not found.again:
                found = Verified(found.tokens[:-1], again=True)
            logits = self._context.logits(first_row + len(found.tokens)).copy()
            job.doubted = Doubted(count, self._slots.cells_used, logits)
        return found

    def _same_bits(self, job: Job, rows: int) -> bool | None:
        """Whether a batch of so many rows decides without a margin; None if that is to be tried."""
        if not job.request.exact_drafts:
            return True
        if job.drafted_from >= 0:
            return False
        return self.same_bits.known(rows, self._slots.cells_used)

    def sure(self, job: Job, row: int, words: Words) -> bool:
        """Whether a row that was evaluated by itself is to be believed."""
        if job.singly:
            if job.doubted is not None:
                same = np.array_equal(job.doubted.logits, self._context.logits(row))
                self.same_bits.saw(job.doubted.rows, job.doubted.cells, same=same)
            job.drafted_from, job.singly, job.unsure, job.doubted = -1, False, [], None
        if not job.request.exact_drafts or job.drafted_from < 0:
            return True
        logits = self._context.logits(row)
        if job.guide is None:
            return Sampler.best(logits)[1] >= SURE_MARGIN
        shown = partial(shown_piece, job.request, words)
        return job.guide.best(logits, SURE_MARGIN, shown, words.ends)[1] >= SURE_MARGIN

    def rewrite(self, job: Job, slot: Slot, held: Sequence[int]) -> None:
        """Evaluate the cells that drafts have touched again, for the last to decide.

        Args:
            held: the tokens that the slot is to hold then.
        """
        kept = self._slots.cut(slot, job.drafted_from)
        job.todo, job.singly = list(held[kept:]), True
        self.rewritten += len(job.todo)
        self.pace.redid(job.unsure, len(job.todo))

    def rewrite_rows(self, todo: int) -> int:
        """How many of so many tokens a batch may hold that evaluates cells again."""
        cells = self._slots.cells_used + FEW_ROWS
        rows = min(todo, FEW_ROWS)
        while rows > 1 and not self.same_bits.known(rows, cells):
            rows -= 1
        return rows

    def _rows(self, first: int, count: int) -> Iterator[tuple[int, float]]:
        return (Sampler.best(self._context.logits(first + row)) for row in range(count))

    def _guided_rows(
        self, job: Job, first: int, count: int, words: Words, margin: float
    ) -> Iterator[tuple[int, float]]:
        """The same of an answer that has to match a grammar; the rows end with the grammar."""
        assert job.guide is not None
        guide, shown = job.guide.fork(), partial(shown_piece, job.request, words)
        for row in range(first, first + count):
            token, lead = guide.best(self._context.logits(row), margin, shown, words.ends)
            yield token, lead
            guide.add(token, shown(token), words.ends)
            if guide.finished or token in words.ends:
                return


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
        slot = self._slots[job.slot]
        if job.singly:
            before = job.drafted_from - len(slot.tokens)
            return before if before > 0 else self._drafter.rewrite_rows(len(job.todo))
        if not self._slots.recurrent:
            if not job.generated:
                self._slots.before_prompt(slot)
            return len(job.todo)
        if job.generated or job.apart:
            return len(job.todo)
        # What is added to a sequence here stays in it: the answer gets a copy of the prompt's.
        ahead = len(job.todo) - (1 if job.request.max_tokens else 0)
        if ahead:
            return self._slots.to_checkpoint(slot, ahead)
        self._slots.checkpoint(slot)
        branch = self._slots.branch(slot)
        if branch and not job.request.cache:
            self._slots.clear(slot)  # nothing of the request is kept
        job.slot, job.apart = branch.number if branch else job.slot, True
        return 1


class Pieces:
    """The bytes of every token, to find the tokens that agree with a given text.

    They are read a few at a time, in `read`; the rest when they are first needed.
    """

    def __init__(self, piece: Callable[[int], bytes], n_vocab: int) -> None:
        self._piece = piece
        self._n_vocab = n_vocab
        self._read: list[bytes] = []  # by token
        self._texts: list[bytes] = []  # in order, and the token of each
        self._tokens = np.empty(0, np.int32)

    @property
    def complete(self) -> bool:
        """Whether all of them were read."""
        return not self._n_vocab or len(self._tokens) > 0

    def read(self, most: int = _PIECES_AT_ONCE) -> None:
        """Read the next `most` tokens."""
        if self.complete:
            return
        first = len(self._read)
        stop = min(first + most, self._n_vocab)
        self._read += [self._piece(token) for token in range(first, stop)]
        if stop == self._n_vocab:
            order = sorted(range(stop), key=self._read.__getitem__)
            self._texts = [self._read[token] for token in order]
            self._tokens = np.array(order, np.int32)
            self._read = []

    def agreeing(self, start: bytes, logits: Any) -> Tokens | None:
        """The tokens to choose from where the answer has to begin with `start`.

        These are the tokens that `start` begins, and of those that begin it the longest. A shorter
        one cuts a word where the tokenizer would not (`ite` of `item`), and models write on badly
        from there. It counts only where it is the model's own first choice.

        Args:
            logits: of every token, in an array with `argmax`.

        Returns:
            None for any token, where `start` is empty or there are none.
        """
        if not start:
            return None
        if not self.complete:
            self.read(self._n_vocab)
        found = self._beginning(start)
        lengths = range(len(start), 0, -1)
        starts = [tokens for length in lengths if len(tokens := self._equal(start[:length]))]
        if starts:
            longest = starts[0]
            first_choice = int(logits.argmax())
            chosen = [longest, *(tokens[tokens == first_choice] for tokens in starts[1:])]
            shorter = np.sort(np.concatenate(chosen))
            found = np.concatenate([found, shorter[~np.isin(shorter, found)]])
        return found if len(found) else None

    def _beginning(self, start: bytes) -> Tokens:
        """The tokens that begin with `start`."""
        low = bisect_left(self._texts, start)
        high = bisect_right(self._texts, start, lo=low, key=lambda text: text[: len(start)])
        return np.sort(self._tokens[low:high])

    def _equal(self, text: bytes) -> Tokens:
        """The tokens that are `text`."""
        low = bisect_left(self._texts, text)
        return self._tokens[low : bisect_right(self._texts, text, lo=low)]


class Ending(NamedTuple):
    """Why an answer is over, and the stop text that it ended with (or "")."""

    reason: StopReason
    stop_text: str = ""


class Answering(Protocol):
    """A job that is being answered; for its attributes see `Job`."""

    request: GenerateRequest
    answer_text: AnswerText
    must_start_with: bytes


def take_token(
    job: Answering,
    token: int,
    words: Words,
    say: Callable[[Delta], None],
    logprob: TokenLogprob | None = None,
) -> Ending | None:
    """Add a token to the answer and report the text that is sure; None where the answer continues.

    The end of the answer reports what is left of `job.answer_text`.
    """
    request = job.request
    if token in words.ends or token in request.stop_tokens:
        return Ending(StopReason.EOS)
    piece = words.piece(token, special=token in request.visible_tokens)
    job.must_start_with = job.must_start_with[len(piece) :]
    job.answer_text.tokens.append(token)
    if logprob is not None:
        job.answer_text.logprobs.append(logprob)
    text, stop = job.answer_text.add(piece)
    if text and (delta := job.answer_text.report(request.id, text, stopped=bool(stop))):
        say(delta)
    return Ending(StopReason.STOP_TEXT, stop) if stop else None


def logprob_of(
    token: int, logits: Logits, most: int, piece: Callable[[int], bytes]
) -> TokenLogprob:
    """The log softmax of `logits` at a token, with the `most` likeliest ones."""
    top_logit = float(logits.max())
    # The terms in 32 bits, which takes a fifth of the time, their sum in 64.
    total = top_logit + float(np.log(np.exp(logits - top_logit).sum(dtype=np.float64)))

    def one(other: int, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        # JSON has no infinity: a token that cannot be chosen gets OpenAI's least value.
        value = max(float(logits[other]) - total, _LEAST_LOGPROB)
        return TokenLogprob(other, piece(other), value, top)

    best: list[int] = []
    if most > 0:
        near = np.argpartition(logits, -min(most, len(logits)))[-most:]
        best = [int(other) for other in near[np.argsort(-logits[near], kind="stable")]]
    return one(token, tuple(one(other) for other in best))


_LEAST_LOGPROB = -9999.0


class TokenGenerator:
    """Goes on with the answers of one model; what it says goes to `say`.

    Attributes:
        pieces: the bytes of the model's tokens.
    """

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
        self.pieces = Pieces(model.piece, model.facts.n_vocab)
        self._say = say

    def unlike(self, request: GenerateRequest) -> Unlike | None:
        """What keeps the answer from the line it should not be; None where it may say anything."""
        line = request.unlike.rstrip().encode()
        greedy = request.sampling.temperature <= 0 and request.logprobs is None
        if not line or not greedy or self._slots.recurrent or b"\n" in line:
            return None
        return Unlike(line, self._model.piece, self._model.ends)

    def go_on(self, job: Job, slot: Slot, row: int) -> Ending | None:
        """Read what comes after the job's tokens, whose last sure one was the batch's `row`.

        Returns:
            How the answer has ended; None where the job has more to evaluate.
        """
        if not job.draft.tokens:
            if self._drafter.sure(job, row, self._model):
                token = self._picked(job, row)
                return self._take(job, slot, token, self._logprob(job, token, row))
            self._drafter.rewrite(job, slot, [*slot.tokens])
            return None
        before = len(slot.tokens) - 1 - len(job.draft.tokens)
        found = self._drafter.read(job, slot, row, self._model)
        held = slot.tokens[: before + len(found.tokens) + found.again]
        lost = held[self._slots.cut(slot, len(held)) :]
        for at, token in enumerate(found.tokens):
            ending = self._take(job, slot, token, self._logprob(job, token, row + at))
            if ending:
                return ending
        if found.again:
            self._drafter.rewrite(job, slot, held)
        else:
            job.todo = [*lost, *job.todo]
        return None

    def _picked(self, job: Job, row: int) -> int:
        logits = self._context.logits(row)
        allowed = self.pieces.agreeing(job.must_start_with, logits)
        if job.guide is not None and not job.must_start_with:
            shown = partial(shown_piece, job.request, self._model)
            return job.guide.pick(job.sampler, logits, shown, self._model.ends)
        token = job.sampler.pick(logits, allowed)
        if job.unlike is not None:
            job.unlike.weigh(token, logits, allowed)
        return token

    def _logprob(self, job: Job, token: int, row: int) -> TokenLogprob | None:
        most = job.request.logprobs
        if most is None:
            return None
        piece = partial(self._model.piece, special=True)
        return logprob_of(token, self._context.logits(row), most, piece)

    def _take(
        self, job: Job, slot: Slot, token: int, logprob: TokenLogprob | None = None
    ) -> Ending | None:
        """Take a token into the answer."""
        job.generated += 1
        tokens, lost = [token], list[int]()
        enough = job.generated >= job.request.max_tokens or job.late
        if job.unlike is not None:
            stance = job.unlike.add(token)
            if stance is Stance.WITHIN and not enough:
                job.must_start_with = job.must_start_with[len(self._model.piece(token)) :]
                job.todo = [token]
                return None
            tokens = job.unlike.tokens
            if stance is Stance.WHOLE and not enough:
                tokens, lost = self._leave(job, slot)
            job.unlike, job.must_start_with = None, job.request.must_start_with.encode()
        for one in tokens:
            ending = self._say_token(job, one, logprob)
            if ending:
                return ending
            if job.guide is not None:
                piece = shown_piece(job.request, self._model, one)
                job.guide.add(one, piece, self._model.ends)
                if job.guide.finished:
                    return Ending(StopReason.EOS)
        if job.generated >= job.request.max_tokens:
            return Ending(StopReason.LENGTH)
        if job.late:
            return Ending(StopReason.TIME)
        job.todo = [*lost, *tokens[-1:]]
        return None

    def _leave(self, job: Job, slot: Slot) -> tuple[list[int], list[int]]:
        """The answer's tokens after it has gone back to where it leaves the unwanted line, and the
        tokens before that place whose cells are lost."""
        assert job.unlike is not None
        fork = job.unlike.fork()
        if fork is None:
            return job.unlike.tokens, []
        length = len(job.request.prompt) + fork.at
        held = slot.tokens[:length]
        lost = held[self._slots.cut(slot, length) :]
        return [*job.unlike.tokens[: fork.at], fork.token], lost

    def _say_token(self, job: Job, token: int, logprob: TokenLogprob | None) -> Ending | None:
        ending = take_token(job, token, self._model, self._say, logprob)
        if ending:
            return ending
        if job.lookup is None and self._drafter.may_draft(job):
            job.lookup = self._drafter.lookup(job.request)
        if job.lookup is not None:
            job.lookup.extend((token,))
        return None
