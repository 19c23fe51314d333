"""`underkeel plan`: the memory that a model needs, before it is loaded or downloaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from assistant import settings
from assistant.cli.plan_view import checkpoint_json, checkpoint_text, plan_json, plan_text
from assistant.cli.terminal import console, print_json
from assistant.errors import UnknownModelError
from assistant.hugging_face import hub_endpoint
from assistant.memory.checkpoints.checkpoint import (
    Checkpoint,
    is_checkpoint,
    read_checkpoint,
    read_remote_checkpoint,
)
from assistant.memory.gguf.header import Header, read_header
from assistant.memory.gguf.remote import (
    http_client,
    is_remote,
    list_files,
    parse_hub_name,
    read_remote_header,
)
from assistant.memory.model.known_models import known_header, known_models
from assistant.memory.planning.machine import imagined, parse_size, this_machine
from assistant.memory.planning.measured_planner import plan_report
from assistant.memory.planning.planner import requirements_of
from assistant.memory.probes.rates import machine_rates
from assistant.models.catalogue import catalogue, resolve


def register(app: typer.Typer) -> None:
    app.command()(plan)


def plan(  # noqa: PLR0917 (a command takes its options as arguments)
    model: Annotated[
        str,
        typer.Argument(
            help="A GGUF, a folder of safetensors, a Hugging Face repository, or a known name."
        ),
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
    vram: Annotated[str, typer.Option(help="Plan for GPUs of this size: 24G, or 24G,12G.")] = "",
    ram: Annotated[str, typer.Option(help="Plan for this much free RAM: 64G.")] = "",
    gpus: Annotated[
        int, typer.Option(min=-1, max=64, help="Number of GPUs; 0 plans for the CPU alone.")
    ] = -1,
    margin: Annotated[str, typer.Option(help="Memory to leave free on each GPU: 512M.")] = "",
    experts_on_gpu: Annotated[
        bool, typer.Option("--experts-on-gpu", help="Refuse plans with experts in RAM.")
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
    chosen = settings.override(settings.load()[0], options).model
    requirements = replace(requirements_of(chosen), experts_on_gpu=experts_on_gpu)
    if margin:
        requirements = replace(requirements, margin_bytes=parse_size(margin))
    found = find_model(model or chosen.name, quantisation)
    if isinstance(found, Checkpoint):
        if as_json:
            print_json(checkpoint_json(found, machine), indent=1)
        else:
            console().print(checkpoint_text(found, machine))
        return
    report = plan_report(
        found, machine, requirements, here, remarks, machine_rates(here.gpus, again=measure)
    )
    if as_json:
        print_json(plan_json(report), indent=1)
        if report.plan is None:
            raise typer.Exit(1) from report.failure
        return
    console().print(plan_text(report))
    report.require_plan()


def find_model(name: str, quantisation: str = "") -> Header | Checkpoint:
    """What a name on the command line means: a file, a folder, a known name, or a repository.

    Raises:
        UnknownModelError: there is no such model.
        GGUFError, ModelError: it exists but cannot be read.
    """
    path = Path(name).expanduser()
    if path.is_dir() and is_checkpoint(path):
        return read_checkpoint(path)
    if path.is_file():
        return read_header(path)
    if name in known_models():
        return known_header(name, quantisation)
    if entry := catalogue().get(name):
        try:
            return read_header(resolve(name))
        except UnknownModelError:
            if entry.huggingface is None:
                raise
            source = entry.huggingface
            return read_remote_header(f"{source.repository}/{source.path}")
    if is_remote(name):
        return _remote(name)
    try:
        return read_header(resolve(name))
    except UnknownModelError as error:
        known = ", ".join([*catalogue(), *known_models()])
        raise UnknownModelError(
            error.message, subject=error.subject, advice=f"Known names: {known}"
        ) from error


def _remote(name: str) -> Header | Checkpoint:
    parsed = parse_hub_name(name, hub_endpoint())
    if parsed.repository and not parsed.path:
        with http_client() as client:
            files = list_files(parsed.repository, client, parsed.revision)
        if not any(item.lower().endswith(".gguf") for item in files):
            return read_remote_checkpoint(parsed.repository)
    return read_remote_header(name)
