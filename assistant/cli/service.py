"""`underkeel service`: let the system start the daemon."""

from __future__ import annotations

from typing import Annotated

import typer

from assistant import paths
from assistant.cli.daemon import stop
from assistant.cli.terminal import print_json, say
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
        bool, typer.Option("--linger", help="Continue after logout (loginctl enable-linger).")
    ] = False,
) -> None:
    """Install the daemon as a service of your user: systemd on Linux, launchd on macOS.

    The system holds the socket; the first request starts the daemon, and a crash restarts it.
    """
    paths.runtime_dir()
    if running_pid() is not None and not manager.status().running:
        stop()  # it holds the socket that the system needs
    for path in manager.install(at_login=at_login):
        say(f"Wrote {path}")
    if linger:
        manager.linger(on=True)
    now = manager.status()
    say("The daemon starts with your session." if at_login else _ON_DEMAND)
    if now.lingers is False:
        say(_ENDS)
    elif now.lingers:
        say("It continues after you log out (loginctl disable-linger ends that).")


@_service.command()
def uninstall() -> None:
    """Remove the service. Models, settings and logs stay; editors still start the daemon."""
    removed = manager.uninstall()
    for path in removed:
        say(f"Removed {path}")
    if not removed:
        say("No service is installed.")


@_service.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the state of the service. Exits with 3 if none is installed."""
    now = manager.status()
    if as_json:
        print_json(now)
    else:
        for line in lines(now):
            say(line)
    raise typer.Exit(0 if now.installed else _NOT_INSTALLED)


_ON_DEMAND = "The first request starts the daemon."
_ENDS = "It ends when you log out. To continue: underkeel service install --linger"


def lines(now: ServiceNow) -> list[str]:
    """The state of the service in sentences."""
    if now.manager is Manager.NONE:
        return ["There is no supported service manager here; clients start the daemon."]
    if not now.installed:
        return [f"Not installed ({now.manager.value}). To install it: underkeel service install"]
    starts = "with your session" if now.at_login else "with the first request"
    found = [
        f"Installed ({now.manager.value}), starts {starts}.",
        f"Socket: {'held by the system' if now.listening else 'not held'}.",
        f"Daemon: {now.detail or ('running' if now.running else 'not running')}.",
    ]
    if now.lingers is not None:
        found.append("Continues after logout." if now.lingers else _ENDS)
    return found
