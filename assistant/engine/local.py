"""The engine that runs llama.cpp in a worker process of its own, and outlives that process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Sequence
from glob import escape
from pathlib import Path
from typing import ClassVar

import psutil
from msgspec.structs import replace

from assistant import oom_score
from assistant.engine import ipc
from assistant.engine.types import (
    Delta,
    Done,
    EngineStats,
    GenerateRequest,
    LoadSpec,
    ModelInfo,
    Progress,
)
from assistant.errors import EngineError, FrameError, LoadError, UnderkeelError, WorkerDiedError

HANG_S = 60.0
"""A worker that owes an answer and is silent and idle for this long is considered hung."""

_LOAD_PATIENCE = 10.0  # factor while it loads or computes: pages may come from a slow disk
# A silent process counts as working for this long after it last used processor time or read pages.
_ACTIVITY_S = 5.0
_LEAST_SPENT_S = 0.05
_LOG_LINES = 20
_LOG_LINE_BYTES = 1000
_READ_BYTES = 1 << 16
# What a process wrote last is read within this time of its end.
_LAST_OUTPUT_S = 0.5
_KEPT_BYTES = 32 * 2**20
_SAVE_S = 5.0

_ENVIRONMENT = {
    # Threads that wait for each other in a loop take the processor from the one they wait for:
    # with the cores busy elsewhere, a token took 3.5 s instead of 0.05 s.
    "OMP_WAIT_POLICY": "passive",
    "GGML_NO_BACKTRACE": "1",  # a crash needs no debugger attached to it
}
"""The worker's environment, unless the user's own sets these variables."""

_CHECK_S = 1.0
_UNUSED_S = 60.0


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Reports the end of the process as soon as the system does.

    `Process.wait` of Python 3.11 and 3.12 also waits for the pipes, and a child that inherited one
    keeps it open for as long as it runs.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(limit=_READ_BYTES, loop=loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        self.exited.set()
        super().process_exited()


class _Process:
    """One worker process: who waits for what, and when it last spoke."""

    def __init__(
        self, transport: asyncio.SubprocessTransport, protocol: _Protocol, hang_s: float
    ) -> None:
        process = asyncio.subprocess.Process(transport, protocol, asyncio.get_running_loop())
        self.process = process
        self._transport = transport
        self._exited = protocol.exited
        self._hang_s = hang_s
        self.waiting: dict[str, asyncio.Queue[ipc.Report | UnderkeelError]] = {}
        self.progress: Progress | None = None
        self.loading = False
        self.log: deque[str] = deque(maxlen=_LOG_LINES)
        self.heard_s = asyncio.get_running_loop().time()
        self.dead: WorkerDiedError | None = None
        self.reported = False  # whether somebody got the error of its death
        self.killed_for = ""
        self.stopped = False
        self._activity = _Activity(process.pid)
        self._owing = asyncio.Event()
        readers = [
            asyncio.create_task(self._read_frames()),
            asyncio.create_task(self._read_log()),
        ]
        self._watching = asyncio.create_task(self._watch())
        self._ending = asyncio.create_task(self._on_exit(readers))

    def send(self, command: ipc.Command) -> None:
        stdin = self.process.stdin
        if self.dead is not None or stdin is None or stdin.is_closing():
            raise self.dead or self._death()
        if not self._owing.is_set():
            self.heard_s = asyncio.get_running_loop().time()
            self._owing.set()
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

    def kill(self) -> None:
        """Kill the process and every other one of its group."""
        if sys.platform != "win32":
            # It leads a session of its own, so its id is the group's. `Process.kill` is not for
            # here: it takes the exit code of one that has just ended from the task that waits.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        elif self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    async def end(self) -> None:
        """Kill it and wait until its memory is back."""
        if self.dead is None:
            self.kill()
        await asyncio.wait({self._ending})

    async def _on_exit(self, readers: list[asyncio.Task[None]]) -> None:
        """Wait for the process, end its group, and report the death to all that wait."""
        await self._exited.wait()
        self.kill()  # whatever it started and left behind
        # What it wrote last is in the pipes. A process that left the group may keep them open.
        await asyncio.wait(readers, timeout=_LAST_OUTPUT_S)
        for task in (*readers, self._watching):
            task.cancel()
        await asyncio.gather(*readers, self._watching, return_exceptions=True)
        self._transport.close()
        self.dead = self._death()
        self.reported = bool(self.waiting)
        for queue in self.waiting.values():
            queue.put_nowait(self.dead)

    async def _read_frames(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        cutter = ipc.Cutter()
        try:
            while data := await stdout.read(_READ_BYTES):
                self.heard_s = asyncio.get_running_loop().time()
                for body in cutter.feed(data):
                    self._take(ipc.report(body))
        except FrameError as error:
            self.killed_for = str(error)
        except OSError as error:
            self.killed_for = f"its output cannot be read ({error})"
        else:
            # The end of the output is the end of the worker, which may be known in a moment.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exited.wait(), _LAST_OUTPUT_S)
                return
        self.killed_for = self.killed_for or "it closed its output and was ended"
        self.kill()

    def _take(self, report: ipc.Report) -> None:
        if isinstance(report, ipc.Progress):
            if self.progress is not None:
                self.progress(report.share)
            return
        queue = self.waiting.get(report.id)
        if queue is not None:
            queue.put_nowait(report.error() if isinstance(report, ipc.Failed) else report)

    async def _read_log(self) -> None:
        """Keep the last lines of stderr, each cut to `_LOG_LINE_BYTES`."""
        stderr = self.process.stderr
        assert stderr is not None
        rest = b""
        with contextlib.suppress(OSError):
            while data := await stderr.read(_READ_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                self.log.extend(map(_log_line, lines[-_LOG_LINES:]))
                rest = rest[:_LOG_LINE_BYTES]
        if rest:
            self.log.append(_log_line(rest))

    async def _watch(self) -> None:
        """End the process if it owes an answer and shows no sign of life. An idle one is left
        alone: looking at it would only wake this process."""
        loop = asyncio.get_running_loop()
        while True:
            await self._owing.wait()
            pause_s, before_s = min(_CHECK_S, self._hang_s / 4), loop.time()
            await asyncio.sleep(pause_s)
            if not self.waiting:
                self._owing.clear()
                continue
            # This process itself was stopped, or had no turn: perhaps both were.
            late_s = loop.time() - before_s - pause_s
            self.heard_s += late_s if late_s > pause_s else 0.0
            silent_s = loop.time() - self.heard_s
            if silent_s <= self._hang_s:
                self._activity.look()
                continue
            # A slow disk explains a long load, and a large batch a long step: as long as it
            # computes or reads, it may take longer. One that somebody has stopped does neither.
            stopped = _is_stopped(self.process.pid)
            working = self._activity.look()
            patience = _LOAD_PATIENCE if self.loading or working else 1.0
            if silent_s > self._hang_s * (1.0 if stopped else patience):
                self.stopped = stopped
                self.killed_for = f"it did not respond for {silent_s:.0f} s and was ended"
                self.kill()
                return

    def _death(self) -> WorkerDiedError:
        code = self.process.returncode
        if self.killed_for:
            how = self.killed_for
        elif code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        else:
            how = f"exit code {code}"
        last_line = next((line for line in reversed(self.log) if line), "")
        death = WorkerDiedError(
            f"the engine's process ended ({how}{'; ' + last_line[:300] if last_line else ''})",
            subject=f"worker {self.process.pid}",
            advice="The next request starts it again",
        )
        death.exit_code, death.hung, death.stopped = code, bool(self.killed_for), self.stopped
        return death


class _Activity:
    """Signs that a process advances: processor time used, and bytes and pages read from a disk."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen = self._read()
        self._changed_s = 0.0

    def look(self) -> bool:
        """Whether it has advanced within the last `_ACTIVITY_S`."""
        now_s = asyncio.get_running_loop().time()
        now = self._read()
        spent_s, read = (new - old for new, old in zip(now, self._seen, strict=True))
        # Small amounts add up: where many processes compute, each has few turns.
        if spent_s >= _LEAST_SPENT_S or read > 0:
            self._seen, self._changed_s = now, now_s
        return now_s - self._changed_s <= _ACTIVITY_S

    def _read(self) -> tuple[float, float]:
        """Seconds of processor time, and what was read from a disk, where the system counts it."""
        try:
            process = psutil.Process(self._pid)
            times = process.cpu_times()
        except psutil.Error:
            return 0.0, 0.0
        return times.user + times.system, float(_major_faults(self._pid) + _read_bytes(self._pid))


