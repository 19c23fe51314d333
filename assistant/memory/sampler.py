"""How much memory is free, sampled more often while it matters.

Host memory is what the kernel calls available and the control groups leave of it. AMD GPUs on
Linux: the kernel driver's figures in sysfs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import psutil

from assistant.llama import control_groups
from assistant.memory.devices import GpuMemory, HostMemory, Nvml, normal_bus_id

_KIB = 1024
_MOST_BYTES = 1 << 16


def read_host_memory(root: Path = Path("/")) -> HostMemory:
    """Host memory now.

    Linux: MemAvailable, lowered to what each control group above this process leaves (v2: the
    lower of memory.max and memory.high, less memory.current; v1: limit less usage), where page
    cache that the kernel can drop at once (inactive_file) counts as free. Elsewhere: what psutil
    says.

    Args:
        root: where `/proc` and `/sys` are looked for.
    """
    kernel = _meminfo(root / "proc/meminfo")
    if kernel is None:
        memory = psutil.virtual_memory()
        return HostMemory(memory.total, memory.available)
    total_bytes, _ = kernel
    tightest = HostMemory(*kernel)
    for folder in control_groups("memory", root):
        group = _group(folder, total_bytes)
        if group is not None and group.available_bytes < tightest.available_bytes:
            tightest = group
    return tightest


def _meminfo(path: Path) -> tuple[int, int] | None:
    """(MemTotal, MemAvailable) in bytes."""
    try:
        lines = _read(path).splitlines()
        found = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
        total, available = (
            int(found[key].split()[0]) * _KIB for key in ("MemTotal", "MemAvailable")
        )
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return total, available


def _group(folder: Path, total_bytes: int) -> HostMemory | None:
    """What a memory control group allows; None where that is `total_bytes` or more, or unknown.

    In version 1 a group also tells the least limit above it, which may not be mounted here.
    """
    limits = [_number(folder / name) for name in ("memory.max", "memory.high")]
    stats: dict[str, int] = {}
    if limits == [None, None] and (limit := _number(folder / "memory.limit_in_bytes")) is not None:
        stats = _stats(folder)
        limits = [limit, stats.get("hierarchical_memory_limit")]
    limit_bytes = min((one for one in limits if one is not None), default=total_bytes)
    if limit_bytes >= total_bytes:
        return None
    usages = (_number(folder / name) for name in ("memory.current", "memory.usage_in_bytes"))
    used_bytes = next((one for one in usages if one is not None), None)
    if used_bytes is None:
        return None
    stats = stats or _stats(folder)
    # Version 1 counts the groups below it in another line.
    droppable = stats.get("total_inactive_file", stats.get("inactive_file", 0))
    left_bytes = max(0, limit_bytes - max(0, used_bytes - droppable))
    return HostMemory(limit_bytes, left_bytes, str(folder))


def _stats(folder: Path) -> dict[str, int]:
    """The lines of a control group's `memory.stat`; empty where it cannot be read."""
    try:
        lines = _read(folder / "memory.stat").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(" ") for line in lines)
    return {name: int(value) for name, _, value in pairs if value.isdecimal()}


def _read(path: Path) -> str:
    """The text of a file of the kernel, which gives it whole with one read."""
    with path.open("rb", buffering=0) as file:
        return file.read(_MOST_BYTES).decode("utf-8", "replace")


def _number(path: Path) -> int | None:
    """The file's number; None for "max", a missing or an unreadable file."""
    try:
        return int(_read(path))
    except (OSError, ValueError):
        return None


