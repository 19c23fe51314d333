"""Python, llama.cpp's build against the cards that are there, memory, disk, limits."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from assistant import __version__
from assistant.doctor.findings import Finding, note, well, wrong
from assistant.llama import threads
from assistant.llama.spec import BackendDevice, DeviceKind
from assistant.memory.probes.devices import Card, HostMemory, normal_bus_id

_GIB = 1 << 30
_LEAST_DISK_BYTES = 2 * _GIB
_LEAST_FILES = 1024
_DISTRIBUTION = "underkeel"

_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
# What llama.cpp is built with for a driver's cards.
_BUILD_FLAGS = {"nvml": "-DGGML_CUDA=on", "amdgpu": "-DGGML_VULKAN=on"}


def python(
    version: tuple[int, ...] = tuple(sys.version_info[:3]),
    bits: int = sys.maxsize.bit_length() + 1,
) -> Finding:
    """The interpreter that runs all of it."""
    said = f"Python {'.'.join(map(str, version))}, {bits} bits, {sys.executable}"
    if version[:2] < (3, 11):
        return wrong("python", said, "Install Underkeel under Python 3.11 or later")
    if bits != 64:
        return wrong("python", said, "Install Underkeel under a 64-bit Python")
    return well("python", said)


def packages(requirements: Iterable[str] | None = None) -> Finding:
    """Whether everything that Underkeel needs is installed."""
    if requirements is None:
        try:
            requirements = importlib.metadata.requires(_DISTRIBUTION) or ()
        except importlib.metadata.PackageNotFoundError:
            return note("packages", f"Underkeel {__version__} runs from its sources")
    missing = [name for name in _plain_names(requirements) if not _installed(name)]
    if missing:
        return wrong(
            "packages", f"not installed: {', '.join(missing)}", "Run: pip install underkeel"
        )
    return well("packages", f"Underkeel {__version__}, all packages are there")


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


def pci_graphics(root: Path = Path("/")) -> tuple[str, ...]:
    """Who made the graphics cards on the bus, whether a driver knows them or not; Linux only."""
    found = set()
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            kind = (device / "class").read_text(encoding="ascii").strip()
            vendor = (device / "vendor").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if kind.startswith("0x03") and vendor in _VENDORS:
            found.add(_VENDORS[vendor])
    return tuple(sorted(found))


def build(
    backend: Sequence[BackendDevice],
    cards: Sequence[Card],
    trouble: str,
    on_bus: Sequence[str] = (),
) -> list[Finding]:
    """Whether llama.cpp can use each card that a driver shows.

    Args:
        trouble: what NVIDIA's driver complains of, if it was asked in vain.
        on_bus: makers of the cards that are plugged in.
    """
    found = []
    gpus = [device for device in backend if device.kind in {DeviceKind.GPU, DeviceKind.IGPU}]
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    devices = ", ".join(f"{device.name} ({device.description.strip()})" for device in backend)
    found.append(well("llama.cpp", f"llama-cpp-python {version}: {devices or 'no devices'}"))
    usable = {normal_bus_id(device.bus_id) for device in gpus if device.bus_id}
    nameless = [device for device in gpus if not device.bus_id]
    for card in cards:
        size = f"{card.name}, {card.total_bytes / _GIB:.1f} GiB"
        if card.bus_id in usable or nameless:
            found.append(well("card", f"{size}, {card.free_bytes / _GIB:.1f} GiB free"))
            continue
        flag = _BUILD_FLAGS.get(card.driver, "")
        found.append(
            wrong(
                "card",
                f"{size}: this build of llama.cpp cannot use it",
                f'Build llama.cpp for it: CMAKE_ARGS="{flag}" pip install --force-reinstall '
                "--no-cache-dir --no-binary llama-cpp-python llama-cpp-python; in a checkout: "
                f'CMAKE_ARGS="{flag}" make env',
            )
        )
    if trouble and "NVIDIA" in on_bus:
        mend = "Install or mend NVIDIA's driver; nvidia-smi shows whether it works"
        found.append(wrong("driver", f"an NVIDIA card is plugged in, and: {trouble}", mend))
    elif not cards and not gpus:
        found.append(note("card", "no graphics card is seen; models run on the processor"))
    return found


def computing(wished: int, machine: threads.Processors | None = None) -> Finding:
    """How many threads llama.cpp computes with.

    Args:
        wished: what the settings say; 0 for nothing.
    """
    machine = machine or threads.processors()
    chosen = threads.choose(wished, machine)
    said = f"llama.cpp computes with {chosen.count} threads: {chosen.reason}"
    if wished and wished > (least := threads.choose(0, machine)).count:
        mend = f"Unset model.n_threads: {least.count} would be right, {least.reason}"
        return wrong("threads", said, mend)
    return well("threads", said)


def memory(host: HostMemory, swap_bytes: int) -> list[Finding]:
    """Host memory."""
    said = f"{host.available_bytes / _GIB:.1f} of {host.total_bytes / _GIB:.1f} GiB are free"
    found = [well("memory", said)]
    if host.limited_by:
        found.append(note("memory", f"the control group {host.limited_by} limits it"))
    if host.available_bytes < _GIB:
        found[0] = wrong("memory", said, "End other programs, or choose a smaller model")
    if swap_bytes > host.available_bytes:
        found.append(
            note(
                "memory",
                f"{swap_bytes / _GIB:.1f} GiB are swapped out; answers may come late",
                "Set model.mlock = true to keep the model in memory",
            )
        )
    return found


def disk(folders: Sequence[tuple[str, Path]]) -> list[Finding]:
    """Room where Underkeel writes."""
    found = []
    for what, folder in folders:
        place = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        try:
            free = shutil.disk_usage(place).free
        except OSError as error:
            found.append(wrong("disk", f"{folder}: {error.strerror}", "Mend that folder"))
            continue
        said = f"{free / _GIB:.1f} GiB free for {what} ({folder})"
        short = free < _LEAST_DISK_BYTES
        found.append(wrong("disk", said, "Make room") if short else well("disk", said))
    return found


def limits(*, mlock: bool) -> list[Finding]:
    """What the system lets a process have."""
    try:
        import resource
    except ImportError:  # Windows has none of these
        return []
    found = []
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < _LEAST_FILES:
        found.append(
            wrong("limits", f"a process may open {most} files only", "Raise it: ulimit -Hn 8192")
        )
    _, locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if mlock and locked != resource.RLIM_INFINITY:
        found.append(
            wrong(
                "limits",
                f"model.mlock is set, and only {locked / _GIB:.2f} GiB may be locked",
                "Allow more in /etc/security/limits.conf (memlock), or unset model.mlock",
            )
        )
    return found or [well("limits", "enough files and locked memory are allowed")]
