"""Lookup: drafts what followed the same tokens before, as far as that pays. Pure.

A draft is evaluated in the same batch as the token that it follows, and kept as far as the model
would have said the same. Code repeats itself and edits repeat what they edit, so this needs no
second model. How long a draft may be is learnt: from how often drafts came true, and from what a
longer batch costs on this machine.

Besides the prompt and the answer, a request may give text that is not in the prompt: the rest of
the file, passages of other files. Its drafts are judged by themselves, so that they end where they
seldom come true.

Where nothing is found, a model's own layers for multi-token prediction draft, if it has some
(`assistant.llama.nextn`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

MOST_DRAFTED = 31
MOST_PREDICTED = 4
SURE_MARGIN = 1.0
"""By how much the best logit must lead to be believed where drafts have been evaluated.

Several rows at once may go through other kernels than a single one, so that their logits, and those
of all rows after them, differ by rounding. What leads by less is evaluated again without drafts.
The margin is above the most by which rounding was seen to move a lead, and several times the
largest lead that it turned (tests/benchmarks/results/rounding.json). Batches that are known to give
the same bits as single rows (`SameBits`) need no margin.
"""

FEW_ROWS = 3
"""Batches of up to so many rows may give the same bits as single rows: ggml's kernels for quantised
weights take up to three rows one by one."""

_GRAMS = (4, 2)
_LONGEST_MATCH = 16
_WINDOW = 96
"""Tokens after the place that was copied last, in which the copy is looked for again."""


@dataclass(frozen=True)
class Draft:
    """Tokens that may come next, and how many before them agreed with where they stood before.

    NEXTN where the model's own layers predicted them; ASIDE less that number where they are from
    text that is not in the prompt.
    """

    tokens: tuple[int, ...] = ()
    matched: int = 0

    def cut(self, length: int) -> Draft:
        """Its first `length` tokens."""
        return Draft(self.tokens[:length], self.matched)


NO_DRAFT = Draft()
NEXTN, ASIDE = -1, -2
_Grams = dict[tuple[int, ...], int]


class Aside:
    """Text besides the prompt, indexed once for all requests that give the same."""

    def __init__(self, tokens: tuple[int, ...] = ()) -> None:
        self.tokens = tokens
        self.after: _Grams = {}
        for at in range(len(tokens)):
            for size in _GRAMS:
                if at >= size:
                    self.after[tokens[at - size : at]] = at


NO_ASIDE = Aside()


class Lookup:
    """The tokens of one request, prompt and answer, indexed by what follows what.

    While the end repeats an earlier place, what follows that place is drafted. Where the end leaves
    it, the place is looked for again a little further on, so that a text that is written again with
    changes is drafted from the text and not from what looks like it elsewhere.

    Args:
        aside: where fewer tokens agree with a place in it, the prompt and the answer go first.
    """

    def __init__(self, tokens: Iterable[int], aside: Aside = NO_ASIDE) -> None:
        self._aside = aside
        self._first = len(aside.tokens)
        """Where the request's own tokens begin."""
        self._tokens: list[int] = [*aside.tokens]
        self._after: _Grams = {}
        self._at = -1
        """The token that follows the repeated place; -1 while nothing is repeated."""
        self._left = -1
        """Where `_at` was when the end left it; -1 where it was found again."""
        self._left_at = 0
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self._tokens) - self._first

    def extend(self, tokens: Iterable[int]) -> None:
        """Tokens have been added to the end."""
        known, after = self._tokens, self._after
        for token in tokens:
            # Grams are entered once something follows them, so the end never finds itself.
            at = len(known)
            for size in _GRAMS:
                if at - self._first >= size:
                    after[tuple(known[at - size : at])] = at
            known.append(token)
            if self._at >= 0 and known[self._at] == token:
                self._at += 1
                if self._at == self._first:  # the end of the text aside
                    self._at = self._again()
            else:
                if self._at >= 0:
                    self._left, self._left_at = self._at, at
                self._at = self._again()

    def draft(self, most: int = MOST_DRAFTED) -> Draft:
        """What followed the place that the end repeats."""
        if self._at < 0 or most < 1:
            return NO_DRAFT
        matched = self._matched(self._at)
        if self._at >= self._first:
            return Draft(tuple(self._tokens[self._at : self._at + most]), matched)
        end = min(self._at + most, self._first)
        return Draft(tuple(self._tokens[self._at : end]), ASIDE - matched)

    def _again(self) -> int:
        """What follows the end's last tokens: near the place that it left, else at the last place
        where the longest end of them stood; -1 for nothing."""
        known = self._tokens
        if self._left >= 0 and len(known) - self._left_at <= _WINDOW:
            found = self._near(self._left)
            if found >= 0:
                self._left = -1
                return found
        for size in _GRAMS:
            if len(self) < size:
                continue
            gram = tuple(known[-size:])
            at = self._after.get(gram, self._aside.after.get(gram, -1))
            if at >= 0:
                return at
        return -1

    def _near(self, left: int) -> int:
        """The first place after `left` where the last two tokens stood; -1 for none."""
        known = self._tokens
        end = (self._first if left < self._first else len(known)) - 1
        stop = min(left + _WINDOW, end)
        at = left
        while len(known) >= 2:
            try:
                at = known.index(known[-1], at + 1, stop)
            except ValueError:
                break
            if known[at - 1] == known[-2]:
                return at + 1
        return -1

    def _matched(self, at: int) -> int:
        """How many tokens before `at` are those at the end."""
        known = self._tokens
        length = 0
        most = min(at if at < self._first else at - self._first, len(self), _LONGEST_MATCH)
        while length < most and known[at - 1 - length] == known[-1 - length]:
            length += 1
        return length


