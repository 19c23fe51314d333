"""NVIDIA's driver through pynvml: what each GPU has free and who holds it.

Nothing here raises: a machine without the driver has no GPUs, a driver that goes away leaves
none, and one that comes back is found again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from assistant.memory.probes.devices import GpuMemory, ProcessMemory, normal_bus_id

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 30.0
_RENEW_S = 5.0  # how often to look again for a lost GPU while others answer


class Nvml:
    """A session with the driver, begun at the first question and again after a loss.

    Not for use by several threads at once.

    Attributes:
        trouble: why GPUs may be missing, in words; empty where all is well.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._library: Any = None
        self._retry_at = 0.0
        self._retry_s = _FIRST_RETRY_S
        self._renew_at = 0.0
        self.trouble = ""

    def read(self, *, processes: bool = False) -> tuple[GpuMemory, ...]:
        """All GPUs that answer now. `processes` also asks who holds them (slower)."""
        library = self._session()
        if library is None:
            return ()
        gpus: list[GpuMemory] = []
        self.trouble = ""
        try:
            for index in range(library.nvmlDeviceGetCount()):
                try:
                    handle = library.nvmlDeviceGetHandleByIndex(index)
                    gpus.extend(_gpu(library, handle, processes))
                except library.NVMLError as error:
                    self.trouble = f"GPU {index}: {error}"
        except library.NVMLError as error:
            self.trouble = str(error)
        if not self.trouble:
            self._retry_s = _FIRST_RETRY_S
        elif not gpus:
            self._end()
            self._postpone()
        elif self._clock() >= self._renew_at:
            self._end()
            self._renew_at = self._clock() + _RENEW_S
        return tuple(gpus)

    def close(self) -> None:
        """End the session; the next question begins a new one."""
        self._end()

    def _session(self) -> Any:
        """pynvml with an open session, or None; tried again ever more seldom."""
        if self._library is not None:
            return self._library
        if self._clock() < self._retry_at:
            return None
        try:
            import pynvml
        except ImportError as error:
            self.trouble = str(error)
            self._postpone()
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self.trouble = str(error)
            self._postpone()
            return None
        self._library = pynvml
        return pynvml

    def _end(self) -> None:
        """After a loss a session's handles are dead, and it does not see the GPU return."""
        if self._library is not None:
            with suppress(self._library.NVMLError):
                self._library.nvmlShutdown()
            self._library = None

    def _postpone(self) -> None:
        self._retry_at = self._clock() + self._retry_s
        self._retry_s = min(self._retry_s * 2, _LAST_RETRY_S)


def _gpu(library: Any, handle: Any, processes: bool) -> Iterator[GpuMemory]:
    """The GPU, or its MIG instances where it is cut into such."""
    address = normal_bus_id(_text(library.nvmlDeviceGetPciInfo(handle).busId))
    instances = list(_instances(library, handle))
    for number, part in instances or [(-1, handle)]:
        memory = library.nvmlDeviceGetMemoryInfo(part)
        yield GpuMemory(
            name=_text(library.nvmlDeviceGetName(part)),
            bus_id=address,
            driver="nvml",
            total_bytes=int(memory.total),
            free_bytes=int(memory.free),
            processes=_processes(library, part) if processes else (),
            instance=number,
        )


def _instances(library: Any, handle: Any) -> Iterator[tuple[int, Any]]:
    try:
        if library.nvmlDeviceGetMigMode(handle)[0] != library.NVML_DEVICE_MIG_ENABLE:
            return
    except (library.NVMLError_NotSupported, library.NVMLError_FunctionNotFound):
        return
    for number in range(library.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(library.NVMLError_NotFound):
            yield number, library.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)


def _processes(library: Any, handle: Any) -> tuple[ProcessMemory, ...]:
    """Every process once, though one may be listed for computing and for graphics."""
    found: dict[int, int | None] = {}
    for ask in (
        library.nvmlDeviceGetComputeRunningProcesses,
        library.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        try:
            for process in ask(handle):
                found[int(process.pid)] = process.usedGpuMemory
        except (
            library.NVMLError_NotSupported,
            library.NVMLError_NoPermission,
            library.NVMLError_FunctionNotFound,
            library.NVMLLibraryMismatchError,
        ):
            continue
    return tuple(ProcessMemory(pid, used) for pid, used in sorted(found.items()))


def _text(raw: str | bytes) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
