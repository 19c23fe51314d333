"""The contract that every engine keeps, local or remote.

Implementations: the llama worker (`assistant.engine.worker`), remote servers, and `FakeEngine`
for tests. All raise only `assistant.errors.EngineError` and its children.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from assistant.engine.types import Delta, Done, EngineStats, GenerateRequest, LoadSpec, ModelInfo

Progress = Callable[[float], None]
"""Called with the loaded share, 0 to 1, as a model loads."""


class Engine(Protocol):
    """A model that answers."""

    async def load(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        """Load (or reload) a model. Cancelling the awaiting task cancels the load.

        Raises:
            LoadError: the file is not loadable or memory was refused.
            WorkerDiedError: the process died while it loaded.
        """
        ...

    async def describe(self) -> ModelInfo:
        """What is served now. Raises LoadError where nothing is loaded."""
        ...

    async def tokenise(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`, without BOS. `special` reads control tokens written in the text."""
        ...

    async def detokenise(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`, control tokens rendered; invalid UTF-8 becomes U+FFFD."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        """Stream the answer; the last item is a Done. Closing the iterator cancels the request."""
        ...

    async def stats(self) -> EngineStats: ...

    async def close(self) -> None:
        """End the engine and give its memory back. Safe to call twice."""
        ...


class ElasticEngine(Engine, Protocol):
    """An engine that can give memory back while it serves."""

    async def drop_idle(self) -> int:
        """Forget every sequence that no request is using. Returns the freed cells."""
        ...

    async def touch(self) -> int:
        """Keep the model's pages in host memory by reading a byte of each; returns how many.

        Stops early for anything that is asked meanwhile.
        """
        ...

    async def reshape(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        """Go over to `spec`, which may differ in anything.

        Requests in flight wait and go on; sequences are carried over where they fit and the
        cache types stay the same, and are evaluated again where not.

        Raises:
            LoadError: the new shape was refused; nothing is loaded then.
            WorkerDiedError: the process died over it.
        """
        ...

    async def unload(self) -> None:
        """Give all memory back. Requests raise LoadError until `load` or `reshape`."""
        ...
