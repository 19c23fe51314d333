"""The stage of a scenario: a GPU that is not there, the real daemon on it, and what happens there.

Sizes are scaled: a `UNIT` stands for a GiB, so a GPU of 8 units with a margin of a quarter of one
plays the GPU of 8 GiB, and a tiny model the one that nearly fills it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from real_daemon import configure
from simulated import Foreign, Gpu, Machine

from assistant import paths
from assistant.client.client import DaemonClient
from assistant.daemon.process.instance import running_pid
from assistant.errors import UnderkeelError
from assistant.wire import ServiceState, Status

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
UNIT = 16 << 20
GPU = "SIM0"
GPU_BYTES = 8 * UNIT
MARGIN_MIB = 4
DESKTOP_BYTES = UNIT // 4  # what a desktop holds of a GPU all the time

_LAST_BYTES = 4096  # of the record: a line and more
_DIED = re.compile(r"the worker crashed \(\d+ so far, cause=(\w+)\)")
_ADMITTED = re.compile(r"admitted id=\S+ prompt=(\d+) limit=(\d+) level=(\d+)")


@dataclass(frozen=True)
class Act:
    """Something that other programs, the driver or a person do.

    Attributes:
        at_s: seconds after the curtain.
        says: for the chart; empty for what needs no mark there.
        GPU: fields of the GPU to change (`simulated.GPU`); `gpus`: the same of others, by name.
        send: a signal for the worker; where there is none yet, it waits for one.
        processes: other programs as NVML lists them from now on.
        host_bytes: what is available of the host's memory from now on.
        once_ready: wait besides until the service is ready.
    """

    at_s: float
    says: str = ""
    gpu: Mapping[str, Any] = field(default_factory=dict)
    gpus: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    send: signal.Signals | None = None
    processes: tuple[Foreign, ...] | None = None
    host_memory_bytes: int | None = None
    once_ready: bool = False


@dataclass
class Look:
    """One look of the governor, with what is true of the GPU at that moment."""

    at_s: float
    data: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.data[name]


class Stage:
    """A running daemon on a simulated GPU.

    Attributes:
        marks: what was done when, for the chart: (seconds, words).
        truths: by GPU: (seconds, bytes that others hold, bytes that are ours), many times a
            second.
    """

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.folder = folder
        self.machine = machine
        self.record = folder / "looks.jsonl"
        self.started_s = time.monotonic()
        self.marks: list[tuple[float, str]] = []
        self.truths: dict[str, list[tuple[float, int, int]]] = {
            gpu.name: [] for gpu in machine.gpus
        }

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.started_s

    def looks(self) -> list[Look]:
        """Every look of the governor so far."""
        if not self.record.exists():
            return []
        rows = [json.loads(line) for line in self.record.read_text().splitlines() if line]
        return [Look(row["at_s"] - self.started_s, row) for row in rows]

    def admitted(self) -> list[tuple[int, int]]:
        """Of each admitted request: the prompt's tokens, and the most that it was allowed then: the
        budget, or the context for a client that follows none."""
        log = paths.log_file().read_text(errors="replace")
        return [(int(prompt), int(limit)) for prompt, limit, _ in _ADMITTED.findall(log)]

    async def play(self, acts: Sequence[Act]) -> None:
        """Do all that the script says, each at its time."""
        start_s = time.monotonic()
        for act in acts:
            await asyncio.sleep(max(start_s + act.at_s - time.monotonic(), 0))
            started_s = time.monotonic()
            while act.once_ready and self.state() != "ready":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            if act.send is not None:
                while not self.hit(act.send):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            start_s += time.monotonic() - started_s  # what comes later waits as long
            self.do(act)

    def state(self) -> str:
        """The service's state at the last look."""
        return str(self.last().get("state", ""))

    def last(self) -> dict[str, Any]:
        """The last look; nothing before the first."""
        if not self.record.exists():
            return {}
        with self.record.open("rb") as file:
            file.seek(max(self.record.stat().st_size - _LAST_BYTES, 0))
            lines = file.read().split(b"\n")
        return dict(json.loads(lines[-2])) if len(lines) > 1 else {}

    def do(self, act: Act) -> None:
        if act.says:
            self.marks.append((self.now_s, act.says))
        for name, changes in {GPU: act.gpu, **act.gpus}.items():
            if changes:
                self.machine.change(name, **changes)
        if act.processes is not None:
            self.machine.run(*act.processes)
        if act.host_memory_bytes is not None:
            new = self.machine.folder / "host.new"
            new.write_text(str(act.host_memory_bytes))
            new.replace(self.machine.folder / "host")

    def hit(self, number: signal.Signals) -> bool:
        """Send the worker a signal; False where there is none now."""
        for process in workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
                return True
        return False

    def causes(self) -> dict[str, int]:
        """What workers died of, as the daemon saw it."""
        return dict(Counter(_DIED.findall(paths.log_file().read_text(errors="replace"))))

    def ours_bytes(self, gpu: str = GPU) -> int:
        """What our living processes hold of a GPU."""
        usages = [usage for usage in self.machine.usage() if usage.gpu == gpu]
        return sum(usage.total_bytes for usage in usages if _lives(usage.pid))

    async def watch(self) -> None:
        """Note the truth until cancelled."""
        while True:
            for gpu in self.machine.gpus:
                row = (self.now_s, gpu.others_bytes, self.ours_bytes(gpu.name))
                self.truths[gpu.name].append(row)
            await asyncio.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def workers() -> list[psutil.Process]:
    """The daemon's workers that live."""
    pid = running_pid()
    found = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):
                if "assistant.engine.worker" in process.cmdline():
                    found.append(process)
    return found


