"""The script behind `make env`: what it takes from the lock file, and when llama.cpp is rebuilt."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / ".ci" / "setup_env.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_pin_of_the_lock_file_is_found_with_its_hashes(script: ModuleType) -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pins = script.pins(lock)
    assert set(pins) == set(re.findall(r"(?m)^([\w.-]+)(?:\[.*\])?==", lock))
    assert all("--hash=sha256:" in entry for entry in pins.values())
    assert pins["llama-cpp-python"].startswith("llama-cpp-python==")
    assert "".join(pins.values()).count("--hash=") == lock.count("--hash=")


def test_llama_is_rebuilt_when_its_version_or_its_options_change(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in script.BUILD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = script.llama_fingerprint("llama-cpp-python==1")
    assert script.llama_fingerprint("llama-cpp-python==1") == before
    assert script.llama_fingerprint("llama-cpp-python==2") != before
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    assert script.llama_fingerprint("llama-cpp-python==1") != before


def test_llama_is_rebuilt_for_another_cpu(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = script.llama_fingerprint("llama-cpp-python==1")
    monkeypatch.setattr(script, "cpu_features", lambda: "another CPU")
    assert script.llama_fingerprint("llama-cpp-python==1") != before


def test_the_caches_of_the_last_three_builds_are_kept(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By when they were used; what is no cache of ours stays, and so does what a link names."""
    names = [f"{number:016x}" for number in range(6)]
    for age, name in enumerate(names):
        (tmp_path / name / "wheels").mkdir(parents=True)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (tmp_path / ("f" * 16)).write_text("a file")
    (tmp_path / "notes").mkdir()
    (tmp_path / ("e" * 16)).symlink_to(outside)
    script.remove_old_builds(tmp_path, tmp_path / names[5])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {names[5], names[0], names[1], "f" * 16, "notes", "e" * 16}
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and all("older build of llama.cpp removed" in line for line in said)
    script.remove_old_builds(tmp_path, tmp_path / names[0])
    script.remove_old_builds(tmp_path / "none", tmp_path / "none" / names[0])
    assert {path.name for path in tmp_path.iterdir()} == left
    assert capsys.readouterr().out == ""
