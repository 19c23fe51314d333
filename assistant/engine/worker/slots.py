"""The sequences of one context, with the tokens that each holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from assistant.engine.types import SlotState
from assistant.engine.worker import scheduler
from assistant.llama import CHECKPOINT_BYTES, MOST_CHECKPOINTS
from assistant.llama.context import Context


@dataclass
class Slot:
    """One sequence. `tokens` are those whose cells are in the cache, in order."""

    number: int
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used_at: int = 0
    document: str = ""


_BACK = (1024, 256, 64, 16)
"""Tokens before the end of a prompt where a recurrent model keeps more checkpoints: the last tokens
change when typed text joins the token before it, and when words, lines or blocks are deleted."""

_STRIDE = 512
"""Tokens of a prompt from one checkpoint to the next behind a sliding window. The cells of its
window are kept for about a batch (n_ubatch) longer than they are needed, so that shorter ways back
need no checkpoint."""

_LONG_ANSWER = 128
"""A longer answer may push the window of the prompt's end out of the cache."""


@dataclass(frozen=True)
class _Checkpoint:
    """The state of a slot's sequence when it held its first `length` tokens."""

    slot: int
    length: int
    state: bytes


class Slots:
    """Keeps the book of the cache: who holds what, what may be cut, what has to go.

    A sequence may be cut anywhere, with two exceptions, which can be cut to a checkpoint of their
    state. Recurrent and hybrid models have no history but a few states (`Context.n_rs_seq`). Layers
    with a sliding window lose old cells, also in a cache of full length once it has been filled: a
    cut needs the window before it.

    Attributes:
        recurrent: sequences can be extended, and cut a few tokens from their end at most.
        dropped: how many idle sequences were forgotten because others needed their cells.

    Args:
        window: tokens of a sliding window; 0 without one.
        most_checkpoint_bytes: what all checkpoints may take; the ones used last are kept.
    """

    def __init__(
        self,
        context: Context,
        *,
        recurrent: bool = False,
        window: int = 0,
        most_checkpoint_bytes: int = CHECKPOINT_BYTES,
    ) -> None:
        self.context = context
        self.recurrent = recurrent
        self._window = window
        self._most_checkpoint_bytes = most_checkpoint_bytes
        self._slots = [Slot(number) for number in range(context.n_sequences)]
        self._clock = 0
        self._checkpoints: list[_Checkpoint] = []  # the one used last comes last
        self.dropped = 0

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    @property
    def cells_used(self) -> int:
        """Tokens held by all sequences; shared ones are counted for each."""
        return sum(len(slot.tokens) for slot in self._slots)

    def states(self) -> tuple[SlotState, ...]:
        return tuple(
            SlotState(
                id=slot.number, tokens=len(slot.tokens), busy=slot.busy, document=slot.document
            )
            for slot in self._slots
        )

    def take(
        self, prompt: Sequence[int], room: int, document: str, *, reuse: bool = True
    ) -> tuple[Slot, int] | None:
        """A slot that holds the start of `prompt`, and how much; None while all are busy.

        Without `reuse` nothing that is cached is used: the slot is empty.

        Idle sequences are forgotten, oldest first, until `room` more cells are free.
        """
        prompt = list(prompt)
        views = [
            scheduler.SlotView(
                slot.number,
                slot.tokens,
                slot.busy,
                slot.used_at,
                self._lengths(slot),
                self._shortest(slot),
            )
            for slot in self._slots
        ]
        placed = scheduler.place(views, prompt, shares=not self.recurrent)
        if placed is None:
            return None
        slot, kept = self._slots[placed.slot], placed.kept
        slot.busy = True
        if placed.source is not None:
            self.clear(slot)
            self.context.share(placed.source, slot.number, kept)
            slot.tokens = prompt[:kept]
        else:
            kept = self.cut(slot, kept)
        if not reuse:
            self.clear(slot)
            kept = 0
        self._clock += 1
        slot.used_at, slot.document = self._clock, document
        while self.cells_used + len(prompt) - kept + room > self.context.n_cells and self.evict():
            pass
        return slot, kept

    def branch(self, slot: Slot) -> Slot | None:
        """An idle slot that holds the same tokens from now on, copied, not evaluated.

        It is the one used longest ago, and takes over `slot`'s work; None while all are busy.
        """
        idle = [other for other in self._slots if not other.busy]
        if not idle:
            return None
        other = min(idle, key=lambda one: (bool(one.tokens), one.used_at))
        self.clear(other)
        self.context.share(slot.number, other.number)
        other.tokens, other.document = [*slot.tokens], slot.document
        self._clock += 1
        other.used_at, other.busy, slot.busy = self._clock, True, False
        return other

    def cut(self, slot: Slot, length: int) -> int:
        """Keep the first `length` tokens, and forget cells that a failed step has left behind them.

        Returns:
            How many tokens are kept: fewer where the sequence cannot be cut there.
        """
        if length == len(slot.tokens) and self.context.ends_before(slot.number, length):
            return length
        if length >= max(self._shortest(slot), 1) and self.context.forget(slot.number, length):
            del slot.tokens[length:]
            self._drop_checkpoints(slot, length)
            return length
        return self._rewind(slot, length)

    def _shortest(self, slot: Slot) -> int:
        """The least length, above 0, that the sequence can be cut to without a checkpoint."""
        if self.recurrent:
            return len(slot.tokens) - self.context.undoable(slot.number)
        first = self.context.first(slot.number) if self._window else 0
        # The token after a cut at `length` sees the positions after `length - window`.
        return first + self._window - 1 if first > 0 else 0

    def clear(self, slot: Slot) -> None:
        self.context.forget(slot.number)
        slot.tokens = []
        self._drop_checkpoints(slot, 0)

    # Checkpoints, of sequences that cannot be cut anywhere.

    def checkpoint(self, slot: Slot, *, only: bool = False, beside: int = -1) -> bool:
        """Keep the state that the slot's sequence has now.

        Args:
            only: in place of the slot's other checkpoints, but the one of `beside` tokens.

        Returns:
            False where there is none, or it is too large.
        """
        length = len(slot.tokens)
        if only:
            self._checkpoints = [
                one
                for one in self._checkpoints
                if one.slot != slot.number or one.length in {beside, length}
            ]
        known = [
            one for one in self._checkpoints if (one.slot, one.length) == (slot.number, length)
        ]
        if known:
            self._checkpoints.remove(known[0])
            self._checkpoints.append(known[0])
            return True
        most = self._most_checkpoint_bytes
        if not length or self.context.checkpoint_bytes(slot.number) > most:
            return False
        state = self.context.checkpoint(slot.number)
        if not state:
            return False
        self._checkpoints.append(_Checkpoint(slot.number, length, state))
        held = sum(len(one.state) for one in self._checkpoints)
        while len(self._checkpoints) > MOST_CHECKPOINTS or held > most:
            needless = self._least_needed()
            self._checkpoints.remove(needless)
            held -= len(needless.state)
        return any(one.slot == slot.number and one.length == length for one in self._checkpoints)

    def drop_checkpoints(self, slot: Slot) -> None:
        """Forget all of the slot's: those of drafts, when the answer has ended."""
        self._drop_checkpoints(slot, 0)

    def _least_needed(self) -> _Checkpoint:
        """The checkpoint that is missed least: of the slot with the most of them, the one whose
        neighbours are closest together for how far back they are. What remains is dense at the end
        of the text, where it changes, and sparse before."""
        slots = [one.slot for one in self._checkpoints]
        most = max(map(slots.count, slots))
        slot = next(number for number in slots if slots.count(number) == most)
        own = sorted(
            (one for one in self._checkpoints if one.slot == slot), key=lambda one: one.length
        )
        end = max(len(self._slots[slot].tokens), own[-1].length) + 1
        lengths = [0, *(one.length for one in own), end]

        def missed(at: int) -> float:
            before, after = lengths[at], lengths[at + 2]
            return (after - before) / (end - before)

        return own[min(range(len(own)), key=missed)]

    def before_prompt(self, slot: Slot) -> None:
        """Keep a checkpoint, where one is due, before more tokens of a prompt are evaluated."""
        length = len(slot.tokens)
        stride = max(self._window, _STRIDE)
        if self._window and length - max(self._lengths(slot), default=0) >= stride:
            self.checkpoint(slot)

    def before_answer(self, slot: Slot, most_tokens: int) -> None:
        """The same before an answer of so many tokens at most follows the prompt."""
        if self._window and most_tokens > _LONG_ANSWER:
            self.checkpoint(slot)

    def to_checkpoint(self, slot: Slot, count: int) -> int:
        """How many of the next `count` tokens to evaluate before a checkpoint, which is taken
        when they are; all of them where none is due. For recurrent models."""
        for back in _BACK:
            if count > back:
                return count - back
            if count == back:
                self.checkpoint(slot)
        if not self._lengths(slot):
            self.checkpoint(slot)
        return count

    def _lengths(self, slot: Slot) -> list[int]:
        return [one.length for one in self._checkpoints if one.slot == slot.number]

    def _rewind(self, slot: Slot, length: int) -> int:
        """Go back to the last checkpoint of the first `length` tokens; returns the tokens kept."""
        fitting = [
            one for one in self._checkpoints if one.slot == slot.number and one.length <= length
        ]
        last = max(fitting, key=lambda one: one.length, default=None)
        if last is None or not self.context.rewind(slot.number, last.state, last.length):
            self.clear(slot)
            return 0
        del slot.tokens[last.length :]
        self._drop_checkpoints(slot, last.length)
        return last.length

    def _drop_checkpoints(self, slot: Slot, length: int) -> None:
        """Forget the slot's checkpoints of more than `length` tokens."""
        self._checkpoints = [
            one for one in self._checkpoints if one.slot != slot.number or one.length <= length
        ]

    def evict(self) -> bool:
        """Forget the idle sequence that was used longest ago; False where there is none."""
        idle = [slot for slot in self._slots if slot.tokens and not slot.busy]
        if not idle:
            return False
        self.clear(min(idle, key=lambda slot: slot.used_at))
        self.dropped += 1
        return True

    def saved(self, most_bytes: int) -> list[tuple[tuple[int, ...], bytes]]:
        """Tokens and state of the sequences that were used last, as many as fit `most_bytes`."""
        found = []
        for slot in sorted(self._slots, key=lambda slot: -slot.used_at):
            state = self.context.save(slot.number) if slot.tokens else b""
            if state and len(state) <= most_bytes:
                most_bytes -= len(state)
                found.append((tuple(slot.tokens), state))
        return found

    def restore(self, sequences: Iterable[tuple[Sequence[int], bytes]]) -> None:
        """Put saved sequences into the slots in turn, as far as there is room."""
        for slot, (tokens, state) in zip(self._slots, sequences, strict=False):
            fits = self.cells_used + len(tokens) < self.context.n_cells
            if fits and self.context.restore(slot.number, state):
                slot.tokens = list(tokens)

    def drop_idle(self) -> int:
        """Forget every idle sequence; returns the cells that were theirs."""
        before, dropped = self.cells_used, self.dropped
        while self.evict():
            pass
        self.dropped = dropped  # nobody needed their cells
        return before - self.cells_used
