"""`underkeel plan` and `recommend`: the memory that a model needs, and the known coding models that
fit this machine, before any is loaded or downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from assistant import settings
from assistant.cli.plan_view import checkpoint_json, checkpoint_text, plan_json, plan_text
from assistant.cli.terminal import console, print_json, printable
from assistant.errors import ModelError, PlanError, UnknownModelError
from assistant.http_client import hub_endpoint
from assistant.memory.gguf.header import Header, read_header
from assistant.memory.gguf.remote import (
    http_client,
    is_remote,
    list_files,
    parse_hub_name,
    read_remote_header,
)
from assistant.memory.model.known_models import (
    QUANTISATIONS,
    known_header,
    known_models,
    known_name,
    near_names,
    same_name,
)
from assistant.memory.model.profile import model_of
from assistant.memory.planning import (
    HOST_MEMORY,
    Machine,
    Plan,
    Requirements,
    imagined,
    parse_size,
    this_machine,
)
from assistant.memory.planning.checkpoint import (
    Checkpoint,
    is_checkpoint,
    read_checkpoint,
    read_remote_checkpoint,
)
from assistant.memory.planning.dry_run import DryRun
from assistant.memory.planning.measured_planner import plan_and_measure, plan_report
from assistant.memory.planning.plan_report import PlanReport, Speed, gib, predict_speed
from assistant.memory.planning.planner import make_plan, requirements_of
from assistant.memory.planning.together import PlannedModel, plan_together, wanted_by
from assistant.memory.rates import ASSUMED, MachineRates, machine_rates
from assistant.models.catalogue import catalogue, local_path, resolve


def register(app: typer.Typer) -> None:
    app.command()(plan)
    app.command()(recommend)


def plan(  # noqa: PLR0917 (a command takes its options as arguments)
    model: Annotated[
        str,
        typer.Argument(
            help="A GGUF, a folder of safetensors, a Hugging Face repository, or a known name."
        ),
    ] = "",
    beside: Annotated[
        str, typer.Argument(help="A second model, as with --explain.", show_default=False)
    ] = "",
    ctx: Annotated[
        int | None, typer.Option(help="Tokens of context; 0 lets the plan choose.")
    ] = None,
    cache_type: Annotated[
        str | None, typer.Option(help="Type of the KV cache: f16, q8_0, ...")
    ] = None,
    sequences: Annotated[int | None, typer.Option(help="Slots that share the context.")] = None,
    quantisation: Annotated[
        str, typer.Option("--quant", help="Quantisation of a known model: Q4_K_M, Q8_0, ...")
    ] = "",
    explain: Annotated[
        str, typer.Option(help="A second model for explanations and chats, planned beside it.")
    ] = "",
    vram: Annotated[str, typer.Option(help="Plan for GPUs of this size: 24G, or 24G,12G.")] = "",
    ram: Annotated[str, typer.Option(help="Plan for this much free RAM: 64G.")] = "",
    gpus: Annotated[
        int, typer.Option(min=-1, max=64, help="Number of GPUs; 0 plans for the CPU alone.")
    ] = -1,
    margin: Annotated[str, typer.Option(help="Memory to leave free on each GPU: 512M.")] = "",
    experts_on_gpu: Annotated[
        bool, typer.Option("--experts-on-gpu", help="Refuse plans with experts in RAM.")
    ] = False,
    disk: Annotated[
        bool, typer.Option("--disk", help="Experts without space in memory are read from disk.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine's speed again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the memory that a model needs, what goes on which device, and what would change it.

    Options that are left out come from the settings, as for the daemon.
    """
    here, remarks = this_machine()
    sizes = [parse_size(part) for part in vram.split(",") if part]
    machine = imagined(here, sizes, parse_size(ram) if ram else 0, gpus)
    options = {
        "--ctx": ("model.n_ctx", ctx),
        "--cache-type": ("model.cache_type", cache_type),
        "--sequences": ("model.n_seq_max", sequences),
    }
    every = settings.override(settings.load()[0], options)
    chosen = every.model
    requirements = replace(
        requirements_of(chosen), experts_on_gpu=experts_on_gpu, disk=disk or chosen.disk
    )
    if margin:
        requirements = replace(requirements, margin_bytes=parse_size(margin))
    if beside and explain:
        raise ModelError(
            "two models are planned together, not three",
            subject=explain,
            advice="Name the second one once",
        )
    found = find_model(model or chosen.name, quantisation)
    if isinstance(found, Checkpoint):
        if as_json:
            print_json(checkpoint_json(found, machine), indent=1)
        else:
            console().print(checkpoint_text(found, machine))
        return
    rates = machine_rates(here.gpus, again=measure)
    report = plan_report(found, machine, requirements, here, remarks, rates)
    second = explain or beside or ("" if model else every.explain.name)
    if second:
        _beside(report, found, second, every, machine, requirements, as_json=as_json)
        return
    others = _quantisations(found, machine, requirements, rates)
    if as_json:
        print_json({**plan_json(report), "quantisations": others}, indent=1)
        if report.plan is None:
            raise typer.Exit(1) from report.failure
        return
    console().print(plan_text(report))
    if others:
        console().print(_quantisations_text(others, found))
    report.require_plan()


