"""The bounded queue at the daemon's door, shared out among those who stand in it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager

from assistant.errors import OverloadedError


class Admission:
    """Counts the requests inside and refuses those past the limit.

    Order and preemption are the engine's business; here only the number is bounded, so that no
    flood can fill the memory. A client may hold no more places than are still free, as switches
    share out a buffer (dynamic thresholds: Choudhury and Hahne, 1998): alone it gets half of them,
    and the next one still finds space, however greedy those before were.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside = 0
        self.refused = 0
        self._held: Counter[str] = Counter()

    @property
    def clients(self) -> int:
        """How many have a request inside."""
        return len(self._held)

    @contextmanager
    def admit(self, client: str = "") -> Iterator[None]:
        """Hold a place while the request is served.

        Args:
            client: who asks; all that do not say so are one.

        Raises:
            OverloadedError: all places are taken, or this client's share of them.
        """
        free, held = self.most - self.inside, self._held.get(client, 0)
        if free <= 0 or held >= max(free, 1):
            self.refused += 1
            raise OverloadedError(
                f"{self.inside} requests wait already, {held} of them yours",
                advice="Try again in a second",
            )
        self.inside += 1
        self._held[client] += 1
        try:
            yield
        finally:
            self.inside -= 1
            self._held[client] -= 1
            self._held = +self._held  # forgets who holds nothing


class Turns:
    """Lets each of many do a few things at a time; what is more waits in order."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._gates: dict[Hashable, asyncio.Semaphore] = {}
        self._using: Counter[Hashable] = Counter()

    @property
    def known(self) -> int:
        """How many are doing or waiting."""
        return len(self._gates)

    @asynccontextmanager
    async def turn(self, who: Hashable) -> AsyncIterator[None]:
        """Wait for a turn of `who`, and have it for the block."""
        gate = self._gates.setdefault(who, asyncio.Semaphore(self._at_once))
        self._using[who] += 1
        try:
            async with gate:
                yield
        finally:
            self._using[who] -= 1
            if not self._using[who]:
                del self._using[who], self._gates[who]


class Intake:
    """Bounds the bytes of all request bodies that are held at once, from the first one on."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0

    def hold(self) -> Held:
        return Held(self)


class Held:
    """What one request holds of an intake."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._bytes = 0

    def add(self, count: int) -> None:
        """Raises OverloadedError where all requests together would hold too much."""
        if self._intake.held_bytes + count > self._intake.most_bytes:
            raise OverloadedError("too much is being sent at once", advice="Try again in a second")
        self._bytes += count
        self._intake.held_bytes += count

    def release(self) -> None:
        """Safe to call twice."""
        self._intake.held_bytes -= self._bytes
        self._bytes = 0
