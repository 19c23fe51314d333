"""From a model, a machine and wishes to a plan. Pure: it reads nothing and starts nothing.

Non-routed weights and the cache go on the cards first, then whole expert groups while prediction
and margin fit. What the wishes leave open is tried in an order that a person would choose: first
the full context, unquantised; then a q8_0 cache; then a smaller context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from assistant.errors import PlanError
from assistant.memory.candidates import Candidate, Corrections, best_candidate
from assistant.memory.kv import CacheWish, unusable_types
from assistant.memory.layout import Sheet, sheet_of, usages
from assistant.memory.model import Model
from assistant.memory.plan import Choice, Machine, Plan, Wishes
from assistant.memory.reasons import doubts_of, explain, gib

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
    from assistant.memory.alternatives import nearest  # which plans in turn

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
