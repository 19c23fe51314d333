"""Predicted speeds, and the record of what this machine measured."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from assistant import paths
from assistant.cli.recommend import CodingModel, judge
from assistant.llama import DeviceRates, TypeRate
from assistant.memory import rates
from assistant.memory.devices import Device, DeviceKind
from assistant.memory.model.known_models import header_of, known_header, known_models
from assistant.memory.model.profile import model_of
from assistant.memory.planning import HOST_MEMORY, Machine, Requirements
from assistant.memory.planning.plan_report import Speed, predict_speed
from assistant.memory.planning.planner import make_plan
from assistant.memory.rates import (
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
        kind: TypeRate(
            bytes_per_s=bytes_per_s,
            weights_per_s=weights_per_s,
            expert_weights_per_s=weights_per_s / 2,
        )
        for kind, bytes_per_s, weights_per_s in (
            ("q4_K", 4e9, 30e9),
            ("q6_K", 5e9, 30e9),
            ("q8_0", 6e9, 16e9),
        )
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
    """Quality orders only models that are fast enough for typing."""
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


def test_experts_have_a_prompt_rate_of_their_own() -> None:
    """Llama.cpp's kernels for chosen experts are slower than the others."""
    even = two_cores()
    kinds = {
        kind: msgspec.structs.replace(rate, expert_weights_per_s=rate.weights_per_s)
        for kind, rate in even.cpu.types.items()
    }
    faster = msgspec.structs.replace(even, cpu=msgspec.structs.replace(even.cpu, types=kinds))
    mixture, dense = "qwen3-coder-30b-a3b", "qwen2.5-coder-7b"
    slow, fast = speed(mixture, even), speed(mixture, faster)
    assert 1.1 < fast.prefill_tokens_per_s / slow.prefill_tokens_per_s < 2
    assert fast.decode_tokens_per_s == slow.decode_tokens_per_s
    assert speed(dense, even) == speed(dense, faster)


def test_in_the_last_layer_one_token_of_a_prompt_passes_the_feed_forward_part() -> None:
    """llama.cpp keeps only the rows whose logits are wanted after the last attention."""
    shape = msgspec.structs.replace(known_models()["qwen2.5-coder-7b"].shape, vocabulary=4096)
    rates = []
    for layers in (1, 2):
        cut = header_of(msgspec.structs.replace(shape, layers=layers), "Q8_0", "cut")
        plan = make_plan(model_of(cut), machine(64 * GIB), Requirements(n_ctx=4096))
        rates.append(predict_speed(plan, two_cores()).prefill_tokens_per_s)
    attention, feed_forward = 3584 * (2 * 3584 + 2 * 512), 3 * 3584 * 18944
    assert rates[0] / rates[1] == pytest.approx(2 + feed_forward / attention, rel=0.02)


def test_the_record_is_kept_for_this_hardware_only(home: Path) -> None:
    del home
    assert stored_rates() is None
    record = paths.state_dir() / "rates.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    kept = msgspec.structs.replace(two_cores(), fingerprint=fingerprint())
    record.write_bytes(msgspec.json.encode(kept))
    assert stored_rates() == kept
    assert "2026-11-28" in kept.describe(gpus=False)
    assert "assumed" not in kept.describe(gpus=False)
    assert kept.describe(gpus=True).endswith("; assumed: GPU 600 GB/s")
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
    assert "assumed" in ASSUMED.describe(gpus=False)


def test_the_disk_of_the_models_is_measured(home: Path, tmp_path: Path) -> None:
    """A model is read where there is one; else a new file, which is removed."""
    del home
    folder = tmp_path / "cache"
    folder.mkdir()
    if not rates._disk_rate(folder):
        pytest.skip("this file system has no reads past the page cache")
    assert not list(folder.iterdir())
    models = paths.models_dir()
    models.mkdir(parents=True, exist_ok=True)
    (models / "large.gguf").write_bytes(bytes(rates._FILE_BYTES // 4))
    assert rates._disk_rate(tmp_path / "missing") > 0
