"""Who is being answered: one answer a document, and ghost text before everything else.

A remote server has a queue of its own, but not our order. So what nobody waits for gives way here,
before it takes a place there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from assistant.engine.types import GenerateRequest, Priority


@dataclass(eq=False)
class Lane:
    """One request in flight. `left` is set when it is to end."""

    request: GenerateRequest
    left: asyncio.Event = field(default_factory=asyncio.Event)


class Lanes:
    """The requests in flight at one server.

    Attributes:
        parallel: how many the server answers at once; 0 where nobody knows.
    """

    def __init__(self, parallel: int = 0) -> None:
        self.parallel = parallel
        self._lanes: list[Lane] = []

    def __len__(self) -> int:
        return len(self._lanes)

    @contextmanager
    def enter(self, request: GenerateRequest) -> Iterator[Lane]:
        """Take a lane; what must give way to the request is told to leave."""
        lane = Lane(request)
        for other in self._giving_way(request):
            other.left.set()
        self._lanes.append(lane)
        try:
            yield lane
        finally:
            self._lanes.remove(lane)

    def _giving_way(self, request: GenerateRequest) -> list[Lane]:
        same = [
            lane
            for lane in self._lanes
            if request.document and lane.request.document == request.document
        ]
        full = bool(self.parallel) and len(self._lanes) - len(same) >= self.parallel
        if request.priority is Priority.BACKGROUND or not full:
            return same
        idle = [lane for lane in self._lanes if lane.request.priority is Priority.BACKGROUND]
        return [*same, *(lane for lane in idle if lane not in same)]
