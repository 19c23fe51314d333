"""From a model, a machine and wishes to a plan. Pure: it reads nothing and starts nothing.

Non-routed weights and the cache go on the cards first, then whole expert groups while prediction
and margin fit. What the wishes leave open is tried in an order that a person would choose: first
the full context, unquantised; then a q8_0 cache; then a smaller context.

The nearest plans that do fit, where the wished one does not. Pure.

What the settings ask of a plan: one place for the daemon and for every command that plans.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from assistant.errors import PlanError
from assistant.memory.gguf.header import Tensor
from assistant.memory.gguf.tensor_types import BY_NAME, GgmlType
from assistant.memory.model.kv_cache import CacheWish, unusable_types
from assistant.memory.model.profile import Model
from assistant.memory.model.tensor_inventory import Amount, LayerCensus
from assistant.memory.planning.footprint import Sheet, sheet_of, usages
from assistant.memory.planning.plan import Choice, Machine, Plan, Wishes
from assistant.memory.planning.plan_search import Candidate, Corrections, best_candidate
from assistant.memory.planning.reasons import doubts_of, explain, gib
from assistant.settings import ModelSettings

_SMALLER = (("q6_K", "Q6_K"), ("q4_K", "Q4_K_S"), ("q3_K", "Q3_K_S"), ("q2_K", "Q2_K"))
_MOST_SAID = 4


@dataclass(frozen=True, slots=True)
class Alternative:
    """A plan that fits, and in what it differs from the wishes."""

    text: str
    wishes: Wishes
    plan: Plan


def nearest(
    model: Model, machine: Machine, wishes: Wishes, corrections: Corrections
) -> tuple[Alternative, ...]:
    """Plans that fit, the least change first; empty where none does."""
    found: list[Alternative] = []
    kinds: set[str] = set()
    for kind, text, changed_model, changed in _changes(model, wishes):
        if kind in kinds:
            continue
        try:
            plan = _without_search(changed_model, machine, changed, corrections)
        except PlanError:
            continue
        kinds.add(kind)
        found.append(Alternative(text.format(plan=plan), changed, plan))
        if len(found) == _MOST_SAID:
            break
    return tuple(found)


def shrunk(model: Model, kind: str) -> Model:
    """The model as if its quantised matrices were of type `kind`, where that is smaller."""
    target = BY_NAME[kind]
    census = model.census
    layers = tuple(_shrunk_layer(layer, target) for layer in census.layers)
    inside = tuple(_shrunk(tensor, target) for tensor in census.input)
    output = tuple(_shrunk(tensor, target) for tensor in census.output)
    size = sum(
        tensor.size_bytes
        for group in (inside, output, census.copied, *(x.dense + x.experts for x in layers))
        for tensor in group
    )
    smaller = replace(
        census,
        layers=layers,
        input=inside,
        output=output,
        total=Amount(census.total.parameters, size),
    )
    return replace(model, census=smaller)


def _without_search(
    model: Model, machine: Machine, wishes: Wishes, corrections: Corrections
) -> Plan:
    """A plan under changed wishes; its error must not look for alternatives in turn."""
    return make_plan(model, machine, wishes, corrections, search_alternatives=False)


def _changes(model: Model, wishes: Wishes) -> Iterator[tuple[str, str, Model, Wishes]]:
    """Changes to try: their kind (one of each is enough), a text, and what is changed."""
    if wishes.experts_on_gpu:
        eased = replace(wishes, experts_on_gpu=False)
        yield (
            "host",
            "{plan.expert_layers_on_gpu} expert groups on the cards and the others in \
host memory",
            model,
            eased,
        )
    if wishes.n_ctx:
        if wishes.cache_type in {"", "f16", "f32", "bf16"}:
            yield "cache", "a q8_0 cache", model, replace(wishes, cache_type="q8_0")
        n_ctx = wishes.n_ctx // 2
        while n_ctx >= LEAST_CONTEXT // 4:
            yield "context", f"{n_ctx} tokens of context", model, replace(wishes, n_ctx=n_ctx)
            both = replace(wishes, n_ctx=n_ctx, cache_type="q8_0")
            yield "context", f"{n_ctx} tokens of context in a q8_0 cache", model, both
            n_ctx //= 2
    for kind, name in _SMALLER:
        smaller = shrunk(model, kind)
        if smaller.census.total.size_bytes < model.census.total.size_bytes:
            size = gib(smaller.census.total.size_bytes)
            yield "quantisation", f"a {name} file of about {size}", smaller, wishes
            if wishes.n_ctx:
                eased = replace(wishes, n_ctx=0, cache_type="")
                text = f"a {name} file of about {size} with {{plan.n_ctx}} tokens of context"
                yield "quantisation", text, smaller, eased


def _shrunk_layer(layer: LayerCensus, target: GgmlType) -> LayerCensus:
    return replace(
        layer,
        dense=tuple(_shrunk(tensor, target) for tensor in layer.dense),
        experts=tuple(_shrunk(tensor, target) for tensor in layer.experts),
    )


def _shrunk(tensor: Tensor, target: GgmlType) -> Tensor:
    fits = len(tensor.shape) > 1 and tensor.shape[0] % target.block_elements == 0
    quantised = tensor.type.bits_per_weight <= 16
    if fits and quantised and target.bits_per_weight < tensor.type.bits_per_weight:
        return replace(tensor, type=target)
    return tensor


USUAL_CONTEXT = 16_384
MOST_CONTEXT = 32_768  # more is given only when it is asked for
LEAST_CONTEXT = 2_048
_SMALL_BATCH = 128


def make_plan(
    model: Model,
    machine: Machine,
    wishes: Wishes | None = None,
    corrections: Corrections | None = None,
    *,
    search_alternatives: bool = True,
) -> Plan:
    """The best plan that fits.

    Raises:
        PlanError: nothing fits; names the shortfall and the nearest plans that do fit.
    """
    wishes = wishes or Wishes()
    _check(model, wishes)
    sheet = sheet_of(model, machine)
    found = _search(sheet, wishes, corrections or {})
    if not found.plan.fits:
        raise _no_fit(sheet, wishes, corrections or {}, found, search_alternatives)
    return replace(
        found.plan, reasons=explain(found.plan, machine, wishes), doubts=doubts_of(model)
    )


def replan(
    sheet: Sheet, plan: Plan, wishes: Wishes, choice: Choice, corrections: Corrections | None = None
) -> Plan:
    """`plan` under another choice, as the ladder's rungs ask: nothing is searched."""
    return replace(
        plan, choice=choice, usages=usages(sheet, choice, wishes, corrections), measured=False
    )


