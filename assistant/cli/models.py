"""`underkeel models` and `pull`: list, download, verify, remove and use models.

Downloads draw progress bars; without a terminal, progress is printed in lines.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from assistant import paths, settings
from assistant.cli.plan_view import plan_text
from assistant.cli.terminal import console, print_json, printable, say
from assistant.client.client import DaemonClient
from assistant.errors import DaemonError, GGUFError, ModelError, UnknownModelError
from assistant.memory.gguf.header import Header, read_header
from assistant.memory.gguf.remote import is_remote, read_remote_header
from assistant.memory.model.profile import take_inventory
from assistant.memory.planning import this_machine
from assistant.memory.planning.measured_planner import plan_and_measure, plan_report
from assistant.memory.planning.plan_report import billions
from assistant.memory.planning.planner import requirements_of
from assistant.memory.planning.together import plan_together, wanted_by
from assistant.models import local_store
from assistant.models.catalogue import catalogue, find, local_path, resolve
from assistant.models.fetch import Advance, open_client
from assistant.models.hub import Wanted, acquire, address_of, find_wanted
from assistant.models.local_store import LocalModel, State, use_model
from assistant.models.pull import DownloadSource, pull

_STATES = {
    State.WHOLE: "whole",
    State.WRONG: "DAMAGED",
    State.UNPROVED: "not verified",
    State.MISSING: "MISSING",
}
_EACH_PERCENT = 5


class Purpose(StrEnum):
    """What a model is for."""

    COMPLETE = "complete"
    EXPLAIN = "explain"

    @property
    def table(self) -> str:
        """The settings' table that names it."""
        return {Purpose.COMPLETE: "model", Purpose.EXPLAIN: "explain"}[self]


def register(app: typer.Typer) -> None:
    app.command("pull")(pull_command)
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
    """Show the models on this machine and the starter models; ▸ marks the one in use."""
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
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of models; without one, all.")
    ] = None,
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
    headers = [read_header(file) for file in (path, *_here(other))]
    if purpose is Purpose.EXPLAIN:
        headers.reverse()  # the one for completions is planned first
    first, second = headers[0], headers[1] if len(headers) > 1 else None
    for one in plan_together(wanted_by(chosen, first, second), here, plan_and_measure):
        say(f"{one.plan.model.name} needs {size(sum(one.taken.values()))} of memory.")


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


