"""The machine to plan for: this one as it is now, or one that is only imagined."""

from __future__ import annotations

import re
from collections.abc import Sequence

from assistant.errors import SettingsError
from assistant.memory.planning.plan import HOST_MEMORY, Machine
from assistant.memory.probes.devices import Device, DeviceKind, ask_backend, merge
from assistant.memory.probes.sampler import Probes

_UNITS = {"": 1 << 30, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?$", re.IGNORECASE)
_MOST_BYTES = 1 << 50


def this_machine() -> tuple[Machine, tuple[str, ...]]:
    """This machine's devices with what is free of them now, and what is odd about them.

    Raises:
        LoadError: llama.cpp cannot list its devices.
    """
    probes = Probes()
    try:
        sample = probes()
        devices = merge(ask_backend(), sample.gpus, sample.host_memory, sample.lost)
    finally:
        probes.close()
    machine = machine_of(devices)
    remarks = []
    if sample.gpus and not machine.gpus:
        names = ", ".join(gpu.name for gpu in sample.gpus)
        remarks.append(f"this build of llama.cpp cannot use the GPU that is there ({names})")
    if sample.host_memory.limited_by:
        remarks.append(
            f"host memory is limited by the control group {sample.host_memory.limited_by}"
        )
    return machine, tuple(remarks)


def machine_of(devices: Sequence[Device]) -> Machine:
    """Devices as the probes list them, sorted into GPUs and host."""
    host_memory = next(device for device in devices if device.name == HOST_MEMORY)
    return Machine(host_memory, tuple(device for device in devices if device.name != HOST_MEMORY))


def imagined(machine: Machine, vram: Sequence[int], ram: int, gpus: int) -> Machine:
    """A machine that one doesn't have: empty GPUs of these sizes, this much free host memory.

    Args:
        machine: what is not said is taken from it.
        vram: bytes of each GPU, or of all of them alike; empty leaves the machine's own.
        ram: bytes; 0 leaves the machine's own.
        gpus: how many GPUs; -1 means one for each size given, or the machine's own.
    """
    host_memory = Device(HOST_MEMORY, DeviceKind.CPU, ram, ram) if ram else machine.host_memory
    devices = machine.gpus
    if vram:
        sizes = list(vram)
        if gpus > 0:
            sizes = (sizes * gpus)[:gpus] if len(sizes) == 1 else sizes[:gpus]
        devices = tuple(
            Device(f"CUDA{index}", DeviceKind.GPU, size, size) for index, size in enumerate(sizes)
        )
    return Machine(host_memory, devices if gpus < 0 else devices[:gpus])


def parse_size(text: str) -> int:
    """Bytes of a size such as "24", "24G", "512M", "1.5GiB"; without a unit it is GiB.

    Raises:
        SettingsError: it is no size.
    """
    found = _SIZE.match(text.strip())
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else -1
    if not 0 <= size <= _MOST_BYTES:
        raise SettingsError("this is not a size", subject=text, advice="Write it as 24G or 800M")
    return size
