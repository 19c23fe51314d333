"""Probes of GPUs and host memory: NVML by the real pynvml on a stand-in library, sysfs and
control groups on folders made here, ggml's devices from a real child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulated import GIB, Foreign, Gpu, Machine, Slice

from assistant.errors import LoadError
from assistant.llama import BackendDevice, DeviceKind
from assistant.memory import devices
from assistant.memory.devices import HostMemory, ask_backend, merge, normal_bus_id
from assistant.memory.sampler import read_amdgpu, read_host_memory

ROOT = Path(__file__).resolve().parents[3]

# answers each line (a time in seconds) with what the probe sees at that time
PROBE = """
import json, sys
from dataclasses import asdict
from assistant.memory.devices import Nvml
now = 0.0
probe = Nvml(clock=lambda: now)
for line in sys.stdin:
    now = float(line)
    gpus = [asdict(gpu) for gpu in probe.read(processes=True)]
    print(json.dumps({"gpus": gpus, "trouble": probe.trouble}), flush=True)
"""


class Probe:
    """An `Nvml` in a child that loads libnvidia-ml.so.1 as every program does."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", PROBE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "PYTHONPATH": str(ROOT)},
        )

    def read(self, at_s: float) -> dict[str, Any]:
        assert self.child.stdin and self.child.stdout
        self.child.stdin.write(f"{at_s}\n")
        self.child.stdin.flush()
        answer: dict[str, Any] = json.loads(self.child.stdout.readline())
        return answer

    def gpus(self, at_s: float) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.read(at_s)["gpus"]
        return found

    def close(self) -> None:
        self.child.communicate(timeout=10)
        assert self.child.returncode == 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    gpus = [Gpu("SIM0", 8 * GIB, others_bytes=GIB), Gpu("SIM1", 24 * GIB)]
    return Machine(tmp_path / "gpus", gpus)


@pytest.fixture
def probe(machine: Machine) -> Iterator[Probe]:
    probe = Probe(machine.environment())
    yield probe
    probe.close()


def test_several_gpus_and_who_holds_them(machine: Machine, probe: Probe) -> None:
    machine.run(Foreign("SIM0", 4242, GIB), Foreign("SIM0", 4243, -1))
    first, second = probe.gpus(0)
    assert (first["name"], first["bus_id"]) == ("SIM0", "0000:01:00.0")
    assert (first["total_bytes"], first["free_bytes"]) == (8 * GIB, 7 * GIB)
    assert first["processes"] == [
        {"pid": 4242, "used_bytes": GIB},
        {"pid": 4243, "used_bytes": None},
    ]
    assert (second["free_bytes"], second["processes"]) == (24 * GIB, [])


def test_what_other_programs_take_is_seen_at_once(machine: Machine, probe: Probe) -> None:
    assert probe.gpus(0)[0]["free_bytes"] == 7 * GIB
    machine.change("SIM0", others_bytes=7 * GIB)
    assert probe.gpus(0.1)[0]["free_bytes"] == GIB
    machine.change("SIM0", others_bytes=0)
    assert probe.gpus(0.2)[0]["free_bytes"] == 8 * GIB


def test_a_gpu_cut_into_instances(machine: Machine, probe: Probe) -> None:
    machine.change("SIM1", slices=(Slice(10 * GIB, others_bytes=GIB), Slice(12 * GIB)))
    whole, first, second = probe.gpus(0)
    assert (whole["instance"], first["instance"], second["instance"]) == (-1, 0, 1)
    assert (first["total_bytes"], first["free_bytes"]) == (10 * GIB, 9 * GIB)
    assert second["bus_id"] == first["bus_id"] == "0000:02:00.0"


def test_a_lost_gpu_leaves_the_others_and_returns(machine: Machine, probe: Probe) -> None:
    assert len(probe.gpus(0)) == 2
    machine.change("SIM0", lost=True)
    for at_s in (1, 2, 3):
        answer = probe.read(at_s)
        assert [gpu["name"] for gpu in answer["gpus"]] == ["SIM1"]
        assert "lost" in answer["trouble"].lower()
    machine.change("SIM0", lost=False)
    assert probe.read(20) == {"gpus": probe.gpus(20), "trouble": ""}
    assert len(probe.gpus(21)) == 2


