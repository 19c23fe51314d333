"""A language-server session without an editor and without a daemon: both are played by the test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from assistant.engine.types import ModelInfo, Priority, StopReason, Timings
from assistant.errors import DaemonError, UnderkeelError
from assistant.settings import CompletionSettings
from assistant.wire import BudgetNow, CompletionChunk, CompletionRequest, Props, Status
from lsp.backend import Backend, Client
from lsp.completion.prefetch import Machine, Watch
from lsp.completion.session import Edit, Session
from lsp.completion.suggestion import Item
from lsp.editor import Severity

URI = "file:///work.py"
CURSOR = "\u2038"


@dataclass
class PlayedEditor:
    """Remembers its messages."""

    messages: list[tuple[Severity, str]] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)

    def message(self, severity: Severity, text: str) -> None:
        self.messages.append((severity, text))

    def loading(self, stage: str, share: float) -> None:  # noqa: ARG002
        self.stages.append(stage)

    def loaded(self) -> None:
        self.stages.append("loaded")

    def serving(self, *, busy: bool, **facts: Any) -> None:
        self.facts.append({"busy": busy, **facts})


Reply = Callable[[CompletionRequest], str]


@dataclass
class PlayedClient:
    """A daemon client that answers `reply(request)`, a character a chunk.

    Attributes:
        model: whose vocabulary prompts are written in.
        requests, warmed: what was asked for; `warmed_as`: how urgent that was.
        closed: how many answers were given up before their end, `unwarmed` how many warm-ups.
        failures: raised by the next calls of `complete`, `refusals` by those of `wait_ready`.
        heals: answers begin with what they have to begin with.
        health: what it says of itself; None for nothing.
        gate: cleared, it holds every answer before its next character.
        pauses_after: characters after which the gate is cleared.
        breaks: raised instead of the end of the next answer.
        asked: set by every question.
    """

    model: Path
    reply: Reply = lambda _: "pass"
    requests: list[CompletionRequest] = field(default_factory=list)
    warmed: list[tuple[int, ...]] = field(default_factory=list)
    warmed_as: list[Priority] = field(default_factory=list)
    connections: int = 0
    closed: int = 0
    unwarmed: int = 0
    failures: list[UnderkeelError] = field(default_factory=list)
    refusals: list[UnderkeelError] = field(default_factory=list)
    budget: BudgetNow | None = None
    heals: bool = True
    health: Status | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    pauses_after: str = ""
    breaks: UnderkeelError | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    async def wait_ready(
        self, on_progress: Callable[[str, float], None] | None = None
    ) -> ModelInfo:
        self.connections += 1
        if self.refusals:
            raise self.refusals.pop(0)
        if on_progress is not None:
            on_progress("loading the model", 0.5)
        await asyncio.sleep(0)
        return ModelInfo(name="played", path=str(self.model), n_ctx=8192)

    async def props(self) -> Props:
        return Props(model=await self.wait_ready(), budget=self.budget)

    async def status(self) -> Status:
        if self.health is None:
            raise DaemonError("this daemon tells nothing of itself")
        return self.health

    async def complete(self, request: CompletionRequest) -> AsyncGenerator[CompletionChunk, None]:
        self.requests.append(request)
        self.asked.set()
        if self.failures:
            raise self.failures.pop(0)
        text = self.reply(request)
        if self.heals and not text.startswith(request.must_start_with):
            text = request.must_start_with + text
        ended = False
        try:
            for character in text:
                await self.gate.wait()
                await asyncio.sleep(0)
                if character in self.pauses_after:
                    self.gate.clear()
                yield CompletionChunk(content=character)
            ended = True
            if self.breaks is not None:
                raise self.breaks
            yield CompletionChunk(
                content="",
                stop=True,
                stop_reason=StopReason.EOS,
                timings=Timings(),
                budget=self.budget,
            )
        finally:
            self.closed += not ended

    async def warm(
        self,
        prompt: tuple[int, ...],
        document: str = "",  # noqa: ARG002
        priority: Priority = Priority.BACKGROUND,
        *,
        budget_tokens: int = 0,
        prompt_model: str = "",
    ) -> Timings:
        assert 0 < len(prompt) <= budget_tokens and prompt_model
        self.warmed.append(prompt)
        self.warmed_as.append(priority)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.unwarmed += 1
            raise
        return Timings()

    async def aclose(self) -> None:
        pass


def ids_of(prompt: str | Sequence[int | str]) -> list[int]:
    """The token ids of a prompt that has nothing but ids."""
    ids = [part for part in prompt if isinstance(part, int)]
    assert len(ids) == len(prompt), "a part of the prompt is text"
    return ids


class Editing:
    """One document in a session, edited at a cursor as a person would.

    Attributes:
        line, column: the cursor, in characters.
        machine: what the session sees of the machine.
    """

    def __init__(
        self,
        client: PlayedClient,
        text: str,
        language: str = "python",
        *,
        ahead: bool = False,
        roots: Iterable[Path] = (),
    ) -> None:
        self.client = client
        self.editor = PlayedEditor()
        self.machine = Machine(load=0.0, on_battery=False)
        watch = Watch(lambda: self.machine, itertools.count(0, 1000).__next__)
        self.session = Session(Backend(self.editor, lambda: cast("Client", client)), watch=watch)
        self.session.configure(CompletionSettings(debounce_ms=0, ahead=ahead), roots)
        before, _, after = text.partition(CURSOR)
        self.version = 1
        self.session.open(URI, before + after, self.version, language)
        self.line = before.count("\n")
        self.column = len(before.rpartition("\n")[2])

    @property
    def text(self) -> str:
        document = self.session.document(URI)
        assert document is not None
        return document.text

    def type(self, text: str) -> None:
        """Put `text` at the cursor, without a line end."""
        here = (self.line, self.column)
        self.version += 1
        self.session.change(URI, self.version, [Edit(text, here, here)])
        self.column += len(text)

    def backspace(self, count: int = 1) -> None:
        here = (self.line, self.column)
        self.version += 1
        start = (self.line, self.column - count)
        self.session.change(URI, self.version, [Edit("", start, here)])
        self.column -= count

    async def ask(self, *, invoked: bool = False) -> list[Item]:
        return await self.session.suggest(URI, (self.line, self.column), invoked=invoked)

    async def texts(self, *, invoked: bool = False) -> list[str]:
        return [item.text for item in await self.ask(invoked=invoked)]