class Bars:
    """Progress bars for the steps of a download; a context manager.

    Without a terminal (a log, an editor) each step prints lines with its percentage instead.
    """

    def __init__(self, on: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=on,
            disable=not on.is_terminal,
        )

    def step(self, label: str, total_bytes: int) -> Advance:
        label = printable(label)
        if not self._progress.console.is_terminal:
            return Percentages(label, total_bytes, self.note).advance
        task = self._progress.add_task(label, total=total_bytes)
        return lambda done: self._progress.advance(task, done)

    def note(self, text: str) -> None:
        self._progress.console.print(printable(text), markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class Percentages:
    """Reports the progress of a step in lines such as "fetching starter-moe 35 %", every 5 %."""

    def __init__(self, label: str, total_bytes: int, report: Callable[[str], None]) -> None:
        self._label = label
        self._total_bytes = max(total_bytes, 1)
        self._report = report
        self._done_bytes = 0
        self._reported = -_EACH_PERCENT

    def advance(self, done_bytes: int) -> None:
        self._done_bytes += done_bytes
        percent = min(100, 100 * self._done_bytes // self._total_bytes)
        if percent >= self._reported + _EACH_PERCENT:
            self._reported = percent - percent % _EACH_PERCENT
            self._report(f"{self._label} {self._reported} %")


AllowHttp = Annotated[
    bool,
    typer.Option("--allow-http", help="Allow downloads over unencrypted connections."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def pull_command(
    name: Annotated[str, typer.Argument(help="A known name, owner/repository[:Q4_K_M], or a URL.")],
    source: Annotated[
        DownloadSource | None,
        typer.Option("--from", help="Download a known name only from this source."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask after the plan is shown.")
    ] = False,
    allow_http: AllowHttp = False,
) -> None:
    """Download a model into the models folder and verify its checksum.

    Interrupted downloads resume. Starter models are downloaded, or built here, at once; for any
    other model the plan is shown first.
    """
    if name in catalogue():
        _pull_known(name, source)
    else:
        pull_model(name, yes, source, allow_http)


def pull_model(
    name: Annotated[str, typer.Argument(help="A known name, owner/repository[:Q4_K_M], or a URL.")],
    yes: Yes = False,
    source: Annotated[
        DownloadSource | None,
        typer.Option("--from", help="Download a known name only from this source."),
    ] = None,
    allow_http: AllowHttp = False,
) -> None:
    """Show what a model needs on this machine, ask, and download it."""
    out = console(stderr=True)
    if name in catalogue():
        entry = find(name)
        if not local_path(entry).exists():
            _agree(out, _catalogue_header(name), entry.size_bytes, yes)
        _pull_known(name, source)
        return
    name = address_of(name)
    if not is_remote(name):
        path = resolve(name)
        say(f"{path} is here already", err=True)
        say(path)
        return
    with open_client(allow_http=allow_http) as client:
        wanted = find_wanted(name, client)
        header = _remote_header(wanted.url)
        _show_files(out, wanted)
        _agree(out, header, wanted.size_bytes, yes)
        with Bars(out) as bars:
            say(acquire(wanted, client, bars))


def _pull_known(name: str, source: DownloadSource | None) -> None:
    with Bars(console(stderr=True)) as bars:
        path = pull(name, source, bars)
    say(path)


def ask(question: str) -> None:
    """End the command, with exit code 1, unless the answer is yes."""
    if not sys.stdin.isatty():
        raise ModelError("there is no terminal to ask in", subject=question, advice="Add --yes")
    if not typer.confirm(printable(question), default=False, err=True):
        raise typer.Exit(1)


def size(size_bytes: int) -> str:
    """A size on disk, for people."""
    return f"{size_bytes / 1e9:.2f} GB"


def _catalogue_header(name: str) -> Header | None:
    """The header of a catalogue model that is not here, if its source serves it."""
    entry = find(name)
    if entry.upcycle:
        origin = local_path(find(entry.upcycle.source))
        return read_header(origin) if origin.exists() else _catalogue_header(entry.upcycle.source)
    if entry.huggingface is None:
        return None
    return _remote_header(f"{entry.huggingface.repository}/{entry.huggingface.path}")


def _remote_header(name: str) -> Header | None:
    """None if the server serves no ranges: the file can still be downloaded."""
    try:
        return read_remote_header(name)
    except ModelError:
        return None


def _show_files(out: Console, wanted: Wanted) -> None:
    out.print(printable(f"{wanted.name} from {wanted.origin}"))
    for file in wanted.files:
        note = "" if file.sha256 else "  (the server publishes no SHA-256)"
        out.print(printable(f"  {file.file}  {size(file.remote.size_bytes)}{note}"))


def _agree(out: Console, header: Header | None, size_bytes: int, yes: bool) -> None:
    """Show the plan and the space on disk; ask whether to download."""
    if header is not None:
        machine, remarks = this_machine()
        requirements = requirements_of(settings.load()[0].model)
        report = plan_report(header, machine, requirements, machine, remarks)
        out.print(plan_text(report))
        if report.failure is not None:
            out.print(Text(printable(f"It does not fit this machine: {report.failure}")))
    else:
        out.print("There is no plan: the model's header cannot be read before the download.")
    free = shutil.disk_usage(_existing(paths.models_dir())).free
    out.print(f"{size(size_bytes)} to download; {size(free)} free on the disk")
    if not yes:
        ask("Fetch it?")


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