def test_a_driver_that_vanishes_and_returns(machine: Machine, probe: Probe) -> None:
    assert len(probe.gpus(0)) == 2
    machine.driver(loaded=False)
    assert probe.read(1)["trouble"]
    assert probe.gpus(3) == []
    machine.driver(loaded=True)
    assert len(probe.gpus(100)) == 2


def test_a_machine_without_the_driver(tmp_path: Path) -> None:
    machine = Machine(tmp_path, [])
    without = {**machine.environment(), "LD_LIBRARY_PATH": ""}
    probe = Probe(without)
    answer = probe.read(0)
    assert answer["gpus"] == [] and answer["trouble"]
    probe.close()


def test_ggml_names_the_devices_and_sees_the_same_memory(machine: Machine) -> None:
    environment = {**machine.environment(), "PYTHONPATH": str(ROOT)}
    cpu, first, second = ask_backend(environment)
    assert (cpu.name, cpu.kind) == ("CPU", DeviceKind.CPU)
    assert (first.name, first.bus_id) == ("SIM0", "0000:01:00.0")
    assert (first.total_bytes, first.free_bytes) == (8 * GIB, 7 * GIB)
    assert second.name == "SIM1"


def test_a_missing_backend_library_is_an_error_with_advice(machine: Machine) -> None:
    environment = {**machine.environment(), "PYTHONPATH": str(ROOT)}
    environment["UNDERKEEL_GGML_BACKENDS"] = "/nowhere/libggml-vulkan.so"
    with pytest.raises(LoadError, match="no such backend library") as caught:
        ask_backend(environment)
    assert caught.value.advice


def test_a_query_that_was_started_ahead_is_read_and_a_dead_one_is_repeated() -> None:
    devices.ask_ahead()
    (child,) = devices._asked_ahead
    names = [device.name for device in ask_backend()]
    assert child.returncode == 0 and not devices._asked_ahead
    devices.ask_ahead()
    devices._asked_ahead[0].kill()
    assert [device.name for device in ask_backend()] == names


_LOADING = "RuntimeError: Failed to load shared library '/x/lib/libllama.so': "
_GONE = ": cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("exit_status", "said", "why", "advice"),
    [
        (1, f"Traceback\n{_LOADING}libcuda.so.1{_GONE}\n", "libcuda.so.1 was not", "--gpus all"),
        (1, f"{_LOADING}libcublas.so.12{_GONE}", "libcublas.so.12 was not", "CUDA toolkit"),
        (1, f"{_LOADING}libcudart.so.13{_GONE}", "libcudart.so.13 was not", "CUDA toolkit"),
        (1, f"{_LOADING}libamdhip64.so.6{_GONE}", "libamdhip64.so.6 was not", "ROCm"),
        (1, f"{_LOADING}libvulkan.so.1{_GONE}", "libvulkan.so.1 was not", "libvulkan1"),
        (1, f"{_LOADING}libgomp.so.1{_GONE}", "libgomp.so.1 was not", "setup --rebuild"),
        (1, f"{_LOADING}undefined symbol: ggml_x", "undefined symbol: ggml_x", "setup --rebuild"),
        (1, f"{_LOADING}version `GLIBC_2.38' not found", "GLIBC_2.38", "setup --rebuild"),
        (1, "ModuleNotFoundError: No module named 'llama_cpp'", "not installed", "underkeel setup"),
        (-4, "", "built for another processor", "setup --rebuild"),
        (-11, "noise", "signal 11", "setup --rebuild"),
        (3, "", "exit status 3", "setup --rebuild"),
        (1, "x" * 10_000, "xxx", "setup --rebuild"),
    ],
)
def test_why_llama_cpp_cannot_be_loaded(exit_status: int, said: str, why: str, advice: str) -> None:
    error = devices.not_loaded(exit_status, said)
    assert error.message.startswith("llama.cpp cannot be loaded: ") and why in error.message
    assert advice in error.advice and len(error.message) < 400


