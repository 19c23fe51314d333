"""One daemon a user: the lock that is held for its life, and the private sockets."""

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
# A service manager starts us while the one it told to stop may still be leaving.
_LEAVING_PATIENCE_S = 30.0


@dataclass
class Seat:
    """The place of the one daemon.

    Attributes:
        lock: held as long as we are the one.
        listeners: the sockets to accept on.
        token: what a request over TCP must show; empty where no listener is TCP.
        predecessor: whom we took over from, if anybody.
        served: what clients were served until a moment ago; None where that was nothing.
        activated: the service manager owns the sockets: they outlive us.
        ours: what lies in the folder is ours to remove; not before we serve in a predecessor's
            place, and not once a successor serves in ours.
    """

    lock: Lock
    listeners: list[socket.socket]
    token: str = ""
    predecessor: Predecessor | None = None
    served: ModelInfo | None = None
    activated: bool = False
    ours: bool = False

    def serving(self) -> None:
        """We accept connections: the place is ours, and a predecessor may leave."""
        if not self.ours:
            _write_pid()
            self.ours = True
        if self.predecessor:
            self.predecessor.serving()

    def give(self) -> None:
        """A successor serves in our place."""
        self.ours = False


@contextmanager
def claim(
    *, activated: Sequence[int] = (), tcp_port: int = 0, take_over: bool = False
) -> Iterator[Seat]:
    """Be the one daemon: hold the lock, and listen, until the block ends.

    Args:
        activated: listening sockets that a service manager has opened for us.
        tcp_port: listen on this loopback port too; 0 for Unix sockets only, where there are any.
        take_over: if a daemon is running, take its place and its sockets, and it ends.

    Raises:
        AlreadyRunningError: another daemon is.
        DaemonError: the socket's folder cannot be trusted, or a socket cannot be made.
    """
    folder = paths.runtime_dir()
    path = paths.socket_path() if paths.has_unix_sockets() else None
    predecessor = handover.take_over() if take_over else None
    lock = predecessor.lock if predecessor else _lock(folder, patient=bool(activated))
    seat = Seat(lock, [], predecessor=predecessor, activated=bool(activated))
    try:
        if predecessor:
            seat.listeners = predecessor.listeners
            seat.token, seat.served = predecessor.legacy.token, predecessor.legacy.model
        else:
            _write_pid()
            seat.ours = True
            _listen(seat, path, activated, tcp_port)
        yield seat
    finally:
        for listener in seat.listeners:
            listener.close()
        if predecessor:
            predecessor.close()
        if seat.ours:
            _clean(seat, path)
        lock.let_go()


def running_pid() -> int | None:
    """The process that says it is the daemon; None where no lock is held."""
    folder = paths.runtime_dir()
    lock = Lock.take(paths.lock_file())
    if lock is None:
        return _pid(folder / "daemon.pid")
    lock.let_go()
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
            advice="Look at it with: underkeel status; end it with: underkeel stop; "
            "put a new one in its place with: underkeel restart",
        )
    return lock


def _listen(seat: Seat, path: Path | None, activated: Sequence[int], tcp_port: int) -> None:
    if activated:
        seat.listeners = [_adopt(fd) for fd in activated]
        seat.served = handover.find_word()
    elif path is not None:
        seat.listeners = [_listen_unix(path)]
    if tcp_port or not seat.listeners:
        listener = _listen_tcp(tcp_port)
        seat.listeners.append(listener)
        seat.token = paths.kept_token()
        paths.write_tcp(listener.getsockname()[1], seat.token)


def _write_pid() -> None:
    (paths.runtime_dir() / "daemon.pid").write_text(f"{os.getpid()}\n", encoding="utf-8")


def _clean(seat: Seat, path: Path | None) -> None:
    leftovers = [paths.runtime_dir() / "daemon.pid", handover.path()]
    if path is not None and seat.listeners and not seat.activated:
        leftovers.append(path)
    if seat.token:
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
            "the service manager passed a socket that anybody may reach",
            subject=str(listener.getsockname()),
            advice="Run: underkeel service install, which makes a private one",
        )
    listener.setblocking(False)
    return listener


def listen_private(path: Path) -> socket.socket:
    """Listen on `path`, mode 0600. Only the holder of the lock may call this.

    So a socket that is already there is stale: its daemon is dead, or has given it to us.

    Raises:
        OSError: it cannot be made. DaemonError: something else lies there.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise DaemonError(
                "something that is not a socket lies where the socket belongs",
                subject=str(path),
                advice="Move it away",
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
            "or take the service away: underkeel service uninstall",
        )
    try:
        return listen_private(path)
    except OSError as error:
        raise DaemonError(
            f"the socket cannot be made ({error.strerror})",
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
            f"the port cannot be listened on ({error.strerror})",
            subject=f"{paths.LOOPBACK}:{port}",
            advice="Set daemon.tcp_port to another one",
        ) from error
    return listener


def _pid(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _whose(pid_file: Path) -> str:
    pid = _pid(pid_file)
    return f", process {pid}" if pid else ""
