"""Plans checked against llama.cpp's own figures, and the rungs of the ladder under a plan.

The planner decides, the dry run measures, and this repeats until both agree. Rungs are ordered by
what they cost the user; each takes over what the rungs above it gave up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from assistant.errors import EngineError, PlanError
from assistant.llama import LoadSpec
from assistant.memory.gguf.header import Header
from assistant.memory.ladder import DROP, TRIM, Rung
from assistant.memory.model.architecture import unusable_types
from assistant.memory.model.profile import Model, model_of
from assistant.memory.planning import HOST_MEMORY, Choice, Machine, Plan, Requirements
from assistant.memory.planning.dry_run import DryRun
from assistant.memory.planning.footprint import breakdown_of
from assistant.memory.planning.plan_report import PlanReport, make_report, predict_speed
from assistant.memory.planning.planner import make_plan, replan
from assistant.memory.rates import ASSUMED, MachineRates

LEAST_CTX_TOKENS = 1024  # below this a completion sees too little of its file to be of use
_SMALL_BATCH = 128
_CONTEXT_S = 0.3  # to recreate a context
_SMALLER_CACHE = {"f32": "f16", "f16": "q8_0", "bf16": "q8_0"}


@dataclass(frozen=True, slots=True)
class _Change:
    name: str
    gives_up: str
    change: Callable[[Plan, Choice], Choice]
    reload: bool = False
    forgets: bool = False


def build(
    plan: Plan,
    requirements: Requirements,
    rates: MachineRates = ASSUMED,
    measure: Callable[[Plan], Plan] = lambda shape: shape,
) -> tuple[Rung, ...]:
    """The ladder under a plan, from the plan itself to nothing loaded.

    A rung that would change nothing is left out. The bytes are the planner's, corrected by what
    llama.cpp measured for the plan itself if it was measured.

    Args:
        rates: how fast the machine is, to predict what a rung costs.
        measure: gives a shape back with llama.cpp's own figures for it, where those are available.
    """
    top = _holds(plan)
    rungs = [
        Rung("plan", "", plan.to_load_spec(), top),
        Rung(TRIM, "long prompts", plan.to_load_spec(), top),
        Rung(DROP, "sequences kept for reuse", plan.to_load_spec(), top),
    ]
    for change, guess in _shapes(plan, requirements):
        shape = measure(guess)
        rungs.append(
            Rung(
                name=change.name,
                gives_up=change.gives_up,
                spec=shape.to_load_spec(),
                holds=_holds(shape),
                pause_s=_pause_s(change, shape, rates),
                reload=change.reload,
                keeps=_keeps(plan, shape),
            )
        )
    rungs.append(Rung("unload", "the model, until the next request", None, dict.fromkeys(top, 0)))
    return tuple(rungs)


def _shapes(plan: Plan, requirements: Requirements) -> Iterator[tuple[_Change, Plan]]:
    machine = Machine(
        plan.host_memory_usage.device, tuple(usage.device for usage in plan.gpu_usages)
    )
    breakdown = breakdown_of(plan.model, machine)
    guess = replan(breakdown, plan, requirements, plan.choice)
    corrections = {
        real.device.name: real.compute_bytes + real.other_bytes - estimated.compute_bytes
        for real, estimated in zip(plan.usages, guess.usages, strict=True)
    }
    choice = plan.choice
    for change in _CHANGES:
        changed = change.change(plan, choice)
        if changed != choice:
            choice = changed
            yield change, replan(breakdown, plan, requirements, choice, corrections)


def _holds(plan: Plan) -> dict[str, int]:
    return {usage.device.name: usage.needed_bytes for usage in plan.usages}


def _keeps(plan: Plan, shape: Plan) -> dict[str, int]:
    """What a worker that ran `plan` still has of the GPUs that `shape` does not use."""
    return {
        before.device.name: before.overhead_bytes
        for before, after in zip(plan.gpu_usages, shape.gpu_usages, strict=True)
        if before.needed_bytes and not after.needed_bytes
    }


def _pause_s(change: _Change, shape: Plan, rates: MachineRates) -> float:
    """An upper bound: weights are read from disk, and the whole context is evaluated again."""
    pause = _CONTEXT_S
    if change.reload:
        weights = sum(usage.weights_bytes for usage in shape.usages)
        pause += weights / rates.disk_bytes_per_s
    if change.reload or change.forgets:
        pause += shape.n_ctx / predict_speed(shape, rates).prefill_tokens_per_s
    return pause


def _smaller_context(_: Plan, choice: Choice) -> Choice:
    least = min(LEAST_CTX_TOKENS, choice.cache.n_ctx)
    cache = replace(choice.cache, n_ctx=max(choice.cache.n_ctx // 2, least))
    return replace(choice, cache=cache)


def _smaller_batch(_: Plan, choice: Choice) -> Choice:
    n_ubatch = min(choice.cache.n_ubatch, _SMALL_BATCH)
    return replace(
        choice,
        cache=replace(choice.cache, n_ubatch=n_ubatch),
        n_batch=min(choice.n_batch, 4 * n_ubatch),
        n_outputs_max=min(choice.n_outputs_max or choice.n_batch, choice.cache.n_seq_max),
        op_offload=False,
    )


def _quantised_cache(plan: Plan, choice: Choice) -> Choice:
    old = choice.cache
    cache = replace(
        old,
        type_k=_SMALLER_CACHE.get(old.type_k, old.type_k),
        type_v=_SMALLER_CACHE.get(old.type_v, old.type_v),
    )
    return choice if unusable_types(plan.model.memory, cache) else replace(choice, cache=cache)


def _no_nextn(_: Plan, choice: Choice) -> Choice:
    if not choice.nextn:
        return choice
    return replace(choice, nextn=False, experts=(*choice.experts[:-1], ""))


def _half_of_the_experts(_: Plan, choice: Choice) -> Choice:
    """Every other expert group on a GPU goes to host memory, on each GPU alike."""
    seen: dict[str, int] = {}
    experts = list(choice.experts)
    for index, device in enumerate(experts):
        if device not in {"", HOST_MEMORY}:
            seen[device] = seen.get(device, 0) + 1
            if seen[device] % 2:
                experts[index] = HOST_MEMORY
    return replace(choice, experts=tuple(experts))


def _no_experts(_: Plan, choice: Choice) -> Choice:
    return replace(choice, experts=tuple(device and HOST_MEMORY for device in choice.experts))


def _host_memory_only(plan: Plan, choice: Choice) -> Choice:
    layers = (HOST_MEMORY,) * len(choice.layers)
    return replace(_no_experts(plan, choice), layers=layers, output=HOST_MEMORY)


def _no_earlier_states(_: Plan, choice: Choice) -> Choice:
    return replace(choice, cache=replace(choice.cache, n_rs_seq=0))


def _no_checkpoints(_: Plan, choice: Choice) -> Choice:
    return replace(choice, cache=replace(choice.cache, checkpoint_bytes=0))


_CHANGES: tuple[_Change, ...] = (
    _Change("states", "earlier states of recurrent layers", _no_earlier_states),
    _Change("checkpoints", "saved states to go back to", _no_checkpoints),
    _Change("context", "half of the context", _smaller_context),
    _Change("batch", "large batches, and work offloaded to the GPU", _smaller_batch),
    _Change("cache", "the cache's full precision", _quantised_cache, forgets=True),
    _Change("predictions", "drafts by the model's own layers", _no_nextn, reload=True),
    _Change("half experts", "half of the experts on the GPU", _half_of_the_experts, reload=True),
    _Change("experts", "all experts on the GPU", _no_experts, reload=True),
    _Change("host", "the GPU", _host_memory_only, reload=True),
    _Change("least", "half of the context again", _smaller_context),
)


_MOST_DRY_RUNS = 8
_UNMEASURED = "compute buffers are estimated: llama.cpp can only measure them on this machine"


def plan_and_measure(
    header: Header,
    machine: Machine,
    requirements: Requirements | None = None,
    dry_run: DryRun | None = None,
) -> Plan:
    """The best plan that fits by llama.cpp's own dry run of it.

    Where llama.cpp cannot be queried (no such device in this build, an architecture that it does
    not load) the plan is returned unmeasured, and says so among its caveats.

    Raises:
        PlanError: nothing fits.
    """
    model = model_of(header)
    requirements = requirements or Requirements()
    if dry_run is not None:
        return _settle(header, model, machine, requirements, dry_run)
    with DryRun() as own:
        return _settle(header, model, machine, requirements, own)


def plan_report(  # noqa: PLR0917 (all of them are the plan's input)
    header: Header,
    machine: Machine,
    requirements: Requirements,
    here: Machine,
    caveats: tuple[str, ...] = (),
    rates: MachineRates = ASSUMED,
) -> PlanReport:
    """The report on a model; measured if llama.cpp has all GPUs of `machine` here.

    Args:
        here: the machine that this runs on.
        caveats: about the machine.
        rates: how fast the machine is.
    """
    model = model_of(header)
    if not {gpu.name for gpu in machine.gpus} <= {gpu.name for gpu in here.gpus}:

        def estimate(wanted: Requirements) -> Plan:
            return make_plan(model, machine, wanted, search_alternatives=wanted is requirements)

        return make_report(model, machine, requirements, estimate, (_UNMEASURED, *caveats), rates)
    with DryRun() as dry_run:

        def measured(wanted: Requirements) -> Plan:
            return _settle(
                header, model, machine, wanted, dry_run, search_alternatives=wanted is requirements
            )

        return make_report(model, machine, requirements, measured, caveats, rates)


def plan_with_ladder(
    header: Header,
    machine: Machine,
    requirements: Requirements | None = None,
    rates: MachineRates = ASSUMED,
) -> tuple[Plan, tuple[Rung, ...]]:
    """The best plan, and the rungs under it, with llama.cpp's own bytes for each where known.

    Raises:
        PlanError: nothing fits.
    """
    requirements = requirements or Requirements()
    with DryRun() as dry_run:
        plan = plan_and_measure(header, machine, requirements, dry_run)

        def measured(shape: Plan) -> Plan:
            try:
                return measure(header, shape, dry_run)
            except EngineError:
                return shape

        same = measured if plan.measured else lambda shape: shape
        return plan, build(plan, requirements, rates, same)


def measure(header: Header, plan: Plan, dry_run: DryRun) -> Plan:
    """The same plan with llama.cpp's figures for it.

    Raises:
        EngineError: llama.cpp cannot be queried, or refuses.
    """
    return plan.with_measured(dry_run.run(_spec(plan, header), header))


def _settle(
    header: Header,
    model: Model,
    machine: Machine,
    requirements: Requirements,
    dry_run: DryRun,
    *,
    search_alternatives: bool = True,
) -> Plan:
    corrections: dict[str, int] = {}
    best: Plan | None = None
    seen: set[Choice] = set()
    for _ in range(_MOST_DRY_RUNS):
        try:
            plan = make_plan(
                model, machine, requirements, corrections, search_alternatives=search_alternatives
            )
        except PlanError:
            if best is not None:
                break  # the corrections of a larger plan do not speak against a measured one
            raise
        if plan.choice in seen:
            break
        seen.add(plan.choice)
        try:
            measured = measure(header, plan, dry_run)
        except EngineError as error:
            return best or _unmeasured(plan, error)
        if measured.fits and (best is None or _more(measured, best)):
            best = measured
        corrections = _corrections(plan, measured, corrections)
    if best is None:
        raise PlanError(
            "no plan held against llama.cpp's own figures",
            subject=model.name,
            advice="Free memory, or ask for a smaller context",
        )
    return best


def _more(new: Plan, old: Plan) -> bool:
    """Whether a plan brings more onto the GPUs, or as much with more context."""
    return (new.expert_layers_on_gpu, new.n_ctx) > (old.expert_layers_on_gpu, old.n_ctx)


def _corrections(plan: Plan, measured: Plan, corrections: Mapping[str, int]) -> dict[str, int]:
    """What to add to the estimates for the next round: real minus estimated, by device."""
    found = dict(corrections)
    for guess, real in zip(plan.usages, measured.usages, strict=True):
        name = guess.device.name
        estimated = guess.compute_bytes - corrections.get(name, 0)
        found[name] = real.compute_bytes + real.other_bytes - estimated
    return found


def _unmeasured(plan: Plan, error: EngineError) -> Plan:
    caveat = f"compute buffers are an estimate: {error.message}"
    return replace(plan, caveats=(*plan.caveats, caveat))


def _spec(plan: Plan, header: Header) -> LoadSpec:
    spec = plan.to_load_spec()
    assert spec.path == header.path
    return spec
