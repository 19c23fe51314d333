"""The files for the service manager, from templates. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import resources
from pathlib import Path
from xml.sax.saxutils import escape

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
