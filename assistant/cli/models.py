"""`underkeel models` and `underkeel pull`: list, pull, verify, remove and use models."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from assistant import paths, settings
from assistant.cli.download_progress import Bars
from assistant.cli.plan import make
from assistant.cli.plan_view import plan_picture
from assistant.client import DaemonClient
from assistant.daemon.models.loading import credited
from assistant.errors import DaemonError, GGUFError, ModelError, PlanError, UnknownModelError
from assistant.memory.gguf.header import Header, read_header
from assistant.memory.gguf.remote import is_remote, read_remote_header
from assistant.memory.model.tensor_inventory import take_census
from assistant.memory.planning.machine import this_machine
from assistant.memory.planning.planner import wishes_of
from assistant.memory.planning.reasons import billions
from assistant.models import local_store
from assistant.models.acquire import acquire
from assistant.models.catalogue import catalogue, find, local_path, resolve
from assistant.models.fetch import open_client
from assistant.models.hub import Wanted, address_of, find_wanted
from assistant.models.local_store import LocalModel, State, use_model
from assistant.models.pull import Source, pull


class Purpose(StrEnum):
    """What a model is for."""

    COMPLETE = "complete"
    EXPLAIN = "explain"

    @property
    def table(self) -> str:
        """The settings' table that names it."""
        return {Purpose.COMPLETE: "model", Purpose.EXPLAIN: "explain"}[self]


_MARKS = {State.WHOLE: "whole", State.WRONG: "WRONG", State.UNPROVED: "unproved"}
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    models = typer.Typer(help="List, pull, verify, remove and use models.", no_args_is_help=True)
    models.command("list")(list_models)
    models.command("pull")(pull_model)
    models.command("verify")(verify_models)
    models.command("remove")(remove_model)
    models.command("use")(use)
    app.add_typer(models, name="models")
    app.command("pull")(pull_command)


def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is here, what can be pulled by name, and which model is used."""
    rows = [_row(model) for model in local_store.local_models()]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", "Name", "Parameters", "Type", "On disk", "From"):
        table.add_column(column, justify="right" if column == "On disk" else "left")
    for row in rows:
        table.add_row(
            "▸" if row["used"] else " ",
            str(row["name"]),
            str(row["parameters"]),
            str(row["type"]),
            _size(int(str(row["size_bytes"]))) if row["here"] else "not here",
            str(row["origin"]),
        )
    Console().print(table)


def pull_command(
    name: Annotated[str, typer.Argument(help="A known name, owner/repository[:Q4_K_M], or a URL.")],
    source: Annotated[
        Source | None, typer.Option("--from", help="Use only this source, not the first available.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask, once the plan is shown.")
    ] = False,
) -> None:
    """Fetch a model, verify its checksum, and put it into the models folder.

    Interrupted downloads resume. Starter models are fetched at once, or made here; for any other
    model the plan is shown first.
    """
    if name not in catalogue():
        pull_model(name, yes, source)
        return
    with Bars(Console(stderr=True)) as bars:
        path = pull(name, source, bars)
    typer.echo(path)


def pull_model(
    name: Annotated[str, typer.Argument(help="A known name, owner/repository[:Q4_K_M], or a URL.")],
    yes: _Yes = False,
    source: Annotated[
        Source | None, typer.Option("--from", help="For catalogue names: take it from there only.")
    ] = None,
) -> None:
    """Show what a model would take on this machine, ask, and fetch it."""
    console = Console(stderr=True)
    if name in catalogue():
        entry = find(name)
        if not local_path(entry).exists():
            _agree(console, _catalogue_header(name), entry.size_bytes, yes)
        with Bars(console) as bars:
            typer.echo(pull(name, source, bars))
        return
    name = address_of(name)
    if not is_remote(name):
        path = resolve(name)
        console.print(f"{path} is here already", markup=False)
        typer.echo(path)
        return
    with open_client() as client:
        wanted = find_wanted(name, client)
        header = _remote_header(wanted.url)
        _show_files(console, wanted)
        _agree(console, header, wanted.size_bytes, yes)
        with Bars(console) as bars:
            typer.echo(acquire(wanted, client, bars))


def verify_models(
    names: Annotated[list[str] | None, typer.Argument(help="Models; all that are here.")] = None,
) -> None:
    """Compare every byte with what it should be. Exit code 1 where something is wrong."""
    chosen = [local_store.find_local(name) for name in names or []]
    chosen = chosen or [model for model in local_store.local_models() if model.files]
    with Bars(Console(stderr=True)) as bars:
        verdicts = [local_store.verify(model, bars) for model in chosen]
    for verdict in verdicts:
        mark = _MARKS.get(verdict.state, verdict.state.value)
        typer.echo(f"{verdict.model.name}: {mark}, {verdict.reason}")
    if any(verdict.state in {State.WRONG, State.MISSING} for verdict in verdicts):
        raise typer.Exit(1)


def remove_model(
    name: Annotated[str, typer.Argument(help="A model that was pulled.")], yes: _Yes = False
) -> None:
    """Delete a model's files from the models folder. Files elsewhere are never touched."""
    model = local_store.find_local(name)
    if _used(model):
        typer.echo(f"{model.name} is the model in use.", err=True)
    if not yes:
        _ask(f"Delete {model.name} ({_size(model.size_bytes)})?")
    typer.echo(f"{_size(local_store.remove(model))} are free again")