def read_amdgpu(root: Path = Path("/")) -> tuple[GpuMemory, ...]:
    """Every GPU whose driver is amdgpu; none where there is no such driver.

    Source: `mem_info_vram_total` and `mem_info_vram_used` (kernel, "AMDGPU: Memory accounting").
    """
    gpus = []
    for device in sorted((root / "sys/class/drm").glob("card[0-9]*/device")):
        total, used = (_number(device / f"mem_info_vram_{kind}") for kind in ("total", "used"))
        if total is None or used is None:
            continue
        address = _event(device / "uevent").get("PCI_SLOT_NAME", "")
        gpus.append(
            GpuMemory(
                name=_line(device / "product_name") or "AMD graphics",
                bus_id=normal_bus_id(address),
                driver="amdgpu",
                total_bytes=total,
                free_bytes=max(0, total - used),
            )
        )
    return tuple(gpus)


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _event(path: Path) -> dict[str, str]:
    return {key: value for key, _, value in (x.partition("=") for x in _line(path).splitlines())}


BUSY_S = 0.1
IDLE_S = 1.0
QUIET_S = 5.0
QUIET_AFTER_S = 60.0
QUIET_HANDS_ON_S = 30.0
"""How often a sample that tells nothing new is handed on after a minute without a request: what
follows from it costs several times what the sample does."""
ALERT_S = 0.1
_ALERT_LASTS_S = 3.0
_STIR_SHARE = 0.01  # of the size of a GPU or of host memory: a change worth looking closer at
_STUCK_S = 5.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sample:
    """What all probes saw at one moment.

    Attributes:
        at_s: the monotonic clock when the probes were asked.
        lost: bus addresses of GPUs that were seen before and are not now.
        trouble: why GPUs may be missing; empty where all is well.
    """

    at_s: float
    gpus: tuple[GpuMemory, ...]
    host_memory: HostMemory
    lost: tuple[str, ...] = ()
    trouble: str = ""


class Reader(Protocol):
    def __call__(self) -> Sample: ...


