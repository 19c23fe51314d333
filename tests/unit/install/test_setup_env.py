"""The script behind `make env`: what it takes from the lock file, and when llama.cpp is rebuilt."""

from __future__ import annotations

import importlib.util
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
