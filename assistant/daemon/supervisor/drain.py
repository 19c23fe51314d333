"""A gate that many pass at once, and that is closed while nobody is inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Lets requests through to an engine. One event loop."""

    def __init__(self) -> None:
        self._open, self._calm = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._calm.set()
        self._inside = 0

    async def opened(self) -> None:
        """Wait until it is not closed."""
        await self._open.wait()

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Inside; whoever closes the gate waits for the end of it."""
        self._inside += 1
        self._calm.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._calm.set()

    @asynccontextmanager
    async def drained(self) -> AsyncIterator[None]:
        """Nobody is inside, and who comes waits."""
        self._open.clear()
        try:
            await self._calm.wait()
            yield
        finally:
            self._open.set()
