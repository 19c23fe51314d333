"""The worker that holds a checkpoint. Speaks the frames of `assistant.engine.frames`, as the one
that holds llama.cpp does."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from typing import BinaryIO

from assistant.engine import frames
from assistant.engine.transformers_engine.checkpoint import LoadedCheckpoint
from assistant.engine.transformers_engine.runner import Runner
from assistant.engine.types import Delta, Done
from assistant.errors import EngineError, FrameError, LoadError, UnderkeelError

_BEAT_S = 1.0


class Worker:
    """Executes commands until its input ends."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._commands: queue.SimpleQueue[frames.Command | None] = queue.SimpleQueue()
        self._give_up = threading.Event()
        self._speaking = threading.Lock()
        self._runner: Runner | None = None

    def run(self) -> None:
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        self._say(frames.Hello(pid=os.getpid()))
        while True:
            runner = self._runner
            busy = runner is not None and runner.busy
            try:
                command = self._commands.get(block=not busy)
            except queue.Empty:
                if runner is not None:
                    runner.step()
                continue
            if command is None:
                return
            try:
                self._do(command)
            except UnderkeelError as error:
                self._say(frames.Failed.of(command.id, error))

    def _read(self) -> None:
        cutter = frames.Cutter()
        try:
            while data := os.read(self._source.fileno(), 1 << 16):
                for body in cutter.feed(data):
                    self._take(frames.command(body))
        except (OSError, FrameError) as error:
            print(f"worker: {error}", file=sys.stderr)
        os._exit(0)  # the daemon is gone

    def _take(self, command: frames.Command) -> None:
        if isinstance(command, frames.CancelLoad):
            self._give_up.set()
        elif isinstance(command, frames.Cancel) and self._runner is not None:
            self._runner.cancel(command.id)
        self._commands.put(command)

    def _beat(self) -> None:
        """A forward pass of a large model may take longer than the daemon's patience."""
        while True:
            time.sleep(_BEAT_S)
            self._say(frames.Beat())

    def _do(self, command: frames.Command) -> None:
        match command:
            case frames.Load():
                self._load(command)
            case frames.Generate():
                self._ready().add(command.request)
            case frames.Cancel():
                self._ready().cancel(command.id)
            case frames.Tokenise():
                ids = self._ready().model.encode(command.text, special=command.special)
                self._say(frames.Tokens(id=command.id, tokens=tuple(ids)))
            case frames.Detokenise():
                text = self._ready().model.decode(command.tokens)
                self._say(frames.Text(id=command.id, text=text))
            case frames.DropIdle():
                cells = self._ready().drop_idle()
                self._say(frames.Dropped(id=command.id, cells=cells))
            case frames.Touch():
                self._say(frames.Touched(id=command.id, pages=0))  # torch's pages are not mapped
            case frames.GetStats():
                self._say(frames.Stats(id=command.id, stats=self._ready().stats()))
            case frames.CancelLoad():
                pass

    def _ready(self) -> Runner:
        if self._runner is None:
            raise LoadError("no model is loaded", advice="Load one first")
        return self._runner

    def _load(self, command: frames.Load) -> None:
        self._give_up.clear()
        old, self._runner = self._runner, None
        if old is not None:
            old.fail_all(EngineError("the model is being loaded anew", advice="Ask again"))
            del old

        def goes_on(share: float) -> bool:
            self._say(frames.Progress(id=command.id, share=share))
            return not self._give_up.is_set()

        model = LoadedCheckpoint(command.spec, goes_on)
        self._runner = Runner(model, self._event, self._failed)
        self._say(frames.Loaded(id=command.id, info=model.info()))

    def _event(self, event: Delta | Done) -> None:
        self._say(frames.Event(id=event.id, event=event))

    def _failed(self, request_id: str, error: UnderkeelError) -> None:
        self._say(frames.Failed.of(request_id, error))

    def _say(self, report: frames.Report) -> None:
        with self._speaking:
            self._sink.write(frames.encode(report))
            self._sink.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    # What libraries print goes to stderr, and nothing is fetched.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    Worker(sys.stdin.buffer, sink).run()


if __name__ == "__main__":
    main()
