"""Where Underkeel keeps its files, and the address at which the daemon listens.

All paths follow the platform's conventions (platformdirs). `UNDERKEEL_HOME` moves all of them under
one folder, which tests, demos and portable installations use. A variable that is empty or blank is
not set.

The daemon listens on a private Unix socket, or on loopback TCP with a token: on systems without
Unix sockets, and where `daemon.tcp_port` is set. Port and token are in one file beside the lock,
readable only by the user.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import platformdirs

from assistant.errors import DaemonError, SettingsError

if sys.platform == "win32":
    import msvcrt

    def try_lock(fd: int) -> bool:
        """Take the exclusive lock of an open file; False where another holds it."""
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(fd: int) -> bool:
        """Take the exclusive lock of an open file; False where another holds it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_APP = "underkeel"
_SOCKET_PATH_LIMIT = 100  # sockaddr_un holds 108 bytes on Linux and 104 on macOS


def _folder(variable: str) -> Path | None:
    """The folder that an environment variable names; None if it is not set.

    Raises:
        SettingsError: it begins with the name of a user who does not exist.
    """
    value = os.environ.get(variable, "").strip()
    try:
        return Path(value).expanduser().absolute() if value else None
    except RuntimeError as error:
        raise SettingsError(
            "there is no home folder of that user",
            subject=f"{variable}={value}",
            advice="Set it to the full path of a folder",
        ) from error


def _home() -> Path | None:
    return _folder("UNDERKEEL_HOME")


def config_file() -> Path:
    home = _home()
    return (home or platformdirs.user_config_path(_APP)) / "config.toml"


def models_dir() -> Path:
    """The folder of downloaded models. `UNDERKEEL_MODELS` moves only this folder."""
    home = _home()
    return _folder("UNDERKEEL_MODELS") or (home or platformdirs.user_data_path(_APP)) / "models"


def cache_dir() -> Path:
    home = _home()
    return home / "cache" if home else platformdirs.user_cache_path(_APP)


def state_dir() -> Path:
    home = _home()
    return home / "state" if home else platformdirs.user_state_path(_APP)


def log_file() -> Path:
    return state_dir() / "daemon.log"


def runtime_dir() -> Path:
    """The private folder of the socket and the lock, created with mode 0700.

    Raises:
        DaemonError: it belongs to another user, other users can enter it, or it is not a folder.
    """
    home = _home()
    folder = home / "run" if home else platformdirs.user_runtime_path(_APP)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise DaemonError(
            f"the socket folder cannot be created ({error.strerror})",
            subject=str(folder),
            advice="Set UNDERKEEL_HOME to a folder that you own",
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise DaemonError(
            "the socket needs a folder here, but this is not one",
            subject=str(folder),
            advice="Remove it, or set UNDERKEEL_HOME to a folder that you own",
        )
    if hasattr(os, "getuid"):
        if status.st_uid != os.getuid():
            raise DaemonError(
                f"the socket folder belongs to user {status.st_uid}, not to you",
                subject=str(folder),
                advice="Do not trust it; set UNDERKEEL_HOME to a folder that you own",
            )
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise DaemonError(
                f"other users can enter the socket folder (mode {mode:04o})",
                subject=str(folder),
                advice=f"Run: chmod 700 {folder}",
            )
    return folder


def socket_path() -> Path:
    """The daemon's Unix socket.

    Raises:
        DaemonError: the path is too long for a socket address, or its folder is not private.
    """
    path = runtime_dir() / "daemon.sock"
    if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
        raise DaemonError(
            f"the path is too long for a socket ({len(os.fsencode(path))} bytes)",
            subject=str(path),
            advice="Set UNDERKEEL_HOME to a shorter path",
        )
    return path


LOOPBACK = "127.0.0.1"
_TOKEN_BYTES = 32
_TOKEN = re.compile(r"[\w-]{43}")
_LONGEST_TOKEN = 64


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
    return runtime_dir() / "daemon.tcp"


def find_address(platform: str = sys.platform) -> Address | None:
    """The way a client takes; None where there is no daemon to be found.

    Raises:
        DaemonError: the folder is not private, so nothing in it can be trusted.
    """
    if has_unix_sockets(platform):
        return Address(socket=socket_path())
    return find_tcp_address()


def find_tcp_address() -> Address | None:
    """The loopback port and its token; None where no daemon has written them."""
    try:
        told = msgspec.json.decode(tcp_file().read_bytes(), type=TcpAddress)
    except (OSError, ValueError, RecursionError):
        return None
    if not 0 < told.port < 1 << 16 or not re.fullmatch("[!-~]{1,512}", told.token):
        return None
    return Address(port=told.port, token=told.token)


def daemon_lives() -> bool:
    """Whether a daemon holds the lock: only then is what listens at its address the daemon (T12).

    On systems with Unix sockets the folder proves that already.
    """
    try:
        fd = os.open(lock_file(), os.O_RDWR)
    except OSError:
        return False
    try:
        return not try_lock(fd)
    except OSError:
        return False
    finally:
        os.close(fd)


def lock_file() -> Path:
    return runtime_dir() / "daemon.lock"


def new_token() -> str:
    return secrets.token_urlsafe(_TOKEN_BYTES)


def token_file() -> Path:
    return state_dir() / "tcp-token"


def kept_token() -> str:
    """The token for requests over TCP, the same after every start, so that it can be pasted into
    the settings of other clients. A new one where there is none that only the user can read, or
    where it cannot be kept.
    """
    path = token_file()
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(fd, "r", encoding="ascii") as file:
            status = os.fstat(fd)
            private = not hasattr(os, "getuid") or (
                status.st_uid == os.getuid() and not status.st_mode & 0o077
            )
            token = file.read(_LONGEST_TOKEN).strip()
        if private and _TOKEN.fullmatch(token):
            return token
    except (OSError, ValueError):
        pass
    token = new_token()
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
            file.write(f"{token}\n")
    return token


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
