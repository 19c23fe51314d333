"""The API key, from a private file or the system's keyring. It is never logged or shown."""

from __future__ import annotations

import asyncio
import importlib
import stat
import threading
from contextlib import suppress
from pathlib import Path

from assistant.errors import SettingsError
from assistant.settings import RemoteSettings

_MOST_BYTES = 16 << 10
_ANSWER_S = 60.0


async def wait_for_key(remote: RemoteSettings, limit_s: float = _ANSWER_S) -> str:
    """As `read_key`, in a thread: a locked keyring may ask its user, where nobody sees it ask.

    Raises:
        SettingsError: also where that takes longer than `limit_s`.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[str] = loop.create_future()

    def settle(key: str, error: Exception | None) -> None:
        if found.done():
            return
        if error is None:
            found.set_result(key)
        else:
            found.set_exception(error)

    def read() -> None:
        key, failure = "", None
        try:
            key = read_key(remote)
        except Exception as error:
            failure = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, key, failure)

    # A daemon thread: one that waits for ever must not keep the process from ending.
    threading.Thread(target=read, name="key", daemon=True).start()
    try:
        return await asyncio.wait_for(found, limit_s)
    except TimeoutError as error:
        raise SettingsError(
            f"the keyring did not answer within {limit_s:.0f} s",
            subject=remote.key_name or remote.key_file,
            advice="Unlock it, or use key_file",
        ) from error


def read_key(remote: RemoteSettings) -> str:
    """The key that the settings name; empty where they name none.

    Raises:
        SettingsError: it cannot be read, others may read its file, or it is no key.
    """
    if remote.key_file:
        key = _from_file(Path(remote.key_file).expanduser())
    elif remote.key_name:
        key = _from_keyring(remote.key_name)
    else:
        return ""
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            "this holds no API key: one line of printable ASCII is wanted",
            subject=remote.key_file or remote.key_name,
            advice="Write the key into it, and nothing else",
        )
    return key


def _from_file(path: Path) -> str:
    try:
        status = path.stat()
        if hasattr(path, "owner") and stat.S_IMODE(status.st_mode) & 0o077:
            raise SettingsError(
                f"others may read the API key (mode {stat.S_IMODE(status.st_mode):04o})",
                subject=str(path),
                advice=f"Run: chmod 600 {path}",
            )
        with path.open(encoding="utf-8") as file:
            return file.read(_MOST_BYTES).partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the API key cannot be read ({error})",
            subject=str(path),
            advice="Fix key_file under [remote]",
        ) from error


def _from_keyring(name: str) -> str:
    service, _, user = name.rpartition("/")
    try:
        keyring = importlib.import_module("keyring")
    except ImportError as error:
        raise SettingsError(
            "the keyring package is not installed",
            subject=name,
            advice="Install underkeel[keyring], or use key_file",
        ) from error
    try:
        found = keyring.get_password(service or "underkeel", user)
    except Exception as error:  # each system's keyring has exceptions of its own
        raise SettingsError(
            f"the keyring cannot be read ({type(error).__name__}: {error})",
            subject=name,
            advice="Unlock it, or use key_file",
        ) from error
    if not found:
        raise SettingsError(
            "the keyring has no such entry",
            subject=name,
            advice=f"Run: keyring set {service or 'underkeel'} {user}",
        )
    return str(found)
