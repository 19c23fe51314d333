"""A small HTTP server for files that can misbehave in every way a download has to survive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

_CHUNK_BYTES = 1 << 18


@dataclass
class Behaviour:
    """How one path is served.

    Attributes:
        cuts: for each of the first requests, after how many bytes its connection is cut.
        statuses: answered to the first requests instead of the file.
        ranges: whether Range requests are understood.
        range_shift: added to the start that Content-Range tells: a lie.
        redirect: another address to go to.
        extra: sent after the file's end.
    """

    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    range_shift: int = 0
    redirect: str = ""
    extra: bytes = b""
    etag: str = ""
    content_type: str = "application/octet-stream"
    on_request: Callable[[], None] | None = None


class FileServer:
    """Serves bytes or files by path. `requests` holds (path, Range header) of every request."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self._files: dict[str, tuple[bytes | Path, Behaviour]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients leave
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def serve(self, path: str, content: bytes | Path, behaviour: Behaviour | None = None) -> str:
        """Put a file there; returns its address."""
        self._files[path] = (content, behaviour or Behaviour())
        return self.url + path

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                asked = self.headers.get("Range", "")
                outer.requests.append((self.path, asked))
                outer.headers.append(dict(self.headers))
                if self.path not in outer._files:
                    self._plain(404)
                    return
                content, behaviour = outer._files[self.path]
                if behaviour.on_request:
                    behaviour.on_request()
                if behaviour.statuses:
                    self._plain(behaviour.statuses.pop(0))
                elif behaviour.redirect:
                    self.send_response(302)
                    self.send_header("Location", behaviour.redirect)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    self._file(content, behaviour, asked)

            def _plain(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _file(self, content: bytes | Path, how: Behaviour, asked: str) -> None:
                size = len(content) if isinstance(content, bytes) else content.stat().st_size
                start = 0
                if asked and how.ranges:
                    start = int(asked.removeprefix("bytes=").partition("-")[0])
                    if start >= size:
                        self._plain(416)
                        return
                    self.send_response(206)
                    told = start + how.range_shift
                    self.send_header("Content-Range", f"bytes {told}-{size - 1}/{size}")
                else:
                    self.send_response(200)
                self.send_header("Content-Type", how.content_type)
                if how.etag:
                    self.send_header("ETag", how.etag)
                self.send_header("Content-Length", str(size - start + len(how.extra)))
                self.end_headers()
                left = how.cuts.pop(0) if how.cuts else None
                for chunk in _chunks(content, start, how.extra):
                    if left is not None and left <= len(chunk):
                        self.wfile.write(chunk[:left])
                        self.wfile.flush()
                        self.close_connection = True
                        self.connection.close()
                        return
                    self.wfile.write(chunk)
                    left = None if left is None else left - len(chunk)

        return Handler


def _chunks(content: bytes | Path, start: int, extra: bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content[start:]
    else:
        with content.open("rb") as file:
            file.seek(start)
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    if extra:
        yield extra
