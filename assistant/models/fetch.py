"""Downloads a file into the models folder: partial files, disk space, checksums, progress.

An interrupted download resumes. The bytes are not trusted: a download is never longer than
expected, and a model gets its name only when all its bytes are here and their checksum is verified.
Until then the file is in `.partial` beside the models, on the same file system, so that the last
step is one rename.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import filelock
import httpx

from assistant import http_client, paths
from assistant.errors import DownloadError, ModelError
from assistant.http_client import at_hub, authorise_hub

Advance = Callable[[int], None]
"""Told how many bytes more are done."""

_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20  # left free: a disk filled to its last byte breaks other programs
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CONNECT_SECONDS = 6.0
_READ_SECONDS = 60.0
_PARALLEL = 4
_TRIES = 6  # without a single new byte in between
_BUSY = {429, 500, 502, 503, 504}
_Item = TypeVar("_Item")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


def partial_dir() -> Path:
    """Where unfinished files are stored, made if need be."""
    folder = paths.models_dir() / ".partial"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a `ModelError` about `path`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> ModelError:
    """What the file system refused, for a person."""
    if error.errno in _FULL:
        return ModelError(
            "the disk is full",
            subject=str(path),
            advice="Free space, or set UNDERKEEL_MODELS to a folder on a larger disk; what was "
            "fetched is kept, pull again to go on",
        )
    return ModelError(
        f"the models folder cannot be written ({error.strerror or error})",
        subject=str(path),
        advice="Fix its permissions, or set UNDERKEEL_MODELS to a folder that you own",
    )


def require_space(needed_bytes: int, what: str) -> None:
    """Refuse before anything is fetched.

    Raises:
        ModelError: the models folder's disk has no room for `needed_bytes` more.
    """
    folder = partial_dir()
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if needed_bytes + _SPARE_BYTES > free:
        raise ModelError(
            f"{what} needs {_gigabytes(needed_bytes)} on disk, {_gigabytes(free)} are free",
            subject=str(paths.models_dir()),
            advice="Free space, or set UNDERKEEL_MODELS to a folder on a larger disk",
        )


def sha256_of(path: Path, advance: Advance | None = None) -> str:
    """SHA-256 of a file as lower-case hex.

    Raises:
        ModelError: it cannot be read.
    """
    digest = hashlib.sha256()
    with disk_errors(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            if advance:
                advance(len(chunk))
    return digest.hexdigest()


def is_whole(path: Path, size_bytes: int, sha256: str, advance: Advance | None = None) -> bool:
    """Whether `path` holds exactly these bytes. An empty `sha256` is not compared."""
    try:
        if path.stat().st_size != size_bytes:
            return False
    except OSError:
        return False
    return not sha256 or sha256_of(path, advance) == sha256


def accept(
    partial: Path, target: Path, size_bytes: int, sha256: str, advance: Advance | None = None
) -> None:
    """Give a finished file its name, if it is what it should be; remove it if it is not.

    Raises:
        DownloadError: size or hash is wrong.
        ModelError: the rename is refused.
    """
    if not is_whole(partial, size_bytes, sha256, advance):
        with disk_errors(partial):
            partial.unlink(missing_ok=True)
        raise DownloadError(
            "the file that came is not the file that was requested (its size or SHA-256 differs)",
            subject=target.name,
            advice="It was removed. Pull again, or from another source with --from; if it happens "
            "again, something on the way changes files",
        )
    with disk_errors(target):
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # the name must not outlive the bytes in a power cut
        partial.replace(target)


@contextlib.contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Only one process at a time makes the model of this file name.

    Raises:
        ModelError: another one is at it.
    """
    lock = filelock.FileLock(partial_dir() / f"{name}.lock")
    with disk_errors(partial_dir()):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise ModelError(
                "another process is fetching this model", subject=name, advice="Wait for it"
            ) from error
    try:
        yield
    finally:
        lock.release()


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"


class Report(Protocol):
    """Told how a pull goes on; may be called from several threads."""

    def step(self, label: str, total_bytes: int) -> Advance:
        """A step begins; the answer receives every byte that is done."""
        ...

    def note(self, text: str) -> None:
        """Something the user wants to know."""
        ...


