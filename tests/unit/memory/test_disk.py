"""Models larger than memory: experts that stay in the mapped file (`--disk`)."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from gpu_check.random_weights import write_random

from assistant.errors import PlanError
from assistant.llama import DeviceKind
from assistant.llama.context import Context, DecodeStatus
from assistant.llama.model import Model as LoadedModel
from assistant.llama.structs import Span
from assistant.memory.devices import Device
from assistant.memory.gguf.header import Header
from assistant.memory.model.known_models import header_of, known_header, known_models
from assistant.memory.model.profile import model_of
from assistant.memory.planning import HOST_MEMORY, Machine, Requirements
from assistant.memory.planning.dry_run import DryRun
from assistant.memory.planning.load_report import compare, planned_memory
from assistant.memory.planning.measured_planner import plan_and_measure
from assistant.memory.planning.plan_report import predict_speed
from assistant.memory.planning.planner import make_plan
from assistant.memory.rates import ASSUMED, MachineRates

GIB = 1 << 30
MIB = 1 << 20
IN_MEMORY = Requirements(n_ctx=4096)
FROM_DISK = replace(IN_MEMORY, disk=True)


def machine(host_memory_bytes: int, *gpu_bytes: int) -> Machine:
    return Machine(
        Device(HOST_MEMORY, DeviceKind.CPU, host_memory_bytes, host_memory_bytes),
        tuple(
            Device(f"CUDA{index}", DeviceKind.GPU, size, size)
            for index, size in enumerate(gpu_bytes)
        ),
    )


@pytest.mark.parametrize("on", [machine(10 * GIB), machine(6 * GIB, 8 * GIB)], ids=["cpu", "gpu"])
def test_the_refusal_names_the_option_and_the_option_plans(on: Machine) -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b"))
    with pytest.raises(PlanError, match=r"--disk .* a token reads about") as refused:
        make_plan(model, on, IN_MEMORY)
    assert refused.value.shortfall_bytes > 0

    plan = make_plan(model, on, FROM_DISK)
    usage = plan.host_memory_usage
    assert plan.fits and 0 < usage.disk_bytes < usage.expert_bytes
    assert usage.needed_bytes + usage.margin_bytes == usage.device.free_bytes
    assert not plan.choice.repack and plan.to_load_spec().use_mmap
    assert any("stay in the mapped file" in reason for reason in plan.reasons)


def test_the_bound_is_what_a_token_reads_at_the_speed_of_the_disk() -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b"))
    plan = make_plan(model, machine(10 * GIB), FROM_DISK)
    usage = plan.host_memory_usage
    speed = predict_speed(plan)
    experts = sum(
        tensor.size_bytes * layer.used // layer.count
        for layer in model.inventory.layers
        for tensor in layer.experts
    )
    assert speed.disk_bytes == pytest.approx(experts * usage.disk_bytes / usage.expert_bytes, 0.01)
    slow = predict_speed(plan, MachineRates(disk_bytes_per_s=1e8))
    assert slow.decode_tokens_per_s < 1e8 / speed.disk_bytes
    assert slow.prefill_tokens_per_s < speed.prefill_tokens_per_s
    less = make_plan(model, machine(8 * GIB), FROM_DISK)
    assert predict_speed(less, ASSUMED).disk_bytes > speed.disk_bytes


def test_what_fits_in_memory_is_planned_as_without_the_option() -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b"))
    for on in (machine(40 * GIB), machine(20 * GIB, 24 * GIB)):
        assert make_plan(model, on, FROM_DISK) == make_plan(model, on, IN_MEMORY)
    # A smaller cache comes before the disk.
    free = replace(FROM_DISK, n_ctx=0)
    tight = make_plan(model, machine(40 * GIB), replace(free, disk=False))
    on = machine(tight.host_memory_usage.needed_bytes + 100 * MIB)
    assert make_plan(model, on, free).host_memory_usage.disk_bytes == 0


@pytest.mark.parametrize(
    ("name", "host_memory_bytes"),
    [("qwen2.5-coder-7b", 3 * GIB), ("qwen3-coder-30b-a3b", 1 * GIB)],
    ids=["dense", "too small for the rest"],
)
def test_the_disk_replaces_experts_only(name: str, host_memory_bytes: int) -> None:
    model = model_of(known_header(name))
    for requirements in (IN_MEMORY, FROM_DISK):
        with pytest.raises(PlanError) as refused:
            make_plan(model, machine(host_memory_bytes), requirements)
        assert "--disk" not in str(refused.value)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Header:
    """A mixture of 16 experts, 30 MB, with random weights."""
    shape = msgspec.structs.replace(
        known_models()["qwen3-coder-30b-a3b"].shape,
        layers=2,
        embedding=512,
        heads=8,
        kv_heads=2,
        key_length=64,
        value_length=64,
        vocabulary=1024,
        experts=16,
        experts_used=2,
        expert_feed_forward=512,
    )
    path = tmp_path_factory.mktemp("disk") / "small.gguf"
    return write_random(path, header_of(shape, "Q8_0", "small"))


def test_a_model_larger_than_memory_is_planned_measured_and_run(small: Header) -> None:
    requirements = Requirements(n_ctx=512, host_memory_margin_bytes=0)
    whole = make_plan(model_of(small), machine(8 * GIB), requirements).host_memory_usage
    # A smaller batch would make space in the compute buffer.
    on = machine(whole.needed_bytes - whole.compute_bytes - MIB)
    with pytest.raises(PlanError, match="--disk"):
        plan_and_measure(small, on, replace(requirements, cache_type="f16"))
    with DryRun() as dry_run:
        plan = plan_and_measure(small, on, replace(requirements, disk=True), dry_run)
    usage = plan.host_memory_usage
    assert plan.measured and plan.fits and 5 * MIB < usage.disk_bytes < usage.expert_bytes
    assert usage.other_bytes == 0

    model = LoadedModel(plan.to_load_spec())
    context = Context(model, plan.to_load_spec())
    try:
        prompt = [300 + index for index in range(64)]
        assert context.decode([Span(0, 0, prompt, 1)]) is DecodeStatus.DONE
        report = compare(planned_memory(plan), context.memory)
        assert report.error_percent == pytest.approx(0, abs=0.01)
        assert ", mapped" in report.lines()[0]
    finally:
        context.free()
        model.free()
