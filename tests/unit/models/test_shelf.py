"""What is here is listed, proved and removed; and the settings file names the model in use."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_gguf import split_gguf, tiny_gguf

from assistant.errors import SettingsError, UnknownModelError
from assistant.models.catalogue import catalogue
from assistant.models.fetch import Silent, partial_dir
from assistant.models.local_store import (
    Origin,
    State,
    find_local,
    local_models,
    read_origin,
    remove,
    use_model,
    verify,
    with_model,
    write_origin,
)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNDERKEEL_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def pulled(models: Path, files: dict[str, bytes], name: str = "m") -> None:
    hashes = {}
    for file, content in files.items():
        (models / file).write_bytes(content)
        hashes[file] = hashlib.sha256(content).hexdigest()
    write_origin(Origin(name=name, origin="Some/Model@abc", files=hashes))


def state(name: str) -> State:
    return verify(find_local(name), Silent()).state


def split(models: Path) -> dict[str, bytes]:
    files = {f"m-{n:05}-of-00003.gguf": part for n, part in enumerate(split_gguf(3), 1)}
    pulled(models, files)
    return files


def test_an_empty_shelf_shows_the_catalogue(models: Path) -> None:
    assert [model.name for model in local_models()] == list(catalogue())
    assert state("starter-moe") is State.MISSING


def test_no_folder_at_all_is_an_empty_shelf(models: Path) -> None:
    models.rmdir()
    assert [model.name for model in local_models()] == list(catalogue())


def test_a_split_model_is_one_row(models: Path) -> None:
    files = split(models)
    model = find_local("m")
    assert [file.name for file in model.files] == list(files)
    assert model.size_bytes == sum(map(len, files.values()))
    assert model.origin == "Some/Model@abc"
    assert state("m") is State.WHOLE


def test_a_changed_byte_is_found(models: Path) -> None:
    pulled(models, {"m.gguf": tiny_gguf()})
    assert state("m") is State.WHOLE
    content = bytearray(tiny_gguf())
    content[-1] ^= 1
    (models / "m.gguf").write_bytes(content)
    assert state("m") is State.WRONG


def test_a_lost_part_is_found(models: Path) -> None:
    split(models)
    (models / "m-00002-of-00003.gguf").unlink()
    assert state("m") is State.WRONG


def test_a_cut_file_is_found(models: Path) -> None:
    pulled(models, {"m.gguf": tiny_gguf()})
    (models / "m.gguf").write_bytes(tiny_gguf()[:-100])
    verdict = verify(find_local("m"), Silent())
    assert verdict.state is State.WRONG
    assert "cut short" in verdict.reason


def test_a_file_put_there_by_hand_is_sound_but_unproved(models: Path) -> None:
    (models / "own.gguf").write_bytes(tiny_gguf())
    assert find_local("own").origin == "put there by hand"
    assert state("own.gguf") is State.UNPROVED


def test_removing_takes_all_parts_and_what_was_unfinished(models: Path) -> None:
    files = split(models)
    (models / "other.gguf").write_bytes(tiny_gguf())
    part = partial_dir() / "m-00003-of-00003.gguf.0123.part"
    part.write_bytes(b"partial")
    other = partial_dir() / "other.gguf.0123.part"
    other.write_bytes(b"partial")
    freed = remove(find_local("m"))
    assert freed == sum(map(len, files.values())) + len(b"partial")
    assert [path.name for path in models.glob("*.gguf")] == ["other.gguf"]
    assert not part.exists()
    assert other.exists()
    assert read_origin("m") is None


def test_an_unknown_name_lists_the_known(models: Path) -> None:
    (models / "own.gguf").write_bytes(tiny_gguf())
    with pytest.raises(UnknownModelError) as caught:
        find_local("/etc/passwd")
    assert "own" in caught.value.advice


def test_a_broken_record_is_no_record(models: Path) -> None:
    pulled(models, {"m.gguf": tiny_gguf()})
    (models / ".origins" / "m.json").write_bytes(b"{")
    assert state("m") is State.UNPROVED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        '[model]\nname = "old"\n',
        "[model]  # mine\nname = 'old' # why\nn_ctx = 4096\n\n[daemon]\nmax_waiting = 1\n",
        "[model]",
        "[model]\nn_ctx = 4096\n[completion]\nenabled = true",
        '[completion]\nenabled = false\n\n[model]\nn_ctx = 1\nname = "a\\"b"\n',
        "[daemon]\nmax_waiting = 2",
    ],
)
@pytest.mark.parametrize("name", ["starter-moe", '/a "quoted" \\ path.gguf', "ünï"])
def test_only_the_name_changes_in_the_settings(text: str, name: str) -> None:
    before, after = tomllib.loads(text), tomllib.loads(with_model(text, name))
    assert after["model"].pop("name") == name
    before.get("model", {}).pop("name", None)
    assert {**after, "model": after["model"]} == {**before, "model": before.get("model", {})}
    for line in text.splitlines():
        if "name" not in line:
            assert line in with_model(text, name)


@given(st.text(), st.text())
def test_any_settings_text_is_changed_rightly_or_refused(text: str, name: str) -> None:
    try:
        fresh = with_model(text, name)
    except ValueError:
        return
    assert tomllib.loads(fresh)["model"]["name"] == name


@pytest.mark.parametrize("text", ["[model", "model = {name = 'x'}", "model.name = 'x'", "[model]\nname = '''x'''"])  # fmt: skip  # noqa: E501
def test_what_cannot_be_changed_safely_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match="cannot be changed") as caught:
        use_model("m", file)
    assert 'name = "m"' in caught.value.advice
    assert file.read_text() == text


def test_a_linked_settings_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "underkeel.toml"
    real.write_text("[model]\nname = 'old'\n")
    real.chmod(0o640)
    link = tmp_path / "config.toml"
    link.symlink_to(real)
    use_model("new", link)
    assert link.is_symlink()
    assert tomllib.loads(real.read_text())["model"]["name"] == "new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_the_settings_file_is_made(tmp_path: Path) -> None:
    file = use_model("m", tmp_path / "deep" / "config.toml")
    assert tomllib.loads(file.read_text()) == {"model": {"name": "m"}}
