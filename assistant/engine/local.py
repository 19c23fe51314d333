"""The engine that runs llama.cpp in a worker process of its own, and outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

import psutil
from msgspec.structs import replace

from assistant.engine import ipc
from assistant.engine.interface import Progress
from assistant.engine.types import Delta, Done, EngineStats, GenerateRequest, LoadSpec, ModelInfo
from assistant.errors import EngineError, FrameError, LoadError, UnderkeelError, WorkerDiedError

HANG_S = 60.0
"""A worker that owes an answer and says nothing for so long is taken for hung."""

_LOAD_PATIENCE = 10.0  # so many times that long while it loads: pages may come from a slow disk
_LOG_LINES = 20
_KEPT_BYTES = 32 * 2**20
_SAVE_S = 5.0

_ENVIRONMENT = {
    # Threads that wait for each other in a loop take the processor from the one they wait for:
    # with the cores busy elsewhere, a token took 3.5 s instead of 0.05 s.
    "OMP_WAIT_POLICY": "passive",
    "GGML_NO_BACKTRACE": "1",  # a crash needs no debugger attached to it
}
"""What the worker's libraries are told, unless the user's own environment says otherwise."""

_CHECK_S = 1.0


class _Process:
    """One worker process: who waits for what, and when it last spoke."""

    def __init__(self, process: asyncio.subprocess.Process, hang_s: float) -> None:
        self.process = process
        self._hang_s = hang_s
        self.waiting: dict[str, asyncio.Queue[ipc.Report | UnderkeelError]] = {}
        self.progress: Progress | None = None
        self.loading = False
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        self.heard_s = asyncio.get_running_loop().time()
        self.dead: WorkerDiedError | None = None
        self.told = False  # whether anybody was told of the death
        self.killed_for = ""
        self.stopped = False
        self._tasks = [
            asyncio.create_task(self._read()),
            asyncio.create_task(self._read_log()),
            asyncio.create_task(self._watch()),
        ]

    def send(self, command: ipc.Command) -> None:
        stdin = self.process.stdin
        if self.dead is not None or stdin is None or stdin.is_closing():
            raise self.dead or self._death()
        stdin.write(ipc.encode(command))

    @property
    def gone(self) -> bool:
        """Whether it has ended, known as soon as the system knows it."""
        if self.dead is not None or self.process.returncode is not None:
            return True
        if sys.platform == "win32":
            return False
        with contextlib.suppress(ChildProcessError):
            look = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.process.pid, look) is not None
        return True

    async def end(self) -> None:
        """Kill it and wait until its memory is back."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await self.process.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._tasks[0]), 5)
        for task in self._tasks:
            task.cancel()

    async def _read(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        cutter = ipc.Cutter()
        try:
            while data := await stdout.read(1 << 16):
                self.heard_s = asyncio.get_running_loop().time()
                for body in cutter.feed(data):
                    self._take(ipc.report(body))
        except FrameError as error:
            self.killed_for = str(error)
            self.process.kill()
        await self.process.wait()
        await asyncio.sleep(0)  # let the log reader take the last lines
        self.dead = self._death()
        self.told = bool(self.waiting)
        for queue in self.waiting.values():
            queue.put_nowait(self.dead)

    def _take(self, report: ipc.Report) -> None:
        if isinstance(report, ipc.Progress):
            if self.progress is not None:
                self.progress(report.share)
            return
        queue = self.waiting.get(report.id)
        if queue is not None:
            queue.put_nowait(report.error() if isinstance(report, ipc.Failed) else report)

    async def _read_log(self) -> None:
        stderr = self.process.stderr
        assert stderr is not None
        while line := await stderr.readline():
            self.log.append(line.decode("utf-8", "replace").rstrip())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_CHECK_S, self._hang_s / 4))
            if not self.waiting:
                self.heard_s = loop.time()
                continue
            silent_s = loop.time() - self.heard_s
            if silent_s <= self._hang_s:
                continue
            # A slow disk explains a long load, but not one that somebody has stopped.
            stopped = _is_stopped(self.process.pid)
            patient = self.loading and not stopped
            if silent_s > self._hang_s * (_LOAD_PATIENCE if patient else 1.0):
                self.stopped = stopped
                self.killed_for = f"it said nothing for {silent_s:.0f} s and was ended"
                self.process.kill()
                return

    def _death(self) -> WorkerDiedError:
        code = self.process.returncode
        if self.killed_for:
            how = self.killed_for
        elif code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        else:
            how = f"exit code {code}"
        said = next((line for line in reversed(self.log) if line), "")
        death = WorkerDiedError(
            f"the engine's process ended ({how}{'; ' + said[:300] if said else ''})",
            subject=f"worker {self.process.pid}",
            advice="The next request starts it again",
        )
        death.exit_code, death.hung, death.stopped = code, bool(self.killed_for), self.stopped
        return death


