"""The daemon under a real systemd: started by its first request, restarted, upgraded in place."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import user_systemd
from real_daemon import answer, configure, underkeel

from assistant import paths, service
from assistant.client.client import DaemonClient
from assistant.daemon.process.instance import running_pid
from assistant.wire import CompletionRequest

# For a systemd of the test's own, the machine looks as if systemd had booted it.
pytestmark = [pytest.mark.model, pytest.mark.alone]

PROMPT = "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) +"


@pytest.fixture
def systemd(
    home: Path, dense_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A user manager, and a home of Underkeel's whose socket it may hold."""
    if reason := user_systemd.why_not():
        pytest.skip(reason)
    user_home, runtime = tmp_path / "user", tmp_path / "run"
    for folder in (user_home, runtime):
        folder.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(user_home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    configure(home, model={"name": dense_model, "n_ctx": 1024})
    with user_systemd.user_manager(user_home, runtime) as up:
        if not up:
            pytest.skip("systemd --user does not come up here")
        try:
            yield user_home
        finally:
            underkeel("service", "uninstall", timeout_s=120)


def systemctl(*arguments: str) -> str:
    command = ["systemctl", "--user", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout.strip()


def test_its_whole_life(systemd: Path) -> None:
    installed = underkeel("service", "install")
    assert installed.returncode == 0, installed.stderr
    assert "The first request starts the daemon." in installed.stdout
    folder = systemd / ".config" / "systemd" / "user"
    assert {path.name for path in folder.glob("underkeel.*")} == {
        "underkeel.service",
        "underkeel.socket",
    }
    assert stat.S_IMODE(paths.socket_path().stat().st_mode) == 0o600
    assert running_pid() is None and systemctl("is-active", "underkeel.service") == "inactive"

    asyncio.run(_use_it())

    said = underkeel("service", "status").stdout
    assert "Socket: held by the system." in said and "ready: " in said
    # Ended by hand, it is there again for the next request.
    assert underkeel("stop").returncode == 0
    assert paths.socket_path().exists()
    refused = underkeel("serve")
    assert refused.returncode == 1 and "service manager" in refused.stderr

    removed = underkeel("service", "uninstall")
    assert removed.stdout.count("Removed") == 2
    assert not paths.socket_path().exists()
    assert underkeel("service", "status").returncode == 3


async def _use_it() -> None:
    async with asyncio.timeout(200), DaemonClient(autostart=False) as client:
        await client.wait_ready()
        first = await client.status()
        assert first.supervisor == "systemd"
        assert systemctl("show", "-P", "MainPID", "underkeel.service") == str(first.pid)
        request = CompletionRequest(prompt=PROMPT, temperature=0.0, max_tokens=24)
        text, _ = await answer(client, request)
        assert text.startswith(" fibonacci(n - 2)")

        # Upgraded in the middle of answers: each comes to its end, from one daemon or the other.
        answers = [asyncio.create_task(answer(client, request)) for _ in range(3)]
        await asyncio.sleep(0.2)
        restarting = asyncio.create_task(asyncio.to_thread(underkeel, "restart", timeout_s=120))
        for _ in range(10):
            answers.append(asyncio.create_task(answer(client, request)))
            await asyncio.sleep(0.2)
        assert {found for found, _ in await asyncio.gather(*answers)} == {text}
        restarted = await restarting
        assert restarted.returncode == 0, restarted.stderr
        second = await client.status()
        assert second.pid != first.pid and second.supervisor == "systemd"

        # Killed outright: systemd starts it again.
        psutil.Process(second.pid).kill()
        async with asyncio.timeout(60):
            while (pid := await asyncio.to_thread(running_pid)) in {None, second.pid}:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await client.wait_ready()
        assert (await client.status()).pid == pid
        assert (await answer(client, request))[0] == text
        # What systemd knows of the daemon.
        async with asyncio.timeout(20):
            while not _told_systemd().startswith("ready"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)


def _told_systemd() -> str:
    return systemctl("show", "-P", "StatusText", "underkeel.service")


def test_the_units_are_as_systemd_wants_them(home: Path, tmp_path: Path) -> None:
    """What `systemd-analyze verify` has to say of them: nothing."""
    if not Path("/usr/bin/systemd-analyze").exists():
        pytest.skip("systemd is not installed")
    files = service.systemd_files(service.wanted(at_login=True), tmp_path)
    for path, text in files.contents.items():
        path.write_text(text)
    checked = subprocess.run(
        ["systemd-analyze", "--user", "--man=no", "verify", *map(str, files.contents)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (checked.returncode, checked.stderr) == (0, "")
