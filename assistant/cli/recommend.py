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
from assistant.memory.planning.plan import HOST, Machine, Plan, Wishes
from assistant.memory.planning.plan_report import decode_bound
from assistant.memory.planning.planner import make_plan, wishes_of
from assistant.memory.planning.reasons import gib
from assistant.models.catalogue import catalogue, local_path

_USABLE_TOKENS_PER_S = 8.0  # slower than that, ghost text comes too late to be of use
_PULLED_QUALITY = 5  # the models here already are the demo's small ones


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be recommended. `quality` orders models; see `known_models.toml`."""

    name: str
    title: str
    header: Header
    quality: int
    here: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """A candidate and its plan, or why there is none."""

    candidate: Candidate
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
        return (self.plan is None, not self.usable, -self.candidate.quality)


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
    wishes = wishes_of(chosen.model)
    verdicts = judge(candidates(), machine, wishes)
    if as_json:
        print_json([_json(verdict) for verdict in verdicts], indent=1)
    else:
        console().print(_picture(verdicts, gpus=bool(machine.gpus)))


def candidates() -> Iterator[Candidate]:
    """The catalogue's models that are here, then the coding models known by shape."""
    for name, entry in catalogue().items():
        path = local_path(entry)
        if not path.is_file():
            continue
        try:
            yield Candidate(name, entry.title, read_header(path), _PULLED_QUALITY, here=True)
        except ModelError:
            continue  # a half-fetched file is no candidate
    for name, model in known_models().items():
        if model.coding:
            yield Candidate(name, model.title, known_header(name), model.quality, here=False)


def judge(found: Iterator[Candidate], machine: Machine, wishes: Wishes) -> list[Verdict]:
    """Plan each candidate and put them in order."""
    verdicts = []
    for candidate in found:
        model = model_of(candidate.header)
        try:
            plan = make_plan(model, machine, wishes, search_alternatives=False)
            verdicts.append(Verdict(candidate, plan))
        except PlanError as error:
            verdicts.append(Verdict(candidate, None, error.message, error.shortfall_bytes))
    return sorted(verdicts, key=lambda verdict: verdict.rank)


def _picture(verdicts: list[Verdict], *, gpus: bool) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("on GPUs" if gpus else "in RAM")
    table.add_column("context", justify="right", no_wrap=True)
    table.add_column("tokens/s", justify="right", no_wrap=True)
    best = next((verdict for verdict in verdicts if verdict.usable), None)
    for verdict in verdicts:
        size = gib(model_of(verdict.candidate.header).census.total.size_bytes)
        plan = verdict.plan
        if plan is None:
            missing = f"{gib(verdict.shortfall_bytes)} too large"
            table.add_row(printable(verdict.candidate.name), size, missing, "", "", style="dim")
            continue
        speed = f"< {verdict.tokens_per_s:.0f}" + ("" if verdict.usable else " slow")
        style = "bold" if verdict is best else ""
        context = f"{plan.n_ctx:,}"
        on_gpus = _on_gpus(plan) if gpus else "all of it"
        table.add_row(printable(verdict.candidate.name), size, on_gpus, context, speed, style=style)
    words = (
        "Ordered by our rough view of their quality for coding; models too slow for ghost text are "
        "last. Sizes are of the usual quantisation. Speeds are upper bounds by the bytes that a "
        "token reads. Details: underkeel plan NAME"
    )
    return Group(table, Text(), Text(words, style="dim"))


def _on_gpus(plan: Plan) -> str:
    """The part of the model on GPUs, in few words."""
    layers, experts = plan.choice.layers, plan.choice.experts
    if plan.choice.output == HOST:
        return "nothing"
    if HOST in layers:
        return f"{len(layers) - layers.count(HOST)} of {len(layers)} layers"
    if HOST in experts:
        return f"experts of {plan.expert_layers_on_gpu} of {sum(map(bool, experts))} layers"
    return "all of it"


def _where(plan: Plan) -> str:
    groups = sum(1 for device in plan.choice.experts if device)
    on_gpus = plan.expert_layers_on_gpu
    if not plan.gpu_usages or plan.choice.output == HOST:
        return "in RAM"
    if HOST not in {*plan.choice.layers, *plan.choice.experts}:
        return "all on the GPU" if len(plan.gpu_usages) == 1 else "all on GPUs"
    if HOST in plan.choice.layers:
        on_host = plan.choice.layers.count(HOST)
        return f"{on_host} of {len(plan.choice.layers)} layers in RAM"
    return f"experts of {on_gpus} of {groups} layers on GPUs, the others in RAM"


def _line(verdict: Verdict) -> str:
    plan = verdict.plan
    if plan is None:
        return verdict.why_not
    slow = "" if verdict.usable else ": too slow for ghost text"
    return (
        f"{_where(plan)}; {plan.n_ctx:,} tokens, {plan.choice.cache.type_k} cache; "
        f"at most {verdict.tokens_per_s:.0f} tokens/s{slow}"
    )


def _json(verdict: Verdict) -> dict[str, object]:
    plan = verdict.plan
    return {
        "name": verdict.candidate.name,
        "title": verdict.candidate.title,
        "here": verdict.candidate.here,
        "fits": plan is not None,
        "plan": _line(verdict),
        "n_ctx": plan.n_ctx if plan else 0,
        "cache_type": plan.choice.cache.type_k if plan else "",
        "expert_layers_on_gpu": plan.expert_layers_on_gpu if plan else 0,
        "tokens_per_s": round(verdict.tokens_per_s, 1),
    }
