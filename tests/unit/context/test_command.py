"""`underkeel context`, with the starter model's own vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assistant.cli import build_app
from assistant.cli.context import index_path, read_cursor, workspace_root
from assistant.errors import RequestError
from context.index.store import Store


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / ".git").mkdir(parents=True)
    (root / "tides.py").write_text("def height_at(hour):\n    return hour\n")
    (root / "main.py").write_text(
        "from tides import height_at\n\n\ndef f(hour):\n    x = height_at(hour)\n    return x\n"
    )
    return root


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(build_app("context"), ["context", *arguments])


def test_json_tells_sections_tokens_and_reasons(
    project: Path, dense_model: Path, home: Path
) -> None:
    place = f"{project / 'main.py'}:5:9"
    result = run(place, "--json", "--budget", "300", "--model", str(dense_model))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["prompt_tokens"] <= found["budget_tokens"] == 300
    by_part = {one["part"]: one for one in found["sections"]}
    assert "def height_at(hour)" in by_part["repo_text"]["text"]
    assert by_part["repo_text"]["reason"] == "imported here: height_at"
    assert by_part["prefix"]["text"].endswith("    x = ")
    assert found["index"]["files"] == 2


def test_the_drawing_shows_every_section(project: Path, dense_model: Path, home: Path) -> None:
    result = run(f"{project / 'main.py'}:5", "--model", str(dense_model))
    assert result.exit_code == 0, result.output
    for word in ("other file tides.py", "near prefix", "suffix", "tokens", "imported here"):
        assert word in result.stdout


@pytest.mark.parametrize("place", ["main.py", "none.py:1", "main.py:99", "main.py:0", ":3"])
def test_a_wrong_place_is_explained(
    project: Path, monkeypatch: pytest.MonkeyPatch, place: Any
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(RequestError) as caught:
        read_cursor(place)
    assert caught.value.advice


def test_a_place_without_column_is_the_end_of_the_line(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    path, text, cursor = read_cursor("main.py:5")
    assert text[:cursor].endswith("height_at(hour)")
    assert read_cursor("main.py:5:1000")[2] == cursor
    assert workspace_root(path) == project


@pytest.mark.parametrize("name", [".env", "mine/notes.py"])
def test_a_file_that_no_model_may_see_is_refused_before_anything_is_read(
    project: Path, dense_model: Path, home: Path, name: str
) -> None:
    (home / "config.toml").write_text('[completion]\nexcludes = ["mine/"]\n')
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text("KEY = 1\n")
    result = run(f"{project / name}:1", "--model", str(dense_model))
    assert isinstance(result.exception, RequestError)
    assert "no model sees this file" in str(result.exception)
    assert not index_path(project).exists() or not Store(index_path(project)).count()[0]