class SameBits:
    """Which small batches give the very logits that their rows give one by one, as far as seen.

    That depends on the CPU, on how llama.cpp was built, on the model and on how many cells are in
    use, so it is learnt while answers are written: a row of logits is compared bit for bit with the
    same row evaluated without drafts.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], bool] = {}
        """By rows and `_scale`."""

    def known(self, rows: int, cells: int) -> bool | None:
        """Whether a batch of `rows` over `cells` gives the same bits; None before that is known."""
        return self._seen.get((rows, _scale(cells))) if rows <= FEW_ROWS else False

    def saw(self, rows: int, cells: int, *, same: bool) -> None:
        """Logits after a batch of `rows` were compared with those of the rows one by one."""
        key = rows, _scale(cells)
        self._seen[key] = same and self._seen.get(key, True)


def _scale(cells: int) -> int:
    """llama.cpp looks at cells 256 at a time, and its kernels change at powers of two."""
    return ((cells - 1) // 256).bit_length()


@dataclass
class _Chance:
    """What drafts of one kind have come to; what is long ago fades.

    Attributes:
        prior: how likely a drafted token is right, if those before it were, before any trial.
        prior_redone: how many rows have to be evaluated again for a draft, before any.
    """

    prior: float
    prior_redone: float
    hits: float = 0.0
    trials: float = 0.0
    redone: float = 0.0
    drafts: float = 0.0

    @property
    def value(self) -> float:
        return (self.hits + _PRIOR_TRIALS * self.prior) / (self.trials + _PRIOR_TRIALS)

    @property
    def redone_a_draft(self) -> float:
        return (self.redone + _PRIOR_DRAFTS * self.prior_redone) / (self.drafts + _PRIOR_DRAFTS)

    def learn(self, hits: int, trials: int) -> None:
        self.fade(_KEPT_A_TRIAL**trials)
        self.hits += hits
        self.trials += trials
        self.drafts += 1

    def fade(self, kept: float) -> None:
        self.hits *= kept
        self.trials *= kept
        self.redone *= kept
        self.drafts *= kept


_PRIOR_TRIALS = 4.0
_PRIOR_DRAFTS = 4.0
_KEPT_A_TRIAL = 0.97
_KEPT_A_PASS = 0.99
_LEAST_GAIN = 1.05
_SMOOTHING = 0.1
_FIRST_ROW_COST, _LEAST_ROW_COST = 0.35, 0.01
_FIRST_PREDICT_COST = 0.1
_FIRST_STATE_COST = 0.2
_SIZES = (2, 3, 4, 8, 16)
"""Batches of so many rows and more go through other kernels, so that a row costs something else."""


def _chances() -> dict[int, _Chance]:
    """By the least number of tokens that agreed, longest first."""
    return {
        16: _Chance(0.95, 0.1),
        8: _Chance(0.9, 0.1),
        4: _Chance(0.75, 0.3),
        0: _Chance(0.45, 0.5),
        NEXTN: _Chance(0.7, 0.3),
    }


@dataclass
class Pace:
    """How long drafts should be, for one model on one machine.

    Attributes:
        row_costs: what one more row adds to a batch, as a share of a batch of one row, by the
            largest of `_SIZES` that the batch has. A size not measured yet is taken to be like the
            next smaller one that was.
        predict_cost: what a token costs that the model's own layers predict, in the same unit.
        state_cost: the same of a checkpoint of recurrent layers.
    """

    row_costs: dict[int, float] = field(default_factory=dict)
    predict_cost: float = _FIRST_PREDICT_COST
    state_cost: float = _FIRST_STATE_COST
    _one_s: float = 0.0
    _aside: dict[int, _Chance] = field(default_factory=_chances)
    _chances: dict[int, _Chance] = field(default_factory=_chances)

    def length(self, draft: Draft, free: int = MOST_DRAFTED, by_checkpoint: bool = False) -> int:
        """How much of a draft to evaluate: as much as brings most tokens a second; may be 0.

        Args:
            free: after a longer draft, rows without a sure lead have to be evaluated again.
            by_checkpoint: each draft takes a checkpoint, and after one that is not all right, what
                was right of it is evaluated again, with the next token.
        """
        chance = self._chance(draft.matched)
        predict_cost = self.predict_cost if draft.matched == NEXTN else 0.0
        best, best_gain = 0, _LEAST_GAIN
        for length in range(1, len(draft.tokens) + 1):
            cost = self._cost(length + 1) + predict_cost * length
            if length > free:
                cost += chance.redone_a_draft
            if by_checkpoint:
                wrong = 1.0 - chance.value**length
                cost += self.state_cost + wrong * (self._cost(length + 1) - 1.0)
            gain = expected(chance.value, length) / cost
            if gain > best_gain:
                best, best_gain = length, gain
        if draft.tokens and not best:
            chance.fade(_KEPT_A_PASS)  # so that it is tried again some day
        return best

    def _cost(self, rows: int) -> float:
        """A batch of so many rows, as a share of one of a single row."""
        costs = [self.row_costs[size] for size in _SIZES if size <= rows and size in self.row_costs]
        return 1.0 + (costs[-1] if costs else _FIRST_ROW_COST) * (rows - 1)

    def learn(self, draft: Draft, came_true: int) -> None:
        """Of a draft that was evaluated as it is, so many tokens came true."""
        trials = min(came_true + 1, len(draft.tokens))
        self._chance(draft.matched).learn(came_true, trials)

    def redid(self, matched: Sequence[int], rows: int) -> None:
        """Without a sure lead after drafts, so many rows were evaluated again, one by one.

        Args:
            matched: of each of those drafts.
        """
        for one in matched:
            self._chance(one).redone += rows / len(matched)

    def took(self, rows: int, took_s: float) -> None:
        """A batch that only decodes has taken so long."""
        if rows == 1:
            self._one_s = _near(self._one_s, took_s)
        elif self._one_s:
            size = max(size for size in _SIZES if size <= rows)
            cost = max((took_s / self._one_s - 1.0) / (rows - 1), _LEAST_ROW_COST)
            self.row_costs[size] = _near(self.row_costs.get(size, 0.0), cost)

    def predicted(self, tokens: int, took_s: float) -> None:
        """So many tokens were predicted by the model's own layers."""
        if tokens and self._one_s:
            self.predict_cost = _near(self.predict_cost, took_s / self._one_s / tokens)

    def kept_state(self, took_s: float) -> None:
        """A checkpoint was taken."""
        if self._one_s:
            self.state_cost = _near(self.state_cost, took_s / self._one_s)

    def _chance(self, matched: int) -> _Chance:
        known, agreed = self._chances, matched
        if matched <= ASIDE:
            known, agreed = self._aside, ASIDE - matched
        return next(chance for least, chance in known.items() if agreed >= least)


