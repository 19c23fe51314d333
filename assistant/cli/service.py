"""`underkeel service`: let the system start the daemon."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from assistant import paths
from assistant.cli.stop import stop
from assistant.daemon.process.instance import running_pid
from assistant.service import manager
from assistant.service.manager import ServiceNow
from assistant.service.units import Manager

_NOT_INSTALLED = 3

_service = typer.Typer(no_args_is_help=True, help="Let the system start the daemon.")


def register(app: typer.Typer) -> None:
    app.add_typer(_service, name="service")


@_service.command()
def install(
    at_login: Annotated[
        bool,
        typer.Option("--at-login", help="Start with the session, not with the first request."),
    ] = False,
    linger: Annotated[
        bool, typer.Option("--linger", help="Go on after logout (loginctl enable-linger).")
    ] = False,
) -> None:
    """Install the daemon as a service of yours: systemd on Linux, launchd on macOS.

    The system holds the socket; the first request starts the daemon, and a crash restarts it.
    """
    paths.runtime_dir()
    if running_pid() is not None and not manager.status().running:
        stop()  # it has the socket that the system is to hold
    for path in manager.install(at_login=at_login):
        typer.echo(f"Wrote {path}")
    if linger:
        manager.linger(on=True)
    now = manager.status()
    typer.echo("The daemon starts with your session." if at_login else _ON_DEMAND)
    if now.lingers is False:
        typer.echo(_ENDS)
    elif now.lingers:
        typer.echo("It goes on after you log out (loginctl disable-linger ends that).")


@_service.command()
def uninstall() -> None:
    """Take the service away. Models, settings and logs stay; editors still start the daemon."""
    removed = manager.uninstall()
    for path in removed:
        typer.echo(f"Removed {path}")
    if not removed:
        typer.echo("No service is installed.")


@_service.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how the service is. Exits with 3 where none is installed."""
    now = manager.status()
    if as_json:
        typer.echo(msgspec.json.encode(now).decode())
    else:
        for line in lines(now):
            typer.echo(line)
    raise typer.Exit(0 if now.installed else _NOT_INSTALLED)


_ON_DEMAND = "The first request starts the daemon."
_ENDS = "It ends when you log out; to have it go on: underkeel service install --linger"


def lines(now: ServiceNow) -> list[str]:
    """The service's state for a person."""
    if now.manager is Manager.NONE:
        return ["There is no service manager here that Underkeel knows; clients start the daemon."]
    if not now.installed:
        return [f"Not installed ({now.manager.value}). To do so: underkeel service install"]
    starts = "with your session" if now.at_login else "with the first request"
    found = [
        f"Installed ({now.manager.value}), starts {starts}.",
        f"Socket: {'held by the system' if now.listening else 'not held'}.",
        f"Daemon: {now.detail or ('running' if now.running else 'not running')}.",
    ]
    if now.lingers is not None:
        found.append("Goes on after logout." if now.lingers else _ENDS)
    return found
