"""The worker: the one process that holds llama.cpp. Frames in on stdin, frames out on stdout.

A reader thread takes frames in, so that a cancellation reaches a computation that runs; the main
thread computes. When stdin ends the daemon is gone, and so is the worker.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import sys
import threading
import time
from typing import BinaryIO

from msgspec.structs import replace

from assistant.engine import frames
from assistant.engine.job import Job
from assistant.engine.runner import Runner
from assistant.engine.types import Delta, Done, LoadSpec
from assistant.errors import EngineError, FrameError, LoadError, RefusedError, UnderkeelError
from assistant.llama import pages
from assistant.llama.context import Context, Span
from assistant.llama.model import Model

_BEAT_S = 1.0
_PR_SET_PDEATHSIG = 1


class Worker:
    """Executes commands until its input ends."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._commands: queue.SimpleQueue[frames.Command | None] = queue.SimpleQueue()
        self._cancel_load = threading.Event()
        self._runner: Runner | None = None
        self._said_s = 0.0

    def run(self) -> None:
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        self._say(frames.Hello(pid=os.getpid()))
        while True:
            runner = self._runner
            busy = runner is not None and runner.busy
            try:
                command = self._commands.get(block=not busy, timeout=None if busy else _BEAT_S)
            except queue.Empty:
                if not busy:
                    self._say(frames.Beat())
                elif runner is not None:
                    runner.step()
                    if time.monotonic() - self._said_s > _BEAT_S:
                        self._say(frames.Beat())
                continue
            if command is None:
                return
            self._obey(command)

    def _read(self) -> None:
        """Reader thread: only puts commands in line, and raises flags for what cannot wait."""
        cutter = frames.Cutter()
        try:
            while data := os.read(self._source.fileno(), 1 << 16):
                for body in cutter.feed(data):
                    self._take(frames.command(body))
        except (OSError, FrameError) as error:
            print(f"worker: {error}", file=sys.stderr)
        self._commands.put(None)
        self._cancel_load.set()
        if self._runner is not None:
            self._runner.context.abort.set()

    def _take(self, command: frames.Command) -> None:
        runner = self._runner
        if isinstance(command, frames.CancelLoad):
            self._cancel_load.set()
            return
        if runner is not None:
            if isinstance(command, frames.Cancel):
                runner.cancel(command.id)
            elif isinstance(command, frames.Generate):
                runner.knock(command.request)
            elif isinstance(command, frames.Load):
                runner.context.abort.set()  # the step under way is evaluated again afterwards
        self._commands.put(command)

    def _obey(self, command: frames.Command) -> None:
        try:
            self._do(command)
        except UnderkeelError as error:
            self._say(frames.Failed.of(command.id, error))

    def _do(self, command: frames.Command) -> None:
        match command:
            case frames.Load():
                self._load(command)
            case frames.CancelLoad():
                pass
            case frames.Generate():
                self._ready().add(command.request)
            case frames.Cancel():
                self._ready().cancel(command.id)
            case frames.Tokenise():
                tokens = self._ready().model.tokenise(command.text, special=command.special)
                self._say(frames.Tokens(id=command.id, tokens=tuple(tokens)))
            case frames.Detokenise():
                text = self._ready().model.detokenise(command.tokens)
                self._say(frames.Text(id=command.id, text=text))
            case frames.DropIdle():
                cells = self._ready().slots.drop_idle()
                self._say(frames.Dropped(id=command.id, cells=cells))
            case frames.Touch():
                # Whatever else is wanted goes first.
                count = pages.touch(self._ready().spec.path, self._commands.empty)
                self._say(frames.Touched(id=command.id, pages=count))
            case frames.Save():
                slots = self._ready().slots
                kept = [frames.Sequence(*pair) for pair in slots.saved(command.most_bytes)]
                self._say(frames.Saved(id=command.id, sequences=tuple(kept)))
            case frames.GetStats():
                self._say(frames.Stats(id=command.id, stats=self._ready().stats()))

    def _ready(self) -> Runner:
        if self._runner is None:
            raise LoadError("no model is loaded", advice="Load one first")
        return self._runner

    def _load(self, command: frames.Load) -> None:
        spec, old = command.spec, self._runner
        started = time.monotonic()
        self._cancel_load.clear()
        saved: list[tuple[list[int], bytes]] = []
        jobs: list[Job] = []
        model: Model | None = None
        if old is not None:
            # What works now is carried over first, then what was used last.
            order = sorted(old.slots, key=lambda slot: (not slot.busy, -slot.used_at))
            if command.carry and old.spec.path == spec.path:
                jobs = old.suspend()
            old.fail_all(EngineError("the model is being loaded anew", advice="Ask again"))
            if command.carry and _same_cells(old.spec, spec):
                saved = [
                    (slot.tokens, old.context.save(slot.number)) for slot in order if slot.tokens
                ]
            self._runner = None
            old.context.free()
            if _same_model(old.spec, spec):
                model = old.model
            else:
                old.model.free()
        try:
            runner = self._made(command, model)
        except LoadError as error:
            for job in jobs:
                job.sampler.free()
                self._failed(job.request.id, RefusedError(error.message, advice="Ask again"))
            raise
        saved += [([*one.tokens], one.state) for one in command.saved]
        runner.slots.restore(saved)
        runner.resume(jobs)
        self._runner = runner
        load_ms = (time.monotonic() - started) * 1000
        self._say(frames.Loaded(id=command.id, info=runner.info(load_ms)))

    def _made(self, command: frames.Load, model: Model | None) -> Runner:
        """A runner for the command's spec, on `model` where that is loaded already.

        Raises:
            LoadError: it was refused; nothing is loaded then.
        """
        spec = command.spec
        shown = [-1.0]

        def goes_on(share: float) -> bool:
            if share - shown[0] >= 0.01:
                shown[0] = share
                self._say(frames.Progress(id=command.id, share=share))
            return not self._cancel_load.is_set()

        model = model or Model(spec, goes_on)
        context: Context | None = None
        try:
            context = Context(model, spec)
            self._warm_up(context, spec)
        except LoadError:
            if context is not None:
                context.free()
            model.free()
            raise
        return Runner(model, context, spec, self._event, self._failed)

    @staticmethod
    def _warm_up(context: Context, spec: LoadSpec) -> None:
        """Evaluate one batch, so that what a device allocates late is refused now, not later.

        On cards it is the longest batch there can be; on a CPU nothing is allocated late, and a
        short one brings the pages in.
        """
        length = min(spec.n_ubatch, context.n_cells_sequence - 1) if spec.devices else 8
        verdict = context.decode([Span(0, 0, [1] * length, outputs=1)])
        context.forget(0)
        if verdict != 0:
            raise LoadError(
                f"the first batch of {length} tokens failed ({verdict.name})",
                subject=spec.path,
                advice="Ask for fewer cells or a smaller batch",
            )

    def _event(self, event: Delta | Done) -> None:
        self._say(frames.Event(id=event.id, event=event))

    def _failed(self, request_id: str, error: UnderkeelError) -> None:
        self._say(frames.Failed.of(request_id, error))

    def _say(self, report: frames.Report) -> None:
        self._said_s = time.monotonic()
        self._sink.write(frames.encode(report))
        self._sink.flush()


_CONTEXT_FIELDS = (
    "n_ctx",
    "n_batch",
    "n_ubatch",
    "n_seq_max",
    "cache_type_k",
    "cache_type_v",
    "flash_attn",
    "offload_kqv",
    "op_offload",
    "kv_unified",
    "swa_full",
    "n_outputs_max",
    "n_threads",
    "n_threads_batch",
)
"""What belongs to the context alone: the rest makes another model."""

_CELL_FIELDS = ("path", "cache_type_k", "cache_type_v", "flash_attn", "swa_full")


def _same_model(one: LoadSpec, other: LoadSpec) -> bool:
    changes = {name: getattr(other, name) for name in _CONTEXT_FIELDS}
    return replace(one, **changes) == other


def _same_cells(one: LoadSpec, other: LoadSpec) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in _CELL_FIELDS)


def _private_pipe() -> BinaryIO:
    """The way out for frames; what C code prints goes to stderr from here on."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sink


def _die_with_parent() -> None:
    """Linux ends this process with its parent; elsewhere the end of stdin does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    Worker(sys.stdin.buffer, _private_pipe()).run()
    os._exit(0)  # the daemon is gone: nobody needs an orderly teardown of gigabytes


if __name__ == "__main__":
    main()