def test_a_library_that_the_build_needs_is_missing(tmp_path: Path) -> None:
    """As with a build for CUDA on a machine without NVIDIA's driver: no traceback, advice."""
    package = tmp_path / "llama_cpp"
    package.mkdir()
    text = f'raise RuntimeError("{_LOADING}libcuda.so.1{_GONE}")'
    (package / "__init__.py").touch()
    (package / "llama_cpp.py").write_text(text)
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    with pytest.raises(LoadError, match=r"libcuda\.so\.1 was not found") as caught:
        ask_backend({**os.environ, "PYTHONPATH": path})
    assert "--backend cpu" in caught.value.advice


def backend(name: str, bus_id: str = "", kind: DeviceKind = DeviceKind.GPU) -> BackendDevice:
    return BackendDevice(
        name=name, description="", kind=kind, total_bytes=100, free_bytes=50, bus_id=bus_id
    )


HOST_MEMORY = HostMemory(1000, 400)


def driver_gpu(bus_id: str, free: int, instance: int = -1) -> devices.GpuMemory:
    return devices.GpuMemory(
        name="gpu",
        bus_id=bus_id,
        driver="nvml",
        total_bytes=90,
        free_bytes=free,
        instance=instance,
    )


def test_merge_prefers_the_driver_and_ends_with_the_host() -> None:
    found = merge(
        [
            backend("CPU", kind=DeviceKind.CPU),
            backend("CUDA0", "0000:01:00.0"),
            backend("Vulkan0"),
        ],
        [driver_gpu("0000:01:00.0", 7)],
        HOST_MEMORY,
    )
    assert [(d.name, d.total_bytes, d.free_bytes) for d in found] == [
        ("CUDA0", 90, 7),
        ("Vulkan0", 100, 50),
        ("CPU", 1000, 400),
    ]


def test_merge_assumes_the_fullest_instance() -> None:
    gpus = [driver_gpu("0000:01:00.0", free, number) for number, free in enumerate((9, 3, 5))]
    assert merge([backend("CUDA0", "0000:01:00.0")], gpus, HOST_MEMORY)[0].free_bytes == 3


def test_a_lost_gpu_has_nothing_free() -> None:
    lost = merge([backend("CUDA0", "0000:01:00.0")], [], HOST_MEMORY, lost=["0000:01:00.0"])
    assert lost[0].free_bytes == 0
    unknown = merge([backend("CUDA0", "0000:01:00.0")], [], HOST_MEMORY)
    assert unknown[0].free_bytes == 50


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00000000:0A:00.0", "0000:0a:00.0"),
        ("0000:0a:00.0", "0000:0a:00.0"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("", ""),
        ("weird", "weird"),
    ],
)
def test_bus_addresses_are_compared_in_one_form(text: str, expected: str) -> None:
    assert normal_bus_id(text) == expected


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n", encoding="ascii")


def test_amd_gpus_from_sysfs(tmp_path: Path) -> None:
    device = tmp_path / "sys/class/drm/card1/device"
    write(device / "mem_info_vram_total", 16 * GIB)
    write(device / "mem_info_vram_used", 3 * GIB)
    write(device / "uevent", "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:2d:00.0")
    write(device / "product_name", "Radeon")
    write(tmp_path / "sys/class/drm/card0/device/uevent", "DRIVER=i915")
    write(tmp_path / "sys/class/drm/card1-DP-1/status", "connected")
    (gpu,) = read_amdgpu(tmp_path)
    assert (gpu.name, gpu.bus_id, gpu.driver) == ("Radeon", "0000:2d:00.0", "amdgpu")
    assert (gpu.total_bytes, gpu.free_bytes) == (16 * GIB, 13 * GIB)
    assert read_amdgpu(tmp_path / "nothing") == ()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    write(
        tmp_path / "proc/meminfo",
        f"MemTotal: {32 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {20 * GIB // 1024} kB",
    )
    return tmp_path


def test_the_kernels_figure_without_groups(host: Path) -> None:
    assert read_host_memory(host) == HostMemory(32 * GIB, 20 * GIB)


def test_control_groups_v2_the_tightest_above_counts(host: Path) -> None:
    write(host / "proc/self/cgroup", "0::/user/app/worker")
    groups = host / "sys/fs/cgroup"
    write(groups / "user/app/worker/memory.max", "max")
    write(groups / "user/app/worker/memory.current", GIB)
    write(groups / "user/app/memory.max", 4 * GIB)
    write(groups / "user/app/memory.current", 3 * GIB)
    write(groups / "user/app/memory.stat", f"anon 5\ninactive_file {GIB}")
    write(groups / "user/memory.max", 16 * GIB)
    write(groups / "user/memory.current", 5 * GIB)
    assert read_host_memory(host) == HostMemory(4 * GIB, 2 * GIB, str(groups / "user/app"))


