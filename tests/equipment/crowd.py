"""Many editors at once on one daemon: each a real language server with documents of its own."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from assistant.cli.language_client import LanguageClient, language_server

ROOT = Path(__file__).resolve().parents[2]

_WORDS = ("harbour", "tide", "berth", "vessel", "pilot", "quay", "anchor", "signal")


@dataclass
class Editor:
    """One editor and the person at it, who goes from document to document.

    Attributes:
        waits_s: how long each request took to be answered.
        shown: answers that held a suggestion.
        answered_at_s: when the last request was answered, on the monotonic clock.
    """

    number: int
    client: LanguageClient
    documents: list[Document] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    shown: int = 0
    answered_at_s: float = 0.0

    async def open(self, count: int) -> None:
        """Shake hands and open so many documents."""
        await self.client.initialise()
        for index in range(count):
            word = _WORDS[(self.number + index) % len(_WORDS)]
            text = f'"""Module {self.number}.{index} of the {word} office."""\n\n' + "".join(
                f"def {word}_{n}(place, when):\n    return place + when * {n}\n\n\n"
                for n in range(8)
            )
            document = Document(f"file:///crowd/{self.number}/{index}_{word}.py", text)
            self.client.open(document.uri, text, "python")
            self.documents.append(document)

    async def work(self, until_s: float, *, think_s: float = 0.0, most: int = 0) -> None:
        """Type a little and wait for a suggestion, again and again.

        Args:
            until_s: when to go home, on the monotonic clock.
            think_s: how long to look at each, about.
            most: so many suggestions at the most; 0 for no limit.
        """
        chance = random.Random(self.number)
        while time.monotonic() < until_s and not (most and len(self.waits_s) >= most):
            document = self.documents[len(self.waits_s) % len(self.documents)]
            document.type(self.client, f"def {chance.choice(_WORDS)}_")
            started_s = time.monotonic()
            items = await self.client.complete(document.uri, document.row, document.column)
            self.answered_at_s = time.monotonic()
            self.waits_s.append(self.answered_at_s - started_s)
            self.shown += bool(items)
            document.type(self.client, f"x{len(self.waits_s)}():\n    pass\n\n\n")
            await asyncio.sleep(think_s * chance.uniform(0.5, 1.5))


@dataclass
class Document:
    """An open document, with the cursor at its end."""

    uri: str
    text: str
    version: int = 1

    @property
    def row(self) -> int:
        return self.text.count("\n")

    @property
    def column(self) -> int:
        return len(self.text) - self.text.rfind("\n") - 1

    def type(self, client: LanguageClient, text: str) -> None:
        """Add text at the end, as one change."""
        here = {"line": self.row, "character": self.column}
        change = {"range": {"start": here, "end": here}, "text": text}
        self.version += 1
        self.text += text
        client.notify(
            "textDocument/didChange",
            {
                "textDocument": {"uri": self.uri, "version": self.version},
                "contentChanges": [change],
            },
        )


@asynccontextmanager
async def crowd(editors: int, documents: int) -> AsyncIterator[list[Editor]]:
    """So many editors with so many documents each, all open."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    async with AsyncExitStack() as stack:
        found = []
        for number in range(editors):
            client = await stack.enter_async_context(language_server(env=environment))
            found.append(Editor(number, client))
        await asyncio.gather(*(editor.open(documents) for editor in found))
        yield found


def fairness(counts: Sequence[int]) -> float:
    """Jain's index: 1 where all have the same, 1/n where one has everything."""
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 0.0
