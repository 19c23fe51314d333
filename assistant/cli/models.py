"""`underkeel models`: list, pull, verify, remove and use models."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from assistant import settings
from assistant.cli.pull import Bars, Yes, ask, pull_model, size
from assistant.cli.terminal import console, print_json, printable, say
from assistant.client import DaemonClient
from assistant.daemon.models.loading import credited
from assistant.errors import DaemonError, GGUFError, UnknownModelError
from assistant.memory.gguf.header import read_header
from assistant.memory.model.profile import take_inventory
from assistant.memory.planning.measured_planner import plan_and_measure
from assistant.memory.planning.plan import this_machine
from assistant.memory.planning.plan_report import billions
from assistant.memory.planning.planner import requirements_of
from assistant.models import local_store
from assistant.models.catalogue import resolve
from assistant.models.local_store import LocalModel, State, use_model

_STATES = {
    State.WHOLE: "whole",
    State.WRONG: "DAMAGED",
    State.UNPROVED: "not verified",
    State.MISSING: "MISSING",
}


class Purpose(StrEnum):
    """What a model is for."""

    COMPLETE = "complete"
    EXPLAIN = "explain"

    @property
    def table(self) -> str:
        """The settings' table that names it."""
        return {Purpose.COMPLETE: "model", Purpose.EXPLAIN: "explain"}[self]


def register(app: typer.Typer) -> None:
    models = typer.Typer(help="List, pull, verify, remove and use models.", no_args_is_help=True)
    models.command("list")(list_models)
    models.command("pull")(pull_model)
    models.command("verify")(verify_models)
    models.command("remove")(remove_model)
    models.command("use")(use)
    app.add_typer(models, name="models")


def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the models on this machine and those with a known name; ▸ marks the one in use."""
    rows = [_row(model) for model in local_store.local_models()]
    if as_json:
        print_json(rows, indent=1)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", "Name", "Parameters", "Type", "On disk", "From"):
        table.add_column(column, justify="right" if column == "On disk" else "left")
    for row in rows:
        table.add_row(
            "▸" if row["used"] else " ",
            printable(row["name"]),
            printable(row["parameters"]),
            printable(row["type"]),
            size(int(str(row["size_bytes"]))) if row["here"] else "not here",
            printable(row["origin"]),
        )
    console().print(table)


def verify_models(
    names: Annotated[list[str] | None, typer.Argument(help="Models; without it all.")] = None,
) -> None:
    """Compare the files of models with their checksums. Exits with 1 if one is damaged."""
    chosen = [local_store.find_local(name) for name in names or []]
    chosen = chosen or [model for model in local_store.local_models() if model.files]
    with Bars(console(stderr=True)) as bars:
        verdicts = [local_store.verify(model, bars) for model in chosen]
    for verdict in verdicts:
        state = _STATES.get(verdict.state, verdict.state.value)
        say(f"{verdict.model.name}: {state}, {verdict.reason}")
    if any(verdict.state in {State.WRONG, State.MISSING} for verdict in verdicts):
        raise typer.Exit(1)


def remove_model(
    name: Annotated[str, typer.Argument(help="A model of the models folder.")], yes: Yes = False
) -> None:
    """Delete a model's files from the models folder. Files elsewhere are never deleted."""
    model = local_store.find_local(name)
    if _used(model):
        say(f"{model.name} is the model in use.", err=True)
    if not yes:
        ask(f"Delete {model.name} ({size(model.size_bytes)})?")
    say(f"Freed {size(local_store.remove(model))}.")


def use(
    name: Annotated[str, typer.Argument(help="A model on this machine, or the path of a GGUF.")],
    purpose: Annotated[
        Purpose, typer.Option("--for", help="For completions, or for explanations and chats.")
    ] = Purpose.COMPLETE,
) -> None:
    """Serve this model from now on, if it fits this machine.

    A running daemon finishes its answers and loads it; if that fails, the old model serves again.
    """
    path = resolve(name)
    named = name if not Path(name).expanduser().is_file() else str(path)
    read_header(path)
    changed = asyncio.run(_change(named, purpose))
    if not changed:
        _show_fit(path, purpose)  # refuses a model that does not fit
    file = use_model(named, table=purpose.table)
    say(f"{named} is the model to {purpose} with from now on ({file})")
    if changed:
        say("The running daemon serves it.")


async def _change(name: str, purpose: Purpose) -> bool:
    """Let a running daemon change its model. False if none runs, or it has no such model yet.

    Raises:
        UnderkeelError: why it cannot; nothing has changed then.
    """
    async with DaemonClient(autostart=False) as client:
        try:
            status = await client.status()
        except DaemonError:
            return False
        if purpose is Purpose.EXPLAIN and status.explain_state is None:
            say("The running daemon loads it after: underkeel restart", err=True)
            return False
        with console(stderr=True).status(Text(printable(f"changing to {name}"))):
            await client.use_model(name, purpose.value)
    return True


def _show_fit(path: Path, purpose: Purpose) -> None:
    """Plan the model, with the other one beside it if there are two, and print what each needs.

    Raises:
        PlanError: they do not fit.
    """
    here, _ = this_machine()
    chosen = settings.load()[0]
    other = chosen.model.name if purpose is Purpose.EXPLAIN else chosen.explain.name
    models = [path, *_here(other)]
    if purpose is Purpose.EXPLAIN:
        models.reverse()  # the one for completions is planned first
    for model in models:
        plan = plan_and_measure(read_header(model), here, requirements_of(settings.load()[0].model))
        taken = {usage.device.name: usage.needed_bytes for usage in plan.usages}
        say(f"{model.name} needs {size(sum(taken.values()))} of memory.")
        here = credited(here, {device: -size_bytes for device, size_bytes in taken.items()})


def _here(name: str) -> list[Path]:
    try:
        return [resolve(name)] if name else []
    except UnknownModelError:
        return []


def _row(model: LocalModel) -> dict[str, object]:
    parameters = kind = ""
    if model.files:
        try:
            inventory = take_inventory(read_header(model.files[0]))
        except GGUFError:
            parameters = "unreadable"
        else:
            parameters = billions(inventory.total.parameters)
            if inventory.moe:
                parameters += f", {billions(inventory.active.parameters)} active"
            kind = max(inventory.by_type.items(), key=lambda item: item[1].size_bytes)[0]
    return {
        "name": model.name,
        "title": model.title,
        "here": bool(model.files),
        "used": _used(model),
        "parameters": parameters,
        "type": kind,
        "size_bytes": model.size_bytes,
        "origin": model.origin,
        "files": [str(file) for file in model.files],
    }


def _used(model: LocalModel) -> bool:
    name = settings.load()[0].model.name
    return name == model.name or str(Path(name).expanduser()) in map(str, model.files)
