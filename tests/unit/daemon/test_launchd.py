"""launchd's way of passing sockets, through a library that stands in for libSystem."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from assistant.daemon.process import server

# As <launch.h> declares it: it allocates the array, and the caller frees it.
STAND_IN = r"""
#include <errno.h>
#include <stdlib.h>
#include <string.h>
int launch_activate_socket(const char *name, int **fds, size_t *count) {
    const char *given = getenv("STAND_IN_FD");
    if (!given) return ESRCH;
    if (strcmp(name, "Listener")) return ENOENT;
    *fds = malloc(sizeof(int));
    (*fds)[0] = atoi(given);
    *count = 1;
    return 0;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the project's own build needs a C compiler"
    folder = tmp_path_factory.mktemp("launchd")
    source = folder / "launch.c"
    source.write_text(STAND_IN)
    target = folder / "liblaunch.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(source)], check=True)
    return str(target)


def test_the_socket_is_passed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.set_inheritable(listener.fileno(), True)
        monkeypatch.setenv("STAND_IN_FD", str(listener.fileno()))
        assert server.launchd_fds(library=library) == [listener.fileno()]
        assert not os.get_inheritable(listener.fileno())
        assert server.launchd_fds("Other", library=library) == []


def test_started_by_hand(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STAND_IN_FD", raising=False)
    assert server.launchd_fds(library=library) == []


def test_where_there_is_no_launchd(tmp_path: Path) -> None:
    assert server.launchd_fds() == []
    assert server.launchd_fds(library=str(tmp_path / "none.so")) == []
