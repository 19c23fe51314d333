"""How fast this machine computes and reads: measured in a few seconds, stored, repeated on change.

The record in the state folder holds for one fingerprint: processors, memory, GPUs, the version of
llama.cpp. Where nothing can be measured, assumed rates are used and named as such.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

from assistant import paths
from assistant.llama import DeviceRates, TypeRate, processors
from assistant.memory.devices import Device

_LIMIT_S = 60.0
_FILE_BYTES = 256 << 20  # of free disk that the measurement needs
_DISK_LIMIT_S = 0.5
_PIECE_BYTES = 4 << 20
_VERSION = 3


def _same(bytes_per_s: float, weights_per_s: float, layer_s: float) -> DeviceRates:
    rate = TypeRate(
        bytes_per_s=bytes_per_s,
        weights_per_s=weights_per_s,
        expert_weights_per_s=weights_per_s / 2,
    )
    return DeviceRates(layer_s=layer_s, types=dict.fromkeys(("q4_K", "q6_K", "q8_0"), rate))


# Dual-channel DDR5 with eight cores, and a middling GPU of today.
ASSUMED_CPU = _same(60e9, 250e9, 2e-5)
ASSUMED_GPU = _same(600e9, 15e12, 1e-5)
ASSUMED_DISK_BYTES_PER_S = 2e9


class MachineRates(msgspec.Struct, frozen=True, kw_only=True):
    """The rates of a machine.

    Attributes:
        cpu, gpu: of host memory, and of each GPU (the slowest decides).
        disk_bytes_per_s: reading a model of the models' folder without the page cache; without
            one, a new file of the cache folder.
        measured: when, in ISO 8601; empty for assumed rates.
        gpu_measured: false where the GPU's rates are assumed.
    """

    cpu: DeviceRates = ASSUMED_CPU
    gpu: DeviceRates = ASSUMED_GPU
    disk_bytes_per_s: float = ASSUMED_DISK_BYTES_PER_S
    measured: str = ""
    gpu_measured: bool = False
    fingerprint: str = ""

    def describe(self, *, gpus: bool) -> str:
        """For people: what predictions are based on, for a plan with or without GPUs."""
        if not self.measured:
            return "assumed rates, nothing was measured here"
        words = f"measured {self.measured[:10]}: RAM {_best(self.cpu) / 1e9:.0f} GB/s"
        rate = f"GPU {_best(self.gpu) / 1e9:.0f} GB/s"
        if self.gpu_measured:
            words += f", {rate}"
        words += f", disk {self.disk_bytes_per_s / 1e9:.1f} GB/s"
        return f"{words}; assumed: {rate}" if gpus and not self.gpu_measured else words


ASSUMED = MachineRates()


def _best(rates: DeviceRates) -> float:
    return max(rate.bytes_per_s for rate in rates.types.values())


def stored_rates(gpus: Sequence[Device] = ()) -> MachineRates | None:
    """What was measured on this hardware before; None for never, or on other hardware."""
    with suppress(OSError, ValueError, RecursionError):
        found = msgspec.json.decode(_record().read_bytes(), type=MachineRates)
        if found.fingerprint == fingerprint(gpus):
            return found
    return None


def machine_rates(gpus: Sequence[Device] = (), *, again: bool = False) -> MachineRates:
    """The stored rates, or new ones: about five seconds of all cores, once.

    Args:
        again: measure although there is a record.

    Never raises: without a working llama.cpp or disk space, and with `UNDERKEEL_MEASURE=0`, the
    rates are assumed.
    """
    if os.environ.get("UNDERKEEL_MEASURE") == "0" and not again:
        return ASSUMED
    known = None if again else stored_rates(gpus)
    if known is not None:
        return known
    folder = paths.cache_dir()
    cpu = _child(folder, "")
    if cpu is None:
        return ASSUMED
    gpu = _child(folder, gpus[0].name) if gpus else None
    rates = MachineRates(
        cpu=cpu,
        gpu=gpu or ASSUMED_GPU,
        disk_bytes_per_s=_disk_rate(folder) or ASSUMED_DISK_BYTES_PER_S,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        gpu_measured=gpu is not None,
        fingerprint=fingerprint(gpus),
    )
    with suppress(OSError):
        path = _record()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(rates)))
        part.replace(path)
    return rates


def fingerprint(gpus: Sequence[Device] = ()) -> str:
    """What the rates depend on, hashed."""
    parts = [
        str(_VERSION),
        _processor(),
        str(processors()),
        str(psutil.virtual_memory().total >> 28),
        metadata.version("llama-cpp-python"),
        str(paths.models_dir()),
        *(f"{gpu.name} {gpu.total_bytes}" for gpu in gpus),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"{platform.machine()} {platform.processor()}"


def _record() -> Path:
    return paths.state_dir() / "rates.json"


def _child(folder: Path, device: str) -> DeviceRates | None:
    command = [sys.executable, "-m", "assistant.llama.probe", "rates", str(folder)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if psutil.disk_usage(str(folder)).free < 2 * _FILE_BYTES:
            return None
        done = subprocess.run(
            [*command, device] if device else command,
            capture_output=True,
            timeout=_LIMIT_S,
            env={"OMP_WAIT_POLICY": "passive", **os.environ},  # as the worker has it
            check=True,
        )
        return msgspec.json.decode(done.stdout, type=DeviceRates)
    except (OSError, ValueError, RecursionError, subprocess.SubprocessError):
        return None


def _disk_rate(folder: Path) -> float:
    """Bytes a second that a file is read with, past the page cache; 0 where unknown."""
    direct = getattr(os, "O_DIRECT", 0)
    if not direct:
        return 0.0
    with suppress(OSError):
        models = {path.stat().st_size: path for path in paths.models_dir().glob("*.gguf")}
        if max(models, default=0) >= _FILE_BYTES // 4:
            with mmap.mmap(-1, _PIECE_BYTES) as buffer:
                return _read_rate(models[max(models)], buffer, direct)
    path = folder / f"disk-rate.{os.getpid()}"
    try:
        with mmap.mmap(-1, _PIECE_BYTES) as buffer:
            buffer.write(os.urandom(_PIECE_BYTES))
            with path.open("wb") as file:
                begin = time.perf_counter()
                while file.tell() < _FILE_BYTES // 4:
                    file.write(buffer)
                    if time.perf_counter() - begin > _DISK_LIMIT_S:
                        break
                file.flush()
                os.fsync(file.fileno())
            return _read_rate(path, buffer, direct)
    except OSError:
        return 0.0
    finally:
        path.unlink(missing_ok=True)


def _read_rate(path: Path, buffer: mmap.mmap, direct: int) -> float:
    handle = os.open(path, os.O_RDONLY | direct)
    try:
        begin, size = time.perf_counter(), 0
        while count := os.readv(handle, [buffer]):
            size += count
            if time.perf_counter() - begin > _DISK_LIMIT_S:
                break
        return size / max(time.perf_counter() - begin, 1e-6)
    finally:
        os.close(handle)