def _quantisations(
    found: Header, machine: Machine, requirements: Requirements, rates: MachineRates
) -> list[dict[str, Any]]:
    """What each quantisation of a known model takes, by estimates; empty for any other model."""
    if found.name not in known_models() or Path(found.path).is_file():
        return []
    rows = []
    for name in QUANTISATIONS:
        profile = model_of(known_header(found.name, name))
        row = {"name": name, "total_bytes": profile.inventory.total.size_bytes, "fits": True}
        try:
            plan = make_plan(profile, machine, requirements, search_alternatives=False)
        except PlanError as error:
            rows.append({**row, "fits": False, "shortfall_bytes": error.shortfall_bytes})
            continue
        speed = predict_speed(plan, rates)
        row |= {"n_ctx": plan.n_ctx, "expert_layers_on_gpu": plan.expert_layers_on_gpu}
        rows.append({**row, "tokens_per_s": round(speed.decode_tokens_per_s, 2)})
    return rows


def _quantisations_text(rows: Sequence[Mapping[str, Any]], found: Header) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("file", "size", "context", "tokens/s"):
        table.add_column(name, justify="left" if name == "file" else "right")
    for row in rows:
        if row["fits"]:
            cells = (f"{row['n_ctx']:,}", f"{row['tokens_per_s']:.3g}")
        else:
            cells = (f"{gib(row['shortfall_bytes'])} too large", "")
        here = Path(found.path).stem.endswith(f"-{row['name']}")
        table.add_row(row["name"], gib(row["total_bytes"]), *cells, style="bold" if here else "")
    title = Text(f"\nQuantisations (as in: underkeel plan {found.name}:Q2_K)", style="bold")
    return Group(title, table)


def _beside(  # noqa: PLR0917 (all of them are the plan's input)
    report: PlanReport,
    first: Header,
    name: str,
    chosen: settings.Settings,
    machine: Machine,
    requirements: Requirements,
    *,
    as_json: bool,
) -> None:
    """Print the report on the first model, and the plan of both.

    Raises:
        PlanError: they do not fit together.
    """
    second = find_model(name)
    if isinstance(second, Checkpoint):
        raise ModelError(
            "a folder of safetensors is not planned beside another model",
            subject=name,
            advice="Name two GGUF files",
        )
    wanted = wanted_by(chosen, first, second, requirements)
    with DryRun() as dry_run:
        try:
            planned = plan_together(wanted, machine, partial(plan_and_measure, dry_run=dry_run))
        except PlanError as error:
            if not as_json:
                raise
            print_json(
                {
                    **plan_json(report),
                    "models": [],
                    "models_error": {
                        "message": error.message,
                        "shortfall_bytes": error.shortfall_bytes,
                        "advice": error.advice,
                    },
                },
                indent=1,
            )
            raise typer.Exit(1) from error
    if as_json:
        print_json({**plan_json(report), "models": [one.to_json() for one in planned]}, indent=1)
        return
    console().print(plan_text(report))
    console().print(together_text(planned))


def together_text(planned: Sequence[PlannedModel]) -> RenderableType:
    """Models planned together: what stays loaded, and what is loaded on demand."""
    table = Table(title="Models together", title_justify="left", box=None, pad_edge=False)
    for column in ("for", "model", "loaded", "context", "memory"):
        table.add_column(column, no_wrap=column == "model")
    for one in planned:
        memory = ", ".join(f"{name} {gib(size)}" for name, size in one.taken.items())
        table.add_row(
            ", ".join(one.wanted.purposes),
            printable(one.plan.model.name),
            one.wanted.loaded,
            f"{one.plan.n_ctx:,}",
            memory,
        )
    return table