class Silent:
    """A Report for those who do not look."""

    def step(self, label: str, total_bytes: int) -> Advance:  # noqa: ARG002
        return lambda _: None

    def note(self, text: str) -> None:
        pass


def once_it_moves(report: Report, label: str, total_bytes: int) -> Advance:
    """A step that begins with its first byte: none is shown for a source that never answers."""
    begin = functools.cache(lambda: report.step(label, total_bytes))
    lock = threading.Lock()

    def advance(done: int) -> None:
        if done:
            with lock:
                step = begin()
            step(done)

    return advance


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch. `size_bytes` 0 means unknown."""

    url: str
    size_bytes: int


def open_client(
    certificates: str | None = None,
    proxy: str | None = None,
    connect_s: float = _CONNECT_SECONDS,
    *,
    allow_http: bool = False,
) -> httpx.Client:
    """A client for downloads, which follows redirects and the environment's proxies.

    Args:
        allow_http: fetch also over connections without encryption. Without it they are refused,
            also where a redirect leads there, except on this machine and at `HF_ENDPOINT`.

    Raises:
        NetworkSettingsError: the certificates or the proxy's address cannot be used.
    """
    return http_client.open_client(
        certificates=certificates or "",
        proxy=proxy or "",
        encrypted_only=not allow_http,
        allow=at_hub,
        follow_redirects=True,
        timeout=httpx.Timeout(_READ_SECONDS, connect=connect_s),
        auth=authorise_hub,
        headers={"User-Agent": "underkeel", "Accept-Encoding": "identity"},
    )


class _BusyError(Exception):
    """The server says that a later try may succeed."""


class Cancelled(Exception):  # noqa: N818  # not an error: another part failed, this one stops
    """A fetch was stopped through its event."""


def fetch(
    client: httpx.Client,
    file: RemoteFile,
    partial: Path,
    advance: Advance,
    stop: threading.Event | None = None,
) -> None:
    """Fetch `file` into `partial`, going on where an earlier try ended.

    `advance` counts bytes already there too, and of a negative number where the server made
    the fetch begin again.

    Raises:
        DownloadError: the server refuses, sends other sizes than promised, or stays silent.
        Cancelled: `stop` was set.
    """
    have = _length(partial)
    if file.size_bytes and have > file.size_bytes:
        with disk_errors(partial):
            partial.unlink()
        have = 0
    advance(have)
    tries = 0
    while not file.size_bytes or have < file.size_bytes:
        before = have
        try:
            ended = _go_on(client, file, partial, advance, stop)
            have = _length(partial)
            if ended and have >= file.size_bytes:
                return
            reason = "the connection ended early"
        except httpx.ConnectError as error:
            raise _failed(file.url, f"no connection ({error})") from error
        except httpx.ConnectTimeout as error:
            raise _failed(file.url, "no answer to the attempt to connect") from error
        except (httpx.TransportError, _BusyError) as error:
            reason = str(error) or type(error).__name__
            have = _length(partial)
        except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise _failed(file.url, str(error)) from error
        except httpx.DecodingError as error:
            raise _dropped(file, partial, "the server compresses the file wrongly") from error
        tries = 0 if have > before else tries + 1
        if tries >= _TRIES:
            raise _failed(file.url, f"gave up after {tries} tries ({reason})")
        if tries and not (stop and stop.is_set()):
            time.sleep(min(0.1 * 2**tries, 5.0))


def _go_on(
    client: httpx.Client,
    file: RemoteFile,
    partial: Path,
    advance: Advance,
    stop: threading.Event | None,
) -> bool:
    """One request. False where what lies here had to be thrown away first."""
    have = _length(partial)
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", file.url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            with disk_errors(partial):  # what lies here is no part of that file
                partial.unlink()
            advance(-have)
            return False
        _check_status(file, response)
        encoded = _is_encoded(file, response)
        if encoded and response.status_code == httpx.codes.PARTIAL_CONTENT:
            with disk_errors(partial):  # a range of the compressed bytes: begin again without one
                partial.unlink()
            advance(-have)
            return False
        start = _start_of(file, response, have)
        told = response.headers.get("Content-Length", "")
        whole = response.status_code != httpx.codes.PARTIAL_CONTENT
        known = file.size_bytes != 0 and told.isdecimal()
        wrong = known and told.lstrip("0") != str(file.size_bytes)
        if whole and wrong and not encoded:
            why = f"the server sends {told} bytes, not {file.size_bytes}"
            raise _dropped(file, partial, f"{why}: it is another file, or compressed")
        if start < have:
            advance(start - have)
        with disk_errors(partial), partial.open("r+b" if start else "wb") as out:
            out.seek(start)
            out.truncate()
            length = start
            for chunk in response.iter_bytes() if encoded else response.iter_raw():
                if stop and stop.is_set():
                    raise Cancelled
                length += len(chunk)
                if file.size_bytes and length > file.size_bytes:
                    why = f"more came than the {file.size_bytes} bytes promised"
                    raise _dropped(file, partial, why)
                out.write(chunk)
                advance(len(chunk))
        framed = told or response.headers.get("Transfer-Encoding")  # so its end is known
        if whole and framed and length < file.size_bytes:
            raise _dropped(file, partial, f"all that comes is {length} bytes")
        return True


def _is_encoded(file: RemoteFile, response: httpx.Response) -> bool:
    """Whether the body is compressed, although identity was requested.

    Raises:
        DownloadError: in a way that cannot be undone, or to an unknown length.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        return False
    if encoding in {"gzip", "deflate"} and file.size_bytes:
        return True
    raise _failed(file.url, f"the server compresses it ({encoding}) although it was asked not to")