def _check(model: Model, wishes: Wishes) -> None:
    if not model.n_layer or not model.census.total.parameters:
        raise PlanError(
            "the header lists no layers, so there is nothing to plan",
            subject=model.path,
            advice="Name a file that holds a whole model",
        )
    if wishes.cache_type:
        cache = CacheWish(
            wishes.n_ctx, wishes.cache_type, wishes.cache_type, flash_attn=wishes.flash_attn
        )
        if why := unusable_types(model.memory, cache):
            raise PlanError(
                f"the cache cannot be {wishes.cache_type}: {why}",
                subject=model.name,
                advice="Use f16, or leave the type to the plan",
            )


def _search(sheet: Sheet, wishes: Wishes, corrections: Corrections) -> Candidate:
    """The first candidate that fits with all blocks on the cards, else the first that fits."""
    least: Candidate | None = None
    partly: Candidate | None = None
    for cache in caches(sheet.model, wishes):
        candidate = best_candidate(sheet, wishes, corrections, cache)
        if candidate.plan.fits:
            whole = not sheet.machine.gpus or candidate.blocks_on_host == 0
            if whole:
                return _roomier(sheet, wishes, corrections, candidate)
            partly = partly or candidate
        if least is None or candidate.shortfall_bytes < least.shortfall_bytes:
            least = candidate
    found = partly or least
    assert found is not None
    return found


