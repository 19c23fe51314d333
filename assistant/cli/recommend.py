"""`underkeel recommend`: the known coding models that fit this machine, best first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assistant import settings
from assistant.cli.terminal import console, print_json, printable
from assistant.errors import ModelError, PlanError
from assistant.memory.gguf.header import Header, read_header
from assistant.memory.model.known_models import known_header, known_models
from assistant.memory.model.profile import model_of
from assistant.memory.planning.machine import imagined, parse_size, this_machine
from assistant.memory.planning.plan import HOST_MEMORY, Machine, Plan, Requirements
from assistant.memory.planning.plan_report import decode_bound, gib
from assistant.memory.planning.planner import make_plan, requirements_of
from assistant.models.catalogue import catalogue, local_path

_USABLE_TOKENS_PER_S = 8.0  # slower than that, ghost text comes too late to be of use
_PULLED_QUALITY = 5  # the models here already are the demo's small ones


@dataclass(frozen=True, slots=True)
class CodingModel:
    """A model that may be recommended. `quality` orders models; see `known_models.toml`."""

    name: str
    title: str
    header: Header
    quality: int
    here: bool


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A model and its plan, or why there is none."""

    model: CodingModel
    plan: Plan | None
    why_not: str = ""
    shortfall_bytes: int = 0

    @property
    def tokens_per_s(self) -> float:
        return decode_bound(self.plan).tokens_per_s if self.plan else 0.0

    @property
    def usable(self) -> bool:
        """Whether ghost text could come in time."""
        return self.tokens_per_s >= _USABLE_TOKENS_PER_S

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Usable before slow before impossible, then by quality."""
        return (self.plan is None, not self.usable, -self.model.quality)


def register(app: typer.Typer) -> None:
    app.command()(recommend)


def recommend(
    ctx: Annotated[int, typer.Option(help="Tokens of context; 0 lets the plan choose.")] = 0,
    vram: Annotated[str, typer.Option(help="Plan for GPUs of this size: 24G, or 24G,12G.")] = "",
    ram: Annotated[str, typer.Option(help="Plan for this much free RAM: 64G.")] = "",
    gpus: Annotated[
        int, typer.Option(min=-1, max=64, help="Number of GPUs; 0 plans for the CPU alone.")
    ] = -1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the coding models that fit this machine, best first, with a summary of each plan."""
    here, _ = this_machine()
    sizes = [parse_size(part) for part in vram.split(",") if part]
    machine = imagined(here, sizes, parse_size(ram) if ram else 0, gpus)
    chosen = settings.override(settings.load()[0], {"--ctx": ("model.n_ctx", ctx)})
    requirements = requirements_of(chosen.model)
    recommendations = judge(models(), machine, requirements)
    if as_json:
        print_json([_json(recommendation) for recommendation in recommendations], indent=1)
    else:
        console().print(_picture(recommendations, gpus=bool(machine.gpus)))


def models() -> Iterator[CodingModel]:
    """The catalogue's models that are here, then the coding models known by shape."""
    for name, entry in catalogue().items():
        path = local_path(entry)
        if not path.is_file():
            continue
        try:
            yield CodingModel(name, entry.title, read_header(path), _PULLED_QUALITY, here=True)
        except ModelError:
            continue  # a half-fetched file is no model
    for name, model in known_models().items():
        if model.coding:
            yield CodingModel(name, model.title, known_header(name), model.quality, here=False)


def judge(
    found: Iterator[CodingModel], machine: Machine, requirements: Requirements
) -> list[Recommendation]:
    """Plan each model and put them in order."""
    recommendations = []
    for model in found:
        profile = model_of(model.header)
        try:
            plan = make_plan(profile, machine, requirements, search_alternatives=False)
            recommendations.append(Recommendation(model, plan))
        except PlanError as error:
            recommendations.append(
                Recommendation(model, None, error.message, error.shortfall_bytes)
            )
    return sorted(recommendations, key=lambda recommendation: recommendation.rank)


def _picture(recommendations: list[Recommendation], *, gpus: bool) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("on GPUs" if gpus else "in RAM")
    table.add_column("context", justify="right", no_wrap=True)
    table.add_column("tokens/s", justify="right", no_wrap=True)
    best = next(
        (recommendation for recommendation in recommendations if recommendation.usable), None
    )
    for recommendation in recommendations:
        size = gib(model_of(recommendation.model.header).inventory.total.size_bytes)
        plan = recommendation.plan
        if plan is None:
            missing = f"{gib(recommendation.shortfall_bytes)} too large"
            table.add_row(printable(recommendation.model.name), size, missing, "", "", style="dim")
            continue
        speed = f"< {recommendation.tokens_per_s:.0f}" + ("" if recommendation.usable else " slow")
        style = "bold" if recommendation is best else ""
        context = f"{plan.n_ctx:,}"
        on_gpus = _on_gpus(plan) if gpus else "all of it"
        table.add_row(
            printable(recommendation.model.name), size, on_gpus, context, speed, style=style
        )
    words = (
        "Ordered by our rough view of their quality for coding; models too slow for ghost text are "
        "last. Sizes are of the usual quantisation. Speeds are upper bounds by the bytes that a "
        "token reads. Details: underkeel plan NAME"
    )
    return Group(table, Text(), Text(words, style="dim"))


def _on_gpus(plan: Plan) -> str:
    """The part of the model on GPUs, in few words."""
    layers, experts = plan.choice.layers, plan.choice.experts
    if plan.choice.output == HOST_MEMORY:
        return "nothing"
    if HOST_MEMORY in layers:
        return f"{len(layers) - layers.count(HOST_MEMORY)} of {len(layers)} layers"
    if HOST_MEMORY in experts:
        return f"experts of {plan.expert_layers_on_gpu} of {sum(map(bool, experts))} layers"
    return "all of it"


def _where(plan: Plan) -> str:
    groups = sum(1 for device in plan.choice.experts if device)
    on_gpus = plan.expert_layers_on_gpu
    if not plan.gpu_usages or plan.choice.output == HOST_MEMORY:
        return "in RAM"
    if HOST_MEMORY not in {*plan.choice.layers, *plan.choice.experts}:
        return "all on the GPU" if len(plan.gpu_usages) == 1 else "all on GPUs"
    if HOST_MEMORY in plan.choice.layers:
        in_host_memory = plan.choice.layers.count(HOST_MEMORY)
        return f"{in_host_memory} of {len(plan.choice.layers)} layers in RAM"
    return f"experts of {on_gpus} of {groups} layers on GPUs, the others in RAM"


def _line(recommendation: Recommendation) -> str:
    plan = recommendation.plan
    if plan is None:
        return recommendation.why_not
    slow = "" if recommendation.usable else ": too slow for ghost text"
    return (
        f"{_where(plan)}; {plan.n_ctx:,} tokens, {plan.choice.cache.type_k} cache; "
        f"at most {recommendation.tokens_per_s:.0f} tokens/s{slow}"
    )


def _json(recommendation: Recommendation) -> dict[str, object]:
    plan = recommendation.plan
    return {
        "name": recommendation.model.name,
        "title": recommendation.model.title,
        "here": recommendation.model.here,
        "fits": plan is not None,
        "plan": _line(recommendation),
        "n_ctx": plan.n_ctx if plan else 0,
        "cache_type": plan.choice.cache.type_k if plan else "",
        "expert_layers_on_gpu": plan.expert_layers_on_gpu if plan else 0,
        "tokens_per_s": round(recommendation.tokens_per_s, 1),
    }
