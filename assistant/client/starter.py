"""Starts a daemon that outlives its client, and tells why one could not start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import assistant
from assistant import paths
from assistant.errors import DaemonError

_PROBE_S = 1.0


class DaemonStarter:
    """One attempt to start the daemon in the background.

    Many clients may try at once: the daemon's own lock lets one of them through, and the others'
    processes end quietly with code 0.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = Path()

    @property
    def started(self) -> bool:
        return self._process is not None

    def start(self, *, take_over: bool = False) -> None:
        """Start it; its log goes to `paths.log_file()`, what it says before that to a file beside.

        Args:
            take_over: put it in the place of one that runs.

        Raises:
            DaemonError: the process cannot be made.
        """
        folder = paths.state_dir()
        self._errors = folder / f"start-{os.getpid()}.err"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "assistant", "serve", "--detached"),
                        *(("--take-over",) if take_over else ()),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    cwd=Path(sys.executable).anchor,
                    env=_environment(),
                    **_apart(sys.platform),
                )
        except OSError as error:
            raise DaemonError(
                f"the daemon cannot be started ({error.strerror})",
                subject=str(error.filename or sys.executable),
                advice="Fix that, or run: underkeel serve",
            ) from error

    def check(self) -> None:
        """Raises DaemonError, with what the process said, if it ended with an error."""
        if self._process is None or not self._process.poll():
            return
        said = self._errors.read_text(encoding="utf-8", errors="replace").strip()
        self.forget()
        raise DaemonError(
            said.splitlines()[-1] if said else "the daemon ended as it started",
            subject="",
            advice="" if said else f"Its log is {paths.log_file()}",
        )

    def forget(self) -> None:
        """The daemon answers: remove what the start left."""
        if self._process is not None:
            self._process.poll()
            self._errors.unlink(missing_ok=True)


def start_if_none_listens() -> DaemonStarter | None:
    """Start a daemon at once if none accepts connections, before a client of it is imported.

    Returns:
        What has started it; None where one listens, or where that cannot be known or done: the
        client finds out and reports why.
    """
    if not hasattr(socket, "AF_UNIX"):
        return None
    starter = DaemonStarter()
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_PROBE_S)
            probe.connect(str(paths.socket_path()))
    except (FileNotFoundError, ConnectionRefusedError):
        with suppress(DaemonError):
            starter.start()
            return starter
    except (OSError, DaemonError):
        pass
    return None


def _apart(platform: str) -> dict[str, Any]:
    """What lets the daemon outlive us and whatever ends us."""
    if platform != "win32":
        return {"start_new_session": True}
    detached_process, new_process_group = 0x00000008, 0x00000200  # winbase.h
    return {"creationflags": detached_process | new_process_group}


def _environment() -> dict[str, str]:
    """Ours, with this very package first: what lies in a working directory is never imported."""
    ours = str(Path(assistant.__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [part for part in known if part and part != ours]
    # Relative to our working directory, which is not the daemon's.
    homes = {
        name: str(Path(os.environ[name]).expanduser().absolute())
        for name in ("UNDERKEEL_HOME", "UNDERKEEL_MODELS")
        if os.environ.get(name)
    }
    imports = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([ours, *others])}
    return os.environ | homes | imports