def _is_stopped(pid: int) -> bool:
    """Whether a process says nothing because somebody has stopped it, by a signal or a debugger."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
    return False


class LlamaEngine:
    """Keeps the Engine contract over a worker that may die at any moment.

    Whoever waits when the worker dies gets a WorkerDiedError, and so does the first to find one
    dead; the next request starts a new worker with the last spec.
    """

    module: ClassVar[str] = "assistant.engine.worker"
    """What runs in the worker's process."""

    def __init__(self, hang_s: float = HANG_S) -> None:
        """`hang_s`: a worker that owes an answer and says nothing for so long is ended."""
        self._hang_s = hang_s
        self._worker: _Process | None = None
        self._spec: LoadSpec | None = None
        self._info: ModelInfo | None = None
        self._ids = itertools.count(1)
        self._kept: tuple[ipc.Sequence, ...] = ()
        self._lock = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()

    @property
    def pid(self) -> int | None:
        """The worker's process, or None while there is none."""
        worker = self._worker
        return worker.process.pid if worker is not None and worker.dead is None else None

    async def load(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        async with self._lock:
            return await self._load(spec, progress)

    async def _load(
        self, spec: LoadSpec, progress: Progress | None = None, *, carry: bool = False
    ) -> ModelInfo:
        worker = await self._process()
        again = spec == self._spec
        saved = self._kept if again and not carry else ()
        self._kept = ()
        self._info = None
        if not again:
            self._spec = None  # what a failed change leaves behind is for the caller to say
        worker.progress, worker.loading = progress, True
        command = ipc.Load(id=self._id(), spec=spec, carry=carry, saved=saved)
        try:
            report = await self._ask(worker, command)
        except asyncio.CancelledError:
            # A load may not be stoppable at once; a dead worker surely gives the memory back.
            await self._end()
            raise
        finally:
            worker.progress, worker.loading = None, False
        assert isinstance(report, ipc.Loaded)
        self._spec, self._info = spec, report.info
        return report.info

    async def describe(self) -> ModelInfo:
        if self._info is None:
            raise LoadError("no model is loaded", advice="Load one first")
        return self._info

    async def tokenise(self, text: str, *, special: bool = False) -> list[int]:
        worker = await self._loaded()
        report = await self._ask(worker, ipc.Tokenise(id=self._id(), text=text, special=special))
        assert isinstance(report, ipc.Tokens)
        return list(report.tokens)

    async def detokenise(self, tokens: Sequence[int]) -> str:
        worker = await self._loaded()
        report = await self._ask(worker, ipc.Detokenise(id=self._id(), tokens=tuple(tokens)))
        assert isinstance(report, ipc.Text)
        return report.text

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta | Done]:
        await self._open.wait()
        worker = await self._loaded()
        # The caller's id may come back while an old request still winds down; ours never does.
        own = replace(request, id=self._id())
        queue: asyncio.Queue[ipc.Report | UnderkeelError] = asyncio.Queue()
        worker.waiting[own.id] = queue
        finished = False
        try:
            worker.send(ipc.Generate(id=own.id, request=own))
            while not finished:
                report = await queue.get()
                if isinstance(report, UnderkeelError):
                    finished = True
                    raise report
                assert isinstance(report, ipc.Event)
                finished = isinstance(report.event, Done)
                if finished:
                    worker.waiting.pop(own.id, None)
                yield replace(report.event, id=request.id)
        finally:
            if not finished and worker.dead is None:
                with contextlib.suppress(EngineError):
                    worker.send(ipc.Cancel(id=own.id))
            worker.waiting.pop(own.id, None)

    async def prefill(self, request: GenerateRequest) -> Done:
        done: Done | None = None
        async for event in self.generate(replace(request, max_tokens=0)):
            if isinstance(event, Done):
                done = event
        assert done is not None
        return done

    async def stats(self) -> EngineStats:
        """Zeros where nothing is loaded. Raises WorkerDiedError where the worker has died."""
        worker = self._worker
        if worker is None or self._info is None:
            return EngineStats()
        if worker.dead is not None:
            raise worker.dead
        report = await self._ask(worker, ipc.GetStats(id=self._id()))
        assert isinstance(report, ipc.Stats)
        return report.stats

    async def drop_idle(self) -> int:
        worker = await self._loaded()
        report = await self._ask(worker, ipc.DropIdle(id=self._id()))
        assert isinstance(report, ipc.Dropped)
        return report.cells

    async def touch(self) -> int:
        worker = await self._loaded()
        report = await self._ask(worker, ipc.Touch(id=self._id()))
        assert isinstance(report, ipc.Touched)
        return report.pages

    async def reshape(self, spec: LoadSpec, progress: Progress | None = None) -> ModelInfo:
        """See `ElasticEngine`. The worker takes those in flight along; new requests wait."""
        self._open.clear()
        try:
            async with self._lock:
                return await self._load(spec, progress, carry=True)
        finally:
            self._open.set()

    async def unload(self) -> None:
        """Give the memory back but for the sequences used last (`_KEPT_BYTES`), which the next
        load of the same spec takes up again: their prompts need not be evaluated anew."""
        async with self._lock:
            self._kept = await self._sequences()
            self._info = None
            await self._end()

    async def _sequences(self) -> tuple[ipc.Sequence, ...]:
        worker = self._worker
        if worker is None or worker.gone or self._info is None:
            return ()
        try:
            command = ipc.Save(id=self._id(), most_bytes=_KEPT_BYTES)
            report = await asyncio.wait_for(self._ask(worker, command), _SAVE_S)
        except (EngineError, TimeoutError):
            return ()
        assert isinstance(report, ipc.Saved)
        return report.sequences

    async def close(self) -> None:
        await self._end()
        self._spec = self._info = None

    # The process.

    def _id(self) -> str:
        return f"c{next(self._ids)}"

    async def _process(self) -> _Process:
        worker = self._worker
        if worker is None or worker.gone:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self.module,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                env=_ENVIRONMENT | os.environ,
            )
            worker = self._worker = _Process(process, self._hang_s)
        return worker

    async def _loaded(self) -> _Process:
        async with self._lock:
            worker = self._worker
            if worker is not None and worker.gone and self._info is not None:
                self._info = None
                await worker.end()
                if not worker.told:
                    raise worker.dead or WorkerDiedError("the engine's process ended")
            if worker is None or worker.gone or self._info is None:
                if self._spec is None:
                    raise LoadError("no model is loaded", advice="Load one first")
                await self._load(self._spec)
                worker = self._worker
            assert worker is not None
            return worker

    async def _ask(self, worker: _Process, command: ipc.Command) -> ipc.Report:
        queue: asyncio.Queue[ipc.Report | UnderkeelError] = asyncio.Queue()
        worker.waiting[command.id] = queue
        try:
            worker.send(command)
            report = await queue.get()
        finally:
            worker.waiting.pop(command.id, None)
        if isinstance(report, UnderkeelError):
            raise report
        return report

    async def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.end()
