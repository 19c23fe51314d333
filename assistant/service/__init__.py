"""The daemon as a service of the user: its files for systemd and launchd, and how it is enabled.

The files are made from templates by pure functions; only this module runs the managers' commands.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import resources
from pathlib import Path
from xml.sax.saxutils import escape

import assistant
from assistant import paths
from assistant.errors import ServiceError

SERVICE = "underkeel.service"
SOCKET = "underkeel.socket"
LABEL = "org.underkeel.daemon"

_PLACE = re.compile(r"@(\w+)@")


class Manager(StrEnum):
    """Service managers of a user."""

    SYSTEMD = "systemd"
    LAUNCHD = "launchd"
    NONE = "none"


@dataclass(frozen=True)
class Wanted:
    """The service to install.

    Attributes:
        command: the daemon's program and arguments.
        socket: where it listens.
        environment: variables of ours that it needs.
        at_login: start it with the session, and not with the first request.
        errors: where launchd writes its output before the log is open.
    """

    command: Sequence[str]
    socket: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    at_login: bool = False
    errors: Path = Path("/dev/null")


@dataclass(frozen=True)
class Files:
    """Files to write, by path, and commands to run around that, in order.

    Attributes:
        before: may fail, since what they undo may not exist.
        after: must not fail.
    """

    contents: Mapping[Path, str]
    before: Sequence[Sequence[str]] = ()
    after: Sequence[Sequence[str]] = ()


def manager_of(platform: str, *, has_systemctl: bool) -> Manager:
    """The manager of a platform, as `sys.platform` names it."""
    if platform == "darwin":
        return Manager.LAUNCHD
    return Manager.SYSTEMD if platform.startswith("linux") and has_systemctl else Manager.NONE


def systemd_files(wanted: Wanted, folder: Path) -> Files:
    """The two units in `folder`, and the commands that enable them."""
    values = {
        "command": " ".join(_word(part).replace("$", "$$") for part in wanted.command),
        "socket": _specifiers(str(wanted.socket)),
        "environment": "\n".join(
            f"Environment={_word(f'{name}={value}')}"
            for name, value in sorted(wanted.environment.items())
        ),
    }
    contents = {folder / name: _filled(name, values) for name in (SOCKET, SERVICE)}
    ctl = ("systemctl", "--user")
    return Files(
        contents,
        before=[],
        after=[
            (*ctl, "daemon-reload"),
            (*ctl, "enable", "--now", SOCKET),
            (*ctl, "enable" if wanted.at_login else "disable", SERVICE),
            *([(*ctl, "start", "--no-block", SERVICE)] if wanted.at_login else []),
        ],
    )


def systemd_removal(folder: Path) -> Files:
    """The commands that disable both units; the files are then to be deleted."""
    ctl = ("systemctl", "--user")
    return Files(
        {folder / SOCKET: "", folder / SERVICE: ""},
        before=[(*ctl, "disable", "--now", SOCKET, SERVICE)],
        after=[(*ctl, "daemon-reload")],
    )


def launchd_files(wanted: Wanted, folder: Path, uid: int) -> Files:
    """The agent in `folder`, and the commands that load it."""
    path = folder / f"{LABEL}.plist"
    strings = "".join(f"<string>{escape(part)}</string>" for part in wanted.command)
    pairs = "".join(
        f"<key>{escape(name)}</key><string>{escape(value)}</string>"
        for name, value in sorted(wanted.environment.items())
    )
    values = {
        "command": f"<array>{strings}</array>",
        "environment": f"<dict>{pairs}</dict>",
        "socket": escape(str(wanted.socket)),
        "at_login": "<true/>" if wanted.at_login else "<false/>",
        "errors": escape(str(wanted.errors)),
    }
    return Files(
        {path: _filled(path.name, values)},
        before=[("launchctl", "bootout", f"gui/{uid}/{LABEL}")],
        after=[("launchctl", "bootstrap", f"gui/{uid}", str(path))],
    )


def launchd_removal(folder: Path, uid: int) -> Files:
    path = folder / f"{LABEL}.plist"
    return Files({path: ""}, before=[("launchctl", "bootout", f"gui/{uid}/{LABEL}")])


def _filled(name: str, values: Mapping[str, str]) -> str:
    folder = resources.files("assistant.service").joinpath("templates")
    text = folder.joinpath(name).read_text("utf-8")
    filled = _PLACE.sub(lambda match: values.get(match[1], match[0]), text)
    return re.sub(r"\n\n\n+", "\n\n", filled)


def _word(text: str) -> str:
    """A word of a unit's line, quoted by systemd.syntax(7), "Quoting"."""
    plain = re.fullmatch(r"[\w@+=:,./-]+", text, re.ASCII)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    escaped = _specifiers(escaped)
    return escaped if plain else f'"{escaped}"'


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


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
    return manager_of(sys.platform, has_systemctl=shutil.which("systemctl") is not None)


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
        files = systemd_files(service, _systemd_folder())
    elif manager() is Manager.LAUNCHD:
        service.errors.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = launchd_files(service, _launchd_folder(), os.getuid())
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
        return systemd_removal(_systemd_folder())
    if kind is Manager.LAUNCHD:
        return launchd_removal(_launchd_folder(), os.getuid())
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
