"""Servers on loopback, and engines that ask them."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from recorded_server import RecordedServer

from assistant.engine.remote import RemoteEngine
from assistant.engine.types import LoadSpec
from assistant.settings import RemoteSettings

Serve = Callable[..., RecordedServer]


@pytest.fixture
def serve(home: Path, dense_model: Path) -> Iterator[Serve]:
    """Start servers that end with the test."""
    running: list[RecordedServer] = []

    def start(kind: str, **options: Any) -> RecordedServer:
        running.append(RecordedServer(kind, dense_model, **options).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.__exit__()


@asynccontextmanager
async def asking(url: str, **settings: Any) -> AsyncIterator[RemoteEngine]:
    """An engine that has been loaded; retries are quick."""
    engine = RemoteEngine(RemoteSettings(url=url, **settings))
    try:
        await engine.load(LoadSpec(path=""))
        yield engine
    finally:
        await engine.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-keyout", str(key)]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key
