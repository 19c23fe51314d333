"""The GPU under test: the first one of this machine, or a simulated one, behind the same calls."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from assistant.memory.devices import Device, DeviceKind, Nvml, ask_backend, merge
from assistant.memory.gguf.header import Header
from assistant.memory.planning import HOST_MEMORY, Machine, machine_of
from assistant.memory.sampler import read_host_memory
from gpu_check.results import Config

MIB, GIB = 1 << 20, 1 << 30

# The simulated driver takes this much of the GPU for a process's first stream and first graph.
SIMULATED_CONTEXT_BYTES, SIMULATED_POOL_BYTES = 3 * MIB, 2 * MIB
_SIMULATED = "SIM0"


class Gpu:
    """One GPU as the driver and ggml know it.

    Attributes:
        device: ggml's name of it, such as "CUDA0".
    """

    def __init__(self, config: Config) -> None:
        """Raises RuntimeError where llama.cpp or the driver knows no GPU."""
        self._simulated: Any = None
        self._nvml = Nvml()
        if config.simulated:
            self._simulated = _simulated_machine(config)
            self.device = _SIMULATED
            return
        self._backend = ask_backend()
        gpus = [device for device in self._backend if device.kind is DeviceKind.GPU]
        if not gpus or not self._nvml.read():
            raise RuntimeError(
                f"no GPU to measure: llama.cpp knows {len(gpus)}, the driver says"
                f" {self._nvml.trouble or 'nothing'}"
            )
        self.device = gpus[0].name

    @property
    def simulated(self) -> bool:
        return self._simulated is not None

    def free_bytes(self) -> int:
        """What the driver reports as free now."""
        return self._nvml.read()[0].free_bytes

    def total_bytes(self) -> int:
        return self._nvml.read()[0].total_bytes

    def resize(self, total_bytes: int) -> None:
        """Give a simulated GPU another size, with nothing else on it."""
        self._simulated.change(_SIMULATED, total_bytes=total_bytes)

    def machine(self) -> Machine:
        """What the planner may use now; a simulated GPU is beside 128 GiB of host memory."""
        if self.simulated:
            gpu = Device(_SIMULATED, DeviceKind.GPU, self.total_bytes(), self.free_bytes())
            return Machine(Device(HOST_MEMORY, DeviceKind.CPU, 128 * GIB, 120 * GIB), (gpu,))
        found = machine_of(merge(self._backend, self._nvml.read(), read_host_memory()))
        return Machine(
            found.host_memory, tuple(gpu for gpu in found.gpus if gpu.name == self.device)
        )


def _simulated_machine(config: Config) -> Any:
    """The simulated GPU of this process; restarts the process where it cannot see it yet.

    The loader looks for the stand-in NVML when a process starts, so the environment must be set
    before that.
    """
    from simulated import Gpu, Machine

    gpu = Gpu(
        _SIMULATED,
        total_bytes=8 * GIB,
        context_bytes=SIMULATED_CONTEXT_BYTES,
        pool_bytes=SIMULATED_POOL_BYTES,
    )
    machine = Machine(config.folder / "simulated-gpu", [gpu])
    if os.environ.get("UNDERKEEL_SIMCARDS") != str(machine.folder):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], machine.environment())
    return machine


def model_file(config: Config, name: str) -> tuple[Path, Header]:
    """Write a model of random weights unless it is there: its true shape, or small if simulated.

    Returns:
        The file, and its header.
    """
    from assistant.memory.gguf.header import read_header
    from gpu_check import models
    from gpu_check.random_weights import write_random

    path = Path(config.models) / f"{name}.gguf"
    if path.exists():
        return path, read_header(path)
    header = models.small_header(name) if config.simulated else models.true_header(name)
    part = path.with_suffix(".part")
    write_random(part, header)
    part.replace(path)
    return path, read_header(path)
