"""The daemon's lock, and how it is handed to a new daemon without losing a request.

On a private socket beside the lock, one exchange:

    successor    connects
    predecessor  one message: a length, JSON about itself, and with it the descriptors of the lock
                 and of every listening socket (SCM_RIGHTS)
    successor    "serving", once it accepts connections
    predecessor  accepts no more, answers what it has, unloads its model, ends: end of file

Until the successor sends that, the predecessor continues to serve: a successor that dies before
costs nothing. From then on new requests reach the successor, which holds them until the memory is
free and its own model is loaded.

Where a service manager holds the sockets, it passes them to the next daemon. The old one only
records which model it served, so that the next one lets requests wait too.
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
    """A lock that is held. `fd` is passed to a successor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, path: Path, patience_s: float = 0.0) -> Self | None:
        """The lock on `path`; None where another holds it for all of `patience_s`.

        Raises:
            OSError: the file cannot be created or locked.
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

    def release(self) -> None:
        """Free the lock, unless a successor has it too. Safe to call twice."""
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


class HandoverOffer(msgspec.Struct, frozen=True, kw_only=True):
    """What the old daemon sends with the descriptors.

    Attributes:
        model: the served model; None if none was loaded yet.
        token: of the TCP listener; empty if there is none.
    """

    version: str
    pid: int
    model: ModelInfo | None = None
    token: str = ""


class Predecessor:
    """The daemon that we take over from.

    Attributes:
        lock, listeners: shared with it until it ends.
        offer: what it reported.
    """

    def __init__(
        self,
        channel: socket.socket,
        lock: Lock,
        listeners: list[socket.socket],
        offer: HandoverOffer,
    ) -> None:
        self._channel = channel
        self.lock = lock
        self.listeners = listeners
        self.offer = offer

    def serving(self) -> None:
        """We accept connections: it may end."""
        try:
            self._channel.sendall(_SERVING)
        except OSError:
            return  # it has ended already

    def wait_ended(self, limit_s: float) -> bool:
        """Block until it has released its memory; False if that takes longer than `limit_s`."""
        readable, _, _ = select.select([self._channel], [], [], limit_s)
        return bool(readable)

    def close(self) -> None:
        """End the exchange; a `wait_ended` in another thread returns."""
        hang_up(self._channel)
        self._channel.close()


def hang_up(channel: socket.socket) -> None:
    """Wake every thread that waits on `channel`, on either side."""
    with suppress(OSError):
        channel.shutdown(socket.SHUT_RDWR)


def record_served_model(model: ModelInfo | None) -> None:
    """Record the served model for the next daemon that a service manager starts."""
    if model is not None:
        with suppress(OSError):
            _served_record().write_bytes(msgspec.json.encode(model))


def take_served_record() -> ModelInfo | None:
    """Read and delete the record of the daemon before us; None if it is minutes old."""
    try:
        age_s = time.time() - _served_record().stat().st_mtime
        data = _served_record().read_bytes()
        _served_record().unlink()
        model = msgspec.json.decode(data, type=ModelInfo)
    except (OSError, ValueError, RecursionError):
        return None
    return model if age_s < _FRESH_S else None


def _served_record() -> Path:
    return paths.runtime_dir() / "served.json"


def possible() -> bool:
    """Whether descriptors can be passed between processes here."""
    return hasattr(socket, "recv_fds")


def path() -> Path:
    return paths.runtime_dir() / "handover.sock"


def take_over() -> Predecessor | None:
    """Take over from the running daemon; None if there is none.

    Raises:
        DaemonError: its answer cannot be used.
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
        offer = msgspec.json.decode(_read(channel, length), type=HandoverOffer)
        listeners = [socket.socket(fileno=fd) for fd in fds[1:]]
    except (OSError, ValueError, RecursionError, struct.error) as error:
        channel.close()
        raise DaemonError(
            f"the running daemon cannot be replaced ({error})",
            advice="Run: underkeel stop; then start it again",
        ) from error
    for listener in listeners:
        listener.setblocking(False)
    return Predecessor(channel, Lock(fds[0]), listeners, offer)


def _read(channel: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = channel.recv(min(length - len(data), 1 << 16))
        if not part:
            raise ValueError("the connection ended")
        data += part
    return bytes(data)


def give(channel: socket.socket, offer: HandoverOffer, lock: Lock, fds: Sequence[int]) -> bool:
    """Hand over to the daemon on `channel`, and wait until it serves. Blocks: call it in a thread.

    Returns:
        Whether the successor serves; if not, nothing has changed.
    """
    body = msgspec.json.encode(offer)
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
