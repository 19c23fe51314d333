"""Several models on one machine: one plan, or an error that says what would fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import shapes

from assistant.errors import PlanError
from assistant.llama import DeviceKind
from assistant.memory.devices import Device
from assistant.memory.gguf.header import Header
from assistant.memory.model.known_models import requantised
from assistant.memory.model.profile import model_of
from assistant.memory.planning import HOST_MEMORY, Machine, Plan, Requirements, credited
from assistant.memory.planning.planner import make_plan
from assistant.memory.planning.together import PlannedModel, Wanted, plan_together

GIB = 1 << 30


def planner(header: Header, machine: Machine, requirements: Requirements) -> Plan:
    return make_plan(MODELS.get(header.path) or model_of(header), machine, requirements)


def machine(host_gib: float, gpu_gib: float = 0) -> Machine:
    def device(name: str, kind: DeviceKind, gib: float) -> Device:
        return Device(name, kind, int(gib * GIB), int(gib * GIB))

    gpus = (device("CUDA0", DeviceKind.GPU, gpu_gib),) if gpu_gib else ()
    return Machine(device(HOST_MEMORY, DeviceKind.CPU, host_gib), gpus)


SMALL = Wanted(
    shapes.family_header("qwen2"), Requirements(n_ctx=8192), ("completions",), "at the start"
)
LARGE = Wanted(
    shapes.family_header("qwen3moe"),
    Requirements(n_ctx=8192, n_seq_max=2),
    ("explanations", "chats"),
    "on demand",
    on_demand=True,
)


MODELS = {one.header.path: model_of(one.header) for one in (SMALL, LARGE)}


def total(planned: tuple[PlannedModel, ...]) -> int:
    return sum(size for one in planned for size in one.taken.values())


def test_the_second_model_gets_what_the_first_leaves() -> None:
    planned = plan_together([SMALL, LARGE], machine(40, 16), planner)
    alone = plan_together([LARGE], machine(40, 16), planner)
    assert [one.wanted.on_demand for one in planned] == [False, True]
    for name, size in (("CUDA0", 16), (HOST_MEMORY, 40)):
        assert sum(one.taken.get(name, 0) for one in planned) <= size * GIB
    assert planned[1].plan.expert_layers_on_gpu < alone[0].plan.expert_layers_on_gpu
    row = planned[1].to_json()
    assert row["bytes"]["CUDA0"] > 0 and row["purposes"] == ["explanations", "chats"]


@pytest.mark.parametrize("host_gib", [5.0, 7.0, 12.0, 20.0])
def test_what_does_not_fit_together_is_refused_with_what_does(host_gib: float) -> None:
    here = machine(host_gib)
    with pytest.raises(PlanError) as caught:
        plan_together([SMALL, LARGE], here, planner)
    error = caught.value
    assert "do not fit together" in error.message and error.shortfall_bytes > 0
    if host_gib >= 7:  # the first fits, and its figures are in the message
        assert "GiB of CPU" in error.message
        assert "What fits: " in error.advice and " in all)" in error.advice
    else:
        assert "None of these models fits alone" in error.advice


def test_a_little_too_little_costs_only_context() -> None:
    here = machine(60)
    both = [
        replace(one, requirements=replace(one.requirements, cache_type="f16"))
        for one in (SMALL, LARGE)
    ]
    needed = total(plan_together(both, here, planner))
    short = credited(here, {HOST_MEMORY: -(60 * GIB - needed - 512 * (1 << 20)) - 100 * (1 << 20)})
    with pytest.raises(PlanError, match="do not fit together") as caught:
        plan_together(both, short, planner)
    assert "4,096 tokens of context" in caught.value.advice


def test_a_smaller_quantisation_of_the_second_model_is_named() -> None:
    with pytest.raises(PlanError) as caught:
        plan_together([SMALL, LARGE], machine(20), planner)
    advice = caught.value.advice
    assert advice.startswith("What fits: a Q2_K file of ")
    smaller = requantised(LARGE.header, "Q2_K")
    both = plan_together([SMALL, replace(LARGE, header=smaller)], machine(20), planner)
    assert len(both) == 2


def test_one_model_is_refused_as_ever() -> None:
    with pytest.raises(PlanError, match="it does not fit"):
        plan_together([LARGE], machine(4), planner)


@pytest.mark.parametrize("host_gib", [5.0, 12.0])
def test_the_limit_of_a_control_group_is_named_for_several_models(host_gib: float) -> None:
    """S23."""
    here = machine(host_gib)
    limited = replace(here, host_memory=replace(here.host_memory, limited_by="/user.slice/box"))
    with pytest.raises(PlanError) as caught:
        plan_together([SMALL, LARGE], limited, planner)
    says = f"limited to {host_gib:.2f} GiB by the control group /user.slice/box"
    assert caught.value.message.count(says) == 1
    assert caught.value.advice.endswith("memory limit of the container or service")