def use(
    name: Annotated[str, typer.Argument(help="A model that is here, or the path of a GGUF.")],
    purpose: Annotated[
        Purpose, typer.Option("--for", help="What for: completions, or explanations and chats.")
    ] = Purpose.COMPLETE,
) -> None:
    """Serve this model from now on, if it fits this machine.

    A running daemon ends what it has begun, loads it, and goes back to the old one if it cannot.
    """
    path = resolve(name)
    named = name if not Path(name).expanduser().is_file() else str(path)
    read_header(path)
    changed = asyncio.run(_change(named, purpose))
    if not changed:
        _show_fit(path, purpose)  # refuses what does not fit
    file = use_model(named, table=purpose.table)
    typer.echo(f"{named} is the model to {purpose} with from now on ({file})")
    if changed:
        typer.echo("The running daemon serves it.")


async def _change(name: str, purpose: Purpose) -> bool:
    """Have a running daemon change its model. False where none runs, or it has no such model yet.

    Raises:
        UnderkeelError: why it does not; nothing has changed then.
    """
    async with DaemonClient(autostart=False) as client:
        try:
            status = await client.status()
        except DaemonError:
            return False
        if purpose is Purpose.EXPLAIN and status.explain_state is None:
            typer.echo("A running daemon takes it when it starts anew: underkeel stop", err=True)
            return False
        with Console(stderr=True).status(f"changing to {name}"):
            await client.use_model(name, purpose.value)
    return True


def _show_fit(path: Path, purpose: Purpose) -> None:
    """Plan the model, with the other one beside it where there are two, and say what each takes.

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
        plan = make(read_header(model), here, wishes_of(settings.load()[0].model), here)
        taken = {usage.device.name: usage.needed_bytes for usage in plan.usages}
        typer.echo(f"{model.name} takes {_size(sum(taken.values()))} of memory.")
        here = credited(here, {device: -size for device, size in taken.items()})


def _here(name: str) -> list[Path]:
    try:
        return [resolve(name)] if name else []
    except UnknownModelError:
        return []


def _row(model: LocalModel) -> dict[str, object]:
    parameters = kind = ""
    if model.files:
        try:
            census = take_census(read_header(model.files[0]))
        except GGUFError:
            parameters = "unreadable"
        else:
            parameters = billions(census.total.parameters)
            if census.moe:
                parameters += f", {billions(census.active.parameters)} active"
            kind = max(census.by_type.items(), key=lambda item: item[1].size_bytes)[0]
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


def _catalogue_header(name: str) -> Header | None:
    """What a catalogue model is before it is here, as far as its source tells."""
    entry = find(name)
    if entry.upcycle:
        origin = local_path(find(entry.upcycle.source))
        return read_header(origin) if origin.exists() else _catalogue_header(entry.upcycle.source)
    if entry.huggingface is None:
        return None
    return _remote_header(f"{entry.huggingface.repository}/{entry.huggingface.path}")


def _remote_header(name: str) -> Header | None:
    """None where the server does not serve ranges: the file can still be fetched."""
    try:
        return read_remote_header(name)
    except ModelError:
        return None


def _show_files(console: Console, wanted: Wanted) -> None:
    console.print(f"{wanted.name} from {wanted.origin}", markup=False, highlight=False)
    for file in wanted.files:
        proof = "" if file.sha256 else "  (its server tells no SHA-256)"
        size = _size(file.remote.size_bytes)
        console.print(f"  {file.file}  {size}{proof}", markup=False, highlight=False)


def _agree(console: Console, header: Header | None, size_bytes: int, yes: bool) -> None:
    """Show the plan and what it costs on disk; ask whether it is to be fetched."""
    if header is not None:
        machine, remarks = this_machine()
        wishes = wishes_of(settings.load()[0].model)
        try:
            plan = make(header, machine, wishes, machine)
        except PlanError as error:
            console.print(plan_picture(header, machine, wishes, None, remarks))
            console.print(f"It does not fit this machine: {error}", markup=False)
        else:
            console.print(plan_picture(header, machine, wishes, plan, remarks))
    else:
        console.print("Its header cannot be read from here: no plan before it is fetched")
    free = shutil.disk_usage(_existing(paths.models_dir())).free
    console.print(f"{_size(size_bytes)} to fetch; {_size(free)} are free on the disk")
    if not yes:
        _ask("Fetch it?")


def _ask(question: str) -> None:
    """End the command, with exit code 1, unless the answer is yes."""
    if not sys.stdin.isatty():
        raise ModelError("nobody can be asked here", subject=question, advice="Add --yes")
    if not typer.confirm(question, default=False, err=True):
        raise typer.Exit(1)


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB"