def _length(partial: Path) -> int:
    with disk_errors(partial):
        return partial.stat().st_size if partial.exists() else 0


def _start_of(file: RemoteFile, response: httpx.Response, have: int) -> int:
    """Where the body begins in the file: at `have`, or at 0 where the server knows no ranges."""
    if response.status_code != httpx.codes.PARTIAL_CONTENT:
        return 0
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    total = match and match[3]
    if not match or int(match[1]) != have:
        raise _failed(file.url, "the server answered with another range than was requested")
    if file.size_bytes and total not in {"*", str(file.size_bytes)}:
        raise _failed(file.url, f"the file there has {total} bytes, not {file.size_bytes}")
    return have


def _check_status(file: RemoteFile, response: httpx.Response) -> None:
    if response.is_success:
        return
    if response.status_code in _BUSY:
        raise _BusyError(f"the server answers {response.status_code}")
    advice = {
        401: "Log in (hf auth login, or HF_TOKEN), or accept the model's terms there",
        403: "Log in (hf auth login, or HF_TOKEN), or accept the model's terms there",
        404: "Check the name, the revision and the file's path",
    }.get(response.status_code, "Try again later, or another source with --from")
    raise DownloadError(
        f"the server answers {response.status_code} {response.reason_phrase}".rstrip(),
        subject=shown(file.url),
        advice=advice,
    )


def _failed(url: str, why: str) -> DownloadError:
    return DownloadError(
        f"the file could not be fetched: {why}",
        subject=shown(url),
        advice="What came is kept: pull again to go on, or from another source with --from",
    )


def _dropped(file: RemoteFile, partial: Path, why: str) -> DownloadError:
    """The error for bytes of which none can be kept; they are removed."""
    with disk_errors(partial):
        partial.unlink(missing_ok=True)
    return DownloadError(
        f"the file could not be fetched: {why}",
        subject=shown(file.url),
        advice="Nothing of it was kept. Pull again, or from another source with --from",
    )


def shown(url: str) -> str:
    """The URL without a password or a signature."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return url
    return str(parts.copy_with(userinfo=b"", query=None, fragment=None))


def side_by_side(
    items: Sequence[_Item], get: Callable[[_Item, threading.Event], Path]
) -> Iterator[tuple[_Item, Path]]:
    """`get` for several items at once; yields them in order as they are done.

    The first error stops the others, which keep what they have fetched, and is raised.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="pull") as pool:
        futures = [pool.submit(get, item, stop) for item in items]
        try:
            for item, future in zip(items, futures, strict=True):
                yield item, future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
