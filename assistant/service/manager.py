"""Installs, removes and queries the service. The only module that runs the manager's commands."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import assistant
from assistant import paths
from assistant.errors import ServiceError
from assistant.service import units
from assistant.service.units import LABEL, SERVICE, SOCKET, Files, Manager, Wanted

_LIMIT_S = 180.0  # stopping waits for the answers that are being written
_ASKED = ("ActiveState", "SubState", "UnitFileState", "MainPID", "NRestarts", "StatusText")


@dataclass(frozen=True)
class ServiceNow:
    """The state of the service.

    Attributes:
        manager: the service manager; NONE if there is none.
        installed: its files exist.
        listening: the manager holds the socket; running: the daemon runs.
        at_login: it starts with the session.
        lingers: it continues after logout; None if unknown.
        detail: the state in the words of the manager.
    """

    manager: Manager
    installed: bool
    listening: bool = False
    running: bool = False
    at_login: bool = False
    lingers: bool | None = None
    detail: str = ""


def manager() -> Manager:
    return units.manager_of(sys.platform, has_systemctl=shutil.which("systemctl") is not None)


def wanted(*, at_login: bool) -> Wanted:
    """The service for this installation, with its Python and folders."""
    environment = {"PYTHONSAFEPATH": "1"}
    ours = Path(assistant.__file__).resolve().parents[1]
    if not any("site-packages" in part for part in ours.parts):
        environment["PYTHONPATH"] = str(ours)
    for name in ("UNDERKEEL_HOME", "UNDERKEEL_MODELS", "UNDERKEEL_GGML_BACKENDS"):
        if value := os.environ.get(name):
            environment[name] = value
    return Wanted(
        command=(sys.executable, "-m", "assistant", "serve", "--detached"),
        socket=paths.socket_path(),
        environment=environment,
        at_login=at_login,
        errors=paths.state_dir() / "service.err",
    )


def install(*, at_login: bool) -> list[Path]:
    """Write the files and enable the service; an earlier installation is replaced.

    Returns:
        The files.

    Raises:
        ServiceError: there is no manager, or it refuses.
    """
    service = wanted(at_login=at_login)
    if manager() is Manager.SYSTEMD:
        files = units.systemd_files(service, _systemd_folder())
    elif manager() is Manager.LAUNCHD:
        service.errors.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = units.launchd_files(service, _launchd_folder(), os.getuid())
    else:
        raise _nobody()
    _run_all(files.before, strict=False)
    for path, text in files.contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ServiceError(
                f"the file cannot be written ({error.strerror})",
                subject=str(path),
                advice="Fix that, then run: underkeel service install",
            ) from error
    _run_all(files.after, strict=True)
    return list(files.contents)


def installed_files() -> list[Path]:
    """The service's files that exist; none where there is no service manager."""
    if manager() is Manager.NONE:
        return []
    return [path for path in _removal().contents if path.exists()]


def uninstall() -> list[Path]:
    """Disable the service and remove its files; models and settings stay.

    Returns:
        The files that were removed.
    """
    files = _removal()
    _run_all(files.before, strict=False)
    removed = [path for path in files.contents if path.exists()]
    for path in removed:
        path.unlink()
    _run_all(files.after, strict=False)
    return removed


def status() -> ServiceNow:
    kind = manager()
    if kind is Manager.SYSTEMD:
        return _systemd_status()
    if kind is Manager.LAUNCHD:
        said = _ask("launchctl", "print", f"gui/{os.getuid()}/{LABEL}")
        installed = (_launchd_folder() / f"{LABEL}.plist").exists()
        running = "state = running" in said
        return ServiceNow(kind, installed, bool(said), running, detail=_launchd_detail(said))
    return ServiceNow(kind, installed=False)


def restart() -> None:
    """Restart the daemon after its last answer. No request is lost.

    Raises:
        ServiceError: the manager refuses.
    """
    if manager() is Manager.LAUNCHD:
        command = ["launchctl", "kill", "SIGTERM", f"gui/{os.getuid()}/{LABEL}"]
    else:
        command = ["systemctl", "--user", "restart", SERVICE]
    _run_all([command], strict=True)


def linger(*, on: bool) -> None:
    """Let the user's services continue after logout, or end with it.

    Raises:
        ServiceError: the administrator does not allow it.
    """
    _run_all([["loginctl", "enable-linger" if on else "disable-linger"]], strict=True)


def _systemd_status() -> ServiceNow:
    folder = _systemd_folder()
    installed = (folder / SERVICE).exists() and (folder / SOCKET).exists()
    if not installed:
        return ServiceNow(Manager.SYSTEMD, installed=False, lingers=_lingers())
    service, socket = _properties(SERVICE), _properties(SOCKET)
    detail = f"{service.get('ActiveState', 'unknown')} ({service.get('SubState', '')})"
    if said := service.get("StatusText"):
        detail += f", {said}"
    if (restarts := service.get("NRestarts", "0")) not in {"0", ""}:
        detail += f", restarted {restarts} times"
    return ServiceNow(
        Manager.SYSTEMD,
        installed=True,
        listening=socket.get("ActiveState") == "active",
        running=service.get("ActiveState") in {"active", "reloading"},
        at_login=service.get("UnitFileState") == "enabled",
        lingers=_lingers(),
        detail=detail,
    )


def _properties(unit: str) -> dict[str, str]:
    options = [f"--property={name}" for name in _ASKED]
    said = _ask("systemctl", "--user", "show", unit, *options)
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def _lingers() -> bool | None:
    said = _ask("loginctl", "show-user", getpass.getuser(), "--property=Linger")
    return said.strip() == "Linger=yes" if "Linger=" in said else None


def _launchd_detail(said: str) -> str:
    wanted_lines = ("state = ", "runs = ", "last exit code = ")
    return ", ".join(
        line.strip() for line in said.splitlines() if line.strip().startswith(wanted_lines)
    )


def _removal() -> Files:
    kind = manager()
    if kind is Manager.SYSTEMD:
        return units.systemd_removal(_systemd_folder())
    if kind is Manager.LAUNCHD:
        return units.launchd_removal(_launchd_folder(), os.getuid())
    raise _nobody()


def _systemd_folder() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "systemd" / "user"


def _launchd_folder() -> Path:
    return Path("~/Library/LaunchAgents").expanduser()


def _ask(*command: str) -> str:
    """The output of the command; empty if it fails."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _run_all(commands: Sequence[Sequence[str]], *, strict: bool) -> None:
    for command in commands:
        try:
            done = subprocess.run(
                list(command), capture_output=True, text=True, timeout=_LIMIT_S, check=False
            )
            failure = done.stderr.strip() if done.returncode else ""
            failed = bool(done.returncode)
        except (OSError, subprocess.TimeoutExpired) as error:
            failed, failure = True, str(error)
        if failed and strict:
            said = " ".join(failure.split()) or "no reason given"
            raise ServiceError(
                f"the service manager refuses: {said}",
                subject=" ".join(command),
                advice="Run it by hand to see more; without a service, clients start the daemon",
            )


def _nobody() -> ServiceError:
    return ServiceError(
        "there is no supported service manager for users here",
        advice="None is needed: editors and commands start the daemon",
    )
