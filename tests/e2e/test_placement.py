"""Experts may stand anywhere: the answer stays, the sizes are as planned, refusals are clean.

The GPUs are simulated (tests/equipment/simgpu): memory is theirs, arithmetic is the CPU's.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from placement import Job, Outcome, run
from simulated import GIB, MIB, Compute, Gpu, Machine, Stage

from assistant.llama import DeviceMemory, LoadSpec, TensorOverride

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

PROMPT = '''\
import heapq


def shortest_paths(graph: dict[str, dict[str, float]], source: str) -> dict[str, float]:
    """Dijkstra's algorithm: the length of the shortest path from source to every node."""
    distances = {source: 0.0}
    queue = [(0.0, source)]
    while queue:
        distance, node = heapq.heappop(queue)
        if distance > distances.get(node, float("inf")):
            continue
        for neighbour, weight in'''

UPPER_HALF = r"blk\.(1[2-9]|2[0-3])\.ffn_(up|down|gate)_exps"
ALL_EXPERTS = r"ffn_(up|down|gate)_exps"


def spec(model: Path, **fields: object) -> LoadSpec:
    """Weights not repacked: another arithmetic order would change the last bits."""
    fixed = {"n_ctx": 512, "n_ubatch": 128, "n_seq_max": 1, "use_extra_bufts": False}
    return LoadSpec(path=str(model), **{**fixed, **fields})  # type: ignore[arg-type]


def on_gpus(
    model: Path, *devices: str, experts: str = "", on: str = "CPU", **fields: object
) -> LoadSpec:
    overrides = (TensorOverride(pattern=experts, device=on),) if experts else ()
    return spec(model, devices=devices, overrides=overrides, **{"n_gpu_layers": 99, **fields})


def placements(model: Path) -> dict[str, LoadSpec]:
    return {
        "cpu": spec(model),
        "one GPU": on_gpus(model, "SIM0"),
        "experts on the CPU": on_gpus(model, "SIM0", experts=ALL_EXPERTS),
        "half of the experts on the CPU": on_gpus(model, "SIM0", experts=UPPER_HALF),
        "without op_offload": on_gpus(model, "SIM0", experts=ALL_EXPERTS, op_offload=False),
        "half of the layers": on_gpus(model, "SIM0", n_gpu_layers=12),
        "two GPUs": on_gpus(model, "SIM0", "SIM1", tensor_split=(3.0, 1.0)),
        "experts on the other GPU": on_gpus(
            model, "SIM0", "SIM1", tensor_split=(1.0, 1.0), experts=UPPER_HALF, on="SIM0"
        ),
        "cache on the CPU": on_gpus(model, "SIM0", offload_kqv=False),
    }


NAMES = list(placements(Path()))
COMPARED = ("cpu", "half of the experts on the CPU", "experts on the other GPU")


@pytest.fixture(scope="module")
def outcomes(
    tmp_path_factory: pytest.TempPathFactory, moe_model: Path, dense_model: Path
) -> dict[str, Outcome]:
    """Every placement, run once, all in one child."""
    machine = Machine(
        tmp_path_factory.mktemp("gpus"),
        [Gpu("SIM0", 8 * GIB, others_bytes=GIB), Gpu("SIM1", 4 * GIB)],
    )
    jobs = [Job(name="dense", spec=spec(dense_model), prompt=PROMPT, keep_distributions=True)]
    jobs += [
        Job(
            name=name,
            spec=requirement,
            prompt=PROMPT,
            n_predict=16,
            reference="dense" if name in COMPARED else "",
        )
        for name, requirement in placements(moe_model).items()
    ]
    return {outcome.name: outcome for outcome in run(jobs, machine)}


@pytest.mark.parametrize("name", NAMES)
def test_the_tokens_are_those_of_the_cpu(name: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].error == ""
    assert len(outcomes["cpu"].tokens) == 16
    assert outcomes[name].tokens == outcomes["cpu"].tokens


@pytest.mark.parametrize("name", COMPARED)
def test_the_distribution_is_that_of_the_dense_model(
    name: str, outcomes: dict[str, Outcome]
) -> None:
    assert 0 <= outcomes[name].kl < 0.01
    assert outcomes[name].same_best > 0.97


def by_device(memory: tuple[DeviceMemory, ...]) -> dict[str, tuple[int, int, int]]:
    sums: dict[str, tuple[int, int, int]] = {}
    for row in memory:
        weights, kv, compute = sums.get(row.device, (0, 0, 0))
        sums[row.device] = (
            weights + row.weights_bytes,
            kv + row.kv_bytes,
            compute + row.compute_bytes,
        )
    return sums


@pytest.mark.parametrize("name", NAMES)
def test_the_dry_run_foretells_the_load(name: str, outcomes: dict[str, Outcome]) -> None:
    """Exact for weights and cache; 5 % for compute, where a pipelined schedule reserves less.

    Weights in host memory are left out: a mapped file counts whole ranges, with the tensors
    between that stand elsewhere.
    """
    planned, actual = by_device(outcomes[name].planned), by_device(outcomes[name].actual)
    assert planned.keys() == actual.keys()
    for device, (weights, kv, compute) in planned.items():
        if device != "CPU":
            assert actual[device][0] == weights
        assert actual[device][1] == kv
        assert actual[device][2] == pytest.approx(compute, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_grows_on_a_gpu_while_generating(name: str, outcomes: dict[str, Outcome]) -> None:
    """On the host it may: a batch of fewer than 32 tokens is not lent to the GPU, and the graph
    that llama.cpp reserved for was one that is.
    """
    before, after = by_device(outcomes[name].actual), by_device(outcomes[name].after)
    for device, (_, _, compute) in before.items():
        grown = after[device][2] - compute
        assert 0 <= grown <= (8 * MIB if device == "CPU" else 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_gpus_hold_what_llama_cpp_says(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    actual = by_device(outcome.after)
    for gpu, held in outcome.held.items():
        stages = (held["weights"], held["kv"], held["compute"])
        assert stages == actual.get(gpu, (0, 0, 0))


def test_no_expert_group_is_split(outcomes: dict[str, Outcome]) -> None:
    """Moving the experts of 12 of 24 layers moves half of all expert bytes, to the byte."""
    weights = {
        name: by_device(outcomes[name].planned)["SIM0"][0]
        for name in ("one GPU", "experts on the CPU", "half of the experts on the CPU")
    }
    experts = weights["one GPU"] - weights["experts on the CPU"]
    moved = weights["one GPU"] - weights["half of the experts on the CPU"]
    assert moved == pytest.approx(experts / 2, rel=0.03)  # layers differ in quantisation
    assert experts > 500 * MIB


@pytest.mark.parametrize(
    ("stage", "error"),
    [(Stage.WEIGHTS, "weights"), (Stage.KV, "context"), (Stage.COMPUTE, "context")],
)
def test_a_refused_allocation_is_an_answer_not_a_crash(
    stage: Stage, error: str, tmp_path: Path, tiny_moe: Path
) -> None:
    machine = Machine(tmp_path, [Gpu("SIM0", 8 * GIB, refuse=stage)])
    jobs = [
        Job(name="refused", spec=on_gpus(tiny_moe, "SIM0")),
        Job(name="after", spec=spec(tiny_moe), prompt="def f():", n_predict=1),
    ]
    refused, after = run(jobs, machine)
    assert refused.error == error
    assert "llama.cpp cannot" in refused.says and "memory" in refused.says
    assert str(tiny_moe) in refused.says
    assert after.error == "" and len(after.tokens) == 1  # the process lives and serves
    assert machine.used_bytes("SIM0") == 0


@pytest.mark.parametrize(
    ("compute", "error"),
    [(Compute.ALLOC_FAILED, "NO_MEMORY"), (Compute.FAIL, "FAILED")],
)
def test_memory_that_runs_out_while_generating_is_an_answer(
    compute: Compute, error: str, tmp_path: Path, tiny_moe: Path
) -> None:
    """The prompt is one graph on the GPU, each token another: the fourth token fails."""
    machine = Machine(tmp_path, [Gpu("SIM0", 8 * GIB, compute=compute, compute_after=4)])
    jobs = [
        Job(name="first", spec=on_gpus(tiny_moe, "SIM0"), prompt="def f(x):", n_predict=8),
        Job(name="again", spec=on_gpus(tiny_moe, "SIM0"), prompt="def f(x):", n_predict=8),
        Job(name="elsewhere", spec=spec(tiny_moe), prompt="def f(x):", n_predict=1),
    ]
    first, again, elsewhere = run(jobs, machine)
    assert first.error == f"decode: {error}"
    assert again.error == f"prefill: {error}"
    assert elsewhere.error == "" and len(elsewhere.tokens) == 1


def test_memory_of_others_counts(tmp_path: Path, tiny_moe: Path) -> None:
    """A GPU of 256 MiB does not take 60 MiB of weights while a game holds 220, and then it does."""
    machine = Machine(tmp_path, [Gpu("SIM0", 256 * MIB, others_bytes=220 * MIB)])
    job = Job(name="load", spec=on_gpus(tiny_moe, "SIM0"))
    assert run([job], machine)[0].error == "weights"
    machine.change("SIM0", others_bytes=0)
    assert run([job], machine)[0].error == ""
