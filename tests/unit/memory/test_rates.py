"""Predicted speeds, and the record of what this machine measured."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from assistant import paths
from assistant.cli.recommend import CodingModel, judge
from assistant.llama.spec import DeviceRates, TypeRate
from assistant.memory.model.known_models import known_header, known_models
from assistant.memory.model.profile import model_of
from assistant.memory.planning.plan import HOST_MEMORY, Machine, Requirements
from assistant.memory.planning.plan_report import Speed, predict_speed
from assistant.memory.planning.planner import make_plan
from assistant.memory.probes.devices import Device, DeviceKind
from assistant.memory.probes.rates import (
    ASSUMED,
    MachineRates,
    fingerprint,
    machine_rates,
    stored_rates,
)

GIB = 1 << 30


def two_cores() -> MachineRates:
    """A machine like the slowest that was measured: two cores, no GPU."""
    kinds = {
        "q4_K": TypeRate(bytes_per_s=4e9, weights_per_s=30e9),
        "q6_K": TypeRate(bytes_per_s=5e9, weights_per_s=30e9),
        "q8_0": TypeRate(bytes_per_s=6e9, weights_per_s=16e9),
    }
    return MachineRates(cpu=DeviceRates(layer_s=1e-4, types=kinds), measured="2026-11-28T00:00:00")


def machine(ram: int, *vram: int) -> Machine:
    gpus = (Device(f"CUDA{n}", DeviceKind.GPU, size, size) for n, size in enumerate(vram))
    return Machine(Device(HOST_MEMORY, DeviceKind.CPU, ram, ram), tuple(gpus))


def speed(name: str, rates: MachineRates = ASSUMED, *vram: int) -> Speed:
    where = machine(64 * GIB, *vram)
    plan = make_plan(model_of(known_header(name)), where, Requirements(n_ctx=4096))
    return predict_speed(plan, rates)


def test_on_two_cores_the_first_recommendation_is_not_a_large_model() -> None:
    """Issue 20, item 10: quality orders only models that are fast enough for typing."""
    found = (
        CodingModel(name, model.title, known_header(name), model.quality, here=False)
        for name, model in known_models().items()
        if model.coding
    )
    judged = judge(found, machine(64 * GIB), Requirements(n_ctx=4096), two_cores())
    first, names = judged[0], [one.model.name for one in judged]
    assert known_models()[first.model.name].parameters < 4
    assert not judged[names.index("qwen3-coder-30b-a3b")].usable
    fitting = [one.speed for one in judged if one.speed is not None]
    slow = [one.suggestion_s for one in fitting if not one.usable]
    assert slow == sorted(slow)
    assert [one.usable for one in fitting] == sorted((one.usable for one in fitting), reverse=True)


def test_prompt_and_decode_rates_are_predicted_apart() -> None:
    """A decode is bound by bytes, a prompt by multiplications, and both by the device."""
    fast = speed("qwen2.5-coder-7b", ASSUMED, 24 * GIB)
    slow = speed("qwen2.5-coder-7b", two_cores())
    assert fast.gpu_bytes > 4e9 > fast.host_memory_bytes
    assert slow.gpu_bytes == 0
    assert 60 < fast.decode_tokens_per_s < 150
    assert 0.5 < slow.decode_tokens_per_s < 1.2
    assert 3 < slow.prefill_tokens_per_s < 5
    assert slow.jump_s > 100 > fast.jump_s
    assert fast.usable and not slow.usable


def test_of_a_mixture_only_the_chosen_experts_are_read() -> None:
    total = model_of(known_header("qwen3-coder-30b-a3b")).inventory.total.size_bytes
    found = speed("qwen3-coder-30b-a3b", two_cores())
    assert 1e9 < found.host_memory_bytes < total / 6


def test_the_record_is_kept_for_this_hardware_only(home: Path) -> None:
    del home
    assert stored_rates() is None
    record = paths.state_dir() / "rates.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    kept = msgspec.structs.replace(two_cores(), fingerprint=fingerprint())
    record.write_bytes(msgspec.json.encode(kept))
    assert stored_rates() == kept
    assert "2026-11-28" in kept.says
    gpu = Device("CUDA0", DeviceKind.GPU, GIB, GIB)
    assert stored_rates((gpu,)) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"cpu": 1}', b"\xff"])
def test_a_damaged_record_is_measured_again(home: Path, content: bytes) -> None:
    del home
    record = paths.state_dir() / "rates.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_bytes(content)
    assert stored_rates() is None
    assert machine_rates() is ASSUMED  # tests do not measure
    assert "assumed" in ASSUMED.says
