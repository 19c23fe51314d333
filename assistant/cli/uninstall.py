"""`underkeel uninstall`: lists what Underkeel has written on this machine, and removes it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Annotated

import typer

from assistant import settings
from assistant.cli.daemon import stop
from assistant.cli.terminal import printable, say
from assistant.daemon.process.instance import running_pid
from assistant.errors import InstallError
from assistant.install.uninstall import Trace, program, remove, traces
from assistant.service import manager

_EDITORS = (
    "The editors' plugins are removed in the editors (VS Code: code --uninstall-extension "
    "underkeel.underkeel)."
)


def register(app: typer.Typer) -> None:
    app.command()(uninstall)


def uninstall(
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also models, settings, logs, statistics and the program."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop the daemon, and remove its service, its caches and its socket.

    Models, settings, logs and statistics stay unless --all is given. What is removed is listed
    first.
    """
    key_name = settings.load()[0].remote.key_name
    found = traces(manager.installed_files())
    removed = [trace for trace in found if everything or not trace.personal]
    ours = program()
    _list("This is removed:", removed)
    if everything and ours.command:
        say(f"  the program, by: {' '.join(ours.command)}")
    _list("This stays (--all removes it too):", [one for one in found if one not in removed])
    if not removed and not everything:
        say("Nothing is there to remove.")
        return
    _ask(yes=yes)
    if manager.installed_files():
        manager.uninstall()
    if running_pid() is not None:
        stop(force=True)
    remove(removed)
    say("Removed.")
    if not everything:
        return
    if key_name:
        say(f"The keyring still has your entry {printable(key_name)}.")
    say(_EDITORS)
    if ours.command and shutil.which(ours.command[0]):
        subprocess.run(ours.command, check=False)
    elif ours.command:
        say(f"Remove the program with: {' '.join(ours.command)}")
    else:
        say(f"{ours.advice}.")


def _list(title: str, found: list[Trace]) -> None:
    if not found:
        return
    say(title)
    for trace in found:
        size = f"{trace.size_bytes / 1e6:,.1f} MB"
        say(f"  {trace.what:20} {size:>12}  {trace.path}")


def _ask(*, yes: bool) -> None:
    """End the command, with exit code 1, unless the answer is yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InstallError("there is no terminal to ask in", advice="Add --yes")
    if not typer.confirm("Remove it?", default=False, err=True):
        raise typer.Exit(1)