class Probes:
    """All probes of this machine as one question. Never raises."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._nvml = Nvml(clock)
        self._seen: set[str] = set()

    def __call__(self) -> Sample:
        at_s = self._clock()
        gpus = (*self._nvml.read(), *read_amdgpu())
        present = {gpu.bus_id for gpu in gpus}
        self._seen |= present
        return Sample(
            at_s=at_s,
            gpus=gpus,
            host_memory=read_host_memory(),
            lost=tuple(sorted(self._seen - present)),
            trouble=self._nvml.trouble,
        )

    def close(self) -> None:
        self._nvml.close()


def gpu_stirred(before: Sample, after: Sample) -> bool:
    """Whether a GPU came or went, or the free memory of one changed much."""
    if before.lost != after.lost or len(before.gpus) != len(after.gpus):
        return True
    pairs = zip(before.gpus, after.gpus, strict=True)
    return any(_changed(old.free_bytes, new.free_bytes, new.total_bytes) for old, new in pairs)


def stirred(before: Sample, after: Sample) -> bool:
    """Whether so much changed that the next look should come soon."""
    old, new = before.host_memory, after.host_memory
    changed = _changed(old.available_bytes, new.available_bytes, new.total_bytes)
    return changed or gpu_stirred(before, after)


def _changed(old: int, new: int, total: int) -> bool:
    return abs(new - old) > total * _STIR_SHARE


def interval_s(
    *,
    busy: bool,
    since_stir_s: float,
    since_gpu_stir_s: float,
    idle_s: float = 0.0,
    on_gpu: bool = True,
) -> float:
    """Seconds to the next sample.

    Short while tokens are generated, and for a while after a change. After `QUIET_AFTER_S` without
    a request only changes of GPU memory count: in host memory other programs come and go all the
    time, and a look costs more than a reaction that comes a few seconds later.

    Args:
        busy: tokens are being generated.
        since_stir_s: since host or GPU memory changed much; `since_gpu_stir_s`: GPU memory alone.
        idle_s: since the last request.
        on_gpu: a model is loaded on a GPU, where memory has to be back within two seconds.
    """
    if busy:
        return BUSY_S
    quiet = idle_s >= QUIET_AFTER_S
    if (since_gpu_stir_s if quiet else since_stir_s) < _ALERT_LASTS_S:
        return ALERT_S
    return QUIET_S if quiet and not on_gpu else IDLE_S


class Sampler:
    """Asks the probes for as long as `run` runs and hands every sample to `on_sample`.

    The probes run in a thread, since a sick driver may block; a question that blocks does not
    stop the event loop, and no second one is asked beside it.
    """

    def __init__(
        self,
        read: Reader,
        on_sample: Callable[[Sample], None],
        *,
        idle_s: Callable[[], float] = lambda: 0.0,
        on_gpu: Callable[[], bool] = lambda: True,
        every: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Args:
            idle_s, on_gpu: see `interval_s`.
            every: every sample is to be handed on, since something else is measured with it; where
                it says no, one without news waits for up to `QUIET_HANDS_ON_S` after a minute
                without a request.
        """
        self._read = read
        self._on_sample = on_sample
        self._idle_s = idle_s
        self._on_gpu = on_gpu
        self._every = every
        self._busy = False
        self._wake = asyncio.Event()
        self._wake_thread = threading.Event()
        self._waiters: list[asyncio.Future[Sample]] = []
        self._stirred_at_s = self._gpu_stirred_at_s = float("-inf")
        self.last: Sample | None = None
        self.stuck = False
        """Whether the probes have been silent for seconds: what is known is old."""

    def busy(self, now: bool) -> None:
        """Say whether tokens are being generated; the next look follows at once if so."""
        if now and not self._busy:
            self.look()
        self._busy = now

    def look(self) -> None:
        """Ask for a sample now, before its time."""
        self._wake.set()
        self._wake_thread.set()

    async def fresh(self, within_s: float = 2.0) -> Sample | None:
        """A sample that was started after this call; the last one where the probes are stuck."""
        waiter: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.look()
        try:
            return await asyncio.wait_for(waiter, within_s)
        except TimeoutError:
            return self.last

    async def run(self) -> None:
        """Sample until cancelled."""
        try:
            while True:
                await self._sample()
        finally:
            self._wake_thread.set()

    async def _sample(self) -> None:
        """Ask for one sample, hand it on, and wait until the next is due."""
        self._wake.clear()
        self._wake_thread.clear()
        waiters, self._waiters = self._waiters, []
        sample = await self._in_thread(self._read)
        self._take(sample)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(sample)
        now_s = time.monotonic()
        wait_s = interval_s(
            busy=self._busy,
            since_stir_s=now_s - self._stirred_at_s,
            since_gpu_stir_s=now_s - self._gpu_stirred_at_s,
            idle_s=self._idle_s(),
            on_gpu=self._on_gpu(),
        )
        alert = wait_s in {BUSY_S, ALERT_S}
        if self._idle_s() >= QUIET_AFTER_S and not alert and not self._every():
            await self._in_thread(lambda: self._until_news(sample, wait_s), QUIET_HANDS_ON_S)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), wait_s)

    def _until_news(self, known: Sample, every_s: float) -> None:
        """In a thread: return when a sample differs from `known`, at `look`, or in due time."""
        end_s = time.monotonic() + QUIET_HANDS_ON_S
        while time.monotonic() < end_s and not self._wake_thread.wait(every_s):
            if stirred(known, self._read()):
                return

    async def _in_thread(self, work: Callable[[], T], takes_s: float = 0.0) -> T:
        """Run `work`, which blocks for `takes_s` if the probes answer."""
        running = asyncio.create_task(asyncio.to_thread(work))
        while not (await asyncio.wait({running}, timeout=takes_s + _STUCK_S))[0]:
            self.stuck = True
        self.stuck = False
        return await running

    def _take(self, sample: Sample) -> None:
        if self.last is not None and stirred(self.last, sample):
            self._stirred_at_s = time.monotonic()
            if gpu_stirred(self.last, sample):
                self._gpu_stirred_at_s = self._stirred_at_s
        self.last = sample
        self._on_sample(sample)
