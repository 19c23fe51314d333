"""Plans checked against llama.cpp's own figures: the planner, and the dry run in a loop.

A thin shell: `planner` decides, `dry run` measures, this repeats until both agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from assistant.errors import EngineError, PlanError
from assistant.llama.spec import LoadSpec
from assistant.memory.degrade.ladder import Rung
from assistant.memory.gguf.header import Header
from assistant.memory.model.profile import Model, model_of
from assistant.memory.planning.dry_run import DryRun
from assistant.memory.planning.plan import Choice, Machine, Plan, Requirements
from assistant.memory.planning.plan_report import PlanReport, make_report
from assistant.memory.planning.planner import make_plan
from assistant.memory.planning.rungs import build

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


def plan_report(
    header: Header,
    machine: Machine,
    requirements: Requirements,
    here: Machine,
    caveats: tuple[str, ...] = (),
) -> PlanReport:
    """The report on a model; measured if llama.cpp has all GPUs of `machine` here.

    Args:
        here: the machine that this runs on.
        caveats: about the machine.
    """
    model = model_of(header)
    if not {gpu.name for gpu in machine.gpus} <= {gpu.name for gpu in here.gpus}:

        def estimate(wanted: Requirements) -> Plan:
            return make_plan(model, machine, wanted, search_alternatives=wanted is requirements)

        return make_report(model, machine, requirements, estimate, (_UNMEASURED, *caveats))
    with DryRun() as dry_run:

        def measured(wanted: Requirements) -> Plan:
            return _settle(
                header, model, machine, wanted, dry_run, search_alternatives=wanted is requirements
            )

        return make_report(model, machine, requirements, measured, caveats)


def plan_with_ladder(
    header: Header, machine: Machine, requirements: Requirements | None = None
) -> tuple[Plan, tuple[Rung, ...]]:
    """The best plan, and the rungs under it, with llama.cpp's own bytes for each where it tells.

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

        return plan, build(
            plan, requirements, measure=measured if plan.measured else lambda shape: shape
        )


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
