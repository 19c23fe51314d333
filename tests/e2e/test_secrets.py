"""Planted secrets, end to end: through a real language server and a real daemon, into nothing.

Nothing secret may reach a prompt. Nothing of the code at all, secret or not, may reach a log, the
status, the metrics, or any file that Underkeel writes but its own index of the workspace.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon, fake_model, serving, until
from fake_engine import FakeEngine

from assistant import paths
from assistant.cli.language_client import LanguageClient, language_server
from assistant.daemon.process import logs
from assistant.doctor import bundle
from assistant.doctor.checks import ok
from assistant.errors import EngineError
from assistant.models import vocabulary
from assistant.service import Manager, ServiceNow

ROOT = Path(__file__).resolve().parents[2]

# Put together here so that no scanner mistakes this file for one that leaks keys.
SECRETS = {
    "in .env": "dotenv-" + "value-8f3a91",
    "in a key file": "MIIEowIBAAKCAQEA" + "planted",
    "in an ignored file": "ignored-" + "value-77ab01",
    "in another file": "AKIA" + "Z7Q2M4N8P1R5T3V9",
    "in the open file": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "beside the cursor": "sk-proj-" + "Qw3rTy7UiOpAsDfGhJkLzXcV",
    "in a url": "h4rb0ur" + "-p4ss",
}
MARKER = "quagga_of_the_far_harbour"  # code like any other: into prompts, yes; into logs, no
REPLY = "okapi_in_the_answer"

MAIN = f"""import tides

GITHUB = "{SECRETS["in the open file"]}"
DATABASE = "postgres://tides:{SECRETS["in a url"]}@db.example.org/x"


def {MARKER}(place):
    height = tides.height_of_tide(place)
    key = "{SECRETS["beside the cursor"]}"
    return tides.
"""
FROM_ANOTHER_FILE = "def height_of_tide(place):"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / ".gitignore").write_text("private/\n")
    (folder / "private").mkdir()
    (folder / "private" / "tides.py").write_text(f'KEY = "{SECRETS["in an ignored file"]}"\n')
    (folder / ".env").write_text(f"TIDES_KEY={SECRETS['in .env']}\n")
    key = SECRETS["in a key file"]
    (folder / "id_rsa").write_text(f"-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----")
    (folder / "tides.py").write_text(
        f'{FROM_ANOTHER_FILE}\n    """Of {MARKER}."""\n'
        f'    client("{SECRETS["in another file"]}")\n    return 1\n'
    )
    (folder / "main.py").write_text(MAIN)
    return folder


@pytest.fixture
def logged(home: Path) -> Iterator[None]:
    """The daemon's own log, with everything that it has to say."""
    root, ours = logging.getLogger(), logging.getLogger("assistant")
    before, levels = list(root.handlers), (root.level, ours.level)
    logs.configure(paths.log_file(), level="debug", terminal=True)
    umask = os.umask(0o022)
    os.umask(umask)
    yield
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_nothing_leaks(home: Path, workspace: Path, played_model: Path, logged: None) -> None:
    words = vocabulary.load(played_model)
    engine = FakeEngine(reply=lambda _: f"{REPLY}\n", n_vocab=words.size)
    said = home / "language-server.stderr"

    async def main() -> tuple[str, list[Any]]:
        planner = lambda: fake_model(str(played_model))  # noqa: E731
        async with asyncio.timeout(120), serving(engine, planner=planner) as daemon:
            told: list[Any] = []
            # The first session makes the index, the second finds it and shows other files.
            for session in (1, 2):
                with said.open("ab") as stderr:
                    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                    async with language_server(env=environment, stderr=stderr.fileno()) as client:
                        await _work(client, daemon, engine, workspace)
                        if session == 1:
                            await until(lambda: _files_with(home, "tides.py") != [])
                            await asyncio.sleep(1)
                        told += client.told
            return await _seen_from_outside(daemon), told

    seen, told = asyncio.run(main())
    prompts = [words.decode(request.prompt) for request in engine.requests]
    assert prompts and any(MARKER in prompt for prompt in prompts), "nothing was asked at all"
    assert any(FROM_ANOTHER_FILE in prompt for prompt in prompts), "the workspace was not read"
    for where, secret in SECRETS.items():
        assert not any(secret in prompt for prompt in prompts), where
        # The index holds code, which is its purpose; but it holds nothing secret.
        assert not _files_with(home, secret), where
        assert secret not in seen and secret not in str(told), where
    for code in (MARKER, REPLY):
        assert code not in seen and code not in str(told)
        found = [path for path in _files_with(home, code) if paths.cache_dir() not in path.parents]
        assert not found
    assert "answered" in paths.log_file().read_text(), "the log has nothing to say"


async def _work(
    client: LanguageClient, daemon: Daemon, engine: FakeEngine, workspace: Path
) -> None:
    """A person types in a workspace, opens a file of secrets, and sees requests fail."""
    uri, env_uri = ((workspace / name).as_uri() for name in ("main.py", ".env"))
    await client.request(
        "initialize",
        {
            "processId": None,
            "rootUri": workspace.as_uri(),
            "workspaceFolders": [{"uri": workspace.as_uri(), "name": "w"}],
            "capabilities": {
                "general": {"positionEncodings": ["utf-8"]},
                "textDocument": {"inlineCompletion": {}},
                "workspace": {"workspaceFolders": True},
                "experimental": {"underkeel": {"status": True}},
            },
        },
    )
    client.notify("initialized", {})
    client.open(uri, MAIN, "python")
    row = MAIN.count("\n") - 1
    column = len(MAIN.splitlines()[row])
    assert await client.complete(uri, row, column, invoked=True)
    before = len(engine.requests)
    client.open(env_uri, (workspace / ".env").read_text() + "MORE=", "dotenv")
    assert await client.complete(env_uri, 1, 5, invoked=True) == []
    assert not any(".env" in request.document for request in engine.requests[before:])
    # Errors quote what they failed on, if anything does.
    engine.fail_next(EngineError("cannot evaluate", subject="a request"))
    await client.complete(uri, row, column, invoked=True)
    answer = await daemon.http.post(
        "/completion", content=b'{"prompt": "' + MARKER.encode() + b'", "n_predict": "' + b'x"}'
    )
    assert answer.status_code == 400
    await daemon.http.post("/completion", content=MARKER.encode())
    await until(lambda: daemon.service.admission.inside == 0)


def _prompts(engine: FakeEngine, daemon: Daemon) -> list[str]:
    info = daemon.service.supervisor.info
    assert info is not None
    words = vocabulary.load(Path(info.path))
    return [words.decode(request.prompt) for request in engine.requests]


async def _seen_from_outside(daemon: Daemon) -> str:
    """Status, metrics and a bundle of all of it."""
    status = await daemon.client.status()
    metrics = await daemon.client.metrics()
    files = bundle.gather(
        [ok("all", "is well")], status, metrics, ServiceNow(Manager.NONE, installed=False)
    )
    return "\n".join([repr(status), metrics, *files.values()])


def _files_with(folder: Path, text: str) -> list[Path]:
    """Files under `folder` that hold `text`, also where they are binary."""
    sought = text.encode()
    return [path for path in folder.rglob("*") if path.is_file() and sought in path.read_bytes()]
