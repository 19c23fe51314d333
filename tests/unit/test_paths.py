"""Names, URIs and settings that come from elsewhere lead nowhere that they should not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from daemons import Daemon, serving
from tiny_gguf import tiny_gguf

from assistant import paths
from assistant.errors import ModelError, UnknownModelError
from assistant.models import catalogue, local_store
from lsp.completion.prompts import Prompts
from lsp.editor import Configuration
from lsp.uri import file_of, path_of

NAMES = [
    "../outside",
    "../outside.gguf",
    "a/../../outside",
    "..",
    ".",
    "",
    "\0",
    "a\0b.gguf",
    "x" * 5000,
    "outside.gguf/",
    "~nobody-of-this-name/x.gguf",
    "\ud800",
]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with one model, and one model beside the folder."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("UNDERKEEL_MODELS", str(folder))
    monkeypatch.chdir(folder)
    (folder / "inside.gguf").write_bytes(tiny_gguf(1))
    (tmp_path / "outside.gguf").write_bytes(tiny_gguf(1))
    return folder


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:30])
def test_names_name_nothing_outside_the_models_folder(home: Path, models: Path, name: str) -> None:
    """A path may be served if a person writes it; but only what is in the folder is managed."""
    with pytest.raises(UnknownModelError):
        local_store.find_local(name)
    found, advice = None, ""
    try:
        found = catalogue.resolve(name)
    except ModelError as error:
        advice = error.advice
    # A path like any other, and said as such; or refused, with what to do.
    assert advice or found == Path(name).absolute()
    assert (models.parent / "outside.gguf").exists()


def test_removing_takes_files_of_the_folder_only(home: Path, models: Path) -> None:
    local_store.remove(local_store.find_local("inside"))
    assert not (models / "inside.gguf").exists() and (models.parent / "outside.gguf").exists()


@pytest.mark.parametrize(
    "uri",
    [
        "file:///work/../etc/passwd",
        "file:///work/%2e%2e/etc/passwd",
        "file://host/share/x.py",
        "file:///a%00b.py",
        "file:///%ff%fe.py",
        "file:",
        "file://[::1/x.py",
        "untitled:Untitled-1",
        "vscode-vfs://github/a/b.py",
        "http://example.org/x.py",
        "\0",
        "",
        "file:///" + "x" * 5000,
    ],
    ids=lambda uri: repr(uri)[:30],
)
def test_uris_are_only_names(uri: str, tmp_path: Path) -> None:
    """No URI makes a file be read: text comes from the editor. Those outside are outside."""
    place = file_of(uri)[0]
    assert isinstance(place, Path)
    assert ".." not in place.parts
    assert path_of(uri) is None or uri.startswith("file:")
    prompts = Prompts((tmp_path,))
    document = asyncio.run(prompts.study(uri, "x = 1\n", lambda found: found))
    assert document.text == "x = 1\n" and document.root == ""


def test_an_editor_may_not_name_programs_models_or_servers(home: Path) -> None:
    """Its settings may come from the workspace."""
    said = {
        "model": {"name": "/tmp/evil.gguf"},
        "engine": {"backend_libraries": ["/tmp/evil.so"]},
        "remote": {"url": "https://evil.example"},
        "daemon": {"tcp_port": 1},
        "explain": {"name": "x"},
        "completion": {"max_tokens": 3},
    }
    settings, problems = Configuration().read({"underkeel": said})
    assert len(problems) == 5
    assert settings.completion.max_tokens == 3
    assert settings.model.name != "/tmp/evil.gguf" and not settings.engine.backend_libraries
    assert not settings.remote.url and not settings.daemon.tcp_port


def test_routes_lead_to_no_files(home: Path) -> None:
    async def body(daemon: Daemon) -> None:
        for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/metrics/../../x", "//etc"):
            answer = await daemon.http.get(path)
            assert answer.status_code == 404 and "root:" not in answer.text

    async def main() -> None:
        async with asyncio.timeout(30), serving() as daemon:
            await body(daemon)

    asyncio.run(main())
    assert paths.runtime_dir().exists()
