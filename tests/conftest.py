"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from assistant import paths

# As the worker has it: threads that wait in a loop take the cores from whatever else runs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Plans in tests take the assumed rates; measuring this machine takes seconds.
os.environ.setdefault("UNDERKEEL_MEASURE", "0")
# How long an example takes depends on the machine and on what else runs there.
settings.register_profile("underkeel", deadline=None)
settings.load_profile("underkeel")


def _model(name: str) -> Path:
    path = paths.models_dir() / name
    if not path.exists():
        pytest.fail(f"{path} is missing: run 'make models' first", pytrace=False)
    return path


@pytest.fixture(scope="session")
def dense_model() -> Path:
    """Qwen2.5-Coder-0.5B-Instruct Q4_K_M, dense."""
    return _model("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf")


@pytest.fixture(scope="session")
def moe_model() -> Path:
    """The same model upcycled to 4 experts, 1 used a token."""
    return _model("starter-moe.gguf")


@pytest.fixture(scope="session")
def tiny_moe(tmp_path_factory: pytest.TempPathFactory, moe_model: Path) -> Path:
    """A mixture of experts that runs in no time and says what is known beforehand."""
    from tiny_moe import write_tiny_moe

    return write_tiny_moe(tmp_path_factory.mktemp("tiny") / "tiny-moe.gguf", moe_model)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private UNDERKEEL_HOME (settings, socket, logs); models stay where they are."""
    monkeypatch.setenv("UNDERKEEL_MODELS", str(paths.models_dir()))
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("UNDERKEEL_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def small_vocabulary(tmp_path_factory: pytest.TempPathFactory, dense_model: Path) -> Path:
    """A GGUF with the starter model's most frequent tokens and no weights."""
    from small_vocabulary import write_small_vocabulary

    folder = tmp_path_factory.mktemp("vocabulary")
    return write_small_vocabulary(folder / "small.gguf", dense_model)


@pytest.fixture
def played_model(home: Path, small_vocabulary: Path) -> Path:
    """The model of an engine that the test plays. The settings name it, so that a language server
    reads its vocabulary and no other."""
    (home / "config.toml").write_text(f'[model]\nname = "{small_vocabulary}"\n')
    return small_vocabulary
