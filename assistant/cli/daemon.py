"""`underkeel serve`, `stop`, `restart`, `reload` and `service`: the daemon's life."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from assistant import __version__, paths, settings
from assistant.cli.terminal import print_json, say
from assistant.client.starter import DaemonStarter
from assistant.daemon.process.instance import running_pid
from assistant.errors import AlreadyRunningError, DaemonError, SettingsError
from assistant.wire import SettingsNow

if TYPE_CHECKING:
    # A start of the daemon waits for what `serve` imports: other commands import their own.
    from assistant.client.client import DaemonClient
    from assistant.service import ServiceNow
    from assistant.wire import Status

_STOP_LIMIT_S = 20.0  # streams end within 5 s; a worker in the middle of a kernel may take longer
_TAKEOVER_LIMIT_S = 180.0  # the old daemon answers what it has; the new one waits for its memory
_POLL_S = 0.05


_service = typer.Typer(no_args_is_help=True, help="Let the system start the daemon.")


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(stop)
    app.command()(restart)
    app.command()(reload)
    app.add_typer(_service, name="service")


def serve(  # noqa: PLR0917 - one parameter an option
    model: Annotated[
        str | None,
        typer.Option(help="Name of a model on this machine, or path.", show_default=False),
    ] = None,
    ctx: Annotated[
        int | None,
        typer.Option(help="Context: cells of the KV cache.", show_default=False),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(help="Sequences kept in the cache.", show_default=False),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default=False)] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error.", show_default=False)
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Replace a running daemon without losing a request."),
    ] = False,
    detached: Annotated[
        bool,
        typer.Option("--detached", hidden=True, help="No terminal; end quietly if one is running."),
    ] = False,
) -> None:
    """Run the daemon in this terminal until stopped."""
    options = {
        "--model": ("model.name", model),
        "--ctx": ("model.n_ctx", ctx),
        "--slots": ("model.n_seq_max", slots),
        "--threads": ("model.n_threads", threads),
        "--log-level": ("daemon.log_level", log_level and log_level.lower()),
    }

    def read(
        *, last: settings.Settings | None = None
    ) -> tuple[settings.Settings, list[SettingsError]]:
        """The file, and over it the command line; read again whenever the file changes."""
        found, problems = settings.load(last=last)
        return settings.override(found, options), problems

    chosen, problems = read()
    if model is not None:
        # Who types a name reads the answer here. A daemon that a client or the system starts stays
        # with a wrong setting, and says so in its status.
        from assistant.daemon.loading import check_model

        check_model(chosen)
    if not take_over:
        _start_planning(chosen)
    # Here, not above: `--help` and other commands need no web server.
    from assistant.daemon.loading import engine_for
    from assistant.daemon.process import logs, server

    logs.configure(
        paths.log_file(),
        level=chosen.daemon.log_level,
        terminal=not detached,
        structured=chosen.daemon.log_format == "json",
        journal="JOURNAL_STREAM" in os.environ,
    )
    try:
        server.run(chosen, problems, engine_for(chosen), read=read, take_over=take_over)
    except AlreadyRunningError:
        # Several clients started one at once; the one that got the lock serves them all.
        if not detached:
            raise


def _start_planning(chosen: settings.Settings) -> None:
    """Start the processes that the first plan needs: they import while this one does."""
    if chosen.remote.url or running_pid() is not None:
        return
    from assistant.memory import devices
    from assistant.memory.planning import dry_run

    devices.name_backends(chosen.engine.backend_libraries)
    devices.ask_ahead()
    dry_run.start_ahead()


def stop(
    force: Annotated[
        bool, typer.Option("--force", help="Kill it if it does not end by itself.")
    ] = False,
) -> None:
    """End the daemon. Requests in progress get an error."""
    pid = running_pid()
    if pid is None:
        say("No daemon is running.")
        return
    try:
        asyncio.run(_request_stop())
    except DaemonError:
        # It holds the lock but does not answer: starting, or hung.
        _signal(pid, signal.SIGTERM)
    if _ended(_STOP_LIMIT_S):
        say("The daemon has ended.")
        return
    if force:
        _signal(pid, signal.SIGKILL)
        if _ended(_STOP_LIMIT_S):
            say("The daemon was killed.")
            return
    raise DaemonError(
        f"the daemon has not ended within {_STOP_LIMIT_S:.0f} s",
        subject=f"process {pid}",
        advice="" if force else "Run: underkeel stop --force",
    )


async def _request_stop() -> None:
    from assistant.client.client import DaemonClient

    async with DaemonClient(autostart=False) as client:
        await client.stop()


def _ended(limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while running_pid() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise DaemonError("the daemon is another user's", subject=f"process {pid}") from error


def restart() -> None:
    """Restart the daemon, after an upgrade or for settings that need it. No request is lost.

    The new daemon takes the sockets over; the old one finishes its answers.
    """
    asyncio.run(_restart())


async def _restart() -> None:
    from assistant import service
    from assistant.client.client import DaemonClient

    async with DaemonClient() as client:
        before = await _status(client)
        if before is None:
            await client.wait_ready()
            say("No daemon was running; one is now.")
            return
        starter = DaemonStarter()
        if before.supervisor:
            await asyncio.to_thread(service.restart)
        else:
            starter.start(take_over=True)
        after = await _successor(client, starter, before.pid)
        starter.forget()
        say(
            f"Process {after.pid} (version {after.version}) has taken over from process "
            f"{before.pid} (version {before.version})."
        )
        if after.version != __version__:
            say(f"This command has version {__version__}. Is it from another environment?")
        await client.wait_ready()
        say("The model is loaded.")


async def _successor(client: DaemonClient, starter: DaemonStarter, old_pid: int) -> Status:
    deadline = time.monotonic() + _TAKEOVER_LIMIT_S
    while time.monotonic() < deadline:
        starter.check()
        status = await _status(client)
        if status is not None and status.pid != old_pid:
            return status
        await asyncio.sleep(2 * _POLL_S)
    raise DaemonError(
        f"no new daemon has answered within {_TAKEOVER_LIMIT_S:.0f} s",
        advice="Run: underkeel logs",
    )


async def _status(client: DaemonClient) -> Status | None:
    try:
        return await client.status()
    except DaemonError:
        return None


def reload(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read the settings again, and show what took effect and what waits.

    The daemon does so by itself when the file changes; `underkeel status` shows what waits.
    """
    found = asyncio.run(_request_reload())
    if as_json:
        print_json(found)
    else:
        say(*report(found))


