"""The planner: properties over random machines and models, and the choices a person expects."""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import pytest
import shapes
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_choice import choice_of, spec_usages

from assistant.errors import PlanError
from assistant.llama import DeviceKind, LoadSpec
from assistant.memory.devices import Device
from assistant.memory.model.architecture import cache_bytes
from assistant.memory.model.block_tensors import ModelShape
from assistant.memory.model.known_models import header_of, known_header
from assistant.memory.model.profile import Model, model_of
from assistant.memory.planning import HOST_MEMORY, Machine, Plan, Requirements
from assistant.memory.planning.footprint import breakdown_of
from assistant.memory.planning.plan_report import PlanReport, make_report, predict_speed
from assistant.memory.planning.planner import make_plan, nearest, shrunk

MIB = 1 << 20
GIB = 1 << 30


def device(name: str, size: int, free: int | None = None) -> Device:
    kind = DeviceKind.CPU if name == HOST_MEMORY else DeviceKind.GPU
    return Device(name, kind, size, size if free is None else free)


def machine(host_gib: float, *gpus_gib: float, prefix: str = "SIM") -> Machine:
    gpus = (device(f"{prefix}{i}", int(size * GIB)) for i, size in enumerate(gpus_gib))
    return Machine(device(HOST_MEMORY, int(host_gib * GIB)), tuple(gpus))


@st.composite
def random_models(draw: st.DrawFn) -> Model:
    architecture = draw(st.sampled_from(["qwen3moe", "qwen2", "deepseek2", "gpt-oss", "qwen3next"]))
    base = shapes.SHAPES[architecture if architecture != "gpt-oss" else "gpt-oss-20b"]
    layers = draw(st.integers(1, 12))
    sizes: dict[str, int] = {
        "layers": layers,
        "embedding": 256 * draw(st.integers(1, 12)),
        "vocabulary": draw(st.integers(1, 60)) * 1000,
        "context": 1024 * draw(st.integers(1, 128)),
    }
    if base.experts:
        count = draw(st.sampled_from([2, 8, 64]))
        sizes |= {
            "experts": count,
            "experts_used": draw(st.integers(1, min(count, 8))),
            "expert_feed_forward": 64 * draw(st.integers(1, 40)),
            "dense_lead": draw(st.integers(0, layers)) if base.dense_lead else 0,
        }
    shape: ModelShape = msgspec.structs.replace(base, **sizes)
    quantisation = draw(st.sampled_from(["Q4_K_M", "Q8_0", "F16", "MXFP4"]))
    return model_of(header_of(shape, quantisation))


