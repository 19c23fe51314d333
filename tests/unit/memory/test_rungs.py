"""The rungs under a real plan: whole shapes with known bytes, each freeing more of the GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.llama import DeviceKind
from assistant.memory.devices import Device
from assistant.memory.gguf.header import read_header
from assistant.memory.ladder import Rung
from assistant.memory.model.profile import model_of
from assistant.memory.planning import Machine, Plan, Requirements
from assistant.memory.planning.measured_planner import build
from assistant.memory.planning.planner import make_plan
from assistant.memory.rates import MachineRates

GIB = 1 << 30
REQUIREMENTS = Requirements(n_ctx=8192, overhead_bytes=0)


def device(name: str, gib: int) -> Device:
    kind = DeviceKind.CPU if name == "CPU" else DeviceKind.GPU
    return Device(name, kind, gib * GIB, gib * GIB)


@pytest.fixture(scope="module")
def plan(moe_model: Path) -> Plan:
    model = model_of(read_header(moe_model))
    return make_plan(model, Machine(device("CPU", 16), (device("SIM0", 8),)), REQUIREMENTS)


@pytest.fixture(scope="module")
def rungs(plan: Plan) -> tuple[Rung, ...]:
    return build(plan, REQUIREMENTS)


def test_all_steps_are_there_in_order(rungs: tuple[Rung, ...]) -> None:
    assert [rung.name for rung in rungs] == [
        "plan",
        "trim",
        "drop",
        "context",
        "batch",
        "cache",
        "half experts",
        "experts",
        "host",
        "least",
        "unload",
    ]
    assert len({rung.gives_up for rung in rungs}) == len(rungs)


def test_each_rung_frees_more_of_the_gpu(rungs: tuple[Rung, ...]) -> None:
    held = [rung.holds["SIM0"] for rung in rungs]
    assert held == sorted(held, reverse=True)
    assert held[3] < held[2] and held[6] < held[5] and held[7] < held[6]
    assert held[-1] == 0


def test_the_top_is_the_plan_to_the_byte(plan: Plan, rungs: tuple[Rung, ...]) -> None:
    assert rungs[0].spec == plan.to_load_spec()
    assert rungs[0].holds == {usage.device.name: usage.needed_bytes for usage in plan.usages}


def test_experts_move_whole_and_the_sum_of_weights_stays(rungs: tuple[Rung, ...]) -> None:
    by_name = {rung.name: rung for rung in rungs}
    half, none = by_name["half experts"], by_name["experts"]
    assert half.spec is not None and none.spec is not None
    cache = by_name["cache"].holds["SIM0"]
    moved_half, moved_all = cache - half.holds["SIM0"], cache - none.holds["SIM0"]
    assert moved_half == pytest.approx(moved_all / 2, rel=0.05)
    patterns = " ".join(override.pattern for override in half.spec.overrides)
    assert "0|2|4" in patterns and "|1|" not in patterns


def test_specs_carry_what_the_rung_gives_up(rungs: tuple[Rung, ...]) -> None:
    specs = {rung.name: rung.spec for rung in rungs}
    context, batch, cache, host = (specs[x] for x in ("context", "batch", "cache", "host"))
    assert context is not None and context.n_ctx == 4096
    assert batch is not None and (batch.n_ubatch, batch.op_offload) == (128, False)
    assert batch.n_outputs_max == batch.n_seq_max == 4
    assert cache is not None and (cache.cache_type_k, cache.cache_type_v) == ("q8_0", "q8_0")
    assert host is not None and (host.devices, host.n_gpu_layers) == ((), 0)
    assert specs["unload"] is None


def test_costs_are_known_and_reloads_are_the_dear_ones(rungs: tuple[Rung, ...]) -> None:
    by_name = {rung.name: rung for rung in rungs}
    assert by_name["trim"].pause_s == by_name["drop"].pause_s == 0
    assert 0 < by_name["context"].pause_s < by_name["experts"].pause_s
    assert by_name["experts"].reload and not by_name["cache"].reload


def test_a_machine_without_gpus_has_a_shorter_ladder(moe_model: Path) -> None:
    model = model_of(read_header(moe_model))
    plan = make_plan(model, Machine(device("CPU", 16)), REQUIREMENTS)
    names = [rung.name for rung in build(plan, REQUIREMENTS)]
    assert names == ["plan", "trim", "drop", "context", "batch", "cache", "least", "unload"]


def test_a_rung_without_the_gpu_keeps_the_drivers_context(moe_model: Path) -> None:
    """The worker's context on a GPU ends with the process, not with the model's bytes there."""
    model = model_of(read_header(moe_model))
    machine = Machine(device("CPU", 16), (device("CUDA0", 8),))
    plan = make_plan(model, machine, Requirements(n_ctx=8192))
    rungs = {rung.name: rung for rung in build(plan, Requirements(n_ctx=8192))}
    overhead = plan.gpu_usages[0].overhead_bytes
    assert overhead > 0
    for name in ("host", "least"):
        assert rungs[name].holds["CUDA0"] == 0
        assert rungs[name].bytes_on("CUDA0") == overhead
    for name in ("plan", "experts", "unload"):
        assert not rungs[name].keeps


def test_the_pauses_follow_the_machines_rates(plan: Plan) -> None:
    slow = MachineRates(disk_bytes_per_s=1e8)
    by_name = {rung.name: rung for rung in build(plan, REQUIREMENTS, slow)}
    fast = {rung.name: rung for rung in build(plan, REQUIREMENTS)}
    assert by_name["experts"].pause_s > fast["experts"].pause_s
    assert by_name["context"].pause_s == fast["context"].pause_s
