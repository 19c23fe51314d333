"""One daemon for each user: the lock that it holds until it ends, and its private sockets."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from assistant import paths
from assistant.daemon.process import handover
from assistant.daemon.process.handover import Lock, Predecessor
from assistant.engine.types import ModelInfo
from assistant.errors import AlreadyRunningError, DaemonError

_BACKLOG = 128
# `running_pid` takes the lock for a moment to see whether it is free.
_LOCK_PATIENCE_S = 0.5
# A service manager may start us while the daemon that it stopped is still ending.
_LEAVING_PATIENCE_S = 30.0


@dataclass
class Claim:
    """The lock and the sockets of the one daemon.

    Attributes:
        lock: held until we end.
        listeners: the sockets to accept on.
        token: what a request over TCP must send; empty if no listener is TCP.
        predecessor: the daemon that we took over from; None if there was none.
        served: the model that clients were served until a moment ago; None if there was none.
        activated: the service manager owns the sockets: they outlive us.
        ours: whether we remove the files in the folder; not before we replace a predecessor, and
            not after a successor has replaced us.
    """

    lock: Lock
    listeners: list[socket.socket]
    token: str = ""
    predecessor: Predecessor | None = None
    served: ModelInfo | None = None
    activated: bool = False
    ours: bool = False

    def serving(self) -> None:
        """We accept connections: the files are ours, and a predecessor may end."""
        if not self.ours:
            _write_pid()
            self.ours = True
        if self.predecessor:
            self.predecessor.serving()

    def give(self) -> None:
        """A successor has replaced us."""
        self.ours = False


@contextmanager
def claim(
    *, activated: Sequence[int] = (), tcp_port: int = 0, take_over: bool = False
) -> Iterator[Claim]:
    """Become the one daemon: hold the lock and listen until the block ends.

    Args:
        activated: listening sockets that a service manager has opened for us.
        tcp_port: listen on this loopback port too; 0 for Unix sockets only, where there are any.
        take_over: replace a running daemon and take its sockets; it ends.

    Raises:
        AlreadyRunningError: another daemon is.
        DaemonError: the socket's folder cannot be trusted, or a socket cannot be created.
    """
    folder = paths.runtime_dir()
    path = paths.socket_path() if paths.has_unix_sockets() else None
    predecessor = handover.take_over() if take_over else None
    lock = predecessor.lock if predecessor else _lock(folder, patient=bool(activated))
    claimed = Claim(lock, [], predecessor=predecessor, activated=bool(activated))
    if predecessor is None:
        # Of a daemon that was killed. From now on the lock says that a daemon lives, and what
        # listens at that address need not be one (case T12).
        with suppress(OSError):
            paths.tcp_file().unlink()
    try:
        if predecessor:
            claimed.listeners = predecessor.listeners
            claimed.token, claimed.served = predecessor.offer.token, predecessor.offer.model
        else:
            _write_pid()
            claimed.ours = True
            _listen(claimed, path, activated, tcp_port)
        yield claimed
    finally:
        for listener in claimed.listeners:
            listener.close()
        if predecessor:
            predecessor.close()
        if claimed.ours:
            _clean(claimed, path)
        lock.release()


def running_pid() -> int | None:
    """The process id of the daemon; None if none is running.

    Never that of another process: a daemon that was killed leaves its id behind, which the system
    gives to others, and somebody who looks for a daemon holds the lock for a moment.
    """
    folder = paths.runtime_dir()
    lock = Lock.take(paths.lock_file())
    if lock is None:
        return _pid(folder / "daemon.pid")
    lock.release()
    return None


def _lock(folder: Path, *, patient: bool) -> Lock:
    patience_s = _LEAVING_PATIENCE_S if patient else _LOCK_PATIENCE_S
    try:
        lock = Lock.take(paths.lock_file(), patience_s)
    except OSError as error:
        raise DaemonError(
            f"the lock cannot be taken ({error.strerror})",
            subject=str(paths.lock_file()),
            advice="Set UNDERKEEL_HOME to a folder on a local disk that you own",
        ) from error
    if lock is None:
        raise AlreadyRunningError(
            f"a daemon is running already{_whose(folder / 'daemon.pid')}",
            advice="Show it: underkeel status. Stop it: underkeel stop. "
            "Replace it with a new one: underkeel restart",
        )
    return lock


def _listen(claimed: Claim, path: Path | None, activated: Sequence[int], tcp_port: int) -> None:
    if activated:
        claimed.listeners = [_adopt(fd) for fd in activated]
        claimed.served = handover.take_served_record()
    elif path is not None:
        claimed.listeners = [_listen_unix(path)]
    if tcp_port or not claimed.listeners:
        listener = _listen_tcp(tcp_port)
        claimed.listeners.append(listener)
        claimed.token = paths.kept_token()
        paths.write_tcp(listener.getsockname()[1], claimed.token)


def _write_pid() -> None:
    pid = os.getpid()
    (paths.runtime_dir() / "daemon.pid").write_text(f"{pid} {_began(pid)}\n", encoding="utf-8")


def _clean(claimed: Claim, path: Path | None) -> None:
    leftovers = [paths.runtime_dir() / "daemon.pid", handover.path()]
    if path is not None and claimed.listeners and not claimed.activated:
        leftovers.append(path)
    if claimed.token:
        leftovers.append(paths.tcp_file())
    for leftover in leftovers:
        with suppress(OSError):
            leftover.unlink()


def _adopt(fd: int) -> socket.socket:
    listener = socket.socket(fileno=fd)
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise DaemonError(
            "the service manager passed a socket that does not listen",
            subject=str(listener.getsockname()),
            advice="Run: underkeel service install",
        )
    if listener.family != socket.AF_UNIX:
        raise DaemonError(
            "the service manager passed a socket that other users can reach",
            subject=str(listener.getsockname()),
            advice="Run: underkeel service install, which creates a private one",
        )
    listener.setblocking(False)
    return listener


def listen_private(path: Path) -> socket.socket:
    """Listen on `path`, mode 0600. Only the holder of the lock may call this.

    So a socket that exists already is stale: its daemon has died, or was replaced by us.

    Raises:
        OSError: it cannot be created. DaemonError: another file is in its place.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise DaemonError(
                "this file is not a socket",
                subject=str(path),
                advice="Move the file away",
            )
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_unix(path: Path) -> socket.socket:
    if _answers(path):
        # We hold the lock, so it is no daemon.
        raise AlreadyRunningError(
            "the service manager holds the socket",
            subject=str(path),
            advice="Let it start the daemon: underkeel restart; "
            "or remove the service: underkeel service uninstall",
        )
    try:
        return listen_private(path)
    except OSError as error:
        raise DaemonError(
            f"the socket cannot be created ({error.strerror})",
            subject=str(path),
            advice="Set UNDERKEEL_HOME to a folder on a local disk that you own",
        ) from error


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
        return True


def _listen_tcp(port: int) -> socket.socket:
    """Listen on the loopback interface only; 0 takes any free port."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let another program take our port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((paths.LOOPBACK, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise DaemonError(
            f"cannot listen on this port ({error.strerror})",
            subject=f"{paths.LOOPBACK}:{port}",
            advice="Set daemon.tcp_port to another one",
        ) from error
    return listener


def _pid(pid_file: Path) -> int | None:
    try:
        pid, _, began = pid_file.read_text(encoding="utf-8").strip().partition(" ")
        return int(pid) if began == _began(int(pid)) else None
    except (OSError, ValueError):
        return None


def _began(pid: int) -> str:
    """When a process began, in the system's own count: another one of the same id began later.

    Empty where there is no such process, or the system does not tell.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return stat.rpartition(")")[2].split()[19]  # proc(5): starttime, the 22nd field
    except (OSError, IndexError):
        return ""


def _whose(pid_file: Path) -> str:
    pid = _pid(pid_file)
    return f", process {pid}" if pid else ""