def _major_faults(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return int(stat.rpartition(")")[2].split()[9])  # proc(5): majflt, the 12th field
    except (OSError, ValueError, IndexError):
        return 0


def _read_bytes(pid: int) -> int:
    """Bytes that it had fetched from storage by reading files."""
    with contextlib.suppress(OSError, ValueError):
        for line in (
            Path(f"/proc/{pid}/io").read_text(encoding="ascii", errors="replace").split("\n")
        ):
            if line.startswith("read_bytes:"):
                return int(line.partition(":")[2])
    return 0


def _log_line(line: bytes) -> str:
    return line[:_LOG_LINE_BYTES].decode("utf-8", "replace").rstrip()


def _is_stopped(pid: int) -> bool:
    """Whether a process is silent because somebody has stopped it, by a signal or a debugger."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
    return False


Identity = tuple[tuple[int, ...], ...]


def file_identity(path: str) -> Identity:
    """Device, inode, size and times of change of a model's files: other numbers, another model.

    The time at which the file system changed the file counts too: tools that copy set the other one
    back, and a file that may be read from now on has no other sign of it.
    Covers all parts of a split GGUF ("-00001-of-00003.gguf") and the files of a checkpoint's
    folder; empty where there is none.
    """
    if not path:
        return ()
    try:
        file = Path(path).expanduser()
        part = _PART.search(file.name)
        if file.is_dir():
            files = sorted(one for one in file.iterdir() if one.is_file())
        elif part:
            files = sorted(file.parent.glob(f"{escape(file.name[: part.start()])}-*{part[1]}"))
        else:
            files = [file]
        stats = [one.stat() for one in files]
    except (OSError, ValueError, RuntimeError):  # a NUL, ~ of nobody
        return ()
    return tuple(
        (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in stats
    )


_PART = re.compile(r"-\d{5}(-of-\d{5}\.gguf)$")


class LlamaEngine:
    """Keeps the Engine contract over a worker that may die at any moment.

    All requests in flight when the worker dies get a WorkerDiedError, and so does the first that
    finds one dead; the next request starts a new worker with the last spec.
    """

    module: ClassVar[str] = "assistant.engine.worker"
    """What runs in the worker's process."""

    def __init__(self, hang_s: float = HANG_S) -> None:
        """`hang_s`: a worker that owes an answer and is silent and idle for this long is ended."""
        self._hang_s = hang_s
        self._worker: _Process | None = None
        self._spec: LoadSpec | None = None
        self._info: ModelInfo | None = None
        self._identity: Identity = ()
        self._ids = itertools.count(1)
        self._kept: tuple[ipc.Sequence, ...] = ()
        self._lock = asyncio.Lock()
        self._released = self._closed = False
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

    async def prepare(self) -> None:
        """Start the process that `load` will need, so that it imports while a plan is made.

        Returns when it is in use; one that nothing was loaded into for a while is ended.
        """
        async with self._lock:
            if self._closed:
                return
            prepared = await self._process()
        await asyncio.sleep(_UNUSED_S)
        async with self._lock:
            if self._spec is None and self._worker is prepared:
                await self._end()

    async def _load(
        self, spec: LoadSpec, progress: Progress | None = None, *, carry: bool = False
    ) -> ModelInfo:
        self._check_open()
        try:
            spec.path.encode()
        except UnicodeEncodeError as error:
            raise LoadError(
                "the file's name is not in UTF-8", subject=spec.path, advice="Rename the file"
            ) from error
        worker = await self._process()
        identity = file_identity(spec.path)
        same_file = identity == self._identity
        again = spec == self._spec and same_file
        # What was computed with other weights is of no use to these (case S9).
        saved = self._kept if again and not carry else ()
        carry = carry and same_file
        self._kept = ()
        self._info = None
        if not again:
            self._spec = None  # what a failed change leaves behind is for the caller to say
        worker.progress, worker.loading = progress, True
        command = ipc.Load(id=self._id(), spec=spec, carry=carry, same_files=same_file, saved=saved)
        try:
            report = await self._ask(worker, command)
        except asyncio.CancelledError:
            # A load may not be stoppable at once; a dead worker surely gives the memory back.
            await self._end()
            raise
        finally:
            worker.progress, worker.loading = None, False
        assert isinstance(report, ipc.Loaded)
        try:
            self._check_open()
        except LoadError:
            await self._end()
            raise
        self._spec, self._info, self._released = spec, report.info, False
        self._identity = identity
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
            worker.send(own)
            while not finished:
                report = await queue.get()
                if isinstance(report, UnderkeelError):
                    finished = True
                    raise report
                assert isinstance(report, Delta | Done)
                finished = isinstance(report, Done)
                if finished:
                    worker.waiting.pop(own.id, None)
                yield replace(report, id=request.id)
        finally:
            if not finished and worker.dead is None:
                with contextlib.suppress(EngineError):
                    worker.send(ipc.Cancel(id=own.id))
            worker.waiting.pop(own.id, None)

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
        load of the same spec takes up again: their prompts need not be evaluated again."""
        async with self._lock:
            self._kept = await self._sequences()
            self._info, self._released = None, True
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
        """End the worker for good: nothing is loaded afterwards. Safe to call twice."""
        self._closed = True
        await self._end()
        self._spec = self._info = None

    def _check_open(self) -> None:
        if self._closed:
            raise LoadError("the engine is closed")

    # The process.

    def _id(self) -> str:
        return f"c{next(self._ids)}"

    async def _process(self) -> _Process:
        worker = self._worker
        if worker is None or worker.gone:
            worker = self._worker = await self._start()
        return worker

    async def _start(self) -> _Process:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            _Protocol,
            sys.executable,
            "-m",
            self.module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            env=_ENVIRONMENT | os.environ,
        )
        oom_score.raise_to(oom_score.WORKER, transport.get_pid())
        return _Process(transport, protocol, self._hang_s)

    async def _loaded(self) -> _Process:
        """The worker with its model.

        Raises:
            LoadError: it was unloaded or closed, or never loaded: only `load` and `reshape` bring
                it back, since the caller of `unload` decides when memory is taken again.
            WorkerDiedError: it has died, and nobody was notified yet.
        """
        async with self._lock:
            if self._released:
                raise LoadError("the model was unloaded", advice="Load it again")
            worker = self._worker
            if worker is not None and worker.gone and self._info is not None:
                self._info = None
                await worker.end()
                if not worker.reported:
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
