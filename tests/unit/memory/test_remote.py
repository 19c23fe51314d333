"""Headers over HTTP: by ranges, bounded, and refused where a server does not play along."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import shapes

from assistant.errors import GGUFError, ModelError
from assistant.memory.gguf.header import read_header
from assistant.memory.gguf.remote import (
    HubName,
    choose_file,
    is_remote,
    parse_hub_name,
    read_remote_header,
    resolve_url,
)
from assistant.memory.planning.checkpoint import read_remote_checkpoint


class Server:
    """A folder over HTTP, with ranges, redirects, and everything that can go wrong."""

    def __init__(self, folder: Path) -> None:
        self.sent_bytes = 0
        self.authorised: list[tuple[str, str]] = []
        self.mode = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.authorised.append((self.path, self.headers.get("Authorization", "")))
                if self.path.startswith("/api/models/"):
                    self._listing(self.path.removeprefix("/api/models/"))
                    return
                found = re.match(r"^/[^/]+/[^/]+/resolve/main/(.+)$", self.path)
                if found and outer.mode == "redirect":
                    self.send_response(302)
                    assert isinstance(self.server, ThreadingHTTPServer)
                    port = self.server.server_port
                    self.send_header("Location", f"http://localhost:{port}/store/{found[1]}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                name = found[1] if found else self.path.rpartition("/")[2]
                self._file(folder / name)

            def _listing(self, repository: str) -> None:
                if repository != "org/name":
                    self._answer(404, b"{}")
                    return
                files = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
                self._answer(200, json.dumps({"siblings": files}).encode())

            def _file(self, path: Path) -> None:
                if not path.is_file():
                    self._answer(404, b"")
                    return
                data = path.read_bytes() if path.stat().st_size < 1 << 24 else None
                size = path.stat().st_size
                wanted = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if wanted is None or outer.mode == "no ranges":
                    self._answer(200, (data or b"")[:1000])
                    return
                start, end = int(wanted[1]), min(int(wanted[2]), size - 1)
                with path.open("rb") as file:
                    file.seek(start)
                    body = file.read(end - start + 1)
                if outer.mode == "too much":
                    body += bytes(1000)
                if outer.mode == "elsewhere":
                    start += 1
                self._answer(206, body, f"bytes {start}-{end}/{size}")

            def _answer(self, status: int, body: bytes, content_range: str = "") -> None:
                if outer.mode == "forbidden":
                    status = 403
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if content_range:
                    self.send_header("Content-Range", content_range)
                self.end_headers()
                self.wfile.write(body)
                outer.sent_bytes += len(body)

            def log_message(self, *arguments: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *arguments: object) -> None:
                """A client that hangs up in the middle is part of the test."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    shapes.write_family(folder, "olmoe").rename(folder / "olmoe-Q4_K_M.gguf")
    shapes.write_family(folder, "olmoe").rename(folder / "olmoe-Q8_0.gguf")
    (folder / "mmproj-olmoe-Q4_K_M.gguf").write_bytes(b"")
    running = Server(folder)
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield running
    running.close()


def test_a_header_without_its_four_gigabytes(server: Server, tmp_path: Path) -> None:
    ours = read_remote_header(f"{server.url}/olmoe-Q4_K_M.gguf")
    theirs = read_header(tmp_path / "served" / "olmoe-Q4_K_M.gguf")
    assert ours.tensors == theirs.tensors
    assert dict(ours.metadata) == dict(theirs.metadata)
    assert ours.file_bytes > 4_000_000_000
    assert server.sent_bytes < 2 << 20


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("org/name", "olmoe-Q4_K_M.gguf"),
        ("org/name:Q8_0", "olmoe-Q8_0.gguf"),
        ("org/name:q8", "olmoe-Q8_0.gguf"),
        ("org/name/olmoe-Q8_0.gguf", "olmoe-Q8_0.gguf"),
        ("hf.co/org/name:Q8_0", "olmoe-Q8_0.gguf"),
        ("https://huggingface.co/org/name", "olmoe-Q4_K_M.gguf"),
        ("https://huggingface.co/org/name/blob/main/olmoe-Q8_0.gguf?x=1", "olmoe-Q8_0.gguf"),
        ("https://huggingface.co/org/name/resolve/main/olmoe-Q8_0.gguf", "olmoe-Q8_0.gguf"),
    ],
)
def test_names_of_a_repository(server: Server, name: str, file: str) -> None:
    header = read_remote_header(name)
    assert header.path == f"{server.url}/org/name/resolve/main/{file}"
    assert header.architecture == "olmoe"


