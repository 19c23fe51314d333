"""Makes the best plan from a model, a machine and requirements. Pure.

Weights that are not routed and the cache go on the GPUs first, then whole expert groups while
prediction and margin fit. What the requirements leave open is tried in the order that a person
would choose: the full context unquantised, then a q8_0 cache, then a smaller context. Where nothing
fits, the error names the nearest plans that do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from assistant.errors import PlanError
from assistant.memory.devices import RAISE_THE_LIMIT
from assistant.memory.gguf.header import Tensor
from assistant.memory.model.architecture import (
    CacheParams,
    cache_bytes,
    unusable_types,
    with_window,
)
from assistant.memory.model.known_models import QUANTISATIONS, file_of, recipe
from assistant.memory.model.profile import Amount, Model
from assistant.memory.planning import (
    HOST_MEMORY,
    Choice,
    Machine,
    Plan,
    Requirements,
)
from assistant.memory.planning.footprint import ModelBreakdown, breakdown_of, usages
from assistant.memory.planning.placement import Corrections, PlanCandidate, best_candidate
from assistant.memory.planning.plan_report import caveats_of, explain, gib, predict_speed
from assistant.settings import ModelSettings

_MAX_ALTERNATIVES = 4


@dataclass(frozen=True, slots=True)
class Alternative:
    """A plan that fits, and in what it differs from the requirements."""

    text: str
    requirements: Requirements
    plan: Plan


def nearest(
    model: Model, machine: Machine, requirements: Requirements, corrections: Corrections
) -> tuple[Alternative, ...]:
    """Plans that fit, the least change first; empty where none does."""
    found: list[Alternative] = []
    kinds: set[str] = set()
    for kind, text, changed_model, changed in _changes(model, requirements):
        if kind in kinds:
            continue
        try:
            plan = _without_search(changed_model, machine, changed, corrections)
        except PlanError:
            continue
        kinds.add(kind)
        found.append(Alternative(text.format(plan=plan), changed, plan))
        if len(found) == _MAX_ALTERNATIVES:
            break
    return tuple(found)


def shrunk(model: Model, quantisation: str) -> Model:
    """The model as a file of another quantisation holds it; what is smaller already stays.

    Raises:
        ModelError: no such quantisation.
    """
    rules, inventory = recipe(quantisation), model.inventory
    n_expert = max((layer.count for layer in inventory.layers), default=0)

    def one(tensor: Tensor) -> Tensor:
        return rules.smaller(tensor, n_layer=model.n_layer, n_expert=n_expert, tied=inventory.tied)

    layers = tuple(
        replace(layer, dense=tuple(map(one, layer.dense)), experts=tuple(map(one, layer.experts)))
        for layer in inventory.layers
    )
    inside, output = tuple(map(one, inventory.input)), tuple(map(one, inventory.output))
    size = sum(
        tensor.size_bytes
        for group in (inside, output, inventory.copied, *(x.dense + x.experts for x in layers))
        for tensor in group
    )
    smaller = replace(
        inventory,
        layers=layers,
        input=inside,
        output=output,
        total=Amount(inventory.total.parameters, size),
    )
    return replace(model, inventory=smaller)


def _without_search(
    model: Model, machine: Machine, requirements: Requirements, corrections: Corrections
) -> Plan:
    """A plan under changed requirements; its error must not look for alternatives in turn."""
    return make_plan(model, machine, requirements, corrections, search_alternatives=False)


def _changes(
    model: Model, requirements: Requirements
) -> Iterator[tuple[str, str, Model, Requirements]]:
    """Changes to try: their kind (one of each is enough), a text, and what is changed."""
    if requirements.experts_on_gpu:
        eased = replace(requirements, experts_on_gpu=False)
        yield (
            "host",
            "{plan.expert_layers_on_gpu} expert groups on the GPUs and the others in \
host memory",
            model,
            eased,
        )
    if requirements.n_ctx:
        if requirements.cache_type in {"", "f16", "f32", "bf16"}:
            yield "cache", "a q8_0 cache", model, replace(requirements, cache_type="q8_0")
        n_ctx = requirements.n_ctx // 2
        while n_ctx >= LEAST_CONTEXT // 4:
            yield "context", f"{n_ctx} tokens of context", model, replace(requirements, n_ctx=n_ctx)
            both = replace(requirements, n_ctx=n_ctx, cache_type="q8_0")
            yield "context", f"{n_ctx} tokens of context in a q8_0 cache", model, both
            n_ctx //= 2
    for name in QUANTISATIONS:
        smaller = shrunk(model, name)
        if smaller.inventory.total.size_bytes < model.inventory.total.size_bytes:
            size = gib(smaller.inventory.total.size_bytes)
            yield "quantisation", f"{file_of(name)} of about {size}", smaller, requirements
            if requirements.n_ctx:
                eased = replace(requirements, n_ctx=0, cache_type="")
                text = f"{file_of(name)} of about {size} with {{plan.n_ctx}} tokens of context"
                yield "quantisation", text, smaller, eased


USUAL_CONTEXT = 16_384
MOST_CONTEXT = 32_768  # more is given only when it is asked for
LEAST_CONTEXT = 2_048
_SMALL_BATCH = 128


def make_plan(
    model: Model,
    machine: Machine,
    requirements: Requirements | None = None,
    corrections: Corrections | None = None,
    *,
    search_alternatives: bool = True,
) -> Plan:
    """The best plan that fits.

    Raises:
        PlanError: nothing fits; names the shortfall and the nearest plans that do fit.
    """
    requirements = requirements or Requirements()
    _check(model, requirements)
    caveats = caveats_of(model)
    if 0 < model.n_ctx_train < requirements.n_ctx:
        caveats = (*caveats, reduced_context(model.n_ctx_train, requirements.n_ctx))
        requirements = replace(requirements, n_ctx=model.n_ctx_train)
    breakdown = breakdown_of(model, machine)
    found = _search(breakdown, replace(requirements, disk=False), corrections or {})
    if not found.plan.fits and requirements.disk:
        found = _search(breakdown, requirements, corrections or {})
    if not found.plan.fits:
        raise _no_fit(breakdown, requirements, corrections or {}, found, search_alternatives)
    plan = _with_earlier_states(breakdown, found.plan, requirements, corrections or {})
    plan = _with_nextn(breakdown, plan, requirements, corrections or {})
    return replace(plan, reasons=explain(plan, machine, requirements), caveats=caveats)


def reduced_context(trained: int, requested: int) -> str:
    """Why the context is not the one that was requested (case S10); both in tokens."""
    return (
        f"the context is {trained:,} tokens, not the {requested:,} that were requested: "
        "the model was trained for no more"
    )


_EARLIER_STATES = (7, 3)
_MOST_STATES_BYTES = 1 << 30


def _with_earlier_states(
    breakdown: ModelBreakdown, plan: Plan, requirements: Requirements, corrections: Corrections
) -> Plan:
    """The same with earlier states of recurrent layers, where memory is left for them.

    They allow drafts, and short deletions without reading anything again. Nothing gives way to
    them. Each costs a few graph nodes a layer, so that more of them would slow every token down.
    """
    memory = breakdown.model.memory
    if not memory.steps_back or requirements.disk:
        return plan
    before = cache_bytes(memory, plan.choice.cache)
    for count in _EARLIER_STATES:
        cache = replace(plan.choice.cache, n_rs_seq=count)
        if cache_bytes(memory, cache) - before > _MOST_STATES_BYTES:
            continue
        choice = replace(plan.choice, cache=cache)
        changed = replan(breakdown, plan, requirements, choice, corrections)
        if changed.fits:
            return changed
    return plan


def _with_nextn(
    breakdown: ModelBreakdown, plan: Plan, requirements: Requirements, corrections: Corrections
) -> Plan:
    """The same with drafts by multi-token prediction, where memory is left for them.

    Nothing gives way to them: what they spare is worth less than an expert group on a GPU. Their
    own experts go to host memory where the GPU has no space for them.
    """
    memory = breakdown.model.memory
    if not memory.nextn or not requirements.nextn or requirements.disk:
        return plan
    cache = plan.choice.cache
    if memory.recurrent and not (cache.n_rs_seq or cache.checkpoint_bytes):
        return plan  # a wrong draft could not be forgotten
    if not any(layer.skipped and layer.dense for layer in breakdown.model.inventory.layers):
        return plan
    whole = replace(plan.choice, nextn=True)
    apart = replace(whole, experts=(*whole.experts[:-1], HOST_MEMORY))
    for choice in (whole, apart):
        changed = replan(breakdown, plan, requirements, choice, corrections)
        if changed.fits:
            return changed
    return plan


def replan(
    breakdown: ModelBreakdown,
    plan: Plan,
    requirements: Requirements,
    choice: Choice,
    corrections: Corrections | None = None,
) -> Plan:
    """`plan` under another choice, as the ladder's rungs ask: nothing is searched."""
    return replace(
        plan,
        choice=choice,
        usages=usages(breakdown, choice, requirements, corrections),
        measured=False,
    )


