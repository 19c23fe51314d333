"""What went wrong in other programs' memory estimates, each tried on ours.

A trial returns whether ours holds, and what was seen. Trials run on simulated GPUs, so what only a
real driver does is not among them; `UNTRIED` says what and why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import shapes
from simulated import GIB
from simulated import Machine as SimulatedMachine
from spec_choice import spec_usages

from assistant.errors import PlanError
from assistant.llama import DeviceKind, LoadSpec
from assistant.memory.devices import Device
from assistant.memory.gguf.header import Header
from assistant.memory.model.architecture import CacheParams, cache_bytes, model_memory
from assistant.memory.model.profile import model_of
from assistant.memory.planning import HOST_MEMORY, Machine, Requirements
from assistant.memory.planning.dry_run import DryRun
from assistant.memory.planning.measured_planner import measure, plan_and_measure
from assistant.memory.planning.planner import make_plan

MIB = 1 << 20


@dataclass(frozen=True)
class Outcome:
    holds: bool
    seen: str


@dataclass(frozen=True)
class Bench:
    """What a trial may use: the dry run, and the GPUs that it sees (SIM0 24 GiB, SIM1 12 GiB)."""

    dry_run: DryRun
    gpus: SimulatedMachine


Trial = Callable[[Bench], Outcome]
TRIALS: dict[str, Trial] = {}

UNTRIED = {
    "WSL spills to system memory instead of failing (WSL#11050)": (
        "needs WSL and a GPU; a plan never asks for more than is free less the margin"
    ),
    "the scratch of a quantised cache grows with the context (llama.cpp#21054)": (
        "CUDA's own: this version counts it in the compute buffer, which the dry run on the GPU "
        "itself reports; a simulated GPU has none"
    ),
}


def trial(name: str) -> Callable[[Trial], Trial]:
    def keep(function: Trial) -> Trial:
        assert name not in TRIALS
        TRIALS[name] = function
        return function

    return keep


def device(name: str, gib: float, free: float | None = None) -> Device:
    kind = DeviceKind.CPU if name == HOST_MEMORY else DeviceKind.GPU
    return Device(name, kind, int(gib * GIB), int((gib if free is None else free) * GIB))


def gpu(gib: float, host: float = 800, free: float | None = None) -> Machine:
    return Machine(device(HOST_MEMORY, host), (device("SIM0", gib, free),))


@trial("experts on the CPU turn fitting off, then memory runs out (llama.cpp#27872)")
def experts_on_the_host(bench: Bench) -> Outcome:
    plan = plan_and_measure(shapes.family_header("qwen3moe"), gpu(2.5), None, bench.dry_run)
    seen = (
        f"on a 2.5 GiB GPU {plan.expert_layers_on_gpu} of 48 groups stand on it, context "
        f"{plan.n_ctx} in {plan.choice.cache.type_k}; measured "
        f"{plan.gpu_usages[0].needed_bytes / MIB:.0f} MiB"
    )
    return Outcome(plan.measured and plan.fits and plan.expert_layers_on_gpu <= 2, seen)


@trial("an explicit count of GPU layers turns fitting off without a word (TurboLLM#99)")
def explicit_layers(bench: Bench) -> Outcome:
    header, on = shapes.family_header("mixtral"), gpu(24)
    model = model_of(header)
    spec = make_plan(model, on).to_load_spec()
    forced = type(spec)(path=spec.path, n_ctx=32768, devices=("SIM0",), n_gpu_layers=99)
    short = -spec_usages(model, on, forced)[1].spare_bytes
    return Outcome(short > 0, f"all layers forced onto 24 GiB: {short / GIB:.1f} GiB too many")


@trial("multi-token prediction is missed (llama.cpp#23472)")
def nextn(bench: Bench) -> Outcome:
    header = shapes.family_header("glm4moe")
    plan = measure(header, make_plan(model_of(header), gpu(24)), bench.dry_run)
    skipped = plan.model.inventory.skipped.size_bytes
    other = sum(usage.other_bytes for usage in plan.usages)
    seen = f"{skipped / GIB:.2f} GiB of it in the file, not loaded, not charged: {other} B off"
    return Outcome(other == 0 and skipped > GIB, seen)


@trial("a vision tower is missed (llama.cpp#18111)")
def vision(bench: Bench) -> Outcome:
    tower = replace(shapes.family_header("qwen2"), architecture="clip", metadata={}, tensors=())
    try:
        make_plan(model_of(tower), gpu(24))
    except PlanError as error:
        return Outcome(True, f"none is ever loaded; one named as a model: {error.message}")
    return Outcome(False, "planned")


@trial("generation aborts at 119k tokens: the context was not all reserved (llama.cpp#21692)")
def long_context(bench: Bench) -> Outcome:
    header = shapes.family_header("qwen3moe")
    plan = plan_and_measure(header, gpu(24), Requirements(n_ctx=131_072), bench.dry_run)
    usage = plan.gpu_usages[0]
    seen = (
        f"131,072 tokens: KV {usage.kv_bytes / GIB:.1f} GiB and compute "
        f"{usage.compute_bytes / MIB:.0f} MiB are reserved at the start, {usage.other_bytes} B off"
    )
    return Outcome(plan.fits and plan.measured and usage.other_bytes == 0, seen)


@trial("a second process's context takes 700 MB that nobody counted (llama.cpp#21692)")
def second_process(bench: Bench) -> Outcome:
    on = Machine(device(HOST_MEMORY, 64), (device("CUDA0", 12, 11),))
    plan = make_plan(model_of(shapes.family_header("qwen3moe")), on)
    usage = plan.gpu_usages[0]
    seen = f"{usage.overhead_bytes / MIB:.0f} MiB provided for, on top of what is free now"
    return Outcome(usage.overhead_bytes >= 700 * MIB and usage.spare_bytes >= 0, seen)


@trial("recurrent state grows from 150 to 9,726 MiB (llama.cpp#22673)")
def recurrent_state(bench: Bench) -> Outcome:
    header = shapes.family_header("qwen3next")
    requirement = CacheParams(n_ctx=256, n_seq_max=8)
    ours = cache_bytes(model_memory(header), requirement)
    memory = bench.dry_run.run(LoadSpec(path="shape", n_ctx=256, n_seq_max=8), header)
    theirs = sum(part.kv_bytes for part in memory)
    seen = f"8 sequences: {ours / MIB:.1f} MiB foretold, {theirs / MIB:.1f} MiB taken"
    return Outcome(ours == theirs, seen)


@trial("sliding windows are overestimated (ollama#16617)")
def sliding_window(bench: Bench) -> Outcome:
    return _kv("gpt-oss-20b", 131_072, bench)


@trial("compute buffers are left out (ollama#17201)")
def compute(bench: Bench) -> Outcome:
    header = shapes.family_header("gpt-oss-120b")
    guess = make_plan(model_of(header), gpu(80))
    real = measure(header, guess, bench.dry_run)
    before, after = (plan.gpu_usages[0].compute_bytes for plan in (guess, real))
    seen = f"estimated {before / MIB:.0f} MiB, taken {after / MIB:.0f} MiB"
    return Outcome(0 < after <= before * 1.05, seen)


@trial("what other processes hold is ignored (ollama#3765)")
def other_processes(bench: Bench) -> Outcome:
    header = shapes.family_header("qwen3moe")
    idle, busy = (
        plan_and_measure(header, gpu(24, free=free), None, bench.dry_run) for free in (24, 9)
    )
    needed = busy.gpu_usages[0].needed_bytes
    seen = (
        f"15 of 24 GiB held: {busy.expert_layers_on_gpu} groups instead of "
        f"{idle.expert_layers_on_gpu}, {needed / GIB:.2f} GiB of the 9 that are free"
    )
    return Outcome(needed <= 9 * GIB and busy.fits, seen)


@trial("22.9 GB are estimated for a model that takes 11.5 (LM Studio)")
def twice_too_much(bench: Bench) -> Outcome:
    worst, which = 0.0, ""
    for family in shapes.SHAPES:
        header = shapes.family_header(family)
        guess = make_plan(model_of(header), gpu(2000))
        real = measure(header, guess, bench.dry_run)
        before, after = (sum(usage.needed_bytes for usage in plan.usages) for plan in (guess, real))
        error = abs(before - after) / after
        if error > worst:
            worst, which = error, family
    return Outcome(worst < 0.05, f"worst of all families: {100 * worst:.1f} % ({which})")


@trial("the cache of Gemma 3 is 682 % too large (unsloth#4757)")
def gemma(bench: Bench) -> Outcome:
    return _kv("gemma3", 131_072, bench)


@trial("the cache of DeepSeek is 81 % too small (unsloth#4757)")
def deepseek_legacy(bench: Bench) -> Outcome:
    return _kv("deepseek2-legacy", 32_768, bench)


@trial("latent attention is charged wrongly (gguf-parser-go)")
def latent(bench: Bench) -> Outcome:
    return _kv("deepseek2", 32_768, bench)


@trial("video memory is held until the process exits (llama-cpp-python#1442)")
def held(bench: Bench) -> Outcome:
    with DryRun() as own:
        plan_and_measure(shapes.family_header("qwen3moe"), gpu(24), None, own)
    left = bench.gpus.used_bytes("SIM0")
    return Outcome(left == 0, f"{left} B of the GPU are held after the question")


def _kv(family: str, n_ctx: int, bench: Bench) -> Outcome:
    header: Header = shapes.family_header(family)
    requirement = CacheParams(n_ctx=n_ctx, n_seq_max=1, swa_full=False)
    ours = cache_bytes(model_memory(header), requirement)
    spec = LoadSpec(path="shape", n_ctx=n_ctx, n_seq_max=1, swa_full=False)
    theirs = sum(part.kv_bytes for part in bench.dry_run.run(spec, header))
    seen = f"{n_ctx:,} tokens: {ours / MIB:,.2f} MiB foretold, {theirs / MIB:,.2f} MiB taken"
    return Outcome(ours == theirs, seen)
