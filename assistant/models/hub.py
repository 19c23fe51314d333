"""Models outside the catalogue: files on Hugging Face or at any URL, downloaded and verified.

Names are those of `assistant.memory.gguf.remote`: `owner/name`, `owner/name:Q4_K_M`,
`owner/name/file.gguf`, `https://...`. A repository is pinned to its present commit before anything
is fetched, and its own list of SHA-256 checksums is what the files are verified against.
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import httpx
import msgspec

from assistant import paths
from assistant.errors import DownloadError, ModelError
from assistant.http_client import hub_endpoint
from assistant.memory.gguf.header import read_header
from assistant.memory.gguf.remote import (
    HubName,
    choose_file,
    listing_url,
    parse_hub_name,
    read_listing,
)
from assistant.memory.model.known_models import known_models, known_name
from assistant.models.catalogue import SPLIT_NAME, model_name
from assistant.models.fetch import (
    RemoteFile,
    Report,
    accept,
    disk_errors,
    exclusive,
    fetch,
    is_whole,
    once_it_moves,
    partial_dir,
    require_space,
    sha256_of,
    shown,
    side_by_side,
)
from assistant.models.local_store import Origin, read_origin, write_origin

_MAX_FILES = 999
_MAX_NAME_BYTES = 200
_UNUSABLE = re.compile(r'[<>:"|?*\\/]')  # in names of files on Windows


@dataclass(frozen=True)
class WantedFile:
    """One file to fetch, and its name in the models folder. `sha256` is empty where unknown.

    `validator` is the server's ETag: it tells whether an unfinished file is still the same one.
    """

    remote: RemoteFile
    file: str
    sha256: str
    validator: str = ""


@dataclass(frozen=True)
class Wanted:
    """A model to fetch.

    Attributes:
        name: what it will be called here.
        origin: where it comes from, for a person: repository and commit, or URL.
        url: its first file, whose header tells what the model is.
    """

    name: str
    origin: str
    url: str
    files: tuple[WantedFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.remote.size_bytes for file in self.files)


def find_wanted(name: str, client: httpx.Client) -> Wanted:
    """What `name` means, asked of the server; nothing is fetched yet.

    Raises:
        ModelError: the repository has no such GGUF, or the file's name cannot be used here.
        DownloadError: the server does not answer.
    """
    try:
        parsed = parse_hub_name(name, hub_endpoint())
    except ValueError as error:
        raise ModelError(f"this is no URL ({error})", subject=name, advice="Check it") from error
    if parsed.repository:
        return _in_repository(parsed, client)
    return _at_url(name.strip(), client)


def address_of(name: str) -> str:
    """Where a model that is known by shape can be fetched; any other name as it is."""
    known, quantisation = known_name(name)
    if not known:
        return name
    model = known_models()[known]
    return f"{model.repository}:{quantisation or model.quantisation}"


class _Blob(msgspec.Struct):
    sha256: str = ""


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int = 0
    lfs: _Blob | None = None


class _Repository(msgspec.Struct):
    """The part of Hugging Face's answer about a repository that is needed."""

    sha: str
    siblings: tuple[_Sibling, ...] = ()


def _in_repository(name: HubName, client: httpx.Client) -> Wanted:
    repository = name.repository
    url = f"{listing_url(repository, name.revision)}?blobs=true"
    listing = _listing(client, url, repository)
    known = {sibling.rfilename: sibling for sibling in listing.siblings}
    first = name.path
    if not first or name.folder:
        first = choose_file(list(known), name.quantisation, repository, first)
    siblings = []
    for part in _parts(first):
        if part not in known:
            raise ModelError(
                f"the repository has no {part}",
                subject=repository,
                advice="Its GGUFs: "
                + ", ".join(item for item in known if item[-5:].lower() == ".gguf"),
            )
        siblings.append(known[part])
    base = f"{hub_endpoint()}/{repository}/resolve/{listing.sha}"
    files = tuple(
        WantedFile(
            RemoteFile(f"{base}/{quote(item.rfilename)}", item.size),
            local_name(item.rfilename),
            item.lfs.sha256 if item.lfs else "",
        )
        for item in siblings
    )
    origin = f"{repository}@{listing.sha[:12]}"
    return Wanted(model_name(files[0].file), origin, files[0].remote.url, files)


def _listing(client: httpx.Client, url: str, repository: str) -> _Repository:
    try:
        return msgspec.json.decode(read_listing(url, repository, client), type=_Repository)
    except (ValueError, RecursionError) as error:
        raise DownloadError(
            f"the repository cannot be listed ({error})",
            subject=repository,
            advice="Check HF_ENDPOINT; a proxy may have answered",
        ) from error


def _at_url(url: str, client: httpx.Client) -> Wanted:
    files = []
    for address in _parts(url):
        name = local_name(unquote(urlsplit(address).path))
        size, validator = _facts(client, address)
        files.append(WantedFile(RemoteFile(address, size), name, "", validator))
    return Wanted(model_name(files[0].file), shown(url), url, tuple(files))


def _facts(client: httpx.Client, url: str) -> tuple[int, str]:
    """Size and ETag of a file: the head of the answer to a plain request, which is then left."""
    try:
        with client.stream("GET", url) as response:
            if not response.is_success:
                raise DownloadError(
                    f"the server answers {response.status_code}",
                    subject=shown(url),
                    advice="Check the address",
                )
            encoding = response.headers.get("Content-Encoding", "").strip().lower()
            length = response.headers.get("Content-Length", "")
            if encoding not in {"", "identity"}:
                length = ""  # of the compressed file
            if not re.fullmatch("[0-9]{1,18}", length) or not int(length):
                raise DownloadError(
                    "the server does not say how long the file is",
                    subject=shown(url),
                    advice="Fetch it by other means, and name its path",
                )
            return int(length), response.headers.get("ETag", "")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(
            f"the server cannot be reached ({str(error) or type(error).__name__})",
            subject=shown(url),
            advice="Check the address and the connection",
        ) from error


