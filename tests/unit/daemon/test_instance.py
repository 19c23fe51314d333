"""One daemon a user: the lock, the socket, and what may lie in their place."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from assistant import paths
from assistant.daemon.process import instance
from assistant.errors import AlreadyRunningError, DaemonError


def test_socket_is_private_and_gone_afterwards(home: Path) -> None:
    with instance.claim():
        path = paths.socket_path()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert instance.running_pid() == os.getpid()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()
    assert instance.running_pid() is None


def test_second_daemon_is_reported_of_the_first(home: Path) -> None:
    with instance.claim():
        with pytest.raises(AlreadyRunningError, match=f"process {os.getpid()}"), instance.claim():
            pass
        assert paths.socket_path().exists()
    with instance.claim():
        pass


def test_stale_socket_of_a_killed_daemon_is_replaced(home: Path) -> None:
    code = (
        "import os, signal\n"
        "from assistant.daemon.process import instance\n"
        "with instance.claim():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert paths.socket_path().exists()
    assert instance.running_pid() is None
    with instance.claim(), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(paths.socket_path()))


def test_something_else_in_the_sockets_place_is_kept(home: Path) -> None:
    paths.socket_path().write_text("precious")
    with pytest.raises(DaemonError, match="not a socket"), instance.claim():
        pass
    assert paths.socket_path().read_text() == "precious"
    assert instance.running_pid() is None


def test_folder_that_others_may_enter_is_refused(home: Path) -> None:
    folder = home / "run"
    folder.mkdir(mode=0o755)
    with pytest.raises(DaemonError, match="chmod 700"), instance.claim():
        pass


def test_folder_of_somebody_else_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.runtime_dir()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(DaemonError, match="belongs to user"), instance.claim():
        pass


def test_too_long_a_path_is_refused_and_the_lock_released(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERKEEL_HOME", str(home / ("x" * 100)))
    for _ in range(2):
        with pytest.raises(DaemonError, match="too long"), instance.claim():
            pass
