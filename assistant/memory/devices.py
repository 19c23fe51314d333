"""The devices that hold a model: what they are and how much of them is free.

The planner knows only `Device`. Its figures come from two sides: ggml names the devices that it
can use (in a child process: querying a CUDA GPU costs a context on it), and NVIDIA's driver
reports through pynvml, for almost nothing, what each GPU has free and which processes hold it.
`merge` joins them by bus address. Reading the driver raises nothing: a machine without it has no
GPUs, and a driver that goes away and comes back is found again.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from assistant.errors import LoadError, from_wire
from assistant.llama import BackendDevice, DeviceKind

__all__ = [
    "Device",
    "DeviceKind",
    "GpuMemory",
    "HostMemory",
    "ProcessMemory",
    "ask_backend",
    "merge",
    "normal_bus_id",
    "not_loaded",
]

# As in `assistant.llama.ggml`, which the daemon never imports: it loads llama.cpp.
BACKENDS_VARIABLE = "UNDERKEEL_GGML_BACKENDS"

_ASK_LIMIT_S = 60.0
_LINE_CHARACTERS = 300
_PACKAGE = "llama-cpp-python"
_MISSING_LIBRARY = re.compile(r"([\w.+-]+\.so[\w.]*): cannot open")
_REBUILD = "Run: underkeel setup --rebuild"
_LIBRARY_ADVICE = {
    "libcuda.so": "NVIDIA's driver is missing: install it, start a container with --gpus all, or "
    "run: underkeel setup --backend cpu",
    "libcu": "The CUDA toolkit of this build is missing: install it again, or run: underkeel setup "
    "--rebuild",
    "libvulkan": "Install the Vulkan loader (Debian, Ubuntu: apt-get install libvulkan1), or run: "
    "underkeel setup --backend cpu",
    "libamdhip": "Install ROCm again, or run: underkeel setup --rebuild",
    "libhip": "Install ROCm again, or run: underkeel setup --rebuild",
    "libroc": "Install ROCm again, or run: underkeel setup --rebuild",
}
"""What to do about a missing library, by how its name starts; the first that fits counts."""

_asked_ahead: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class Device:
    """One place for tensors.

    Attributes:
        name: ggml's name of it: "CUDA0", "Vulkan0"; "CPU" for host memory.
        free_bytes: what may be taken now, after all that other programs hold.
        limited_by: the control group whose limit decides what is free; empty for none.
    """

    name: str
    kind: DeviceKind
    total_bytes: int
    free_bytes: int
    limited_by: str = ""

    @property
    def limit_in_words(self) -> str:
        """The limit and whose it is, for a message; empty for none."""
        if not self.limited_by:
            return ""
        limit = f"{self.total_bytes / 2**30:.2f} GiB"
        return f"host memory is limited to {limit} by the control group {self.limited_by}"


RAISE_THE_LIMIT = "Or raise the memory limit of the container or service"
"""Advice where a control group's limit is in the way."""


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """What one process holds of a GPU; None where the driver does not tell."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """A GPU, or a MIG instance of one, as its driver reports it at one moment.

    Attributes:
        name: the product, for people.
        bus_id: PCI address in the kernel's form, "0000:01:00.0"; an instance has its GPU's.
        driver: which probe saw it: "nvml" or "amdgpu".
        processes: who holds it; empty where the driver was not asked or does not tell.
        instance: number of the MIG instance; -1 for a whole GPU.
    """

    name: str
    bus_id: str
    driver: str
    total_bytes: int
    free_bytes: int
    processes: tuple[ProcessMemory, ...] = ()
    instance: int = -1


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Host memory at one moment.

    Attributes:
        total_bytes: of the machine, or of the control group where that is less.
        available_bytes: what may be taken without swapping or being killed.
        limited_by: the control group's path where it is what limits; empty otherwise.
    """

    total_bytes: int
    available_bytes: int
    limited_by: str = ""


def name_backends(libraries: Sequence[str]) -> None:
    """Let the worker and the planner's children load the user's own ggml backends."""
    if libraries and BACKENDS_VARIABLE not in os.environ:
        os.environ[BACKENDS_VARIABLE] = os.pathsep.join(libraries)


def ask_ahead() -> None:
    """Start the child of the next `ask_backend` now: it works while the caller does other things.

    Only for a query that follows within seconds, because the answer holds the memory free by then.
    """
    with suppress(OSError):  # the query itself reports what is wrong
        _asked_ahead.append(_start_query(os.environ))