def test_control_groups_v2_inside_a_container(host: Path) -> None:
    """The path is the host's; only the container's own group is mounted, as the root."""
    write(host / "proc/self/cgroup", "0::/docker/0123456789ab")
    write(host / "sys/fs/cgroup/memory.max", 2 * GIB)
    write(host / "sys/fs/cgroup/memory.current", GIB)
    assert read_host_memory(host).available_bytes == GIB


def test_control_groups_v1(host: Path) -> None:
    write(host / "proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/jobs/7\n1:name=systemd:/x")
    memory = host / "sys/fs/cgroup/memory"
    write(memory / "jobs/7/memory.limit_in_bytes", 3 * GIB)
    write(memory / "jobs/7/memory.usage_in_bytes", 2 * GIB)
    write(memory / "jobs/7/memory.stat", "inactive_file 7\ntotal_inactive_file 1024")
    write(memory / "memory.limit_in_bytes", 9223372036854771712)  # v1's "no limit"
    write(memory / "memory.usage_in_bytes", 30 * GIB)
    assert read_host_memory(host) == HostMemory(3 * GIB, GIB + 1024, str(memory / "jobs/7"))


def test_a_group_above_that_is_fuller_counts(host: Path) -> None:
    """S23: its limit is larger than the one below it, but others have used it up."""
    write(host / "proc/self/cgroup", "0::/pod/box")
    groups = host / "sys/fs/cgroup"
    write(groups / "pod/box/memory.max", 4 * GIB)
    write(groups / "pod/box/memory.current", 0)
    write(groups / "pod/memory.max", 6 * GIB)
    write(groups / "pod/memory.current", 5 * GIB)
    assert read_host_memory(host) == HostMemory(6 * GIB, GIB, str(groups / "pod"))


@pytest.mark.parametrize(
    ("maximum", "high"), [("max", 3 * GIB), (8 * GIB, 3 * GIB), (3 * GIB, "max"), (3 * GIB, None)]
)
def test_the_throttling_limit_of_a_group_is_a_limit(
    host: Path, maximum: str | int, high: str | int | None
) -> None:
    """S23: systemd's MemoryHigh alone; a kernel without it."""
    write(host / "proc/self/cgroup", "0::/a")
    group = host / "sys/fs/cgroup/a"
    write(group / "memory.max", maximum)
    write(group / "memory.current", GIB)
    if high is not None:
        write(group / "memory.high", high)
    assert read_host_memory(host) == HostMemory(3 * GIB, 2 * GIB, str(group))


def test_a_limit_of_version_1_above_what_is_mounted(host: Path) -> None:
    """S23: of a pod, seen from its container."""
    write(host / "proc/self/cgroup", "4:memory:/kubepods/pod1/box")
    memory = host / "sys/fs/cgroup/memory"
    write(memory / "memory.limit_in_bytes", 9223372036854771712)
    write(memory / "memory.usage_in_bytes", GIB)
    write(memory / "memory.stat", f"cache 1\nhierarchical_memory_limit {2 * GIB}")
    assert read_host_memory(host) == HostMemory(2 * GIB, GIB, str(memory))


def test_a_group_over_its_limit_leaves_nothing(host: Path) -> None:
    write(host / "proc/self/cgroup", "0::/a")
    write(host / "sys/fs/cgroup/a/memory.max", GIB)
    write(host / "sys/fs/cgroup/a/memory.current", 2 * GIB)
    assert read_host_memory(host).available_bytes == 0


@pytest.mark.parametrize("text", ["", "0", "::::", "0::/../../etc", "garbage\n0::/a"])
def test_strange_group_files_change_nothing(host: Path, text: str) -> None:
    write(host / "proc/self/cgroup", text)
    assert read_host_memory(host) == HostMemory(32 * GIB, 20 * GIB)


def test_this_machine_has_memory() -> None:
    memory = read_host_memory()
    assert 0 < memory.available_bytes <= memory.total_bytes