def _parts(first: str) -> list[str]:
    """All files of a split model, from any one of them."""
    address, mark, query = first.partition("?")
    match = SPLIT_NAME.match(address)
    if match is None:
        return [first]
    count, stem = int(match["count"]), match["stem"]
    if not 0 < count <= _MAX_FILES:
        raise ModelError(
            f"a model cannot be split into {count} files", subject=address, advice="Check its name"
        )
    suffix = address[-len(".gguf") :]
    return [f"{stem}-{part:05}-of-{count:05}{suffix}{mark}{query}" for part in range(1, count + 1)]


def local_name(path: str) -> str:
    """The file's name in the models folder.

    Raises:
        ModelError: it is no name of a GGUF, or one that could lead elsewhere.
    """
    name = path.rpartition("/")[2]
    stem, suffix = name[: -len(".gguf")].strip(), name[-len(".gguf") :]
    usable = stem and name.isprintable() and not stem.startswith(".")
    if suffix.lower() != ".gguf" or not usable or len(stem.encode()) > _MAX_NAME_BYTES:
        raise ModelError(
            "this is not the name of a GGUF file", subject=name or path, advice="Name a .gguf file"
        )
    return _UNUSABLE.sub("_", stem) + ".gguf"


def acquire(wanted: Wanted, client: httpx.Client, report: Report) -> Path:
    """Fetch what is not here yet; returns the first file.

    A file whose hash its server tells is proved by it. Of others the header is read, which finds
    whatever is cut short, and the hash is kept for `underkeel models verify`.

    Raises:
        DownloadError: a file could not be fetched, or its bytes are wrong.
        GGUFError: what came is not a GGUF that can be trusted; it is removed.
        ModelError: a file of the same name from elsewhere is here, the disk is too small, or
            another process is at it.
    """
    with exclusive(wanted.name):
        _refuse_other(wanted)
        missing = [file for file in wanted.files if not _is_here(file)]
        for file in missing:
            _drop_changed(file)
        left = sum(file.remote.size_bytes - _length(_partial(file)) for file in missing)
        require_space(left, f"Fetching {wanted.name}")
        size_bytes = sum(file.remote.size_bytes for file in missing)
        advance = once_it_moves(report, f"fetching {wanted.name}", size_bytes)

        def get(file: WantedFile, stop: threading.Event) -> Path:
            fetch(client, file.remote, _partial(file), advance, stop)
            accept(_partial(file), _target(file), file.remote.size_bytes, file.sha256)
            return _target(file)

        for file, _ in side_by_side(missing, get):
            _validator(file).unlink(missing_ok=True)
        return _remember(wanted, missing, report)


def _remember(wanted: Wanted, fetched: list[WantedFile], report: Report) -> Path:
    first = _target(wanted.files[0])
    try:
        read_header(first)
    except ModelError:
        for file in fetched:
            with disk_errors(_target(file)):
                _target(file).unlink(missing_ok=True)
        raise
    known = read_origin(wanted.name)
    hashes = dict(known.files) if known else {}
    for file in wanted.files:
        if file.sha256 or file in fetched or file.file not in hashes:
            before = hashes.get(file.file, "")
            hashes[file.file] = file.sha256 or sha256_of(_target(file))
            if not file.sha256:
                _show_hash(file.file, hashes[file.file], before, report)
    write_origin(Origin(name=wanted.name, origin=wanted.origin, files=hashes))
    return first


def _show_hash(file: str, sha256: str, before: str, report: Report) -> None:
    """Nobody publishes it, so the user may compare it; it is kept for `models verify`."""
    report.note(f"{file}: SHA-256 {sha256}")
    if before and before != sha256:
        report.note(f"{file}: it had another SHA-256 when it was fetched before: {before}")


def _refuse_other(wanted: Wanted) -> None:
    here = [file.file for file in wanted.files if _target(file).exists()]
    known = read_origin(wanted.name)
    if not here or (known and _place(known.origin) == _place(wanted.origin)):
        return
    if all(file.sha256 and _is_here(file) for file in wanted.files):
        return  # the same bytes, from any source
    whence = known.origin if known else "put there by hand"
    raise ModelError(
        f"another model's files have these names ({whence})",
        subject=wanted.name,
        advice=f"Remove it first: underkeel models remove {wanted.name}",
    )


def _place(origin: str) -> str:
    """An origin without its commit."""
    return origin.partition("@")[0]


def _is_here(file: WantedFile) -> bool:
    return is_whole(_target(file), file.remote.size_bytes, file.sha256)


def _drop_changed(file: WantedFile) -> None:
    """Forget an unfinished file if the server's is another one by now."""
    if file.sha256:
        return
    marked = _validator(file)
    with disk_errors(marked):
        before = marked.read_text("utf-8") if marked.exists() else ""
        if before != file.validator or not file.validator:
            _partial(file).unlink(missing_ok=True)
        marked.write_text(file.validator, "utf-8")


def _target(file: WantedFile) -> Path:
    return paths.models_dir() / file.file


def _partial(file: WantedFile) -> Path:
    """Of one place only: bytes from elsewhere are never continued."""
    place = hashlib.sha256(f"{file.remote.url} {file.sha256}".encode()).hexdigest()[:12]
    return partial_dir() / f"{file.file}.{place}.part"


def _validator(file: WantedFile) -> Path:
    return _partial(file).with_suffix(".etag")


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
