"""How much memory is free, looked at again and again: often while it matters, seldom while not.

AMD GPUs on Linux: the kernel driver's own figures in sysfs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from assistant.memory.probes.devices import GpuMemory, HostMemory, normal_bus_id
from assistant.memory.probes.host_memory import read_host_memory
from assistant.memory.probes.nvml import Nvml


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


def stirred(before: Sample, after: Sample) -> bool:
    """Whether so much changed that the next look should come soon."""
    if before.lost != after.lost or len(before.gpus) != len(after.gpus):
        return True
    pairs = [
        (old.free_bytes, new.free_bytes, new.total_bytes)
        for old, new in zip(before.gpus, after.gpus, strict=True)
    ]
    pairs.append(
        (
            before.host_memory.available_bytes,
            after.host_memory.available_bytes,
            after.host_memory.total_bytes,
        )
    )
    return any(abs(new - old) > total * _STIR_SHARE for old, new, total in pairs)


def interval_s(*, busy: bool, since_stir_s: float) -> float:
    """Seconds to the next look: tight while generating and for a while after a change."""
    if busy:
        return BUSY_S
    return ALERT_S if since_stir_s < _ALERT_LASTS_S else IDLE_S


class Sampler:
    """Asks the probes for as long as `run` runs and hands every sample to `on_sample`.

    The probes run in a thread, since a sick driver may block; a question that blocks does not
    stop the event loop, and no second one is asked beside it.
    """

    def __init__(self, read: Reader, on_sample: Callable[[Sample], None]) -> None:
        self._read = read
        self._on_sample = on_sample
        self._busy = False
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[Sample]] = []
        self._stirred_at_s = -_ALERT_LASTS_S
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
        """A sample that was begun after this call; the last one where the probes are stuck."""
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
            since = time.monotonic() - self._stirred_at_s
            wait_s = interval_s(busy=self._busy, since_stir_s=since)
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
        self.last = sample
        self._on_sample(sample)