def find_model(name: str, quantisation: str = "") -> Header | Checkpoint:
    """What a name on the command line means: a file, a folder, a known name, or a repository.

    Raises:
        UnknownModelError: there is no such model.
        GGUFError, ModelError: it exists but cannot be read.
    """
    path = Path(name).expanduser()
    here = path.is_file() or (path.is_dir() and is_checkpoint(path))
    known, wanted = known_name(name)
    if known and not here:
        return known_header(known, quantisation or wanted)
    if quantisation and here:
        raise ModelError(
            "--quant is for models that are not here: this one has its quantisation",
            subject=name,
            advice="Leave it out",
        )
    if here:
        return read_checkpoint(path) if path.is_dir() else read_header(path)
    if starter := same_name(name, catalogue()):
        try:
            return read_header(resolve(starter))
        except UnknownModelError:
            source = catalogue()[starter].huggingface
            if source is None:
                raise
            return read_remote_header(f"{source.repository}/{source.path}")
    if is_remote(name):
        return _remote(f"{name}:{quantisation}" if quantisation and ":" not in name else name)
    try:
        return read_header(resolve(name))
    except UnknownModelError as error:
        if Path(name).name != name or name.endswith(".gguf"):
            raise
        known_here = [*catalogue(), *known_models()]
        near = near_names(name.partition(":")[0], known_here)
        advice = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known_here)}"
        raise UnknownModelError(error.message, subject=error.subject, advice=advice) from error


def _remote(name: str) -> Header | Checkpoint:
    parsed = parse_hub_name(name, hub_endpoint())
    if parsed.repository and not parsed.path:
        with http_client() as client:
            files = list_files(parsed.repository, client, parsed.revision)
        if not any(item.lower().endswith(".gguf") for item in files):
            return read_remote_checkpoint(parsed.repository)
    return read_remote_header(name)


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
    """A model, its plan and predicted speed, or why there is none."""

    model: CodingModel
    plan: Plan | None
    speed: Speed | None = None
    why_not: str = ""
    shortfall_bytes: int = 0

    @property
    def usable(self) -> bool:
        """Whether ghost text comes in time while typing."""
        return self.speed is not None and self.speed.usable

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Usable ones by quality; then those too slow, the fastest first; then the others."""
        if self.speed is None:
            return (True, True, -self.model.quality)
        if not self.speed.usable:
            return (False, True, self.speed.suggestion_s)
        return (False, False, -self.model.quality)


def recommend(  # noqa: PLR0917 (a command takes its options as arguments)
    ctx: Annotated[int, typer.Option(help="Tokens of context; 0 lets the plan choose.")] = 0,
    vram: Annotated[str, typer.Option(help="Plan for GPUs of this size: 24G, or 24G,12G.")] = "",
    ram: Annotated[str, typer.Option(help="Plan for this much free RAM: 64G.")] = "",
    gpus: Annotated[
        int, typer.Option(min=-1, max=64, help="Number of GPUs; 0 plans for the CPU alone.")
    ] = -1,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine's speed again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the coding models that fit this machine, best first, with a summary of each plan.

    The machine's speed is measured once, in a few seconds, and again when its hardware changes.
    """
    here, _ = this_machine()
    sizes = [parse_size(part) for part in vram.split(",") if part]
    machine = imagined(here, sizes, parse_size(ram) if ram else 0, gpus)
    chosen = settings.override(settings.load()[0], {"--ctx": ("model.n_ctx", ctx)})
    requirements = requirements_of(chosen.model)
    rates = machine_rates(here.gpus, again=measure)
    recommendations = judge(models(), machine, requirements, rates)
    if as_json:
        print_json([_json(recommendation) for recommendation in recommendations], indent=1)
    else:
        console().print(_picture(recommendations, rates, gpus=bool(machine.gpus)))


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
    found: Iterator[CodingModel],
    machine: Machine,
    requirements: Requirements,
    rates: MachineRates = ASSUMED,
) -> list[Recommendation]:
    """Plan each model and put them in order."""
    recommendations = []
    for model in found:
        profile = model_of(model.header)
        try:
            plan = make_plan(profile, machine, requirements, search_alternatives=False)
            recommendations.append(Recommendation(model, plan, predict_speed(plan, rates)))
        except PlanError as error:
            recommendations.append(
                Recommendation(model, None, None, error.message, error.shortfall_bytes)
            )
    return sorted(recommendations, key=lambda recommendation: recommendation.rank)


