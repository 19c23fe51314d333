"""From free memory to a loaded model: planned, loaded by the plan, held against it.

The GPUs are simulated; the dry runs and the loads are llama.cpp's own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from placement import Job, run
from simulated import GIB, MIB, Gpu, Machine

from assistant.errors import PlanError
from assistant.memory.devices import Device, HostMemory, ask_backend, merge
from assistant.memory.gguf.header import read_header
from assistant.memory.planning import Machine as PlanMachine
from assistant.memory.planning import Plan, Requirements
from assistant.memory.planning.load_report import compare, planned_memory
from assistant.memory.planning.measured_planner import plan_and_measure

pytestmark = pytest.mark.model

REQUIREMENTS = Requirements(n_ctx=4096, margin_bytes=64 * MIB, overhead_bytes=0)
HOST_MEMORY = HostMemory(16 * GIB, 8 * GIB)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Two GPUs; this process's children see them."""
    machine = Machine(tmp_path / "gpus", [Gpu("SIM0", 8 * GIB), Gpu("SIM1", 8 * GIB)])
    for name, value in machine.environment().items():
        monkeypatch.setenv(name, value)
    return machine


def devices_now(host: HostMemory = HOST_MEMORY) -> tuple[Device, ...]:
    return merge(ask_backend(), (), host)


def planned(model: Path, *names: str, host: HostMemory = HOST_MEMORY) -> Plan:
    devices = devices_now(host)
    gpus = tuple(device for device in devices if device.name in names)
    return plan_and_measure(read_header(model), PlanMachine(devices[-1], gpus), REQUIREMENTS)


@pytest.mark.parametrize(
    ("free_mib", "names"),
    [((4000,), ("SIM0",)), ((900,), ("SIM0",)), ((600, 700), ("SIM0", "SIM1"))],
)
def test_a_load_takes_what_its_plan_says(
    free_mib: tuple[int, ...], names: tuple[str, ...], machine: Machine, moe_model: Path
) -> None:
    """Weights and cache to the byte, all within 5 %; nothing is refused, and the margin stays."""
    for name, free in zip(names, free_mib, strict=True):
        machine.change(name, others_bytes=8 * GIB - free * MIB)
    plan = planned(moe_model, *names)
    assert plan.measured and plan.fits
    (outcome,) = run([Job(name="load", spec=plan.to_load_spec())], machine)
    assert outcome.error == ""
    report = compare(planned_memory(plan), outcome.actual)
    assert report.exact
    assert abs(report.error_percent) < 5
    for name, free in zip(names, free_mib, strict=True):
        held = sum(outcome.held[name].values())
        assert 0 < held <= free * MIB - REQUIREMENTS.margin_bytes * 0.9


def test_more_memory_puts_more_expert_groups_on_the_gpu(machine: Machine, moe_model: Path) -> None:
    counts = []
    for free in (500, 800, 1200, 3000):
        machine.change("SIM0", others_bytes=8 * GIB - free * MIB)
        counts.append(planned(moe_model, "SIM0").expert_layers_on_gpu)
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 24


def test_what_cannot_fit_is_refused_by_the_plan(machine: Machine, moe_model: Path) -> None:
    """No GPU has room and the host has too little: an error before a byte is loaded."""
    machine.change("SIM0", others_bytes=8 * GIB - 100 * MIB)
    with pytest.raises(PlanError) as caught:
        planned(moe_model, "SIM0", host=HostMemory(16 * GIB, 700 * MIB))
    assert caught.value.advice
    assert machine.used_bytes("SIM0") == 0
