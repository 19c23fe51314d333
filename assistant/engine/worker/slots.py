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


class Slots:
    """Keeps the book of the cache: who holds what, what may be cut, what has to go.

    Attributes:
        dropped: how many idle sequences were forgotten because others needed their cells.

    Args:
        partial: sequences may be cut anywhere (False for recurrent and hybrid models, and behind
            a sliding window that does not keep its whole length).
    """

    def __init__(self, context: Context, *, partial: bool) -> None:
        self.context = context
        self.partial = partial
        self._slots = [Slot(number) for number in range(context.n_sequences)]
        self._clock = 0
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
            scheduler.SlotView(slot.number, slot.tokens, slot.busy, slot.used_at)
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
        if length and self.context.forget(slot.number, length):
            del slot.tokens[length:]
            return True
        self.clear(slot)
        return not length

    def cut_after(self, slot: Slot, length: int) -> bool:
        """Forget cells past the first `length` tokens, which a step that failed has left behind.

        False, with nothing kept, where that cannot be done.
        """
        if self.context.forget(slot.number, length):
            return True
        self.clear(slot)
        return not length

    def clear(self, slot: Slot) -> None:
        self.context.forget(slot.number)
        slot.tokens = []

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
