"""A plan's reasons and doubts, as sentences for a person."""

from __future__ import annotations

from dataclasses import replace

from assistant.memory.model.kv_cache import CacheWish, cache_bytes
from assistant.memory.model.profile import Model
from assistant.memory.planning.plan import HOST, Machine, Plan, Wishes

_GIB = 1 << 30
_MIB = 1 << 20


def gib(size_bytes: int) -> str:
    """A size for people: two digits after the point below 10 GiB, MiB below one."""
    if abs(size_bytes) < _GIB:
        return f"{size_bytes / _MIB:.0f} MiB"
    return f"{size_bytes / _GIB:.{2 if abs(size_bytes) < 10 * _GIB else 1}f} GiB"


def billions(parameters: int) -> str:
    """A count of parameters for people: "30.5 B", "494 M"."""
    if parameters < 1_000_000_000:
        return f"{parameters / 1e6:.0f} M"
    return f"{parameters / 1e9:.1f} B"


def explain(plan: Plan, machine: Machine, wishes: Wishes) -> tuple[str, ...]:
    """Why the plan is as it is."""
    return (
        *_about_placement(plan, machine),
        *_about_offload(plan, machine),
        *_about_cache(plan, wishes),
    )


def doubts_of(model: Model) -> tuple[str, ...]:
    """What the plan cannot know of this model."""
    doubts = []
    if not model.supported:
        doubts.append(
            f"llama.cpp does not load the architecture {model.architecture or '(none named)'!r}"
        )
    if not model.known:
        doubts.append("how this architecture keeps its context is not known: the cache is a guess")
    if any(layer.experts and not layer.used for layer in model.census.layers):
        doubts.append("the header does not say how many experts a token uses: all were counted")
    return tuple(doubts)


def _about_placement(plan: Plan, machine: Machine) -> list[str]:
    if not machine.gpus:
        return ["there is no card, so everything stands in host memory"]
    choice = plan.choice
    groups = [index for index, name in enumerate(choice.experts) if name]
    on_cards, on_host = plan.expert_layers_on_gpu, choice.layers.count(HOST)
    if on_host == len(choice.layers):
        return ["the cards have no room for a single layer, so everything stands in host memory"]
    said = []
    if on_host:
        said.append(
            f"the first {on_host} of {len(choice.layers)} layers stay on the host: the cards do "
            "not hold all that is not an expert"
        )
    if groups and on_cards == len(groups):
        said.append(f"all {len(groups)} expert groups fit on the cards")
    elif groups:
        said.append(
            f"{on_cards} of {len(groups)} expert groups fit on the cards beside attention and "
            "cache; each group stands whole in one place"
        )
    return said or ["all layers fit on the cards"]


def _about_offload(plan: Plan, machine: Machine) -> list[str]:
    choice = plan.choice
    if not machine.gpus or HOST not in {*choice.layers, *choice.experts}:
        return []
    if choice.op_offload and not choice.repack:
        text = (
            "prompts are computed on the card also where weights are on the host (op_offload), so "
            "those are not repacked"
        )
    else:
        text = (
            "the copy of an expert that op_offload needs would cost too many groups on the cards, "
            "so the host computes them itself, on repacked weights"
        )
    return [text]


def _about_cache(plan: Plan, wishes: Wishes) -> list[str]:
    cache = plan.choice.cache
    said = []
    if not wishes.cache_type and cache.type_k != "f16":
        saved = cache_bytes(plan.model.memory, _f16(plan)) - cache_bytes(plan.model.memory, cache)
        said.append(f"the cache is {cache.type_k}, which spares {gib(saved)} against f16")
    if not wishes.n_ctx:
        said.append(
            f"{cache.n_ctx:,} tokens of context were chosen; it was trained for "
            f"{plan.model.n_ctx_train:,}"
        )
    elif plan.model.n_ctx_train and wishes.n_ctx > plan.model.n_ctx_train:
        said.append(
            f"{wishes.n_ctx:,} tokens are more than the {plan.model.n_ctx_train:,} that it was "
            "trained for"
        )
    if cache.n_ubatch < wishes.n_ubatch:
        said.append(f"batches of {cache.n_ubatch} tokens keep the compute buffer small")
    if plan.model.memory.windowed and not cache.swa_full:
        said.append(
            "sliding-window layers keep only their window, so a prompt can only be reused whole"
        )
    if plan.model.memory.recurrent:
        said.append("recurrent layers have no history, so a prompt can only be extended")
    return said


def _f16(plan: Plan) -> CacheWish:
    return replace(plan.choice.cache, type_k="f16", type_v="f16")
