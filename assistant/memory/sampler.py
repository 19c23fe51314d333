"""How much memory is free, sampled more often while it matters.

Host memory is what the kernel calls available and the control groups leave of it. AMD GPUs on
Linux: the kernel driver's figures in sysfs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from assistant.llama import control_groups
from assistant.memory.devices import GpuMemory, HostMemory, Nvml, normal_bus_id

_KIB = 1024


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
    for group in _groups(root):
        left = max(0, group.limit_bytes - group.used_bytes)
        if group.limit_bytes < total_bytes and left < tightest.available_bytes:
            tightest = HostMemory(group.limit_bytes, left, str(group.path))
    return tightest


@dataclass(frozen=True, slots=True)
class _Group:
    path: Path
    limit_bytes: int
    used_bytes: int


def _meminfo(path: Path) -> tuple[int, int] | None:
    """(MemTotal, MemAvailable) in bytes."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        found = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
        total, available = (
            int(found[key].split()[0]) * _KIB for key in ("MemTotal", "MemAvailable")
        )
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return total, available


def _groups(root: Path) -> Iterator[_Group]:
    """Every memory control group above this process whose limit can be read.

    In version 1 a group also tells the least limit above it, which may not be mounted here.
    """
    for folder in control_groups("memory", root):
        limits = ("memory.max", "memory.high", "memory.limit_in_bytes")
        found = [_read_limit(folder / limit) for limit in limits]
        found.append(_stat(folder / "memory.stat", "hierarchical_memory_limit"))
        limits_bytes = [one for one in found if one is not None]
        usages = map(_read_limit, (folder / "memory.current", folder / "memory.usage_in_bytes"))
        used_bytes = next((one for one in usages if one is not None), None)
        if not limits_bytes or used_bytes is None:
            continue
        # Version 1 counts the groups below it in another line.
        caches = (_stat(folder / "memory.stat", key) for key in _DROPPABLE)
        droppable = next((one for one in caches if one is not None), 0)
        yield _Group(folder, min(limits_bytes), max(0, used_bytes - droppable))


_DROPPABLE = ("total_inactive_file", "inactive_file")


def _read_limit(path: Path) -> int | None:
    """The file's number; None for "max", a missing or an unreadable file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _stat(path: Path, key: str) -> int | None:
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    except (OSError, ValueError):
        pass
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


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _event(path: Path) -> dict[str, str]:
    return {key: value for key, _, value in (x.partition("=") for x in _line(path).splitlines())}


BUSY_S = 0.1
IDLE_S = 1.0
QUIET_S = 2.0
QUIET_AFTER_S = 60.0
ALERT_S = 0.1
_ALERT_LASTS_S = 3.0
_STIR_SHARE = 0.01  # of the size of a GPU or of host memory: a change worth looking closer at
_STUCK_S = 5.0


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
    time, and a look costs more than a reaction that comes two seconds later.

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
    ) -> None:
        """`idle_s` and `on_gpu`: see `interval_s`."""
        self._read = read
        self._on_sample = on_sample
        self._idle_s = idle_s
        self._on_gpu = on_gpu
        self._busy = False
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[Sample]] = []
        self._stirred_at_s = self._gpu_stirred_at_s = float("-inf")
        self.last: Sample | None = None
        self.stuck = False
        """Whether the probes have been silent for seconds: what is known is old."""

    def busy(self, now: bool) -> None:
        """Say whether tokens are being generated; the next look follows at once if so."""
        if now and not self._busy:
            self._wake.set()
        self._busy = now

    def look(self) -> None:
        """Ask for a sample now, before its time."""
        self._wake.set()

    async def fresh(self, within_s: float = 2.0) -> Sample | None:
        """A sample that was started after this call; the last one where the probes are stuck."""
        waiter: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        try:
            return await asyncio.wait_for(waiter, within_s)
        except TimeoutError:
            return self.last

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self._wake.clear()
            waiters, self._waiters = self._waiters, []
            sample = await self._ask()
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
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait_s)

    async def _ask(self) -> Sample:
        question = asyncio.create_task(asyncio.to_thread(self._read))
        while not (await asyncio.wait({question}, timeout=_STUCK_S))[0]:
            self.stuck = True
        self.stuck = False
        return await question

    def _take(self, sample: Sample) -> None:
        if self.last is not None and stirred(self.last, sample):
            self._stirred_at_s = time.monotonic()
            if gpu_stirred(self.last, sample):
                self._gpu_stirred_at_s = self._stirred_at_s
        self.last = sample
        self._on_sample(sample)
