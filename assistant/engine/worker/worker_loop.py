"""The worker's end of the frames: commands in on one pipe, reports out on the other.

A reader thread takes frames in, so that a cancellation reaches a computation that runs; the main
thread computes. When the commands end the daemon is gone, and so is the worker.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import BinaryIO, Generic, Protocol, TypeVar

from assistant.engine import ipc
from assistant.engine.types import Delta, Done, EngineStats, GenerateRequest
from assistant.errors import FrameError, LoadError, UnderkeelError

BEAT_S = 1.0
"""A worker that computes sends a sign of life this often; one that waits owes nothing."""


class Runs(Protocol):
    """What answers requests with one loaded model."""

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""
        ...

    def add(self, request: GenerateRequest) -> None:
        """Take a request in; its events follow from `step`."""
        ...

    def cancel(self, request_id: str) -> None:
        """End a request with what there is. Called by the reader thread too."""
        ...

    def step(self) -> None:
        """One piece of work; short, for commands wait meanwhile."""
        ...

    def stats(self) -> EngineStats: ...


R = TypeVar("R", bound=Runs)


class WorkerLoop(ABC, Generic[R]):
    """Executes commands until its input ends. How a model is loaded, and what only its library can
    do, is for each kind of worker to say.

    Attributes:
        runner: answers with the model that is loaded; None before.
        given_up: set when the load under way is to end.
        commands: those that wait for the main thread; None ends it.
    """

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._writing = threading.Lock()
        self._wrote_s = 0.0
        self.commands: queue.SimpleQueue[ipc.Command | None] = queue.SimpleQueue()
        self.given_up = threading.Event()
        self.runner: R | None = None

    def run(self) -> None:
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        self.say(ipc.Hello(pid=os.getpid()))
        while True:
            runner = self.runner
            busy = runner is not None and runner.busy
            try:
                command = self.commands.get(block=not busy)
            except queue.Empty:
                if runner is not None:
                    runner.step()
                if time.monotonic() - self._wrote_s > BEAT_S:
                    self.say(ipc.Beat())
                continue
            if command is None:
                return
            try:
                self._obey(command)
            except UnderkeelError as error:
                self.say(ipc.Failed.of(command.id, error))

    def say(self, report: ipc.Report) -> None:
        """Send a report; any thread may."""
        with self._writing:
            self._wrote_s = time.monotonic()
            self._sink.write(ipc.encode(report))
            self._sink.flush()

    def ready(self) -> R:
        """The runner.

        Raises:
            LoadError: there is none.
        """
        if self.runner is None:
            raise LoadError("no model is loaded", advice="Load one first")
        return self.runner

    def report(self, event: Delta | Done) -> None:
        """Send a piece of an answer, or its end."""
        self.say(event)

    def failed(self, request_id: str, error: UnderkeelError) -> None:
        self.say(ipc.Failed.of(request_id, error))

    # What each kind does in its own way.

    @abstractmethod
    def load(self, command: ipc.Load) -> None:
        """Load, and say so with a Loaded.

        Raises:
            LoadError: it was refused; nothing is loaded then.
        """

    @abstractmethod
    def tokenise(self, text: str, *, special: bool) -> Sequence[int]: ...

    @abstractmethod
    def detokenise(self, tokens: Sequence[int]) -> str: ...

    @abstractmethod
    def drop_idle(self) -> int:
        """Forget what no request uses; returns the cells."""

    def touch(self) -> int:
        """Keep the model's pages in memory; returns how many there are."""
        return 0

    def saved(self, most_bytes: int) -> Sequence[ipc.Sequence]:  # noqa: ARG002
        """The sequences used last, where they can be taken out of the cache."""
        return ()

    def overheard(self, command: ipc.Command) -> None:
        """Called by the reader thread for each command before it waits in line; sets flags only."""

    def deserted(self) -> None:
        """Called by the reader thread when the daemon is gone: end what runs, at once."""

    # How commands are taken.

    def _read(self) -> None:
        cutter = ipc.Cutter()
        try:
            while data := os.read(self._source.fileno(), 1 << 16):
                for body in cutter.feed(data):
                    self._take(ipc.command(body))
        except (OSError, FrameError) as error:
            print(f"worker: {error}", file=sys.stderr)
        self.commands.put(None)
        self.given_up.set()
        self.deserted()

    def _take(self, command: ipc.Command) -> None:
        if isinstance(command, ipc.CancelLoad):
            self.given_up.set()
            return
        runner = self.runner
        if isinstance(command, ipc.Cancel) and runner is not None:
            runner.cancel(command.id)
        self.overheard(command)
        self.commands.put(command)

    def _obey(self, command: ipc.Command) -> None:
        match command:
            case ipc.Load():
                self.given_up.clear()
                self.load(command)
            case ipc.CancelLoad():
                pass
            case GenerateRequest():
                self.ready().add(command)
            case ipc.Cancel():
                self.ready().cancel(command.id)
            case ipc.Tokenise():
                tokens = self.tokenise(command.text, special=command.special)
                self.say(ipc.Tokens(id=command.id, tokens=tuple(tokens)))
            case ipc.Detokenise():
                self.say(ipc.Text(id=command.id, text=self.detokenise(command.tokens)))
            case ipc.DropIdle():
                self.say(ipc.Dropped(id=command.id, cells=self.drop_idle()))
            case ipc.Touch():
                self.say(ipc.Touched(id=command.id, pages=self.touch()))
            case ipc.Save():
                kept = tuple(self.saved(command.most_bytes))
                self.say(ipc.Saved(id=command.id, sequences=kept))
            case ipc.GetStats():
                self.say(ipc.Stats(id=command.id, stats=self.ready().stats()))
