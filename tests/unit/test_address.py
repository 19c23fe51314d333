"""Where clients find the daemon, on systems with Unix sockets and without."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from assistant import paths
from assistant.client.client import DaemonClient
from assistant.errors import DaemonError, UnderkeelError


def test_unix_sockets_where_there_are_any(home: Path) -> None:
    assert paths.has_unix_sockets("linux") and paths.has_unix_sockets("darwin")
    assert not paths.has_unix_sockets("win32")
    way = paths.find_address("linux")
    assert way is not None and way.socket == paths.socket_path() and not way.headers


def test_tcp_elsewhere_once_a_daemon_has_told(home: Path) -> None:
    assert paths.find_address("win32") is None
    token = paths.new_token()
    paths.write_tcp(4711, token)
    way = paths.find_address("win32")
    assert way is not None and (way.socket, way.port) == (None, 4711)
    assert way.base_url == "http://127.0.0.1:4711"
    assert way.headers == {"Authorization": f"Bearer {token}"}
    paths.write_tcp(4712, token)
    assert paths.find_address("win32") == paths.Address(port=4712, token=token)


def test_the_file_is_private_from_its_first_byte(home: Path) -> None:
    before = os.umask(0)
    try:
        paths.write_tcp(1, "secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(paths.tcp_file().stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b'{"port": "x", "token": 1}', b"\xff"])
def test_a_file_that_cannot_be_read_is_no_daemon(home: Path, content: bytes) -> None:
    paths.tcp_file().write_bytes(content)
    assert paths.find_address("win32") is None


def test_a_folder_that_others_may_enter_is_not_believed(home: Path) -> None:
    paths.write_tcp(1, "secret")
    paths.runtime_dir().chmod(0o755)
    with pytest.raises(DaemonError, match="chmod 700"):
        paths.find_address("win32")


def test_a_daemon_lives_while_its_lock_is_held(home: Path) -> None:
    """T12: an address file that a dead daemon left behind proves nothing."""
    paths.write_tcp(1, "secret")
    assert not paths.daemon_lives()
    held = os.open(paths.lock_file(), os.O_RDWR | os.O_CREAT, 0o600)
    assert not paths.daemon_lives()
    assert paths.try_lock(held) and paths.daemon_lives()
    os.close(held)
    assert not paths.daemon_lives()


def test_another_program_on_the_port_gets_no_token(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T12: nothing is sent, not even a connection made, while no daemon holds the lock."""
    monkeypatch.setattr(paths, "has_unix_sockets", lambda _="": False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        paths.write_tcp(listener.getsockname()[1], "secret")

        async def main() -> None:
            async with DaemonClient(autostart=False) as client:
                for ask in (client.status, client.wait_ready, client.props):
                    with pytest.raises(DaemonError):
                        await ask()

        asyncio.run(main())
        with pytest.raises(BlockingIOError):
            listener.accept()


ANSWERS = {
    "its own request": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "a web page": b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>no</html>",
    "other JSON": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    "no such page": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "another address": b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
    "half of an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
}


@pytest.mark.parametrize("held", [False, True], ids=["closed at once", "left open"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_what_answers_in_the_daemons_place_is_an_error_of_ours(
    home: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, held: bool
) -> None:
    """T12: whatever it says, and if it says nothing more, after a limit."""
    monkeypatch.setattr(paths, "has_unix_sockets", lambda _="": False)
    monkeypatch.setattr("assistant.client.client._PROMPT_LIMIT_S", 0.5)
    lock = os.open(paths.lock_file(), os.O_RDWR | os.O_CREAT, 0o600)
    assert paths.try_lock(lock)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.read(1 << 16)
        writer.write(answer or asked)
        if not held:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        paths.write_tcp(server.sockets[0].getsockname()[1], "secret")
        async with DaemonClient(autostart=False) as client:
            with pytest.raises(UnderkeelError):
                await client.status()
        server.close()

    try:
        asyncio.run(main())
    finally:
        os.close(lock)


@pytest.mark.parametrize(
    ("port", "token"),
    [
        *(("0", "x"), ("65536", "x"), ("-1", "x"), ("1e3", "x"), ("9" * 5000, "x")),
        *(("80", ""), ("80", "a\\r\\nb: c"), ("80", "\\u00e9"), ("80", "\\ud800")),
        ("80", "x" * 9999),
    ],
)
def test_an_address_that_can_be_none_is_none(home: Path, port: str, token: str) -> None:
    """T12: the file is read as foreign."""
    paths.tcp_file().write_text(f'{{"port": {port}, "token": "{token}"}}')
    assert paths.find_tcp_address() is None


def test_the_token_over_tcp_stays_the_same(home: Path) -> None:
    """It is pasted into the settings of other clients. One that others can read, that was cut off
    or that is a link is replaced."""
    token = paths.kept_token()
    path = paths.token_file()
    assert paths.kept_token() == token and path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    second = paths.kept_token()
    assert second not in {token, ""} and path.stat().st_mode & 0o777 == 0o600
    for wrong in ("", second[:20], second + "x", "\u00e9" * 43):
        path.write_text(wrong, encoding="utf-8")
        assert paths.kept_token() not in {second, wrong}
    elsewhere = path.with_name("elsewhere")
    elsewhere.write_text(token)
    elsewhere.chmod(0o600)
    path.unlink()
    path.symlink_to(elsewhere)
    assert paths.kept_token() != token and elsewhere.read_text() == token


def test_a_token_that_cannot_be_kept_is_used_once(home: Path) -> None:
    (home / "state").write_text("a file where the folder should be")
    assert len({paths.kept_token() for _ in range(3)}) == 3


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {paths.new_token() for _ in range(100)}
    assert len(tokens) == 100 and min(map(len, tokens)) >= 43  # 256 bits


@pytest.mark.parametrize(
    ("platform", "folder"),
    [("linux", ".config/underkeel"), ("darwin", "Library/Application Support/underkeel")],
)
def test_each_platform_has_its_own_folders(
    platform: str, folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What platformdirs says for the platform; `paths` adds only the names of files."""
    import platformdirs.macos
    import platformdirs.unix

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    kinds = {"linux": platformdirs.unix.Unix, "darwin": platformdirs.macos.MacOS}
    kind = kinds[platform]
    monkeypatch.setattr(
        platformdirs, "user_config_path", lambda app: Path(kind(app).user_config_dir)
    )
    monkeypatch.delenv("UNDERKEEL_HOME", raising=False)
    assert paths.config_file() == tmp_path / folder / "config.toml"
