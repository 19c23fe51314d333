"""A real systemd user manager of the test's own, with its own home, for as long as a block lasts.

`systemd --user` runs anywhere with writable control groups, but only where it believes the machine
to be booted with systemd: in a container the folder that says so is made for the while.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_PROGRAM = Path("/lib/systemd/systemd")
_BOOTED = Path("/run/systemd/system")
_START_S = 20.0


def why_not() -> str:
    """Why it cannot run here; empty where it can be tried."""
    if not _PROGRAM.exists() or shutil.which("systemctl") is None:
        return "systemd is not installed"
    if not _BOOTED.exists() and os.getuid() != 0:
        return "this machine was not booted with systemd"
    return ""


@contextlib.contextmanager
def user_manager(home: Path, runtime: Path) -> Iterator[bool]:
    """Run it with `home` and `runtime` as HOME and XDG_RUNTIME_DIR, which the caller has set.

    Yields:
        Whether it came up.
    """
    made = not _BOOTED.exists()
    if made:
        _BOOTED.mkdir(parents=True)
    environment = {**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)}
    process = subprocess.Popen(
        [str(_PROGRAM), "--user", "--log-target=console"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield _came_up(process)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        process.kill()
        process.wait()
        if made:
            with contextlib.suppress(OSError):
                _BOOTED.rmdir()


def _came_up(process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        asked = subprocess.run(
            ["systemctl", "--user", "is-system-running"], capture_output=True, text=True
        )
        if asked.stdout.strip() in {"running", "degraded"}:
            return True
        time.sleep(0.1)
    return False