def report(found: SettingsNow) -> Iterator[str]:
    """The changes of the settings, line by line."""
    from assistant.daemon.process.settings_changes import advice

    yield found.path or "this daemon reads no settings file"
    for problem in found.problems:
        yield f"  problem: {problem}"
    for line in advice(found.changes):
        yield f"  {line}"
    if not found.changes:
        yield "  no changes since the last reading"
    earlier = [change for change in found.pending if change not in found.changes]
    if earlier:
        yield "  changed earlier, and waiting:"
        for line in advice(tuple(earlier)):
            yield f"  {line}"


async def _request_reload() -> SettingsNow:
    from assistant.client.client import DaemonClient

    async with DaemonClient(autostart=False) as client:
        return await client.reload()


_NOT_INSTALLED = 3


@_service.command("install")
def _service_install(
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
    from assistant import service

    paths.runtime_dir()
    if running_pid() is not None and not service.status().running:
        stop()  # it holds the socket that the system needs
    for path in service.install(at_login=at_login):
        say(f"Wrote {path}")
    if linger:
        service.linger(on=True)
    now = service.status()
    say("The daemon starts with your session." if at_login else _ON_DEMAND)
    if now.lingers is False:
        say(_ENDS)
    elif now.lingers:
        say("It continues after you log out (loginctl disable-linger ends that).")


@_service.command("uninstall")
def _service_uninstall() -> None:
    """Remove the service. Models, settings and logs stay; editors still start the daemon."""
    from assistant import service

    removed = service.uninstall()
    for path in removed:
        say(f"Removed {path}")
    if not removed:
        say("No service is installed.")


@_service.command("status")
def _service_status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the state of the service. Exits with 3 if none is installed."""
    from assistant import service

    now = service.status()
    if as_json:
        print_json(now)
    else:
        for line in service_lines(now):
            say(line)
    raise typer.Exit(0 if now.installed else _NOT_INSTALLED)


_ON_DEMAND = "The first request starts the daemon."
_ENDS = "It ends when you log out. To continue: underkeel service install --linger"


def service_lines(now: ServiceNow) -> list[str]:
    """The state of the service in sentences."""
    from assistant.service import Manager

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