@contextlib.asynccontextmanager
async def staged(
    home: Path,
    folder: Path,
    model: Path,
    *,
    speed: float = 10.0,
    gpus: Sequence[Gpu] = (),
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    ready: bool = True,
) -> AsyncIterator[tuple[Stage, DaemonClient]]:
    """Run the daemon of the present UNDERKEEL_HOME on a stage until the block ends.

    Args:
        tables: settings over those of the stage.
        ready: wait until the model is served.
    """
    usual_gpu = Gpu(GPU, GPU_BYTES, others_bytes=DESKTOP_BYTES)
    machine = Machine(folder / "gpus", list(gpus) or [usual_gpu])
    usual: dict[str, dict[str, Any]] = {
        "model": {
            "name": model,
            "n_ctx": 8192,
            "n_threads": 1,
            "vram_margin_mib": MARGIN_MIB,
            "vram_overhead_mib": 0,
        },
        "engine": {"hang_s": 10.0},
        "daemon": {"log_level": "debug"},
        "completion": {"debounce_ms": 10},
    }
    for name, table in (tables or {}).items():
        usual[name] = usual.get(name, {}) | dict(table)
    configure(home, **usual)
    stage = Stage(folder, machine)
    process = _start(machine, stage.record, folder / "stderr", speed)
    watching = asyncio.create_task(stage.watch())
    try:
        async with DaemonClient(autostart=False) as client:
            await _answers(client, process, folder / "stderr")
            if ready:
                await client.wait_ready()
            yield stage, client
    finally:
        watching.cancel()
        with contextlib.suppress(Exception):
            async with DaemonClient(autostart=False) as client:
                await client.stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, 20)
        process.kill()
        process.wait()


def _start(machine: Machine, record: Path, errors: Path, speed: float) -> subprocess.Popen[bytes]:
    environment = machine.environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    command = [sys.executable, str(HERE / "stage_daemon.py"), str(speed), str(record)]
    with errors.open("wb") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said)


def _ended(errors: Path) -> AssertionError:
    return AssertionError(f"the daemon ended:\n{errors.read_text(errors='replace')}")


async def _answers(client: DaemonClient, process: subprocess.Popen[bytes], errors: Path) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await client.status()
                return
            except UnderkeelError:
                if process.poll() is not None:
                    raise _ended(errors) from None
                await asyncio.sleep(0.05)


async def until(client: DaemonClient, told: Any, limit_s: float = 60, what: str = "") -> Status:
    """Wait until the status is as wanted."""
    status: Status | None = None
    try:
        async with asyncio.timeout(limit_s):
            while True:
                status = await client.status()
                if told(status):
                    return status
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not {what or 'so'} within {limit_s} s: {status}") from None


def serves_all(status: Status) -> bool:
    """Whether the whole plan is served again under the full budget."""
    return (
        status.state is ServiceState.READY
        and status.rung is not None
        and status.rung.index <= 2
        and status.budget is not None
        and status.budget.level == 0
    )