def ask_backend(environment: Mapping[str, str] | None = None) -> tuple[BackendDevice, ...]:
    """ggml's devices, listed in a child process that ends at once and frees what it took.

    Args:
        environment: the child's environment; None means this process's own.

    Raises:
        LoadError: the child died or did not answer.
    """
    ahead = environment is None and bool(_asked_ahead)
    child = _asked_ahead.pop() if ahead else _start_query(environment or os.environ)
    try:
        answer, errors = child.communicate(timeout=_ASK_LIMIT_S)
        if child.returncode == 0:
            return msgspec.json.decode(answer, type=tuple[BackendDevice, ...])
        if ahead:
            return ask_backend()
        refusal = msgspec.json.decode(answer, type=dict[str, str])
    except subprocess.TimeoutExpired as error:
        child.kill()
        child.communicate()
        message = f"llama.cpp cannot list its devices: no answer within {_ASK_LIMIT_S:.0f} s"
        advice = "A driver may hang; restart the machine, or run: underkeel setup --rebuild"
        raise LoadError(message, subject=_PACKAGE, advice=advice) from error
    except (ValueError, RecursionError) as error:
        raise not_loaded(child.returncode, errors.decode("utf-8", "replace")) from error
    raise from_wire(**refusal)


def not_loaded(exit_status: int, said: str) -> LoadError:
    """Why llama.cpp cannot be loaded, by how a process with it ended.

    Args:
        exit_status: negative for a signal.
        said: its standard error, such as the dynamic linker's message in a traceback.
    """
    *_, last = [line.strip() for line in said.splitlines() if line.strip()] or [""]
    last = last[-_LINE_CHARACTERS:]
    if missing := _MISSING_LIBRARY.search(last):
        why = f"{missing[1]} was not found"
        advice = next(
            (text for start, text in _LIBRARY_ADVICE.items() if missing[1].startswith(start)),
            _REBUILD,
        )
    elif "No module named" in last:
        why, advice = "it is not installed", "Run: underkeel setup"
    elif exit_status == -signal.SIGILL:
        why, advice = "it was built for another processor", _REBUILD
    elif exit_status < 0:
        why, advice = f"it was ended by signal {-exit_status}", _REBUILD
    else:
        why, advice = last or f"it ended with exit status {exit_status}", _REBUILD
    message = f"llama.cpp cannot be loaded: {why}"
    return LoadError(message, subject=_PACKAGE, advice=advice)


def _start_query(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "assistant.llama.probe", "devices"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
    )


def _no_answer(why: str) -> LoadError:
    return LoadError(
        f"llama.cpp cannot list its devices: {why}",
        subject="llama-cpp-python",
        advice="Run 'python -m assistant.llama.probe devices' to see what it says",
    )


def normal_bus_id(text: str) -> str:
    """A PCI address as the kernel writes it; NVML writes the domain with eight digits."""
    domain, colon, rest = text.lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}" if colon and ":" in rest else text.lower()
    except ValueError:
        return text.lower()


def merge(
    backend: Sequence[BackendDevice],
    gpus: Sequence[GpuMemory],
    host_memory: HostMemory,
    lost: Collection[str] = (),
) -> tuple[Device, ...]:
    """What the planner may use now: ggml's graphics devices, then host memory.

    A device takes its driver's figures where the driver knows it by bus address, and ggml's own
    otherwise. Where a GPU is cut into MIG instances, ggml does not say which one it uses, so the
    one with the least free memory is assumed.

    Args:
        lost: bus addresses that a driver knew and no longer shows; they have nothing free.
    """
    devices = []
    for device in backend:
        if device.kind not in {DeviceKind.GPU, DeviceKind.IGPU}:
            continue
        address = normal_bus_id(device.bus_id)
        seen = [gpu for gpu in gpus if address and gpu.bus_id == address]
        total, free = device.total_bytes, device.free_bytes
        if seen:
            gpu = min(seen, key=lambda gpu: gpu.free_bytes)
            total, free = gpu.total_bytes, gpu.free_bytes
        elif address in lost:
            free = 0
        devices.append(Device(device.name, device.kind, total, free))
    cpu = Device(
        "CPU",
        DeviceKind.CPU,
        host_memory.total_bytes,
        host_memory.available_bytes,
        host_memory.limited_by,
    )
    return (*devices, cpu)


_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 30.0
_RENEW_S = 5.0  # how often to look again for a lost GPU while others answer


class Nvml:
    """A session with the driver, opened at the first question and again after a loss.

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
