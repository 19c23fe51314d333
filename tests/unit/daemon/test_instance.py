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


def test_the_address_of_a_killed_daemon_is_gone_before_another_lives(home: Path) -> None:
    """T12: while the next one starts, the lock is held and another program may have the port."""
    paths.write_tcp(4711, "secret")
    with instance.claim():
        assert paths.daemon_lives() and paths.find_tcp_address() is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the start of a process is not known")
@pytest.mark.parametrize(
    "left", ["{pid} 17", "{pid}", "{pid} {began}0", "", "x", "-1 5", "9" * 5000]
)
def test_the_id_that_a_killed_daemon_left_names_nobody_else(home: Path, left: str) -> None:
    """T12: the system gives it to another process, which `stop` must not end. The lock is held for
    a moment by every client that looks for a daemon."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (paths.runtime_dir() / "daemon.pid").write_text(
            left.format(pid=other.pid, began=instance._began(other.pid))
        )
        lock = os.open(paths.lock_file(), os.O_RDWR | os.O_CREAT, 0o600)
        assert paths.try_lock(lock)
        assert instance.running_pid() is None
        os.close(lock)
        other.communicate(b"\n")


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