@st.composite
def random_machines(draw: st.DrawFn) -> Machine:
    count = draw(st.sampled_from([0, 1, 1, 2, 3]))
    prefix = draw(st.sampled_from(["SIM", "CUDA", "Vulkan"]))
    gpus = []
    for index in range(count):
        size = draw(st.integers(64, 16_000)) * MIB
        gpus.append(device(f"{prefix}{index}", size, draw(st.integers(0, size))))
    host = draw(st.integers(256, 48_000)) * MIB
    return Machine(device(HOST_MEMORY, host, draw(st.integers(host // 2, host))), tuple(gpus))


@st.composite
def random_requirements(draw: st.DrawFn) -> Requirements:
    return Requirements(
        n_ctx=draw(st.sampled_from([0, 0, 512, 4096, 20_000, 131_072])),
        cache_type=draw(st.sampled_from(["", "", "f16", "q8_0"])),
        n_seq_max=draw(st.integers(1, 8)),
        swa_full=draw(st.sampled_from([None, True, False])),
        unified=draw(st.booleans()),
        experts_on_gpu=draw(st.integers(0, 9)) == 0,
        margin_bytes=draw(st.integers(0, 512)) * MIB,
    )


def override_of(spec: LoadSpec, tensor: str, own: str) -> str:
    """Where llama.cpp puts a tensor: the first override whose pattern is found in its name."""
    return next((x.device for x in spec.overrides if re.search(x.pattern, tensor)), own)


def check(plan: Plan, requirements: Requirements, on: Machine) -> None:
    """What holds for every plan."""
    model, choice, spec = plan.model, plan.choice, plan.to_load_spec()
    names = [HOST_MEMORY, *(gpu.name for gpu in on.gpus)]
    assert [usage.device.name for usage in plan.usages] == names
    assert all(usage.spare_bytes >= 0 for usage in plan.usages)
    # blocks: the host's first, then the GPUs' in order, each a run
    order = [names.index(name) for name in (*choice.layers, choice.output)]
    assert order == sorted(order)
    # groups: whole, in one place, and llama.cpp is reported so
    for layer in model.inventory.layers:
        places = {
            override_of(spec, tensor.name, choice.layers[layer.index]) for tensor in layer.experts
        }
        assert places == ({choice.experts[layer.index]} if layer.experts else set())
        for tensor in layer.dense:
            own = choice.layers[layer.index]
            assert override_of(spec, tensor.name, own) == own, "nothing else is moved"
    for tensor in (*model.inventory.input, *model.inventory.output):
        assert override_of(spec, tensor.name, "own") == "own"
    # every byte is counted once
    breakdown = breakdown_of(model, on)
    held = [index for usage in plan.usages for index in usage.layers]
    assert sorted(held) == list(range(model.n_layer))
    groups = [index for usage in plan.usages for index in usage.expert_layers]
    assert sorted(groups) == [x.index for x in model.inventory.layers if x.experts]
    kept = sum(usage.kv_bytes for usage in plan.usages)
    assert kept == cache_bytes(model.memory, choice.cache)
    # the spec says all of it
    assert choice_of(breakdown, spec) == choice
    assert spec_usages(model, on, spec)[0].weights_bytes == plan.host_memory_usage.weights_bytes
    assert 0 < spec.n_seq_max <= spec.n_outputs_max
    if requirements.n_ctx:
        assert plan.n_ctx == min(requirements.n_ctx, model.n_ctx_train)
    if requirements.cache_type:
        assert choice.cache.type_k == requirements.cache_type
    if requirements.experts_on_gpu and on.gpus:
        assert HOST_MEMORY not in choice.experts
    assert plan.reasons


def attempt(model: Model, on: Machine, requirements: Requirements) -> Plan | PlanError:
    try:
        return make_plan(model, on, requirements, search_alternatives=False)
    except PlanError as error:
        return error


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(random_models(), random_machines(), random_requirements())
def test_every_plan_fits_and_splits_no_group(
    model: Model, on: Machine, requirements: Requirements
) -> None:
    plan = attempt(model, on, requirements)
    if isinstance(plan, PlanError):
        assert plan.shortfall_bytes > 0
    else:
        check(plan, requirements, on)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(random_models(), random_machines(), random_requirements())
def test_what_is_offered_instead_does_fit(
    model: Model, on: Machine, requirements: Requirements
) -> None:
    plan = attempt(model, on, requirements)
    if isinstance(plan, PlanError):
        for item in nearest(model, on, requirements, {}):
            check(item.plan, item.requirements, on)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(random_models(), random_machines(), random_requirements(), st.integers(1, 64))
def test_more_host_memory_never_hurts(
    model: Model, on: Machine, requirements: Requirements, more: int
) -> None:
    plan = attempt(model, on, requirements)
    if isinstance(plan, PlanError):
        return
    free = on.host_memory.free_bytes + more * GIB
    richer = replace(on, host_memory=replace(on.host_memory, total_bytes=free, free_bytes=free))
    better = make_plan(model, richer, requirements)
    assert better.n_ctx >= plan.n_ctx
    assert better.choice.layers.count(HOST_MEMORY) <= plan.choice.layers.count(HOST_MEMORY)


def test_non_routed_weights_and_cache_come_before_experts() -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b"))
    plan = make_plan(model, machine(64, 8), Requirements(n_ctx=8192))
    assert set(plan.choice.layers) == {"SIM0"}
    assert plan.choice.output == "SIM0"
    assert 0 < plan.expert_layers_on_gpu < 48
    spare = plan.gpu_usages[0].spare_bytes
    smallest = min(breakdown_of(model, machine(64, 8)).experts["SIM0"])
    # a pass of estimates may leave a group's worth, never more
    assert spare < smallest + 256 * MIB
    on_host = plan.host_memory_usage.expert_layers
    assert on_host == tuple(range(len(on_host))), "the first layers' experts stay behind"


def test_context_and_cache_give_way_before_blocks_leave_the_gpu() -> None:
    model = model_of(known_header("deepseek-v3"))
    legacy = model_of(shapes.family_header("deepseek2-legacy"))
    wide = make_plan(model, machine(500, 24))
    tight = make_plan(legacy, machine(500, 24))
    assert (wide.n_ctx, wide.choice.cache.type_k) == (16384, "f16")
    assert tight.n_ctx < 16384
    assert set(tight.choice.layers) == {"SIM0"}


def test_a_dense_model_that_is_too_large_stands_partly_on_the_host() -> None:
    model = model_of(known_header("gemma-3-12b"))
    plan = make_plan(model, machine(32, 4))
    on_host = plan.choice.layers.count(HOST_MEMORY)
    assert 0 < on_host < 48
    assert plan.choice.layers[:on_host] == (HOST_MEMORY,) * on_host
    assert any("layers stay in host memory" in reason for reason in plan.reasons)


def test_several_gpus_share_by_what_they_hold() -> None:
    model = model_of(known_header("glm-4.5-air"))
    plan = make_plan(model, machine(64, 24, 12))
    first, second = (usage.needed_bytes for usage in plan.gpu_usages)
    assert first > 22 * GIB and second > 10 * GIB
    one = make_plan(model, machine(64, 24))
    assert plan.expert_layers_on_gpu > one.expert_layers_on_gpu
    spec = plan.to_load_spec()
    assert spec.devices == ("SIM0", "SIM1")
    assert sum(spec.tensor_split) == spec.n_gpu_layers == 48


def test_a_second_gpu_is_left_alone_where_one_is_enough() -> None:
    plan = make_plan(model_of(known_header("gpt-oss-20b")), machine(16, 24, 24))
    assert plan.to_load_spec().devices == ("SIM0",)
    assert plan.gpu_usages[1].needed_bytes == 0


def test_what_other_programs_hold_counts() -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b"))
    idle = make_plan(model, machine(64, 24))
    busy = Machine(idle.host_memory_usage.device, (device("SIM0", 24 * GIB, 10 * GIB),))
    assert idle.expert_layers_on_gpu == 48
    assert make_plan(model, busy).expert_layers_on_gpu < 24


def test_an_integrated_gpu_takes_of_the_hosts_own_memory() -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b"))
    gpu = Device("Vulkan0", DeviceKind.IGPU, 24 * GIB, 24 * GIB)
    with pytest.raises(PlanError):  # 24 GiB in all, not 48
        make_plan(
            model_of(known_header("mixtral-8x7b")), Machine(device(HOST_MEMORY, 24 * GIB), (gpu,))
        )
    plan = make_plan(model, Machine(device(HOST_MEMORY, 24 * GIB), (gpu,)))
    assert plan.host_memory_usage.shared_bytes == plan.gpu_usages[0].needed_bytes > 18 * GIB
    assert plan.host_memory_usage.spare_bytes >= 0


def test_a_cuda_context_is_provided_for() -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b"))
    for prefix, least in (("CUDA", 500 * MIB), ("SIM", 0)):
        plan = make_plan(model, machine(64, 16, prefix=prefix))
        assert plan.gpu_usages[0].overhead_bytes >= least


def test_without_gpus_everything_stands_in_host_memory() -> None:
    plan = make_plan(model_of(known_header("gpt-oss-20b")), machine(32))
    spec = plan.to_load_spec()
    assert (spec.devices, spec.n_gpu_layers, spec.overrides) == ((), 0, ())
    assert plan.choice.repack


def test_op_offload_is_given_up_where_its_copy_costs_too_much() -> None:
    huge = make_plan(model_of(known_header("deepseek-v3")), machine(500, 24))
    assert not huge.choice.op_offload and huge.choice.repack
    assert any("op_offload" in reason for reason in huge.reasons)
    mixtral = make_plan(model_of(known_header("mixtral-8x7b")), machine(64, 24))
    assert mixtral.choice.op_offload and not mixtral.choice.repack


def test_an_error_says_what_is_missing_and_what_would_fit() -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b"))
    with pytest.raises(PlanError) as caught:
        make_plan(model, machine(8, 12), Requirements(n_ctx=131_072, cache_type="f16"))
    error = caught.value
    assert error.shortfall_bytes > 4 * GIB
    assert any("q8_0" in text or "tokens of context" in text for text in error.alternatives)
    assert "What fits" in error.advice


def test_experts_on_the_gpu_or_not_at_all() -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b"))
    with pytest.raises(PlanError) as caught:
        make_plan(model, machine(64, 12), Requirements(n_ctx=8192, experts_on_gpu=True))
    assert any("host memory" in text for text in caught.value.alternatives)
    assert caught.value.shortfall_bytes > 4 * GIB


def test_a_cache_type_that_the_model_cannot_have() -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b"))
    with pytest.raises(PlanError, match="q3_K"):
        make_plan(model, machine(64, 24), Requirements(cache_type="q3_K"))


def test_a_file_without_layers() -> None:
    empty = replace(shapes.family_header("qwen2"), tensors=(), metadata={})
    with pytest.raises(PlanError, match="no layers"):
        make_plan(model_of(empty), machine(64, 24))


def test_an_unknown_architecture_is_planned_with_caveats() -> None:
    known = shapes.family_header("qwen3moe")
    keys = {k.replace("qwen3moe.", "qwen9."): v for k, v in known.metadata.items()}
    plan = make_plan(model_of(replace(known, architecture="qwen9", metadata=keys)), machine(64, 24))
    assert len(plan.caveats) == 2
    assert "qwen9" in plan.caveats[0] and "guess" in plan.caveats[1]


def test_a_smaller_quantisation_is_smaller() -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b", "Q8_0"))
    names = ("Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M")
    sizes = [shrunk(model, name).inventory.total.size_bytes for name in names]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    for name, size in zip(names, sizes, strict=True):
        made = model_of(known_header("qwen3-coder-30b-a3b", name))
        assert size == made.inventory.total.size_bytes


def test_the_bound_of_decoding() -> None:
    model = model_of(known_header("qwen3-coder-30b-a3b"))
    whole = predict_speed(make_plan(model, machine(64, 24)))
    split = predict_speed(make_plan(model, machine(64, 12)))
    host = predict_speed(make_plan(model, machine(64)))
    assert whole.host_memory_bytes == 0
    assert whole.gpu_bytes == pytest.approx(model.inventory.decode_bytes, rel=0.001)
    assert whole.decode_tokens_per_s > split.decode_tokens_per_s > host.decode_tokens_per_s
    assert split.gpu_bytes + split.host_memory_bytes == pytest.approx(whole.gpu_bytes, rel=0.001)


def report_of(model: Model, on: Machine, requirements: Requirements) -> PlanReport:
    return make_report(model, on, requirements, lambda wanted: make_plan(model, on, wanted))


def test_the_longest_context_holds_and_one_step_more_does_not() -> None:
    model, on, requirements = (
        model_of(known_header("mixtral-8x7b")),
        machine(64, 24),
        Requirements(n_ctx=4096),
    )
    report = report_of(model, on, requirements)
    most = report.most_n_ctx
    at = make_plan(model, on, replace(requirements, n_ctx=most))
    past = make_plan(model, on, replace(requirements, n_ctx=most + 1024))
    assert 4096 <= most < 32768
    groups = report.require_plan().expert_layers_on_gpu
    assert at.expert_layers_on_gpu >= groups > past.expert_layers_on_gpu


def test_the_longest_context_may_be_all_that_was_trained_for() -> None:
    model = model_of(known_header("granite-3.1-3b-a800m"))
    report = report_of(model, machine(512), Requirements(n_ctx=2048))
    assert report.most_n_ctx == model.n_ctx_train


def test_what_would_change() -> None:
    model, on, requirements = (
        model_of(known_header("mixtral-8x7b")),
        machine(64, 24),
        Requirements(n_ctx=8192),
    )
    report = report_of(model, on, requirements)
    found = {(row.n_ctx, row.cache_type): row.kv_bytes for row in report.what_if}
    assert set(found) == {(c, t) for c in (4096, 8192, 16384) for t in ("f16", "q8_0", "q4_0")}
    assert found[8192, "f16"] == 2 * found[4096, "f16"] == GIB
    for row in report.what_if:
        again = make_plan(
            model, on, replace(requirements, n_ctx=row.n_ctx, cache_type=row.cache_type)
        )
        assert row.plan is not None and row.plan.choice == again.choice


def test_a_report_on_what_does_not_fit_has_the_reason_and_no_projections() -> None:
    model = model_of(known_header("deepseek-v3"))
    report = report_of(model, machine(8), Requirements(n_ctx=8192))
    assert report.plan is None and not report.what_if and report.failure is not None
    with pytest.raises(PlanError, match="does not fit"):
        report.require_plan()


@pytest.mark.parametrize("requested", [8192, 2049])
def test_a_context_beyond_what_was_trained_is_reduced_and_said(requested: int) -> None:
    """Case S10: in the plan, and so in everything that shows its caveats."""
    shape = msgspec.structs.replace(shapes.SHAPES["qwen3moe"], context=2048)
    model = model_of(header_of(shape))
    plan = make_plan(model, machine(64, 24), Requirements(n_ctx=requested))
    assert plan.n_ctx == 2048
    assert any(f"{requested:,}" in caveat and "2,048" in caveat for caveat in plan.caveats)
    assert not make_plan(model, machine(64, 24), Requirements(n_ctx=2048)).caveats


def test_the_limit_of_a_control_group_is_named_in_the_refusal() -> None:
    """Case S23."""
    limited = Device(HOST_MEMORY, DeviceKind.CPU, 2 * GIB, GIB, limited_by="/user.slice/box")
    model = model_of(known_header("gpt-oss-20b"))
    with pytest.raises(PlanError) as caught:
        make_plan(model, Machine(limited), Requirements(n_ctx=4096))
    assert "limited to 2.00 GiB by the control group /user.slice/box" in caught.value.message
    with pytest.raises(PlanError) as caught:
        make_plan(model, machine(1), Requirements(n_ctx=4096))
    assert "control group" not in str(caught.value)