def _check(model: Model, requirements: Requirements) -> None:
    if not model.n_layer or not model.inventory.total.parameters:
        raise PlanError(
            "the header lists no layers, so there is nothing to plan",
            subject=model.path,
            advice="Name a file that holds a whole model",
        )
    if requirements.cache_type:
        cache = CacheParams(
            requirements.n_ctx,
            requirements.cache_type,
            requirements.cache_type,
            flash_attn=requirements.flash_attn,
        )
        if why := unusable_types(model.memory, cache):
            raise PlanError(
                f"the cache cannot be {requirements.cache_type}: {why}",
                subject=model.name,
                advice="Use f16, or leave the type to the plan",
            )


def _search(
    breakdown: ModelBreakdown, requirements: Requirements, corrections: Corrections
) -> PlanCandidate:
    """The first candidate that fits with all blocks on the GPUs, else the first that fits."""
    least: PlanCandidate | None = None
    partly: PlanCandidate | None = None
    for cache in caches(breakdown.model, requirements):
        candidate = best_candidate(breakdown, requirements, corrections, cache)
        if candidate.plan.fits:
            whole = not breakdown.machine.gpus or candidate.blocks_in_host_memory == 0
            if whole:
                return _more_context(breakdown, requirements, corrections, candidate)
            partly = partly or candidate
        if least is None or candidate.shortfall_bytes < least.shortfall_bytes:
            least = candidate
    found = partly or least
    assert found is not None
    return found


