"""Names outside the catalogue: repositories pinned to their commit, split models, URLs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from file_server import Behaviour, FileServer
from tiny_gguf import split_gguf, tiny_gguf

from assistant.errors import DownloadError, GGUFError, ModelError
from assistant.models.catalogue import known_names, resolve
from assistant.models.fetch import Silent, open_client, partial_dir
from assistant.models.hub import Wanted, acquire, find_wanted, local_name
from assistant.models.local_store import read_origin

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "Some/Model-GGUF"


class Hub:
    """A server that answers as Hugging Face does, for one repository."""

    def __init__(self, server: FileServer, client: httpx.Client, models: Path) -> None:
        self.server = server
        self.client = client
        self.models = models
        self.files: dict[str, bytes] = {}

    def publish(self, files: dict[str, bytes], commit: str = COMMIT) -> None:
        self.files = files
        siblings = [{"rfilename": "README.md", "size": 10}]
        for name, content in files.items():
            sha256 = hashlib.sha256(content).hexdigest()
            siblings.append(
                {"rfilename": name, "size": len(content), "lfs": {"sha256": sha256, "size": 1}}
            )
            self.server.serve(f"/{REPOSITORY}/resolve/{commit}/{name}", content)
        listing = json.dumps({"sha": commit, "siblings": siblings}).encode()
        self.server.serve(f"/api/models/{REPOSITORY}?blobs=true", listing)

    def wanted(self, name: str) -> Wanted:
        return find_wanted(name, self.client)

    def acquire(self, name: str) -> Path:
        return acquire(self.wanted(name), self.client, Silent())

    def asked(self, part: str) -> list[str]:
        return [asked for path, asked in self.server.requests if part in path]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("UNDERKEEL_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("assistant.models.fetch.time.sleep", lambda _: None)
    with FileServer() as server, open_client(connect_s=2) as client:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield Hub(server, client, tmp_path / "models")


def leftovers() -> list[str]:
    return [path.name for path in partial_dir().iterdir() if path.suffix != ".lock"]


def test_a_repository_is_pinned_and_a_quantisation_chosen(hub: Hub) -> None:
    hub.publish({f"m-{quant}.gguf": tiny_gguf(n) for n, quant in enumerate(["Q8_0", "Q4_K_M"])})
    wanted = hub.wanted(REPOSITORY)
    assert wanted.name == "m-Q4_K_M"
    assert wanted.origin == f"{REPOSITORY}@{COMMIT[:12]}"
    assert wanted.size_bytes == len(tiny_gguf())
    assert COMMIT in wanted.url
    assert hub.wanted(f"{REPOSITORY}:q8_0").name == "m-Q8_0"
    assert hub.wanted(f"{REPOSITORY}/m-Q8_0.gguf").name == "m-Q8_0"


def test_a_model_of_a_repository_arrives_and_has_a_name(hub: Hub) -> None:
    hub.publish({"deep/down/m-Q4_K_M.gguf": tiny_gguf()})
    path = hub.acquire(REPOSITORY)
    assert path == hub.models / "m-Q4_K_M.gguf"
    assert path.read_bytes() == tiny_gguf()
    assert resolve("m-Q4_K_M") == path
    record = read_origin("m-Q4_K_M")
    assert record is not None
    assert record.files == {path.name: hashlib.sha256(tiny_gguf()).hexdigest()}
    assert leftovers() == []


def test_what_is_here_is_not_fetched_again(hub: Hub) -> None:
    hub.publish({"m.gguf": tiny_gguf()})
    hub.acquire(REPOSITORY)
    hub.acquire(REPOSITORY)
    assert len(hub.asked("/resolve/")) == 1


def test_a_split_model_arrives_as_one(hub: Hub) -> None:
    parts = split_gguf(5)
    names = [f"big/m-Q4_K_M-{number:05}-of-00005.gguf" for number in range(1, 6)]
    hub.publish(dict(zip(names, parts, strict=True)))
    path = hub.acquire(REPOSITORY)
    assert path.name == "m-Q4_K_M-00001-of-00005.gguf"
    assert sorted(file.name for file in hub.models.glob("*.gguf")) == [
        name.partition("/")[2] for name in names
    ]
    assert resolve("m-Q4_K_M") == path
    assert known_names()[-1] == "m-Q4_K_M"


def test_a_missing_part_is_reported_before_anything_is_fetched(hub: Hub) -> None:
    parts = split_gguf(3)
    hub.publish({"m-00001-of-00003.gguf": parts[0], "m-00003-of-00003.gguf": parts[2]})
    with pytest.raises(ModelError, match="no m-00002-of-00003"):
        hub.wanted(REPOSITORY)
    assert hub.asked("/resolve/") == []


def test_a_new_commit_replaces_the_file_only_when_it_is_whole(hub: Hub) -> None:
    hub.publish({"m.gguf": tiny_gguf(1)})
    path = hub.acquire(REPOSITORY)
    newer = "f" * 40
    hub.publish({"m.gguf": tiny_gguf(2)}, newer)
    address = f"/{REPOSITORY}/resolve/{newer}/m.gguf"
    hub.server.serve(address, tiny_gguf(3))
    with pytest.raises(DownloadError, match="SHA-256"):
        hub.acquire(REPOSITORY)
    assert path.read_bytes() == tiny_gguf(1)
    hub.server.serve(address, tiny_gguf(2))
    hub.acquire(REPOSITORY)
    assert path.read_bytes() == tiny_gguf(2)


def test_another_models_file_of_the_name_is_not_touched(hub: Hub) -> None:
    hub.models.mkdir(parents=True)
    (hub.models / "m.gguf").write_bytes(b"mine")
    hub.publish({"m.gguf": tiny_gguf()})
    with pytest.raises(ModelError, match="put there by hand") as caught:
        hub.acquire(REPOSITORY)
    assert "models remove m" in caught.value.advice
    assert (hub.models / "m.gguf").read_bytes() == b"mine"


def test_the_same_bytes_by_another_way_are_taken(hub: Hub) -> None:
    hub.models.mkdir(parents=True)
    (hub.models / "m.gguf").write_bytes(tiny_gguf())
    hub.publish({"m.gguf": tiny_gguf()})
    hub.acquire(REPOSITORY)
    assert hub.asked("/resolve/") == []


def test_a_url_is_fetched_and_its_header_read(hub: Hub) -> None:
    url = hub.server.serve("/files/some%20model.bin", b"x")
    with pytest.raises(ModelError, match="not the name of a GGUF"):
        hub.wanted(url)
    url = hub.server.serve("/files/web.gguf?key=secret", tiny_gguf())
    wanted = hub.wanted(url)
    assert wanted.name == "web"
    assert "secret" not in wanted.origin
    assert acquire(wanted, hub.client, Silent()).read_bytes() == tiny_gguf()
    record = read_origin("web")
    assert record is not None
    assert record.files == {"web.gguf": hashlib.sha256(tiny_gguf()).hexdigest()}


def test_a_url_that_brings_no_model_leaves_nothing(hub: Hub) -> None:
    url = hub.server.serve("/files/page.gguf", b"<html>log in</html>" * 100)
    with pytest.raises(GGUFError):
        hub.acquire(url)
    assert not list(hub.models.glob("*.gguf"))
    assert read_origin("page") is None


def test_a_file_that_changed_meanwhile_begins_again(hub: Hub) -> None:
    old, new = tiny_gguf(1), tiny_gguf(2)
    url = hub.server.serve("/w.gguf", old, Behaviour(cuts=[10**9] + [20_000] * 30, etag='"old"'))
    stopped = hub.wanted(url)
    hub.server.serve("/w.gguf", old, Behaviour(cuts=[20_000, 0, 0, 0, 0, 0, 0], etag='"old"'))
    with pytest.raises(DownloadError, match="gave up"):
        acquire(stopped, hub.client, Silent())
    hub.server.serve("/w.gguf", new, Behaviour(etag='"new"'))
    assert hub.acquire(url).read_bytes() == new


def test_a_file_that_stayed_is_continued(hub: Hub) -> None:
    content = tiny_gguf(1)
    url = hub.server.serve("/w.gguf", content, Behaviour(etag='"one"'))
    wanted = hub.wanted(url)
    hub.server.serve("/w.gguf", content, Behaviour(cuts=[20_000, 0, 0, 0, 0, 0, 0], etag='"one"'))
    with pytest.raises(DownloadError):
        acquire(wanted, hub.client, Silent())
    hub.server.serve("/w.gguf", content, Behaviour(etag='"one"'))
    before = len(hub.server.requests)
    assert hub.acquire(url).read_bytes() == content
    assert ("/w.gguf", "bytes=20000-") in hub.server.requests[before:]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("No/Such", "status 404"),
        (f"{REPOSITORY}:Q2_K", "no GGUF with"),
        (f"{REPOSITORY}/none.gguf", "has no none.gguf"),
    ],
)
def test_what_a_repository_does_not_have(hub: Hub, name: str, says: str) -> None:
    hub.publish({"m-Q4_K_M.gguf": tiny_gguf()})
    with pytest.raises(ModelError, match=says) as caught:
        hub.wanted(name)
    assert caught.value.advice


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"sha": 1}', b"<html>"])
def test_a_hub_that_answers_nonsense(hub: Hub, answer: bytes) -> None:
    hub.server.serve(f"/api/models/{REPOSITORY}?blobs=true", answer)
    with pytest.raises(DownloadError, match="cannot be listed"):
        hub.wanted(REPOSITORY)


def test_nobody_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError):
        hub.wanted(REPOSITORY)
    with pytest.raises(DownloadError, match="cannot be reached"):
        hub.wanted("http://127.0.0.1:9/x.gguf")


@pytest.mark.parametrize(
    "path",
    ["", "/", "..", "a/..", "a/.hidden.gguf", "a/b.bin", "x\u202ey.gguf", "\0.gguf", ".gguf"],
)
def test_names_that_could_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(ModelError):
        local_name(path)


def test_only_the_last_of_a_path_counts() -> None:
    assert local_name("../../etc/m.gguf") == "m.gguf"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/My Model [Q4_K_M] (v2).gguf", "My Model [Q4_K_M] (v2).gguf"),
        ("M-Q8_0.GGUF", "M-Q8_0.gguf"),
        ("a:b?.gguf", "a_b_.gguf"),
        ("modèle-Q8_0.Gguf", "modèle-Q8_0.gguf"),
    ],
)
def test_names_as_people_write_them(path: str, name: str) -> None:
    """Case S17: blanks, brackets, upper case; what a file system refuses becomes "_"."""
    assert local_name(path) == name


def test_a_name_with_blanks_arrives(hub: Hub) -> None:
    """Case S17: from the hub's listing to the models folder."""
    hub.publish({"My Model [1].GGUF": tiny_gguf()})
    hub.server.serve(f"/{REPOSITORY}/resolve/{COMMIT}/My%20Model%20%5B1%5D.GGUF", tiny_gguf())
    assert hub.acquire(REPOSITORY).name == "My Model [1].gguf"


def test_the_hash_of_a_url_is_shown_and_kept(hub: Hub) -> None:
    """Case T23: a server that publishes no hash."""

    class Notes(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def note(self, text: str) -> None:
            self.lines.append(text)

    url, notes = hub.server.serve("/files/web.gguf", tiny_gguf()), Notes()
    acquire(hub.wanted(url), hub.client, notes)
    sha256 = hashlib.sha256(tiny_gguf()).hexdigest()
    record = read_origin("web")
    assert record is not None and record.files == {"web.gguf": sha256}
    assert notes.lines == [f"web.gguf: SHA-256 {sha256}"]
