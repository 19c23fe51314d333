"""Where the daemon listens: a private Unix socket, or loopback TCP with a token.

TCP is for systems without Unix sockets, and for whoever sets `daemon.tcp_port`. Its port and token
stand in one file beside the lock, which only the user may read: whoever can read the file may talk
to the daemon, as whoever can open the socket may.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from assistant import paths
from assistant.errors import DaemonError

LOOPBACK = "127.0.0.1"
_TOKEN_BYTES = 32


@dataclass(frozen=True)
class Address:
    """One way to the daemon: either `socket`, or `port` with `token`."""

    socket: Path | None = None
    port: int = 0
    token: str = ""

    @property
    def base_url(self) -> str:
        return "http://underkeel" if self.socket else f"http://{LOOPBACK}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def __str__(self) -> str:
        return str(self.socket) if self.socket else f"{LOOPBACK}:{self.port}"


class TcpAddress(msgspec.Struct, frozen=True):
    """The address file."""

    port: int
    token: str


def has_unix_sockets(platform: str = sys.platform) -> bool:
    """Whether the daemon listens on a Unix socket. Not on Windows, whose Python has none."""
    return platform != "win32" and hasattr(socket, "AF_UNIX")


def tcp_file() -> Path:
    return paths.runtime_dir() / "daemon.tcp"


def find(platform: str = sys.platform) -> Address | None:
    """The way a client takes; None where there is no daemon to be found.

    Raises:
        DaemonError: the folder is not private, so nothing in it can be trusted.
    """
    if has_unix_sockets(platform):
        return Address(socket=paths.socket_path())
    return find_tcp()


def find_tcp() -> Address | None:
    """The loopback port and its token; None where no daemon has written them."""
    try:
        told = msgspec.json.decode(tcp_file().read_bytes(), type=TcpAddress)
    except (OSError, msgspec.DecodeError):
        return None
    return Address(port=told.port, token=told.token)


def new_token() -> str:
    return secrets.token_urlsafe(_TOKEN_BYTES)


def write_tcp(port: int, token: str) -> None:
    """Tell clients, in one step, in a file of mode 0600.

    Raises:
        DaemonError: the file cannot be written.
    """
    path = tcp_file()
    new = path.with_suffix(".new")
    try:
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(TcpAddress(port, token)))
        new.replace(path)
    except OSError as error:
        raise DaemonError(
            f"the address file cannot be written ({error.strerror})",
            subject=str(path),
            advice="Make room, or set UNDERKEEL_HOME to a folder that you own",
        ) from error