def caches(model: Model, requirements: Requirements) -> Iterator[CacheParams]:
    """Every cache that the requirements allow, the most wanted first."""
    trained = model.n_ctx_train or USUAL_CONTEXT
    contexts = [requirements.n_ctx]
    if not requirements.n_ctx:
        contexts = [min(USUAL_CONTEXT, trained)]
        while contexts[-1] // 2 >= LEAST_CONTEXT:
            contexts.append(contexts[-1] // 2)
    types = [requirements.cache_type] if requirements.cache_type else ["f16", "q8_0"]
    batches = [requirements.n_ubatch] + (
        [_SMALL_BATCH] if requirements.n_ubatch > _SMALL_BATCH else []
    )
    for n_ubatch in batches:
        for n_ctx in contexts:
            for kind in types:
                cache = CacheParams(
                    n_ctx=n_ctx,
                    type_k=kind,
                    type_v=kind,
                    n_seq_max=requirements.n_seq_max,
                    unified=requirements.unified,
                    n_ubatch=n_ubatch,
                    flash_attn=requirements.flash_attn,
                )
                if unusable_types(model.memory, cache):
                    continue
                cache = with_window(model.memory, cache, full=requirements.swa_full)
                yield cache
                if cache.checkpoint_bytes:
                    yield replace(cache, checkpoint_bytes=0)


def _more_context(
    breakdown: ModelBreakdown,
    requirements: Requirements,
    corrections: Corrections,
    found: PlanCandidate,
) -> PlanCandidate:
    """More context where it costs nothing: no expert group leaves the GPUs for it."""
    while not requirements.n_ctx and found.plan.choice.cache.type_k == "f16":
        cache = found.plan.choice.cache
        n_ctx = cache.n_ctx * 2
        if n_ctx > min(breakdown.model.n_ctx_train, MOST_CONTEXT) or n_ctx <= USUAL_CONTEXT:
            break
        longer = replace(cache, n_ctx=n_ctx)
        if cache.checkpoint_bytes or cache.swa_full:
            longer = with_window(breakdown.model.memory, longer, full=requirements.swa_full)
        more = best_candidate(breakdown, requirements, corrections, longer)
        lost = more.plan.expert_layers_on_gpu < found.plan.expert_layers_on_gpu
        if not more.plan.fits or lost or more.blocks_in_host_memory > found.blocks_in_host_memory:
            break
        found = more
    return found


def _no_fit(
    breakdown: ModelBreakdown,
    requirements: Requirements,
    corrections: Corrections,
    found: PlanCandidate,
    search: bool,
) -> PlanError:
    # which plans in turn

    plans = nearest(breakdown.model, breakdown.machine, requirements, corrections) if search else ()
    short = found.shortfall_bytes
    lines = tuple(alternative.text for alternative in plans)
    if search and not requirements.disk:
        lines += _from_disk(breakdown, requirements, corrections)
    where = " and ".join(
        f"{usage.device.name} {gib(-usage.spare_bytes)}"
        for usage in found.plan.usages
        if usage.spare_bytes < 0
    )
    advice = f"What fits: {'; '.join(lines)}" if lines else _last_resort(breakdown)
    if requirements.disk and not breakdown.model.inventory.moe:
        advice += ". From disk only experts are read, and it has none"
    limits = [u.device.limit_in_words for u in found.plan.usages if u.spare_bytes < 0]
    for limit in filter(None, limits):
        where += f"; {limit}"
        advice += f". {RAISE_THE_LIMIT}"
    return PlanError(
        f"it does not fit: {gib(short)} are missing ({where})",
        subject=breakdown.model.name,
        advice=advice,
        shortfall_bytes=short,
        alternatives=lines,
    )


def _from_disk(
    breakdown: ModelBreakdown, requirements: Requirements, corrections: Corrections
) -> tuple[str, ...]:
    """What `--disk` would cost; empty where the model has no experts or does not fit even so."""
    found = _search(breakdown, replace(requirements, disk=True), corrections)
    if not found.plan.fits:
        return ()
    usage = found.plan.host_memory_usage
    token_bytes = predict_speed(found.plan).disk_bytes
    return (
        (
            f"with --disk (model.disk = true), {gib(usage.disk_bytes)} of experts left in the "
            f"file, of which a token reads about {gib(token_bytes)}"
        ),
    )


def _last_resort(breakdown: ModelBreakdown) -> str:
    total = gib(breakdown.model.inventory.total.size_bytes)
    return f"Free memory or choose a smaller model: the weights alone are {total}"


def requirements_of(settings: ModelSettings) -> Requirements:
    """The requirements by which the daemon plans the model of these settings."""
    overhead_mib = settings.vram_overhead_mib
    return Requirements(
        n_ctx=settings.n_ctx,
        cache_type=settings.cache_type,
        n_seq_max=settings.n_seq_max,
        margin_bytes=settings.vram_margin_mib << 20,
        overhead_bytes=overhead_mib << 20 if overhead_mib >= 0 else -1,
        disk=settings.disk,
    )
