"""The API key from the system's keyring: the real package, with a keyring that is a file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backends.fail import Keyring as NoKeyring
from keyrings.alt.file import PlaintextKeyring

from assistant.engine.remote.transport import read_key, wait_for_key
from assistant.errors import SettingsError
from assistant.settings import RemoteSettings
from tests.unit.engine.remote.conftest import Serve, asking


@pytest.fixture
def entries(tmp_path: Path) -> Iterator[Path]:
    """A keyring in a file, for this process and for commands with `environment`."""
    before = keyring.get_keyring()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path))
        patch.setenv("PYTHON_KEYRING_BACKEND", "keyrings.alt.file.PlaintextKeyring")
        keyring.set_keyring(PlaintextKeyring())
        yield tmp_path
        keyring.set_keyring(before)


def keep(service: str, user: str, key: str) -> None:
    """As the advice says: `keyring set SERVICE USER`."""
    command = [sys.executable, "-m", "keyring", "set", service, user]
    subprocess.run(command, input=key, text=True, check=True, env=os.environ, timeout=60)


def test_the_key_of_an_entry_is_sent(entries: Path, serve: Serve) -> None:
    keep("team", "jane", "sk-right")

    async def run() -> None:
        server = serve("llama-server")
        server.behaviour.key = "sk-right"
        async with asking(server.url, key_name="team/jane") as engine:
            assert await engine.tokenise("x")

    asyncio.run(run())


def test_without_a_service_it_is_ours(entries: Path) -> None:
    keep("underkeel", "vllm", "sk-one")
    assert read_key(RemoteSettings(key_name="vllm")) == "sk-one"


def test_no_such_entry_is_reported_with_the_command_that_makes_it(entries: Path) -> None:
    with pytest.raises(SettingsError, match="no such entry") as caught:
        read_key(RemoteSettings(key_name="team/jane"))
    assert caught.value.advice == "Run: keyring set team jane"


def test_what_is_no_key_is_not_sent_and_not_shown(entries: Path) -> None:
    keep("team", "jane", "two words")
    with pytest.raises(SettingsError, match="no API key") as caught:
        read_key(RemoteSettings(key_name="team/jane"))
    assert "two words" not in str(caught.value)


def test_a_machine_without_a_keyring_is_reported(entries: Path) -> None:
    keyring.set_keyring(NoKeyring())  # type: ignore[no-untyped-call]
    with pytest.raises(SettingsError, match="the keyring cannot be read") as caught:
        read_key(RemoteSettings(key_name="team/jane"))
    assert "key_file" in caught.value.advice


def test_a_keyring_that_waits_for_its_user_is_not_waited_for(entries: Path) -> None:
    asked, answered = threading.Event(), threading.Event()

    class Locked(PlaintextKeyring):  # type: ignore[misc]
        """Asks for its password in a window that nobody sees."""

        def get_password(self, service: str, username: str) -> str | None:  # noqa: ARG002
            asked.set()
            answered.wait(60)
            return None

    keyring.set_keyring(Locked())
    with pytest.raises(SettingsError, match="did not answer") as caught:
        asyncio.run(wait_for_key(RemoteSettings(key_name="team/jane"), limit_s=0.2))
    answered.set()
    assert asked.is_set() and "key_file" in caught.value.advice


def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)  # as Python marks what cannot be imported
    with pytest.raises(SettingsError, match="keyring package") as caught:
        read_key(RemoteSettings(key_name="team/jane"))
    assert "underkeel[keyring]" in caught.value.advice


def test_the_file_comes_before_the_keyring(entries: Path, tmp_path: Path) -> None:
    keep("team", "jane", "sk-ring")
    file = tmp_path / "key"
    file.write_text("sk-file\n")
    file.chmod(0o600)
    assert read_key(RemoteSettings(key_file=str(file), key_name="team/jane")) == "sk-file"
