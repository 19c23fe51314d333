"""The protocols of systemd, driven for real: datagrams out, inherited sockets in."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from assistant.daemon.process import instance
from assistant.daemon.process.server import Notifier, systemd_fds
from assistant.errors import DaemonError


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.settimeout(5)
    return listener


def test_what_the_manager_is_reported(manager: socket.socket, tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert notifier.listened and notifier.watchdog_s == 0
    notifier.ready()
    assert manager.recv(999) == f"READY=1\nMAINPID={os.getpid()}".encode()
    notifier.status("loading:\nhalf  done")
    assert manager.recv(999) == b"STATUS=loading: half done"
    notifier.reloading()
    kind, since = manager.recv(999).split(b"\n")
    assert kind == b"RELOADING=1" and int(since.removeprefix(b"MONOTONIC_USEC=")) > 0
    notifier.alive()
    notifier.stopping()
    assert (manager.recv(999), manager.recv(999)) == (b"WATCHDOG=1", b"STOPPING=1")


def test_an_abstract_socket(tmp_path: Path) -> None:
    name = f"underkeel-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        Notifier({"NOTIFY_SOCKET": "@" + name}).stopping()
        assert listener.recv(99) == b"STOPPING=1"


def test_nobody_listens_or_nobody_is_left(tmp_path: Path) -> None:
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


def test_a_manager_that_is_behind_holds_nobody_up(manager: socket.socket, tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    for _ in range(10_000):
        notifier.alive()


def test_the_watchdog_counts_only_if_it_is_ours() -> None:
    ours, others = str(os.getpid()), str(os.getpid() + 1)
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": ours}).watchdog_s == 2.0
    assert Notifier({"WATCHDOG_USEC": "2000000"}).watchdog_s == 2.0
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": others}).watchdog_s == 0
    assert Notifier({"WATCHDOG_USEC": "soon"}).watchdog_s == 0


def test_variables_of_another_process_are_not_ours_and_not_our_childrens() -> None:
    environment = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert systemd_fds(environment) == {}
    assert environment == {}
    assert systemd_fds({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}) == {}
    assert systemd_fds({}) == {}


# What systemd does: descriptor 3 is the socket, the variables name it and us.
ACTIVATE = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = "1"
os.environ["LISTEN_FDNAMES"] = "underkeel"
os.dup2(int(sys.argv[1]), 3)
from assistant.daemon.process import instance
from assistant.daemon.process.server import systemd_fds
fds = systemd_fds()
assert fds == {3: "underkeel"} and not os.get_inheritable(3)
with instance.claim(activated=list(fds)) as claimed:
    assert claimed.activated and [l.fileno() for l in claimed.listeners] == [3]
    print("listening", flush=True)
    claimed.listeners[0].setblocking(True)
    with claimed.listeners[0].accept()[0] as client:
        client.sendall(b"here")
"""


def test_an_inherited_socket_is_used_and_left_behind(home: Path) -> None:
    path = home / "activated.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        os.set_inheritable(listener.fileno(), True)
        # A connection made before anybody runs is kept, as systemd keeps it.
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(path))
            ran = subprocess.run(
                [sys.executable, "-c", ACTIVATE, str(listener.fileno())],
                capture_output=True,
                text=True,
                close_fds=False,
                timeout=60,
            )
            assert (ran.returncode, ran.stdout) == (0, "listening\n"), ran.stderr
            assert client.recv(9) == b"here"
    assert path.exists()
    assert instance.running_pid() is None


def test_what_is_no_private_listening_socket_is_refused(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        fd = os.dup(deaf.fileno())
        with pytest.raises(DaemonError, match="does not listen"), instance.claim(activated=[fd]):
            pass
    with socket.socket(socket.AF_INET) as open_to_all:
        open_to_all.bind(("127.0.0.1", 0))
        open_to_all.listen()
        fd = os.dup(open_to_all.fileno())
        with pytest.raises(DaemonError, match="other users"), instance.claim(activated=[fd]):
            pass
    assert instance.running_pid() is None
