"""What is written for service managers, whatever stands in the paths."""

from __future__ import annotations

import plistlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from assistant import service as service_manager
from assistant.errors import ServiceError
from assistant.service import LABEL, SERVICE, SOCKET, Manager, ServiceNow, Wanted

NASTY = "/opt/my models/100%/a$b/c\"d\\e&<f>'g"
WANTED = Wanted(
    command=(f"{NASTY}/python", "-m", "assistant", "serve", "--detached"),
    socket=Path("/run/user/1000/underkeel/daemon.sock"),
    environment={"UNDERKEEL_HOME": NASTY, "A": "b"},
)


def lines(text: str) -> dict[str, list[str]]:
    """The settings of a unit, by name."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def undone(text: str) -> str:
    """As systemd reads a quoted word, per systemd.syntax(7)."""
    (word,) = shlex.split(text)
    return word.replace("%%", "%").replace("$$", "$")


def test_the_service_is_notified_activated_restarted_and_hardened() -> None:
    files = service_manager.systemd_files(WANTED, Path("/u"))
    assert set(files.contents) == {Path("/u") / SERVICE, Path("/u") / SOCKET}
    service = lines(files.contents[Path("/u") / SERVICE])
    assert service["Type"] == ["notify"] and service["Restart"] == ["on-failure"]
    assert service["Requires"] == ["underkeel.socket"]
    assert service["KillMode"] == ["mixed"] and service["OOMPolicy"] == ["continue"]
    for name in ("NoNewPrivileges", "LockPersonality", "RestrictNamespaces", "RestrictSUIDSGID"):
        assert service[name] == ["yes"]
    # These would take the GPU away, or the models.
    forbidden = ("MemoryDenyWriteExecute", "PrivateDevices", "DevicePolicy", "ProtectHome")
    assert not set(forbidden) & set(service)
    socket = lines(files.contents[Path("/u") / SOCKET])
    assert socket["SocketMode"] == ["0600"] and socket["DirectoryMode"] == ["0700"]
    assert socket["ListenStream"] == [str(WANTED.socket)]
    assert not re.search(r"@\w+@", "".join(files.contents.values()))


def test_whatever_is_in_a_path_survives_systemds_quoting() -> None:
    service = lines(
        service_manager.systemd_files(WANTED, Path("/u")).contents[Path("/u") / SERVICE]
    )
    (command,) = service["ExecStart"]
    program = command[: command.index(" -m assistant")]
    assert undone(program) == f"{NASTY}/python"
    home = next(value for value in service["Environment"] if "HOME" in value)
    assert shlex.split(home)[0].replace("%%", "%") == f"UNDERKEEL_HOME={NASTY}"


def test_at_login_or_on_demand() -> None:
    on_demand = [
        " ".join(command) for command in service_manager.systemd_files(WANTED, Path("/u")).after
    ]
    assert on_demand == [
        "systemctl --user daemon-reload",
        "systemctl --user enable --now underkeel.socket",
        "systemctl --user disable underkeel.service",
    ]
    at_login = Wanted(WANTED.command, WANTED.socket, at_login=True)
    commands = [
        " ".join(command) for command in service_manager.systemd_files(at_login, Path("/u")).after
    ]
    assert "systemctl --user enable underkeel.service" in commands


def test_the_agent_of_launchd_is_a_property_list() -> None:
    files = service_manager.launchd_files(WANTED, Path("/a"), 501)
    (text,) = files.contents.values()
    agent = plistlib.loads(text.encode())
    assert agent["Label"] == LABEL
    assert agent["ProgramArguments"] == list(WANTED.command)
    assert agent["EnvironmentVariables"] == WANTED.environment
    listener = agent["Sockets"]["Listener"]
    assert listener == {"SockPathName": str(WANTED.socket), "SockPathMode": 0o600}
    assert agent["KeepAlive"] == {"SuccessfulExit": False} and agent["RunAtLoad"] is False
    assert agent["Umask"] == 0o077
    assert files.after == [("launchctl", "bootstrap", "gui/501", f"/a/{LABEL}.plist")]
    at_login = service_manager.launchd_files(Wanted((), Path(), at_login=True), Path("/a"), 501)
    assert plistlib.loads(next(iter(at_login.contents.values())).encode())["RunAtLoad"] is True


@pytest.mark.parametrize(
    ("platform", "has_systemctl", "found"),
    [
        ("linux", True, Manager.SYSTEMD),
        ("linux", False, Manager.NONE),
        ("darwin", False, Manager.LAUNCHD),
        ("win32", False, Manager.NONE),
    ],
)
def test_who_is_in_charge(platform: str, has_systemctl: bool, found: Manager) -> None:
    assert service_manager.manager_of(platform, has_systemctl=has_systemctl) is found


def test_the_service_runs_this_very_program(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = service_manager.wanted(at_login=False)
    assert wanted.command[0] == sys.executable
    assert wanted.environment["UNDERKEEL_HOME"] == str(home)
    assert wanted.environment["PYTHONSAFEPATH"] == "1"
    assert wanted.socket == home / "run" / "daemon.sock"


class Commands:
    """Programs that a test puts on PATH: each notes its arguments, and fails if told to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.log = folder, folder / "log"
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        monkeypatch.setenv("HOME", str(folder))
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    def add(self, name: str, code: int = 0, says: str = "") -> None:
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.log}\n{says}\nexit {code}\n')
        program.chmod(0o755)

    def called(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    folder = tmp_path / "bin"
    folder.mkdir()
    return Commands(folder, monkeypatch)


def test_macos_as_far_as_it_can_be_tried_here(
    home: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    commands.add("launchctl", says='[ "$1" = print ] && echo "state = running" || true')
    (path,) = service_manager.install(at_login=True)
    assert path == commands.folder / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    assert [line.split()[1] for line in commands.called()] == ["bootout", "bootstrap"]
    now = service_manager.status()
    assert now.manager is Manager.LAUNCHD and now.installed and now.running
    service_manager.restart()
    assert commands.called()[-1].startswith("launchctl kill SIGTERM gui/")
    assert service_manager.uninstall() == [path] and not path.exists()


def test_a_manager_that_refuses_is_quoted(home: Path, commands: Commands) -> None:
    commands.add("systemctl", code=1, says='echo "no  bus\nhere" >&2')
    with pytest.raises(ServiceError, match="refuses: no bus here"):
        service_manager.install(at_login=False)
    with pytest.raises(ServiceError):
        service_manager.restart()
    service_manager.uninstall()  # what is not there any more is no reason to fail
    now = service_manager.status()
    assert not now.installed and now.manager is Manager.SYSTEMD


def test_nobody_in_charge(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert service_manager.status() == ServiceNow(Manager.NONE, installed=False)
    uses: list[Callable[[], object]] = [
        lambda: service_manager.install(at_login=False),
        service_manager.uninstall,
    ]
    for use in uses:
        with pytest.raises(ServiceError, match="None is needed"):
            use()