def expected(chance: float, length: int) -> float:
    """Tokens that a batch brings on average: its own one, and the drafted ones up to the first that
    is wrong."""
    return length + 1.0 if chance >= 1.0 else (1.0 - chance ** (length + 1)) / (1.0 - chance)


@dataclass(frozen=True)
class Verified:
    """What a batch with a draft in it has brought.

    Attributes:
        tokens: what the model says next; one at least, unless `again`.
        again: the row after them leads by too little to be believed.
    """

    tokens: tuple[int, ...]
    again: bool = False


def verify(
    draft: Sequence[int], rows: Iterable[tuple[int, float]], margin: float | None = None
) -> Verified:
    """Compare a draft with what the model says.

    Args:
        margin: a row whose best token leads by less is not believed; `SURE_MARGIN` by default.
        rows: row by row its best token and by how much that leads, one row more than drafted
            tokens; only asked for as far as they count.
    """
    said: list[int] = []
    least = SURE_MARGIN if margin is None else margin
    for at, (token, lead) in enumerate(rows):
        if lead < least:
            return Verified(tuple(said), again=True)
        said.append(token)
        if at == len(draft) or token != draft[at]:
            break
    return Verified(tuple(said))


def _near(old: float, new: float) -> float:
    """A moving average that a single hiccup of the machine does not carry away."""
    if not old:
        return new
    new = min(max(new, old / 3), old * 3)
    return old + _SMOOTHING * (new - old)
