"""Checks of Python, the packages, llama.cpp's build against the GPUs, memory, disk, limits."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from assistant import __version__, llama
from assistant.install.choice import choose, cpu_only_beside_gpu, unusable
from assistant.install.machine import Machine, Vendor
from assistant.llama import BackendDevice, DeviceKind
from assistant.memory.devices import (
    RAISE_THE_LIMIT,
    Device,
    GpuMemory,
    HostMemory,
    normal_bus_id,
)
from assistant.memory.rates import stored_rates


class Level(StrEnum):
    """How serious a finding is: nothing to do, worth knowing, or to be fixed."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: what was checked, one word or two.
        message: what was found.
        advice: what to do about it; empty where there is nothing to do.
    """

    check: str
    level: Level
    message: str
    advice: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def warn(check: str, message: str, advice: str = "") -> Finding:
    return Finding(check, Level.WARN, message, advice)


def fail(check: str, message: str, advice: str = "") -> Finding:
    return Finding(check, Level.FAIL, message, advice)


_GIB = 1 << 30
_LEAST_DISK_BYTES = 2 * _GIB
_LEAST_FILES = 1024
_DISTRIBUTION = "underkeel"
_SETUP = "Run: underkeel setup"


def python(
    version: tuple[int, ...] = tuple(sys.version_info[:3]),
    bits: int = sys.maxsize.bit_length() + 1,
) -> Finding:
    """The Python that runs Underkeel."""
    said = f"Python {'.'.join(map(str, version))}, {bits} bits, {sys.executable}"
    if version[:2] < (3, 11):
        return fail("python", said, "Install Underkeel under Python 3.11 or later")
    if bits != 64:
        return fail("python", said, "Install Underkeel under a 64-bit Python")
    return ok("python", said)


def packages(requirements: Iterable[str] | None = None) -> Finding:
    """Whether all required packages are installed."""
    if requirements is None:
        try:
            requirements = importlib.metadata.requires(_DISTRIBUTION) or ()
        except importlib.metadata.PackageNotFoundError:
            return warn("packages", f"Underkeel {__version__} runs from its sources")
    missing = [name for name in _plain_names(requirements) if not _installed(name)]
    if missing:
        return fail(
            "packages",
            f"not installed: {', '.join(missing)}",
            f"Run: {sys.executable} -m pip install {' '.join(missing)}",
        )
    return ok("packages", f"Underkeel {__version__}, all packages are installed")


def _plain_names(requirements: Iterable[str]) -> Iterator[str]:
    for requirement in requirements:
        if "extra ==" not in requirement:
            name = requirement
            for mark in " ;<>=!~[(":
                name = name.partition(mark)[0]
            yield name


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def build(
    backend: Sequence[BackendDevice],
    gpus: Sequence[GpuMemory],
    trouble: str,
    machine: Machine,
) -> list[Finding]:
    """Whether llama.cpp can use each GPU that a driver reports.

    Args:
        backend: ggml's devices.
        gpus: what the drivers report.
        trouble: the error of NVIDIA's driver; empty where there is none.
        machine: all GPUs, those without a driver too, and the installed build's backends.
    """
    found = []
    usable = [device for device in backend if device.kind in {DeviceKind.GPU, DeviceKind.IGPU}]
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    devices = ", ".join(f"{device.name} ({device.description.strip()})" for device in backend)
    found.append(ok("llama.cpp", f"llama-cpp-python {version}: {devices or 'no devices'}"))
    addresses = {normal_bus_id(device.bus_id) for device in usable if device.bus_id}
    without_address = [device for device in usable if not device.bus_id]
    for gpu in gpus:
        size = f"{gpu.name}, {gpu.total_bytes / _GIB:.1f} GiB"
        if gpu.bus_id in addresses or without_address:
            found.append(ok("GPU", f"{size}, {gpu.free_bytes / _GIB:.1f} GiB free"))
        else:
            found.append(fail("GPU", f"{size}: this build of llama.cpp cannot use it", _SETUP))
    if not any(finding.level is Level.FAIL for finding in found) and cpu_only_beside_gpu(machine):
        reason = choose(machine).reason
        found.append(fail("llama.cpp", f"this build is for the CPU only; {reason}", _SETUP))
    silent = [gpu for gpu in machine.gpus if not gpu.driver and gpu.vendor is Vendor.NVIDIA]
    if trouble and silent and not machine.container:
        advice = "Install or repair NVIDIA's driver; nvidia-smi shows whether it works"
        found.append(fail("driver", f"an NVIDIA GPU is present, but: {trouble}", advice))
        others = tuple(gpu for gpu in machine.gpus if gpu not in silent)
        machine = msgspec.structs.replace(machine, gpus=others)
    found.extend(warn("GPU", note) for note in unusable(machine))
    if not (silent or machine.gpus or gpus or usable):
        found.append(ok("GPU", "none found; models run on the CPU"))
    return found


def computing(requested: int, machine: llama.Processors | None = None) -> Finding:
    """How many threads llama.cpp computes with.

    Args:
        requested: model.n_threads of the settings; 0 for automatic.
    """
    machine = machine or llama.processors()
    chosen = llama.choose_threads(requested, machine)
    message = f"llama.cpp computes with {chosen.count} threads: {chosen.reason}"
    if requested and requested > (least := llama.choose_threads(0, machine)).count:
        advice = f"Unset model.n_threads: {least.count} is better, {least.reason}"
        return fail("threads", message, advice)
    return ok("threads", message)


def memory(host: HostMemory, swap_bytes: int) -> list[Finding]:
    """Host memory."""
    said = f"{host.available_bytes / _GIB:.1f} of {host.total_bytes / _GIB:.1f} GiB are free"
    found = [ok("memory", said)]
    if host.limited_by:
        found.append(warn("memory", f"the control group {host.limited_by} limits it"))
    if host.available_bytes < _GIB:
        advice = "Close other programs, or choose a smaller model"
        if host.limited_by:
            advice = f"Choose a smaller model. {RAISE_THE_LIMIT}"
        found[0] = fail("memory", said, advice)
    if swap_bytes > host.available_bytes:
        found.append(
            warn(
                "memory",
                f"{swap_bytes / _GIB:.1f} GiB are swapped out; answers may be slow",
                "Set model.mlock = true to keep the model in memory",
            )
        )
    return found


def disk(folders: Sequence[tuple[str, Path]]) -> list[Finding]:
    """Free disk space where Underkeel writes."""
    found = []
    for what, folder in folders:
        existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        try:
            free = shutil.disk_usage(existing).free
        except OSError as error:
            found.append(fail("disk", f"{folder}: {error.strerror}", "Fix its permissions"))
            continue
        said = f"{free / _GIB:.1f} GiB free for {what} ({folder})"
        short = free < _LEAST_DISK_BYTES
        found.append(fail("disk", said, "Free some space") if short else ok("disk", said))
    return found


def limits(*, mlock: bool) -> list[Finding]:
    """Limits that the system sets for a process."""
    try:
        import resource
    except ImportError:  # Windows has none of these
        return []
    found = []
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < _LEAST_FILES:
        found.append(
            fail("limits", f"a process may open only {most} files", "Raise it: ulimit -Hn 8192")
        )
    _, locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if mlock and locked != resource.RLIM_INFINITY:
        found.append(
            fail(
                "limits",
                f"model.mlock is set, but only {locked / _GIB:.2f} GiB may be locked",
                "Allow more in /etc/security/limits.conf (memlock), or unset model.mlock",
            )
        )
    return found or [ok("limits", "enough files and locked memory are allowed")]


def speed(gpus: Sequence[Device]) -> list[Finding]:
    """The stored rates by which plans predict speeds. Nothing is measured here."""
    found = stored_rates(gpus)
    if found is None:
        return [ok("speed", "not measured yet; underkeel recommend does it, in a few seconds")]
    return [ok("speed", found.describe(gpus=bool(gpus)))]