def _picture(
    recommendations: list[Recommendation], rates: MachineRates, *, gpus: bool
) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    if gpus:
        table.add_column("on GPUs", no_wrap=True)
    for name in ("context", "read/s", "write/s", "jump"):
        table.add_column(name, justify="right", no_wrap=True)
    best = next(
        (recommendation for recommendation in recommendations if recommendation.usable), None
    )
    marked = False
    for recommendation in recommendations:
        model = model_of(recommendation.model.header)
        size = gib(model.inventory.total.size_bytes)
        name = printable(recommendation.model.name) + (" *" if model.unchecked else "")
        marked = marked or model.unchecked
        plan = recommendation.plan
        speed = recommendation.speed
        if plan is None or speed is None:
            table.add_row(name, size, "too large", style="dim")
            continue
        jump = f"{speed.jump_s:.{1 if speed.jump_s < 10 else 0}f} s"
        table.add_row(
            name,
            size,
            *([_on_gpus(plan)] if gpus else []),
            f"{plan.n_ctx:,}",
            f"{speed.prefill_tokens_per_s:.0f}",
            f"{speed.decode_tokens_per_s:.{1 if speed.decode_tokens_per_s < 10 else 0}f}",
            jump if speed.usable else f"{jump} slow",
            style="bold" if recommendation is best else "",
        )
    places = (
        "On GPUs: all of it, or of how many layers the experts or the layers themselves are there. "
    )
    words = (
        "Ordered by our rough view of their quality for coding; models too slow for typing are "
        "last (slow). Sizes are of the usual quantisation. "
        f"{places if gpus else ''}Predicted: tokens read and written per second, "
        f"and the wait after a jump of the cursor ({rates.describe(gpus=gpus)}). "
        f"{'* Sizes not from its file or its makers. ' if marked else ''}"
        "Details: underkeel plan NAME"
    )
    return Group(table, Text(), Text(words, style="dim"))


def _on_gpus(plan: Plan) -> str:
    """The part of the model on GPUs, in few words."""
    layers, experts = plan.choice.layers, plan.choice.experts
    if plan.choice.output == HOST_MEMORY:
        return "nothing"
    if HOST_MEMORY in layers:
        return f"{len(layers) - layers.count(HOST_MEMORY)}/{len(layers)} layers"
    if HOST_MEMORY in experts:
        return f"{plan.expert_layers_on_gpu}/{sum(map(bool, experts))} experts"
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
    plan, speed = recommendation.plan, recommendation.speed
    if plan is None or speed is None:
        return recommendation.why_not
    slow = "" if recommendation.usable else ": too slow for typing"
    return (
        f"{_where(plan)}; {plan.n_ctx:,} tokens, {plan.choice.cache.type_k} cache; "
        f"about {speed.decode_tokens_per_s:.1f} tokens/s{slow}"
    )


def _json(recommendation: Recommendation) -> dict[str, object]:
    plan, speed = recommendation.plan, recommendation.speed
    return {
        "name": recommendation.model.name,
        "title": recommendation.model.title,
        "here": recommendation.model.here,
        "checked": not model_of(recommendation.model.header).unchecked,
        "fits": plan is not None,
        "plan": _line(recommendation),
        "n_ctx": plan.n_ctx if plan else 0,
        "cache_type": plan.choice.cache.type_k if plan else "",
        "expert_layers_on_gpu": plan.expert_layers_on_gpu if plan else 0,
        "tokens_per_s": round(speed.decode_tokens_per_s, 1) if speed else 0,
        "prefill_tokens_per_s": round(speed.prefill_tokens_per_s, 1) if speed else 0,
        "suggestion_s": round(speed.suggestion_s, 2) if speed else 0,
        "jump_s": round(speed.jump_s, 2) if speed else 0,
        "usable": recommendation.usable,
    }
