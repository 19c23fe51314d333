"""The nearest plans that do fit, where the wished one does not. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from assistant.errors import PlanError
from assistant.memory.candidates import Corrections
from assistant.memory.census import Amount, LayerCensus
from assistant.memory.ggml_types import BY_NAME, GgmlType
from assistant.memory.gguf import Tensor
from assistant.memory.model import Model
from assistant.memory.plan import Machine, Plan, Wishes
from assistant.memory.planner import LEAST_CONTEXT, make_plan
from assistant.memory.reasons import gib

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
