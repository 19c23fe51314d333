"""The sequences of one context, with the tokens that each holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from assistant.engine.types import SlotState
from assistant.engine.worker import scheduler
from assistant.llama.context import Context


@dataclass
class Slot:
    """One sequence. `tokens` are those whose cells are in the cache, in order."""

    number: int
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used_at: int = 0
    document: str = ""


_MOST_CHECKPOINTS = 16
_CHECKPOINT_BYTES = 64 * 2**20
_BACK = 16
"""Tokens before the end of a prompt where one more checkpoint is kept: the last tokens change when
text is deleted, or when typed text joins the token before it."""


@dataclass(frozen=True)
class _Checkpoint:
    """The state of a slot's sequence when it held its first `length` tokens."""

    slot: int
    length: int
    state: bytes


class Slots:
    """Keeps the book of the cache: who holds what, what may be cut, what has to go.

    Attributes:
        dropped: how many idle sequences were forgotten because others needed their cells.

    Args:
        partial: sequences may be cut anywhere (False for recurrent and hybrid models, and behind
            a sliding window that does not keep its whole length). Such sequences can be cut to
            a checkpoint of their state; at most `_CHECKPOINT_BYTES` of those are kept, the ones
            used last.
    """

    def __init__(self, context: Context, *, partial: bool) -> None:
        self.context = context
        self.partial = partial
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
                slot.number, slot.tokens, slot.busy, slot.used_at, self._lengths(slot)
            )
            for slot in self._slots
        ]
        placed = scheduler.place(views, prompt, partial=self.partial)
        if placed is None:
            return None
        slot, kept = self._slots[placed.slot], placed.kept
        slot.busy = True
        if placed.source is not None:
            self.clear(slot)
            self.context.share(placed.source, slot.number, kept)
            slot.tokens = prompt[:kept]
        elif not self.cut(slot, kept):
            kept = 0
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

    def cut(self, slot: Slot, length: int) -> bool:
        """Keep the first `length` tokens; False, with nothing kept, where that cannot be done."""
        if length == len(slot.tokens):
            return True
        if length and not self.partial:
            return self._rewind(slot, length) == length
        if length and self.context.forget(slot.number, length):
            del slot.tokens[length:]
            return True
        self.clear(slot)
        return not length

    def cut_after(self, slot: Slot, length: int) -> int:
        """Forget cells past the first `length` tokens, which a step that failed has left behind.

        Returns:
            How many tokens are kept: fewer where the sequence cannot be cut there.
        """
        if self.context.forget(slot.number, length):
            return length
        return self._rewind(slot, length)

    def clear(self, slot: Slot) -> None:
        self.context.forget(slot.number)
        slot.tokens = []
        self._drop_checkpoints(slot, 0)

    # Checkpoints, of sequences that cannot be cut anywhere.

    def checkpoint(self, slot: Slot) -> None:
        """Keep the state that the slot's sequence has now, if it is small enough."""
        length = len(slot.tokens)
        known = [
            one for one in self._checkpoints if (one.slot, one.length) == (slot.number, length)
        ]
        if known:
            self._checkpoints.remove(known[0])
            self._checkpoints.append(known[0])
            return
        if not length or self.context.checkpoint_bytes(slot.number) > _CHECKPOINT_BYTES:
            return
        state = self.context.checkpoint(slot.number)
        if not state:
            return
        self._checkpoints.append(_Checkpoint(slot.number, length, state))
        held = sum(len(one.state) for one in self._checkpoints)
        while len(self._checkpoints) > _MOST_CHECKPOINTS or held > _CHECKPOINT_BYTES:
            held -= len(self._checkpoints.pop(0).state)

    def to_checkpoint(self, slot: Slot, count: int) -> int:
        """How many of the next `count` tokens to evaluate before a checkpoint, which is taken
        when they are; all of them where none is due."""
        before = count - _BACK
        if before > 0:
            return before
        if before == 0 or not self._lengths(slot):
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
