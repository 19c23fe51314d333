"""A plan compared with what was loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.llama import DeviceKind, DeviceMemory
from assistant.memory.devices import Device
from assistant.memory.gguf.header import read_header
from assistant.memory.model.profile import model_of
from assistant.memory.planning import Machine, Plan, Requirements
from assistant.memory.planning.load_report import compare, planned_memory
from assistant.memory.planning.planner import make_plan

MIB = 1 << 20
GIB = 1 << 30


def row(device: str, weights: int, kv: int, compute: int, buffer_type: str = "") -> DeviceMemory:
    return DeviceMemory(
        buffer_type=buffer_type or device,
        device=device,
        weights_bytes=weights * MIB,
        kv_bytes=kv * MIB,
        compute_bytes=compute * MIB,
        is_host=device == "CPU",
    )


def test_as_planned() -> None:
    rows = [row("CUDA0", 1000, 100, 50), row("CPU", 90, 0, 10)]
    report = compare(rows, rows)
    assert report.exact and report.error_percent == 0
    assert [device.device for device in report.devices] == ["CUDA0", "CPU"]


def test_buffers_of_one_device_are_summed() -> None:
    planned = [row("CPU", 90, 10, 5)]
    actual = [row("CPU", 60, 10, 0), row("CPU", 30, 0, 5, "CPU_REPACK")]
    assert compare(planned, actual).exact


def test_more_compute_is_an_error_in_percent() -> None:
    report = compare([row("CUDA0", 800, 100, 100)], [row("CUDA0", 800, 100, 150)])
    assert report.error_percent == pytest.approx(5.0)
    assert report.exact  # weights and cache are


def test_weights_elsewhere_are_not_exact() -> None:
    report = compare(
        [row("CUDA0", 800, 0, 0), row("CPU", 200, 0, 0)],
        [row("CUDA0", 700, 0, 0), row("CPU", 300, 0, 0)],
    )
    assert not report.exact and report.error_percent == 0
    missing = compare([row("CUDA0", 800, 0, 0)], [])
    assert not missing.exact and missing.error_percent == -100


def test_mapped_file_ranges_are_shown_but_not_compared() -> None:
    report = compare(
        [row("CPU", 500, 0, 10)], [row("CPU", 0, 0, 10), row("CPU", 720, 0, 0, "CPU_Mapped")]
    )
    (device,) = report.devices
    assert device.mapped_bytes == 720 * MIB
    assert report.exact and report.error_percent == 0
    assert "mapped" in report.lines()[0]


def test_what_llama_cpp_does_not_account_for_is_measured() -> None:
    rows = [row("CUDA0", 1000, 100, 50)]
    report = compare(rows, rows, {"CUDA0": 8000 * MIB}, {"CUDA0": 6350 * MIB})
    assert report.devices[0].unexplained_bytes == 500 * MIB
    assert "beside that 500 MiB" in report.lines()[0]
    assert compare(rows, rows).devices[0].unexplained_bytes is None


def device(name: str, free: int) -> Device:
    kind = DeviceKind.CPU if name == "CPU" else DeviceKind.GPU
    return Device(name, kind, 64 * GIB, free)


@pytest.fixture(scope="module")
def plan(moe_model: Path) -> Plan:
    machine = Machine(device("CPU", 16 * GIB), (device("SIM0", 8 * GIB),))
    return make_plan(model_of(read_header(moe_model)), machine, Requirements(n_ctx=4096))


def test_a_plan_compares_with_itself(plan: Plan) -> None:
    report = compare(planned_memory(plan), planned_memory(plan))
    assert report.exact
    gpu = next(item for item in report.devices if item.device == "SIM0")
    assert gpu.planned.weights_bytes == plan.gpu_usages[0].weights_bytes > 0
