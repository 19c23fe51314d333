"""The bounded queue at the daemon's door."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from assistant.errors import OverloadedError


class Admission:
    """Counts the requests inside and refuses those past the limit.

    Order and preemption are the engine's business; here only the number is bounded, so that no
    flood can fill the memory.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside = 0
        self.refused = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Hold a place while the request is served.

        Raises:
            OverloadedError: all places are taken.
        """
        if self.inside >= self.most:
            self.refused += 1
            raise OverloadedError(
                f"{self.inside} requests wait already", advice="Try again in a second"
            )
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
