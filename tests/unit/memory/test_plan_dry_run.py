"""Plans against llama.cpp's dry run on simulated GPUs: exact where it matters, never split."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import shapes
from simulated import GIB, Gpu
from simulated import Machine as SimulatedMachine
from spec_choice import spec_usages

from assistant.errors import EngineError, LoadError, PlanError
from assistant.llama import DeviceKind, LoadSpec
from assistant.memory.devices import Device
from assistant.memory.model.architecture import cache_bytes, nextn_bytes
from assistant.memory.model.known_models import header_of, known_header, known_models
from assistant.memory.model.profile import model_of
from assistant.memory.planning import HOST_MEMORY, Machine, Plan, Requirements
from assistant.memory.planning import dry_run as dry_run_module
from assistant.memory.planning.dry_run import DryRun, start_ahead
from assistant.memory.planning.measured_planner import (
    build,
    measure,
    plan_and_measure,
    plan_report,
)
from assistant.memory.planning.planner import make_plan

GPUS = {"SIM0": 24, "SIM1": 12}


def device(name: str, gib: int) -> Device:
    kind = DeviceKind.CPU if name == HOST_MEMORY else DeviceKind.GPU
    return Device(name, kind, gib * GIB, gib * GIB)


MACHINES = {
    "host": Machine(device(HOST_MEMORY, 1000)),
    "gpu": Machine(device(HOST_MEMORY, 1000), (device("SIM0", 24),)),
    "gpus": Machine(device(HOST_MEMORY, 1000), tuple(device(*gpu) for gpu in GPUS.items())),
}


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DryRun]:
    folder = tmp_path_factory.mktemp("gpus")
    gpus = [Gpu(name, total_bytes=gib * GIB) for name, gib in GPUS.items()]
    environment = SimulatedMachine(folder, gpus).environment()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        with DryRun() as asked:
            yield asked


@pytest.mark.parametrize("on", MACHINES)
@pytest.mark.parametrize("family", shapes.SHAPES)
def test_a_plan_is_what_llama_cpp_would_take(family: str, on: str, dry_run: DryRun) -> None:
    header, machine = shapes.family_header(family), MACHINES[on]
    plan = plan_and_measure(header, machine, None, dry_run)
    assert plan.measured and plan.fits and not plan.caveats
    # Weights and cache to the byte on every device: a group split between two would show.
    assert [usage.other_bytes for usage in plan.usages] == [0] * len(plan.usages)


@pytest.mark.parametrize("name", sorted(set(known_models()) - set(shapes.KNOWN.values())))
def test_every_known_model_is_costed_to_the_byte(name: str, dry_run: DryRun) -> None:
    """So llama.cpp takes the shape, too."""
    header = known_header(name)
    plan = make_plan(model_of(header), MACHINES["gpu"], Requirements(n_ctx=4096))
    measured = measure(header, plan, dry_run)
    assert [usage.other_bytes for usage in measured.usages] == [0] * len(measured.usages)


@pytest.mark.parametrize(
    "keys",
    [
        {"context_length": 1 << 20},
        {"attention.indexer.types": array("i", [1, 0, 0] * 26)},
        {"attention.indexer.types": array("i", [1] + [0] * 77), "context_length": 1 << 20},
    ],
    ids=["every fourth", "every third", "one"],
)
def test_layers_that_reuse_what_others_picked(keys: dict[str, object], dry_run: DryRun) -> None:
    """Sparse attention as in GLM-5.2: layers that pick nothing keep no keys for it."""
    known = known_header("glm-5")
    metadata = {**known.metadata, **{f"glm-dsa.{key}": value for key, value in keys.items()}}
    header = replace(known, metadata=metadata)
    plan = make_plan(model_of(header), MACHINES["gpu"], Requirements(n_ctx=4096))
    measured = measure(header, plan, dry_run)
    assert [usage.other_bytes for usage in measured.usages] == [0, 0]
    full = make_plan(model_of(known), MACHINES["gpu"], Requirements(n_ctx=4096))
    assert sum(one.kv_bytes for one in plan.usages) < sum(one.kv_bytes for one in full.usages)


@pytest.mark.parametrize("family", shapes.SHAPES)
def test_the_estimate_is_within_five_per_cent_in_all(family: str, dry_run: DryRun) -> None:
    """Where the library could not be asked, the header alone says nearly the same."""
    header = shapes.family_header(family)
    for machine in MACHINES.values():
        guess = make_plan(model_of(header), machine)
        real = measure(header, guess, dry_run)
        for before, after in zip(guess.usages, real.usages, strict=True):
            assert after.needed_bytes <= before.needed_bytes * 1.05
        total = sum(usage.needed_bytes for usage in real.usages)
        assert sum(usage.needed_bytes for usage in guess.usages) == pytest.approx(total, rel=0.05)


@pytest.mark.parametrize("n_ctx", [4096, 131_072])
@pytest.mark.parametrize("family", ["deepseek32", "glm-dsa", "deepseek4"])
def test_what_sparse_attention_takes_to_select_tokens_is_estimated(
    family: str, n_ctx: int, dry_run: DryRun
) -> None:
    """Each layer keeps zeros to unmask its selection, and the scores grow with the context."""
    header = shapes.family_header(family)
    for machine in MACHINES.values():
        guess = make_plan(model_of(header), machine, Requirements(n_ctx=n_ctx))
        real = measure(header, guess, dry_run)
        for before, after in zip(guess.usages, real.usages, strict=True):
            assert after.compute_bytes <= before.compute_bytes + (1 << 20)
        taken = sum(usage.compute_bytes for usage in real.usages)
        assert sum(usage.compute_bytes for usage in guess.usages) < 1.6 * taken


@pytest.mark.parametrize(
    "changes",
    [
        {"n_seq_max": 1},
        {"n_seq_max": 8},
        {"n_seq_max": 3, "unified": False},
        {"cache_type": "q8_0"},
        {"flash_attn": False},
        {"swa_full": True},
        {"n_ctx": 300},
    ],
    ids=str,
)
def test_compressed_keys_are_counted_by_sequence(
    changes: dict[str, object], dry_run: DryRun
) -> None:
    """DeepSeek-V4: each sequence has cells of its own, and a state of what is not compressed."""
    header = shapes.family_header("deepseek4")
    wanted = Requirements(**{"n_ctx": 8192, **changes})  # type: ignore[arg-type]
    plan = make_plan(model_of(header), MACHINES["host"], wanted)
    assert [usage.other_bytes for usage in measure(header, plan, dry_run).usages] == [0]


@pytest.mark.parametrize(
    ("name", "n_ctx"), [("granite-4.1-30b", 131_072), ("codestral-22b", 32_768)]
)
def test_the_cache_of_a_layer_in_host_memory_is_copied_to_the_gpu(
    name: str, n_ctx: int, dry_run: DryRun
) -> None:
    header, machine = known_header(name), MACHINES["gpu"]
    if name == "codestral-22b":
        machine = replace(machine, gpus=(device("SIM0", 12),))
    guess = make_plan(model_of(header), machine, Requirements(n_ctx=n_ctx))
    assert guess.choice.layers.count(HOST_MEMORY) > 0 and guess.choice.op_offload
    gpu = measure(header, guess, dry_run).gpu_usages[0]
    assert gpu.compute_bytes <= guess.gpu_usages[0].compute_bytes


def test_what_is_measured_lets_more_onto_the_gpu(dry_run: DryRun) -> None:
    header = shapes.family_header("glm4moe")
    guess = make_plan(model_of(header), MACHINES["gpus"])
    real = plan_and_measure(header, MACHINES["gpus"], None, dry_run)
    assert real.expert_layers_on_gpu >= guess.expert_layers_on_gpu
    group = min(usage.expert_bytes // len(usage.expert_layers) for usage in real.gpu_usages)
    assert min(usage.spare_bytes for usage in real.gpu_usages) < group


@pytest.mark.parametrize(
    "changes",
    [
        {"n_ctx": 4096},
        {"n_ubatch": 128, "n_batch": 512, "op_offload": False},
        {"cache_type_k": "q8_0", "cache_type_v": "q8_0"},
        {"offload_kqv": False},
        {"n_gpu_layers": 20, "overrides": ()},
        {"devices": ("SIM0",), "tensor_split": (), "n_gpu_layers": -1},
        {"devices": (), "n_gpu_layers": 0, "overrides": (), "tensor_split": ()},
        {"tensor_split": (3.0, 1.0)},
        {"kv_unified": False},
    ],
    ids=str,
)
def test_any_spec_is_costed_to_the_byte(changes: dict[str, object], dry_run: DryRun) -> None:
    from msgspec.structs import replace

    header = shapes.family_header("qwen3moe")
    model = model_of(header)
    spec = make_plan(model, MACHINES["gpus"], Requirements(n_ctx=8192)).to_load_spec()
    spec = replace(spec, devices=("SIM0", "SIM1"), tensor_split=(2.0, 1.0), n_gpu_layers=49)
    spec = replace(spec, **changes)
    usages = spec_usages(model, MACHINES["gpus"], spec)
    plan = Plan(model, make_plan(model, MACHINES["gpus"]).choice, usages)
    measured = plan.with_measured(dry_run.run(spec, header))
    assert [usage.other_bytes for usage in measured.usages] == [0, 0, 0]


def test_a_child_that_dies_is_an_error_and_the_next_question_is_answered(
    tmp_path: Path,
) -> None:
    header = shapes.family_header("dots1")
    keys = {k: v for k, v in header.metadata.items() if "gating" not in k}
    broken = replace(header, metadata=keys)  # llama.cpp aborts over a router without its function
    with DryRun() as asked:
        with pytest.raises(LoadError, match="ended") as caught:
            asked.run(LoadSpec(path="dots", n_ctx=256), broken)
        assert caught.value.subject == "dots"
        good = asked.run(LoadSpec(path="shape", n_ctx=256), shapes.family_header("olmoe"))
        assert sum(part.weights_bytes for part in good) > GIB


def test_a_child_that_was_started_ahead_is_used_and_a_dead_one_is_not(tmp_path: Path) -> None:
    spec = LoadSpec(path=str(tmp_path / "none.gguf"), n_ctx=256)
    start_ahead()
    ((child, _),) = dry_run_module._spare
    with DryRun() as asked:
        with pytest.raises(LoadError):
            asked.run(spec)
        assert asked._child is child and not dry_run_module._spare
    start_ahead()
    ((child, _),) = dry_run_module._spare
    child.kill()
    child.wait()
    with DryRun() as asked:
        with pytest.raises(LoadError, match=r"none\.gguf"):
            asked.run(spec)
        assert asked._child is not child


def test_what_llama_cpp_refuses(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with DryRun() as asked:
        with pytest.raises(LoadError, match="refuses the model"):
            asked.run(LoadSpec(path=str(path), n_ctx=256))
        with pytest.raises(LoadError):
            asked.run(LoadSpec(path=str(path), devices=("CUDA7",), n_gpu_layers=1))


def test_a_child_that_does_not_answer_in_time() -> None:
    with DryRun(timeout_s=0.001) as asked, pytest.raises(LoadError, match="ended"):
        asked.run(LoadSpec(path="shape"), shapes.family_header("olmoe"))


def test_an_architecture_that_llama_cpp_does_not_load_is_planned_unmeasured() -> None:
    known = shapes.family_header("qwen3moe")
    keys = {k.replace("qwen3moe.", "qwen9."): v for k, v in known.metadata.items()}
    keys["general.architecture"] = "qwen9"
    plan = plan_and_measure(replace(known, architecture="qwen9", metadata=keys), MACHINES["host"])
    assert not plan.measured
    assert any("estimate" in doubt for doubt in plan.caveats)


def test_a_model_that_does_not_fit_is_refused_before_llama_cpp_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(self: DryRun, spec: LoadSpec, header: object = None) -> None:
        raise EngineError("asked")

    monkeypatch.setattr(DryRun, "run", never)
    small = Machine(device(HOST_MEMORY, 1), (device("SIM0", 1),))
    with pytest.raises(PlanError):
        plan_and_measure(shapes.family_header("mixtral"), small)


@pytest.mark.parametrize("family", ["mixtral", "gpt-oss-20b"])
def test_every_row_of_a_report_is_the_measured_planners(family: str, dry_run: DryRun) -> None:
    """No projection is an estimate where the plan itself is measured."""
    header, requirements = shapes.family_header(family), Requirements(n_ctx=8192)
    machine = MACHINES["gpu"]
    report = plan_report(header, machine, requirements, machine)
    plan = plan_and_measure(header, machine, requirements, dry_run)
    assert report.require_plan() == plan
    assert len(report.what_if) > 4
    for row in report.what_if:
        changed = replace(requirements, n_ctx=row.n_ctx, cache_type=row.cache_type)
        assert row.plan is not None and row.plan.measured
        assert row.plan.usages == plan_and_measure(header, machine, changed, dry_run).usages
    most = replace(requirements, n_ctx=report.most_n_ctx)
    at = plan_and_measure(header, machine, most, dry_run)
    assert at.measured and at.expert_layers_on_gpu >= plan.expert_layers_on_gpu


def test_a_report_on_a_machine_that_is_elsewhere_says_that_it_estimates() -> None:
    header = shapes.family_header("mixtral")
    report = plan_report(header, MACHINES["gpu"], Requirements(n_ctx=8192), MACHINES["host"])
    assert not report.require_plan().measured
    assert any("estimated" in caveat for caveat in report.caveats)
    assert not any(row.plan.measured for row in report.what_if if row.plan)


@pytest.mark.parametrize("on", MACHINES)
@pytest.mark.parametrize("family", ["glm4moe", "deepseek2-nextn", "qwen35moe-nextn"])
def test_layers_that_draft_are_planned_to_the_byte(family: str, on: str, dry_run: DryRun) -> None:
    """Multi-token prediction: weights, a second cache and a second compute buffer."""
    shape = msgspec.structs.replace(shapes.SHAPES[family], layers=4)  # fits every machine
    header, machine = header_of(shape, "Q4_K_M", family), MACHINES[on]
    plan = plan_and_measure(header, machine, None, dry_run)
    without = plan_and_measure(header, machine, Requirements(nextn=False), dry_run)
    assert plan.choice.nextn and not without.choice.nextn
    assert plan.expert_layers_on_gpu >= without.expert_layers_on_gpu
    assert [usage.other_bytes for usage in plan.usages] == [0] * len(plan.usages)
    model = plan.model
    more = sum(usage.kv_bytes for usage in plan.usages) - sum(
        usage.kv_bytes for usage in without.usages
    )
    assert plan.n_ctx == without.n_ctx
    assert more == nextn_bytes(model.memory, plan.choice.cache) > 0
    rungs = build(plan, Requirements())
    names = [rung.name for rung in rungs]
    drafts = rungs[names.index("predictions")]
    assert drafts.spec is not None and not drafts.spec.nextn and drafts.reload
    above = rungs[names.index("predictions") - 1]
    assert sum(above.holds.values()) > sum(drafts.holds.values())


def test_nothing_gives_way_to_layers_that_draft(dry_run: DryRun) -> None:
    """A GPU that is full of expert groups has no space for them."""
    header = shapes.family_header("glm4moe")
    plan = plan_and_measure(header, MACHINES["gpu"], None, dry_run)
    without = plan_and_measure(header, MACHINES["gpu"], Requirements(nextn=False), dry_run)
    assert plan.expert_layers_on_gpu == without.expert_layers_on_gpu > 0
    assert not plan.choice.nextn
    assert "no memory is left for drafts by its layers for multi-token prediction" in plan.reasons


def test_earlier_states_take_what_is_left(dry_run: DryRun) -> None:
    """Recurrent layers keep some where memory is left; no expert group leaves the GPU for them."""
    header = shapes.family_header("qwen35moe")
    plan = plan_and_measure(header, MACHINES["gpu"], None, dry_run)
    assert plan.choice.cache.n_rs_seq and plan.fits and plan.expert_layers_on_gpu == 40
    states = cache_bytes(plan.model.memory, plan.choice.cache) - cache_bytes(
        plan.model.memory, replace(plan.choice.cache, n_rs_seq=0)
    )
    assert 0 < states <= 1 << 30
    rungs = build(plan, Requirements())
    without = next(rung for rung in rungs if rung.name == "states")
    assert without.spec is not None and not without.spec.n_rs_seq and not without.reload
    assert rungs[0].holds["SIM0"] - without.holds["SIM0"] >= states
    taken = plan.gpu_usages[0].needed_bytes + plan.gpu_usages[0].margin_bytes - states
    full = replace(plan.gpu_usages[0].device, free_bytes=taken + (64 << 20))
    tight = Machine(plan.host_memory_usage.device, (full,))
    kept = plan_and_measure(header, tight, Requirements(n_ctx=plan.n_ctx), dry_run)
    assert kept.choice.cache.n_rs_seq == 0
    assert kept.expert_layers_on_gpu == plan.expert_layers_on_gpu


def test_other_recurrent_layers_keep_no_earlier_states() -> None:
    model = model_of(shapes.family_header("granitehybrid"))
    assert make_plan(model, MACHINES["gpu"]).choice.cache.n_rs_seq == 0
