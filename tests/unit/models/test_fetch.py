"""One file over HTTP, from servers that cut, lie, refuse and forget."""

from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import httpx
import pytest
from file_server import Behaviour, FileServer

from assistant.errors import DownloadError, NetworkSettingsError
from assistant.models.fetch import Cancelled, RemoteFile, fetch, open_client

CONTENT = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with open_client(connect_s=2) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistant.models.fetch.time.sleep", lambda _: None)


class Counter:
    def __init__(self) -> None:
        self.total = 0

    def __call__(self, done: int) -> None:
        self.total += done


def test_a_file_arrives_whole(server: FileServer, client: httpx.Client, tmp_path: Path) -> None:
    done = Counter()
    fetch(client, RemoteFile(server.serve("/f", CONTENT), len(CONTENT)), tmp_path / "f", done)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert done.total == len(CONTENT)
    assert server.requests == [("/f", "")]


def test_a_cut_connection_is_continued(
    server: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    url = server.serve("/f", CONTENT, Behaviour(cuts=[1_000_000, 500_000, 1]))
    done = Counter()
    fetch(client, RemoteFile(url, len(CONTENT)), tmp_path / "f", done)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert done.total == len(CONTENT)
    assert [asked for _, asked in server.requests] == [
        "",
        "bytes=1000000-",
        "bytes=1500000-",
        "bytes=1500001-",
    ]


def test_an_earlier_try_is_continued(
    server: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    partial = tmp_path / "f"
    partial.write_bytes(CONTENT[:2_000_000])
    done = Counter()
    fetch(client, RemoteFile(server.serve("/f", CONTENT), len(CONTENT)), partial, done)
    assert partial.read_bytes() == CONTENT
    assert done.total == len(CONTENT)
    assert server.requests == [("/f", "bytes=2000000-")]


def test_a_whole_partial_file_asks_nothing(
    server: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    partial = tmp_path / "f"
    partial.write_bytes(CONTENT)
    fetch(client, RemoteFile(server.serve("/f", CONTENT), len(CONTENT)), partial, Counter())
    assert server.requests == []


def test_a_partial_file_that_is_too_long_begins_again(
    server: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    partial = tmp_path / "f"
    partial.write_bytes(b"x" * 4_000_000)
    fetch(client, RemoteFile(server.serve("/f", CONTENT), len(CONTENT)), partial, Counter())
    assert partial.read_bytes() == CONTENT


def test_a_server_without_ranges_begins_again(
    server: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    url = server.serve("/f", CONTENT, Behaviour(ranges=False, cuts=[1_000_000]))
    done = Counter()
    fetch(client, RemoteFile(url, len(CONTENT)), tmp_path / "f", done)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert done.total == len(CONTENT)


def test_a_range_that_cannot_be_begins_again(
    server: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    partial = tmp_path / "f"
    partial.write_bytes(b"y" * len(CONTENT))
    fetch(client, RemoteFile(server.serve("/f", CONTENT), 0), partial, Counter())
    assert partial.read_bytes() == CONTENT


def test_a_lying_range_is_refused(server: FileServer, client: httpx.Client, tmp_path: Path) -> None:
    url = server.serve("/f", CONTENT, Behaviour(range_shift=7))
    partial = tmp_path / "f"
    partial.write_bytes(CONTENT[:1000])
    with pytest.raises(DownloadError, match="another range"):
        fetch(client, RemoteFile(url, len(CONTENT)), partial, Counter())
    assert partial.read_bytes() == CONTENT[:1000]


def test_another_size_than_promised_is_refused(
    server: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    partial = tmp_path / "f"
    partial.write_bytes(CONTENT[:1000])
    with pytest.raises(DownloadError, match="has 3000000 bytes"):
        fetch(client, RemoteFile(server.serve("/f", CONTENT), 3_000_001), partial, Counter())


def test_more_than_promised_is_not_taken(
    server: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    url = server.serve("/f", CONTENT, Behaviour(extra=b"z" * 1_000_000))
    with pytest.raises(DownloadError, match="4000000 bytes, not 3000000"):
        fetch(client, RemoteFile(url, len(CONTENT)), tmp_path / "f", Counter())
    assert not (tmp_path / "f").exists()


def test_redirects_are_followed_without_the_token(
    server: FileServer, client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    with FileServer() as elsewhere:
        target = elsewhere.serve("/blob", CONTENT).replace("127.0.0.1", "localhost")
        url = server.serve("/f", b"", Behaviour(redirect=target))
        fetch(client, RemoteFile(url, len(CONTENT)), tmp_path / "f", Counter())
        assert server.headers[0]["Authorization"] == "Bearer secret"
        assert "Authorization" not in elsewhere.headers[0]
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_endless_redirects_end(server: FileServer, client: httpx.Client, tmp_path: Path) -> None:
    url = server.serve("/f", b"", Behaviour(redirect="/f"))
    with pytest.raises(DownloadError, match="redirect"):
        fetch(client, RemoteFile(url, 1), tmp_path / "f", Counter())


@pytest.mark.parametrize(
    ("status", "advice"), [(404, "revision"), (401, "HF_TOKEN"), (403, "HF_TOKEN"), (418, "later")]
)
def test_refusals_say_what_to_do(
    server: FileServer, client: httpx.Client, tmp_path: Path, status: int, advice: str
) -> None:
    url = server.serve("/f", CONTENT, Behaviour(statuses=[status])) + "?token=secret"
    server.serve("/f?token=secret", CONTENT, Behaviour(statuses=[status]))
    with pytest.raises(DownloadError, match=str(status)) as caught:
        fetch(client, RemoteFile(url, len(CONTENT)), tmp_path / "f", Counter())
    assert advice in caught.value.advice
    assert "secret" not in str(caught.value)


def test_a_busy_server_is_asked_again(
    server: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    url = server.serve("/f", CONTENT, Behaviour(statuses=[503, 429, 502]))
    fetch(client, RemoteFile(url, len(CONTENT)), tmp_path / "f", Counter())
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_server_that_never_gives_a_byte_is_given_up(
    server: FileServer, client: httpx.Client, tmp_path: Path
) -> None:
    url = server.serve("/f", CONTENT, Behaviour(cuts=[0] * 50))
    with pytest.raises(DownloadError, match="gave up") as caught:
        fetch(client, RemoteFile(url, len(CONTENT)), tmp_path / "f", Counter())
    assert "pull again" in caught.value.advice


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/f", "http://nowhere.invalid/f", "http://[/f"])
def test_nobody_there(client: httpx.Client, tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError):
        fetch(client, RemoteFile(url, 10), tmp_path / "f", Counter())


def test_a_fetch_can_be_stopped(server: FileServer, client: httpx.Client, tmp_path: Path) -> None:
    stop = threading.Event()
    url = server.serve("/f", CONTENT)
    with pytest.raises(Cancelled):
        fetch(client, RemoteFile(url, len(CONTENT)), tmp_path / "f", lambda _: stop.set(), stop)
    assert (tmp_path / "f").stat().st_size < len(CONTENT)


def test_wrong_certificates_are_reported() -> None:
    with pytest.raises(NetworkSettingsError, match="certificates"):
        open_client(certificates="/no/such/file.pem")


@pytest.mark.parametrize("kind", ["gzip", "deflate"])
def test_a_server_that_compresses_all_the_same(
    client: httpx.Client, tmp_path: Path, kind: str
) -> None:
    """Case S19: the body is decoded, in one request."""
    packed = zlib.compress(CONTENT, wbits=31 if kind == "gzip" else 15)
    with EncodedServer(kind, packed) as encoded:
        fetch(client, RemoteFile(encoded.url, len(CONTENT)), tmp_path / "f", lambda _: None)
        assert (tmp_path / "f").read_bytes() == CONTENT
        assert encoded.requests == 1


PACKED = zlib.compress(CONTENT, wbits=31)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("br", b"x" * 99),
        ("zstd", b"x" * 99),
        ("x-gzip", PACKED),
        ("gzip, br", PACKED),
        ("gzip", b"no gzip at all"),
        ("gzip", CONTENT),
        ("gzip", PACKED[: len(PACKED) // 2]),
        ("gzip", zlib.compress(CONTENT[:-1], wbits=31)),
        ("deflate", PACKED),
        ("gzip", b""),
    ],
)
def test_bad_bytes_of_a_compressing_server_are_dropped(
    client: httpx.Client, tmp_path: Path, kind: str, body: bytes
) -> None:
    """Case S19: what cannot be decoded is refused at once, and nothing of it is kept."""
    with EncodedServer(kind, body) as encoded:
        with pytest.raises(DownloadError, match=r"compresses|all that comes"):
            fetch(client, RemoteFile(encoded.url, len(CONTENT)), tmp_path / "f", lambda _: None)
        assert encoded.requests == 1
    assert not (tmp_path / "f").exists() or not (tmp_path / "f").read_bytes()


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("body", [PACKED, b"<html>log in</html>", CONTENT[:-1]])
def test_another_body_than_the_file_is_refused_at_once(
    client: httpx.Client, tmp_path: Path, body: bytes, chunked: bool
) -> None:
    """Case S19: compressed bytes without a header that says so, a page of a proxy, a shorter file:
    nothing is kept of what came, nor of what it would have been appended to."""
    (tmp_path / "f").write_bytes(CONTENT[:100])
    with EncodedServer("", body, chunked=chunked) as encoded:
        with pytest.raises(DownloadError, match="bytes") as caught:
            fetch(client, RemoteFile(encoded.url, len(CONTENT)), tmp_path / "f", lambda _: None)
        assert encoded.requests == 1
    assert "Nothing of it was kept" in caught.value.advice
    assert not (tmp_path / "f").exists()


class EncodedServer:
    """Answers every request with one encoded body."""

    def __init__(self, kind: str, body: bytes, *, chunked: bool = False) -> None:
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.requests += 1
                self.send_response(200)
                if kind:
                    self.send_header("Content-Encoding", kind)
                if chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
                    return
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/m.gguf"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize("address", ["http://models.example/m.gguf", "http://192.0.2.1/m.gguf"])
def test_http_is_refused_also_by_a_redirect(
    server: FileServer, client: httpx.Client, tmp_path: Path, address: str
) -> None:
    """Case T23: nothing is fetched without encryption unless the user allows it."""
    for url in (address, server.serve("/there", b"", Behaviour(redirect=address))):
        with pytest.raises(DownloadError, match="not be encrypted") as caught:
            fetch(client, RemoteFile(url, 10), tmp_path / "f", lambda _: None)
        assert "--allow-http" in caught.value.advice


@pytest.mark.parametrize(
    "address",
    [
        "HTTP://models.example/m", "http://localhost.evil.example/m", "http://127.0.0.1.evil.example/m",
        "http://localhost@models.example/m", "http://127.0.0.1:80@models.example/m", "http://0.0.0.0/m",
        "http://192.168.0.1/m", "http://huggingface.co/m", "http://user:pw@huggingface.co/m",
        "ftp://models.example/m", "http://models.example:443/m", "http://[fe80::1]/m", "http://10.1/m",
    ],
)  # fmt: skip
@pytest.mark.parametrize("hops", [0, 1, 2])
def test_no_form_of_an_address_passes_for_this_machine(
    server: FileServer, client: httpx.Client, tmp_path: Path, address: str, hops: int
) -> None:
    """T23: other spellings, names that begin as ours, and several redirects."""
    for hop in range(hops):
        address = server.serve(f"/hop{hop}", b"", Behaviour(redirect=address))
    with pytest.raises(DownloadError, match="not be encrypted"):
        fetch(client, RemoteFile(address, 10), tmp_path / "f", lambda _: None)
