"""`underkeel models` as a user runs it, with a local server in the place of the hub."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer
from tiny_gguf import split_gguf, tiny_gguf

from assistant.memory.model.known_models import known_models

REPOSITORY = "Some/Model-GGUF"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Machine:
    def __init__(self, folder: Path, server: FileServer) -> None:
        self.models = folder / "models"
        self.home = folder / "home"
        self.home.mkdir(mode=0o700, parents=True)
        self.server = server
        self.environment = {
            **os.environ,
            "UNDERKEEL_HOME": str(self.home),
            "UNDERKEEL_MODELS": str(self.models),
            "HF_ENDPOINT": server.url,
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "COLUMNS": "120",
        }

    def publish(self, files: dict[str, bytes], repository: str = REPOSITORY) -> None:
        siblings = []
        for name, content in files.items():
            sha256 = hashlib.sha256(content).hexdigest()
            siblings.append({"rfilename": name, "size": len(content), "lfs": {"sha256": sha256}})
            self.server.serve(f"/{repository}/resolve/{COMMIT}/{name}", content)
        listing = json.dumps({"sha": COMMIT, "siblings": siblings}).encode()
        self.server.serve(f"/api/models/{repository}?blobs=true", listing)

    def run(self, *arguments: str, group: tuple[str, ...] = ("models",)) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "assistant", *group, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    def answer(self, reply: bytes, *arguments: str) -> tuple[int, str]:
        """Run with a terminal on stdin and type `reply`."""
        keyboard, terminal = pty.openpty()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "assistant", "models", *arguments],
                env=self.environment,
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            os.write(keyboard, reply)
            _, error = process.communicate(timeout=120)
        finally:
            os.close(keyboard)
            os.close(terminal)
        return process.returncode, error


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with FileServer() as server:
        yield Machine(tmp_path, server)


def fetched(machine: Machine) -> list[str]:
    """Names whose whole file was asked for; a plan reads ranges only."""
    return [path for path, asked in machine.server.requests if "/resolve/" in path and not asked]


def test_a_split_model_from_plan_to_removal(machine: Machine) -> None:
    names = [f"m-Q4_K_M-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    machine.publish(dict(zip(names, split_gguf(3), strict=True)))
    code, out, error = machine.run("pull", REPOSITORY, "--yes")
    assert code == 0, error
    assert out.strip() == str(machine.models / names[0])
    assert f"{REPOSITORY}@{COMMIT[:12]}" in error
    assert "free on the disk" in error
    code, out, _ = machine.run("list", "--json")
    row = next(row for row in json.loads(out) if row["name"] == "m-Q4_K_M")
    assert row["here"] is True
    assert len(row["files"]) == 3
    code, out, _ = machine.run("verify", "m-Q4_K_M")
    assert (code, out.startswith("m-Q4_K_M: whole")) == (0, True)
    broken = machine.models / names[1]
    broken.write_bytes(broken.read_bytes()[:-4] + b"\xff\xff\xff\xff")
    code, out, _ = machine.run("verify")
    assert code == 1
    assert "another SHA-256" in out
    code, out, _ = machine.run("remove", "m-Q4_K_M", "--yes")
    assert code == 0
    assert not list(machine.models.glob("*.gguf"))


def test_a_recommended_name_is_pulled_from_its_repository(machine: Machine) -> None:
    """What `recommend` names, `pull` fetches, in the quantisation that was planned for."""
    model = known_models()["qwen3-coder-30b-a3b"]
    files = {"m-Q2_K.gguf": tiny_gguf(), f"m-{model.quantisation}.gguf": tiny_gguf()}
    machine.publish(files, model.repository)
    code, out, error = machine.run("pull", "qwen3-coder-30b-a3b", "--yes", group=())
    assert code == 0, error
    assert out.strip() == str(machine.models / f"m-{model.quantisation}.gguf")
    assert f"{model.repository}@{COMMIT[:12]}" in error


def test_nothing_is_fetched_before_it_is_agreed_to(machine: Machine) -> None:
    machine.publish({"m-Q4_K_M.gguf": tiny_gguf()})
    code, _, error = machine.run("pull", REPOSITORY)
    assert code == 1
    assert "--yes" in error
    assert fetched(machine) == []
    code, error = machine.answer(b"n\n", "pull", REPOSITORY)
    assert code == 1
    assert "Fetch it?" in error
    assert fetched(machine) == []
    code, error = machine.answer(b"y\n", "pull", REPOSITORY)
    assert code == 0, error
    assert (machine.models / "m-Q4_K_M.gguf").read_bytes() == tiny_gguf()


def test_a_url_on_a_server_without_ranges_can_be_pulled(machine: Machine) -> None:
    from file_server import Behaviour

    url = machine.server.serve("/web.gguf", tiny_gguf(), Behaviour(ranges=False))
    code, out, error = machine.run("pull", url, "--yes")
    assert code == 0, error
    assert out.strip() == str(machine.models / "web.gguf")
    assert "publishes no SHA-256" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pull", "No/Such", "--yes"), "cannot be listed"),
        (("pull", "no-such-name", "--yes"), "no model of this name"),
        (("verify", "no-such-name"), "no model of this name"),
        (("remove", "no-such-name", "--yes"), "no model of this name"),
        (("remove", "../../etc/passwd", "--yes"), "no model of this name"),
        (("use", "no-such-name"), "no model of this name"),
        (("use", "starter-moe"), "underkeel pull starter-moe"),
        (("use", "gpt-oss-20b"), "underkeel pull gpt-oss-20b"),
        (("use", "gpt-oss-20"), "Did you mean gpt-oss-20b"),
    ],
)
def test_wrong_names_say_what_to_do(
    machine: Machine, arguments: tuple[str, ...], says: str
) -> None:
    code, _, error = machine.run(*arguments)
    assert code == 1
    assert says in error


def test_a_model_is_used_from_its_path(machine: Machine, dense_model: Path) -> None:
    code, out, error = machine.run("use", str(dense_model))
    assert code == 0, error
    assert "of memory" in out
    settings = (machine.home / "config.toml").read_text()
    assert settings == f'[model]\nname = "{dense_model}"\n'


def test_a_model_that_cannot_be_read_is_not_used(machine: Machine, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf()[:5000])
    code, _, error = machine.run("use", str(broken))
    assert code == 1
    assert "cut short" in error
    assert not (machine.home / "config.toml").exists()
