"""A file gets its name only when it is what it should be, and the disk has a say."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from assistant.errors import DownloadError, ModelError
from assistant.models.fetch import (
    accept,
    disk_errors,
    exclusive,
    is_whole,
    partial_dir,
    require_space,
    sha256_of,
)

CONTENT = b"water under the keel" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNDERKEEL_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_the_right_file_gets_its_name(models: Path) -> None:
    partial = partial_dir() / "m.part"
    partial.write_bytes(CONTENT)
    accept(partial, models / "m.gguf", len(CONTENT), SHA256)
    assert (models / "m.gguf").read_bytes() == CONTENT
    assert not partial.exists()


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"X", CONTENT + b"X", b""])
def test_a_wrong_file_is_removed_and_the_old_one_stays(models: Path, content: bytes) -> None:
    partial = partial_dir() / "m.part"
    partial.write_bytes(content)
    (models / "m.gguf").write_bytes(b"the old one")
    with pytest.raises(DownloadError, match="SHA-256") as caught:
        accept(partial, models / "m.gguf", len(CONTENT), SHA256)
    assert "--from" in caught.value.advice
    assert not partial.exists()
    assert (models / "m.gguf").read_bytes() == b"the old one"


def test_a_missing_file_is_not_whole(models: Path) -> None:
    assert not is_whole(models / "none", 0, "")


def test_hashing_reports_its_bytes(models: Path) -> None:
    path = partial_dir() / "f"
    path.write_bytes(CONTENT)
    seen: list[int] = []
    assert sha256_of(path, seen.append) == SHA256
    assert sum(seen) == len(CONTENT)


def test_too_small_a_disk_is_reported_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000_000))
    require_space(900_000_000, "A model")
    with pytest.raises(ModelError, match=r"A model needs 1\.0 GB on disk, 1\.0 GB are free"):
        require_space(990_000_000, "A model")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_what_to_do(number: int) -> None:
    with pytest.raises(ModelError, match="full") as caught, disk_errors(Path("m")):
        raise OSError(number, os.strerror(number))
    assert "UNDERKEEL_MODELS" in caught.value.advice


def test_a_folder_of_somebody_else_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("UNDERKEEL_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(ModelError, match="cannot be written") as caught:
        partial_dir()
    assert "UNDERKEEL_MODELS" in caught.value.advice


def test_two_processes_do_not_make_the_same_model() -> None:
    code = "from assistant.models.fetch import exclusive\nwith exclusive('m'): pass"
    with exclusive("m"):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert other.returncode
    assert "another process is fetching this model" in other.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
