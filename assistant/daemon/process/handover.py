"""The lock of the one daemon, and how it is handed to a new daemon without losing a request.

On a private socket beside the lock, one exchange:

    successor    connects
    predecessor  one message: a length, JSON about itself, and with it the descriptors of the lock
                 and of every listening socket (SCM_RIGHTS)
    successor    "serving", once it accepts connections
    predecessor  accepts no more, answers what it has, unloads its model, ends: end of file

Until the successor sends that, the predecessor continues to serve: a successor that dies before
costs nothing. From then on new requests reach the successor, which lets them wait until the memory
is free and its own model loaded.

Where a service manager holds the sockets, it hands them on. The daemon that leaves only records
what it served, so that the next one lets requests wait too.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from assistant import paths
from assistant.engine.types import ModelInfo
from assistant.errors import DaemonError

_POLL_S = 0.02


class Lock:
    """A lock that is held. `fd` is what a successor is given."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, path: Path, patience_s: float = 0.0) -> Self | None:
        """The lock on `path`; None where another holds it for all of `patience_s`.

        Raises:
            OSError: the file cannot be made or locked.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + patience_s
        try:
            while not paths.try_lock(fd):
                if time.monotonic() >= deadline:
                    os.close(fd)
                    return None
                time.sleep(_POLL_S)
        except OSError:
            os.close(fd)
            raise
        return cls(fd)

    def let_go(self) -> None:
        """Free the lock, unless a successor was given it too. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


_HEAD = struct.Struct("<I")
_MOST_BYTES = 8 * 2**20
_MOST_FDS = 8
_SERVING = b"serving\n"
_ANSWER_S = 10.0
_SERVING_S = 60.0
_FRESH_S = 300.0


class Legacy(msgspec.Struct, frozen=True, kw_only=True):
    """What goes with the descriptors.

    Attributes:
        model: what is served; None where nothing was yet.
        token: of the TCP listener; empty where there is none.
    """

    version: str
    pid: int
    model: ModelInfo | None = None
    token: str = ""


class Predecessor:
    """The daemon that we take over from.

    Attributes:
        lock, listeners: its, now ours too.
        legacy: what it told.
    """

    def __init__(
        self, channel: socket.socket, lock: Lock, listeners: list[socket.socket], legacy: Legacy
    ) -> None:
        self._channel = channel
        self.lock = lock
        self.listeners = listeners
        self.legacy = legacy

    def serving(self) -> None:
        """We accept connections: it may leave."""
        try:
            self._channel.sendall(_SERVING)
        except OSError:
            return  # it is gone already

    def wait_gone(self, limit_s: float) -> bool:
        """Block until it has given its memory back; False where it takes longer."""
        readable, _, _ = select.select([self._channel], [], [], limit_s)
        return bool(readable)

    def close(self) -> None:
        """End the exchange; a `wait_gone` in another thread returns."""
        hang_up(self._channel)
        self._channel.close()


def hang_up(channel: socket.socket) -> None:
    """Wake what waits on `channel`, on either side."""
    with suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)


def leave_word(model: ModelInfo | None) -> None:
    """For the next daemon that a service manager starts: what clients were served until now."""
    if model is not None:
        with suppress(OSError):
            _word().write_bytes(msgspec.json.encode(model))


def find_word() -> ModelInfo | None:
    """What the daemon before us left, if that was a moment ago; nobody finds it again."""
    try:
        age_s = time.time() - _word().stat().st_mtime
        data = _word().read_bytes()
        _word().unlink()
        model = msgspec.json.decode(data, type=ModelInfo)
    except (OSError, msgspec.DecodeError):
        return None
    return model if age_s < _FRESH_S else None


def _word() -> Path:
    return paths.runtime_dir() / "served.json"


def possible() -> bool:
    """Whether descriptors can be passed between processes here."""
    return hasattr(socket, "recv_fds")


def path() -> Path:
    return paths.runtime_dir() / "handover.sock"


def take_over() -> Predecessor | None:
    """Ask the running daemon for its place; None where none gives it.

    Raises:
        DaemonError: it answers, but not as it should.
    """
    if not possible():
        return None
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.settimeout(_ANSWER_S)
    try:
        channel.connect(str(path()))
    except OSError:
        channel.close()
        return None
    try:
        head, fds, _, _ = socket.recv_fds(channel, _HEAD.size, _MOST_FDS)
        for fd in fds:
            os.set_inheritable(fd, False)
        (length,) = _HEAD.unpack(head)
        if length > _MOST_BYTES or len(fds) < 2:
            raise ValueError(f"{length} bytes, {len(fds)} descriptors")
        legacy = msgspec.json.decode(_read(channel, length), type=Legacy)
        listeners = [socket.socket(fileno=fd) for fd in fds[1:]]
    except (OSError, ValueError, struct.error, msgspec.DecodeError) as error:
        channel.close()
        raise DaemonError(
            f"the running daemon does not give its place ({error})",
            advice="Run: underkeel stop, and start again",
        ) from error
    for listener in listeners:
        listener.setblocking(False)
    return Predecessor(channel, Lock(fds[0]), listeners, legacy)


def _read(channel: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = channel.recv(min(length - len(data), 1 << 16))
        if not part:
            raise ValueError("it broke off")
        data += part
    return bytes(data)


def give(channel: socket.socket, legacy: Legacy, lock: Lock, fds: Sequence[int]) -> bool:
    """Offer our place on `channel`, and wait. Blocks: call it in a thread.

    Returns:
        Whether the successor serves; where not, nothing has changed.
    """
    body = msgspec.json.encode(legacy)
    channel.setblocking(True)
    channel.settimeout(_ANSWER_S)
    try:
        rights = array.array("i", [lock.fd, *fds])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        channel.sendmsg([_HEAD.pack(len(body))], ancillary)
        channel.sendall(body)
        channel.settimeout(_SERVING_S)
        return _read(channel, len(_SERVING)) == _SERVING
    except (OSError, ValueError):
        return False