def caches(model: Model, wishes: Wishes) -> Iterator[CacheWish]:
    """Every cache that the wishes allow, the most wanted first."""
    trained = model.n_ctx_train or USUAL_CONTEXT
    contexts = [wishes.n_ctx]
    if not wishes.n_ctx:
        contexts = [min(USUAL_CONTEXT, trained)]
        while contexts[-1] // 2 >= LEAST_CONTEXT:
            contexts.append(contexts[-1] // 2)
    types = [wishes.cache_type] if wishes.cache_type else ["f16", "q8_0"]
    full = [True, False] if wishes.swa_full is None else [wishes.swa_full]
    batches = [wishes.n_ubatch] + ([_SMALL_BATCH] if wishes.n_ubatch > _SMALL_BATCH else [])
    for n_ubatch in batches:
        for n_ctx in contexts:
            for kind in types:
                for swa_full in full if model.memory.windowed else full[:1]:
                    cache = CacheWish(
                        n_ctx=n_ctx,
                        type_k=kind,
                        type_v=kind,
                        n_seq_max=wishes.n_seq_max,
                        unified=wishes.unified,
                        n_ubatch=n_ubatch,
                        swa_full=swa_full,
                        flash_attn=wishes.flash_attn,
                    )
                    if not unusable_types(model.memory, cache):
                        yield cache


def _roomier(sheet: Sheet, wishes: Wishes, corrections: Corrections, found: Candidate) -> Candidate:
    """More context where it costs nothing: no expert group leaves the cards for it."""
    while not wishes.n_ctx and found.plan.choice.cache.type_k == "f16":
        cache = found.plan.choice.cache
        n_ctx = cache.n_ctx * 2
        if n_ctx > min(sheet.model.n_ctx_train, MOST_CONTEXT) or n_ctx <= USUAL_CONTEXT:
            break
        more = best_candidate(sheet, wishes, corrections, replace(cache, n_ctx=n_ctx))
        lost = more.plan.expert_layers_on_gpu < found.plan.expert_layers_on_gpu
        if not more.plan.fits or lost or more.blocks_on_host > found.blocks_on_host:
            break
        found = more
    return found


def _no_fit(
    sheet: Sheet, wishes: Wishes, corrections: Corrections, found: Candidate, search: bool
) -> PlanError:
    # which plans in turn

    plans = nearest(sheet.model, sheet.machine, wishes, corrections) if search else ()
    short = found.shortfall_bytes
    said = tuple(alternative.text for alternative in plans)
    where = " and ".join(
        f"{usage.device.name} {gib(-usage.spare_bytes)}"
        for usage in found.plan.usages
        if usage.spare_bytes < 0
    )
    advice = f"What fits: {'; '.join(said)}" if said else _last_resort(sheet)
    return PlanError(
        f"it does not fit: {gib(short)} are missing ({where})",
        subject=sheet.model.name,
        advice=advice,
        shortfall_bytes=short,
        alternatives=said,
    )


def _last_resort(sheet: Sheet) -> str:
    total = gib(sheet.model.census.total.size_bytes)
    return f"Free memory or choose a smaller model: the weights alone are {total}"


def wishes_of(settings: ModelSettings) -> Wishes:
    """The wishes by which the daemon plans the model of these settings."""
    overhead_mib = settings.vram_overhead_mib
    return Wishes(
        n_ctx=settings.n_ctx,
        cache_type=settings.cache_type,
        n_seq_max=settings.n_seq_max,
        margin_bytes=settings.vram_margin_mib << 20,
        overhead_bytes=overhead_mib << 20 if overhead_mib >= 0 else -1,
    )
