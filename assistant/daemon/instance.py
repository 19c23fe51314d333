"""One daemon a user: the lock that is held for its life, and the private socket."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from assistant import paths
from assistant.errors import AlreadyRunningError, DaemonError

_BACKLOG = 128
# `running_pid` takes the lock for a moment to see whether it is free.
_LOCK_PATIENCE_S = 0.5


@contextmanager
def claim() -> Iterator[socket.socket]:
    """Be the one daemon: hold the lock, and listen on the socket, until the block ends.

    Raises:
        AlreadyRunningError: another daemon is.
        DaemonError: the socket's folder cannot be trusted, or the socket cannot be made.
    """
    folder = paths.runtime_dir()
    lock = filelock.FileLock(folder / "daemon.lock", mode=0o600)
    pid_file = folder / "daemon.pid"
    try:
        lock.acquire(timeout=_LOCK_PATIENCE_S, poll_interval=0.02)
    except filelock.Timeout as error:
        raise AlreadyRunningError(
            f"a daemon is running already{_whose(pid_file)}",
            advice="Look at it with: underkeel status; end it with: underkeel stop",
        ) from error
    except OSError as error:
        raise DaemonError(
            f"the lock cannot be taken ({error.strerror})",
            subject=str(folder / "daemon.lock"),
            advice="Set UNDERKEEL_HOME to a folder on a local disk that you own",
        ) from error
    path = paths.socket_path()
    try:
        pid_file.write_text(f"{os.getpid()}\n", encoding="utf-8")
        with _listen(path) as listener:
            try:
                yield listener
            finally:
                with suppress(OSError):
                    path.unlink()
    finally:
        with suppress(OSError):
            pid_file.unlink()
        lock.release()


def running_pid() -> int | None:
    """The process that says it is the daemon; None where no lock is held."""
    folder = paths.runtime_dir()
    lock = filelock.FileLock(folder / "daemon.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return _pid(folder / "daemon.pid")
    lock.release()
    return None


def _listen(path: Path) -> socket.socket:
    """Listen on `path`, mode 0600. Only the holder of the lock may call this.

    So a socket that is already there is stale: its daemon is dead.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise DaemonError(
                    "something that is not a socket lies where the socket belongs",
                    subject=str(path),
                    advice="Move it away",
                )
            path.unlink()
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise DaemonError(
            f"the socket cannot be made ({error.strerror})",
            subject=str(path),
            advice="Set UNDERKEEL_HOME to a folder on a local disk that you own",
        ) from error
    except DaemonError:
        listener.close()
        raise
    return listener


def _pid(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _whose(pid_file: Path) -> str:
    pid = _pid(pid_file)
    return f", process {pid}" if pid else ""
