"""The worker: the one process that holds llama.cpp. Frames in on stdin, frames out on stdout."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO

from msgspec.structs import replace

from assistant.engine import ipc
from assistant.engine.types import GenerateRequest, LoadSpec
from assistant.engine.worker.job import Job
from assistant.engine.worker.runner import Runner
from assistant.engine.worker.worker_loop import WorkerLoop
from assistant.errors import LoadError, RefusedError
from assistant.llama import model
from assistant.llama.context import Context
from assistant.llama.model import Model
from assistant.llama.structs import Span

_PR_SET_PDEATHSIG = 1


class Worker(WorkerLoop[Runner]):
    """The worker whose model is a GGUF."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        super().__init__(source, sink)
        self._toucher = model.Toucher()

    def tokenise(self, text: str, *, special: bool) -> Sequence[int]:
        return self.ready().model.tokenise(text, special=special)

    def detokenise(self, tokens: Sequence[int]) -> str:
        return self.ready().model.detokenise(tokens)

    def drop_idle(self) -> int:
        return self.ready().slots.drop_idle()

    def touch(self) -> int:
        # Every other command goes first; the pass continues with the next touch.
        return self._toucher.touch(self.ready().spec.path, self.commands.empty)

    def saved(self, most_bytes: int) -> Sequence[ipc.Sequence]:
        return [ipc.Sequence(*pair) for pair in self.ready().slots.saved(most_bytes)]

    def overheard(self, command: ipc.Command) -> None:
        if self.runner is None:
            return
        if isinstance(command, GenerateRequest):
            self.runner.knock(command)
        elif isinstance(command, ipc.Load):
            self.runner.context.abort.set()  # the step under way is evaluated again afterwards

    def deserted(self) -> None:
        if self.runner is not None:
            self.runner.context.abort.set()

    def load(self, command: ipc.Load) -> None:
        spec, old = command.spec, self.runner
        started = time.monotonic()
        saved: list[tuple[list[int], bytes]] = []
        jobs: list[Job] = []
        model: Model | None = None
        if old is not None:
            # What works now is carried over first, then what was used last.
            order = sorted(old.slots, key=lambda slot: (not slot.busy, -slot.used_at))
            if command.carry and old.spec.path == spec.path:
                jobs = old.suspend()
            old.fail_all(LoadError("the model is being reloaded", advice="Try again"))
            if command.carry and _same_cells(old.spec, spec):
                saved = [
                    (slot.tokens, old.context.save(slot.number)) for slot in order if slot.tokens
                ]
            self.runner = None
            old.context.free()
            if command.same_files and _same_model(old.spec, spec):
                model = old.model
            else:
                old.model.free()
        try:
            runner = self._made(command, model)
        except LoadError as error:
            for job in jobs:
                job.sampler.free()
                self.failed(job.request.id, RefusedError(error.message, advice="Try again"))
            raise
        saved += [([*one.tokens], one.state) for one in command.saved]
        runner.slots.restore(saved)
        runner.resume(jobs)
        self.runner = runner
        load_ms = (time.monotonic() - started) * 1000
        self.say(ipc.Loaded(id=command.id, info=runner.info(load_ms)))

    def _made(self, command: ipc.Load, model: Model | None) -> Runner:
        """A runner for the command's spec, on `model` where that is loaded already.

        Raises:
            LoadError: it was refused; nothing is loaded then.
        """
        spec = command.spec
        shown = [-1.0]

        def goes_on(share: float) -> bool:
            if share - shown[0] >= 0.01:
                shown[0] = share
                self.say(ipc.Progress(id=command.id, share=share))
            return not self.given_up.is_set()

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
        return Runner(model, context, spec, self.report, self.failed)

    @staticmethod
    def _warm_up(context: Context, spec: LoadSpec) -> None:
        """Evaluate one batch, so that what a device allocates late is refused now, not later.

        On a GPU it is the longest batch there can be; on a CPU nothing is allocated late, and a
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
    "checkpoint_bytes",
    "n_rs_seq",
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