def test_a_token_is_not_sent_to_where_the_server_redirects(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.mode = "redirect"
    assert read_remote_header("org/name:Q8_0").architecture == "olmoe"
    sent = {path.split("/")[1]: token for path, token in server.authorised}
    assert sent == {"api": "Bearer secret", "org": "Bearer secret", "store": ""}


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("no ranges", "parts of a file"),
        ("too much", "more than was requested"),
        ("elsewhere", "another range"),
        ("forbidden", "refuses"),
    ],
)
def test_servers_that_misbehave(server: Server, mode: str, words: str) -> None:
    server.mode = mode
    with pytest.raises(GGUFError, match=words) as caught:
        read_remote_header(f"{server.url}/olmoe-Q8_0.gguf")
    assert caught.value.advice
    assert server.sent_bytes < 1 << 20


def test_what_is_not_there(server: Server) -> None:
    with pytest.raises(GGUFError, match="404"):
        read_remote_header(f"{server.url}/nothing.gguf")
    with pytest.raises(ModelError, match="404"):
        read_remote_header("org/other")
    with pytest.raises(ModelError, match="no GGUF with 'Q2_K'"):
        read_remote_header("org/name:Q2_K")
    with pytest.raises(GGUFError, match="cannot be read"):
        read_remote_header("http://127.0.0.1:9/x.gguf")
    with pytest.raises(ModelError, match="no URL"):
        read_remote_header("http://[broken/x.gguf")


def test_a_split_model_over_http(server: Server, tmp_path: Path) -> None:
    from assistant.memory.gguf.header import BY_NAME, Tensor
    from assistant.memory.planning.dry_run import encode

    for index, name in enumerate("ab"):
        keys: dict[str, object] = {"split.no": index, "split.count": 2}
        tensor = Tensor(name, (8,), BY_NAME["f32"], 0)
        path = tmp_path / "served" / f"two-0000{index + 1}-of-00002.gguf"
        path.write_bytes(encode(keys, (tensor,)) + bytes(32))
    header = read_remote_header("org/name:two")
    assert [tensor.name for tensor in header.tensors] == ["a", "b"]
    assert header.parts[1].endswith("two-00002-of-00002.gguf")


def test_which_names_are_remote() -> None:
    for name in ("https://x/y.gguf", "org/name", "org/name:Q4_K_M", "org/name/sub/x.gguf"):
        assert is_remote(name), name
    for name in ("model.gguf", "./org/name", "/org/name", "~/x/y", "starter-moe", ""):
        assert not is_remote(name), name


def test_splitting_names() -> None:
    assert parse_hub_name("org/name/dir/x.gguf") == HubName("org/name", "dir/x.gguf")
    assert parse_hub_name("http://other.example/x.gguf") == HubName()
    with httpx.Client() as client:
        assert resolve_url("http://other.example/x.gguf?sign=1", client) == (
            "http://other.example/x.gguf"
        )


def test_choosing_a_file() -> None:
    files = ["README.md", "x-Q8_0.gguf", "x-Q5_K_M-00002-of-00002.gguf", "x-F16.gguf"]
    assert choose_file(files, "", "r") == "x-Q8_0.gguf"
    assert choose_file(files, "f16", "r") == "x-F16.gguf"
    with pytest.raises(ModelError):
        choose_file(files, "Q5", "r")
    with pytest.raises(ModelError, match="no GGUF in it"):
        choose_file(["config.json"], "", "r")


def test_a_remote_checkpoint(server: Server, tmp_path: Path) -> None:
    from checkpoint_files import write_checkpoint

    write_checkpoint(tmp_path / "served")
    found = read_remote_checkpoint("org/name")
    assert found.n_layer == 4
    assert found.config["model_type"] == "toy_moe"
