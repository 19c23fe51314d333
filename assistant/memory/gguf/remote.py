"""Headers of GGUFs that lie on a server, read by range requests: a few MiB of a model, not all.

A model is named by its URL, or as Hugging Face names it: `owner/name` (the repository, one of its
GGUFs chosen), `owner/name:Q4_K_M` (the one with this in its name), `owner/name/path/to/file.gguf`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote, unquote, urlsplit

import httpx
import msgspec

from assistant.errors import GGUFError, ModelError
from assistant.memory.gguf.header import Header, read_parts
from assistant.memory.gguf.reader import ByteSource

_TIMEOUT_S = 30.0
_LISTING_LIMIT_BYTES = 16 << 20
_REPOSITORY = re.compile(r"^[\w.-]+/[\w.-]+$")
_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+)$")
_FIRST_PART = re.compile(r"-00001-of-\d{5}\.gguf$")
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
# Which file of a repository is meant where none is named, best first.
_PREFERRED = ("Q4_K_M", "MXFP4", "Q4_K_S", "Q4_0", "IQ4_XS", "Q5_K_M", "Q6_K", "Q8_0")
_OFFLINE = "Check the connection, or name a file on this machine"


def is_remote(name: str) -> bool:
    """Whether a model's name is a URL or a Hugging Face repository, by its form alone."""
    if name.startswith(("http://", "https://", "hf.co/", "huggingface.co/")):
        return True
    repository, _, _ = name.partition(":")
    parts = repository.split("/")
    if name.startswith((".", "/", "~")) or len(parts) < 2:
        return False
    return len(parts) == 2 or name.endswith(".gguf")


class _File(msgspec.Struct):
    rfilename: str


class _Listing(msgspec.Struct):
    """The part of Hugging Face's answer about a repository that is needed."""

    siblings: tuple[_File, ...] = ()


class RangeSource:
    """A file on a server, of which only the ranges that are read are fetched."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        """Ask for the first byte, to learn the length.

        Raises:
            GGUFError: there is no such file, or the server does not serve ranges.
        """
        self.name = url
        self.size_bytes = 1
        self._client = client
        self.read(0, 1)

    def read(self, start: int, length: int) -> bytes:
        """See `ByteSource.read`; never receives more than it asked for."""
        end = min(start + length, self.size_bytes) - 1
        if end < start:
            return b""
        headers = {"Range": f"bytes={start}-{end}", "Accept-Encoding": "identity"}
        try:
            with self._client.stream("GET", self.name, headers=headers) as response:
                self._check(response, start)
                return self._body(response, end - start + 1)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise GGUFError(
                f"the server cannot be read ({str(error) or type(error).__name__})",
                subject=self.name,
                advice=_OFFLINE,
            ) from error

    def _check(self, response: httpx.Response, start: int) -> None:
        if response.status_code == httpx.codes.OK:
            raise self._refused("the server does not serve parts of a file", "Download it first")
        if response.status_code in {401, 403}:
            advice = "Set HF_TOKEN to a token that may read it"
            raise self._refused(f"the server refuses ({response.status_code})", advice)
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            raise self._refused(f"the server answers {response.status_code}", "Check the name")
        found = _RANGE.match(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise self._refused("the server sends another range than was requested", "Download it")
        self.size_bytes = int(found[3])

    def _body(self, response: httpx.Response, length: int) -> bytes:
        body = bytearray()
        for piece in response.iter_raw():
            body += piece
            if len(body) > length:
                raise self._refused("the server sends more than was requested", "Download it first")
        return bytes(body)

    def _refused(self, message: str, advice: str) -> GGUFError:
        return GGUFError(message, subject=self.name, advice=advice)


def read_remote_header(name: str, client: httpx.Client | None = None) -> Header:
    """The header of a remote GGUF, of all its parts if it is split.

    Args:
        name: a URL or a Hugging Face name.
        client: to reach the server with; by default one that follows redirects and sends
            `HF_TOKEN` to Hugging Face alone.

    Raises:
        GGUFError: it cannot be reached, or is no GGUF that can be trusted.
        ModelError: the repository holds no GGUF of that name.
    """
    with http_client(client) as http:
        url = resolve_url(name, http)

        @contextmanager
        def opened(part: str) -> Iterator[ByteSource]:
            yield RangeSource(http, part)

        return read_parts(url, opened)


def resolve_url(name: str, client: httpx.Client) -> str:
    """The URL of the file that a name means.

    Raises:
        ModelError: the repository cannot be listed or holds no such GGUF.
    """
    try:
        repository, file, wanted = split_name(name)
        if not repository:
            return urlsplit(name)._replace(query="", fragment="").geturl()
    except ValueError as error:
        raise ModelError(f"this is no URL ({error})", subject=name, advice="Check it") from error
    if not file:
        file = choose_file(list_files(repository, client), wanted, repository)
    return f"{endpoint()}/{repository}/resolve/main/{quote(file)}"


def split_name(name: str) -> tuple[str, str, str]:
    """(repository, file, wanted quantisation) of a Hugging Face name; empty for other URLs."""
    for prefix in ("https://huggingface.co/", "https://hf.co/", "hf.co/", "huggingface.co/"):
        if name.startswith(prefix):
            name = unquote(urlsplit(name.removeprefix(prefix)).path)
            break
    else:
        if "://" in name:
            return "", "", ""
    parts = name.strip("/").split("/")
    if len(parts) > 3 and parts[2] in {"resolve", "blob"}:
        return "/".join(parts[:2]), "/".join(parts[4:]), ""
    if len(parts) > 2:
        return "/".join(parts[:2]), "/".join(parts[2:]), ""
    repository, _, wanted = "/".join(parts).partition(":")
    return repository, "", wanted


def list_files(repository: str, client: httpx.Client) -> list[str]:
    """The paths of all files of a Hugging Face repository.

    Raises:
        ModelError: it cannot be listed.
    """
    if not _REPOSITORY.match(repository):
        raise ModelError("this is not a repository's name", subject=repository)
    url = f"{endpoint()}/api/models/{repository}"
    try:
        with client.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                raise ModelError(
                    f"the repository cannot be listed (status {response.status_code})",
                    subject=repository,
                    advice="Check its name; for a private one set HF_TOKEN",
                )
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _LISTING_LIMIT_BYTES:
                    raise ModelError("the repository's listing is too long", subject=repository)
        return _names(bytes(body))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ModelError(
            f"the repository cannot be listed ({str(error) or type(error).__name__})",
            subject=repository,
            advice=_OFFLINE,
        ) from error


def choose_file(files: Sequence[str], wanted: str, repository: str) -> str:
    """The first part of the GGUF that is meant; the middle quantisation where none is named.

    Raises:
        ModelError: there is none, or none of that name.
    """
    models = [
        file
        for file in files
        if file.endswith(".gguf")
        and "mmproj" not in file.lower()
        and (_FIRST_PART.search(file) or not _PART.search(file))
    ]
    matches = [file for file in models if wanted.lower() in file.lower()]
    if not matches:
        names = ", ".join(sorted(models)[:8]) or "none"
        raise ModelError(
            f"no GGUF with {wanted!r} in its name" if wanted else "there is no GGUF in it",
            subject=repository,
            advice=f"Its GGUFs: {names}",
        )
    for preferred in _PREFERRED:
        for file in matches:
            if preferred.lower() in file.lower():
                return file
    return min(matches)


def endpoint() -> str:
    """Where Hugging Face is; `HF_ENDPOINT` names a mirror."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@contextmanager
def http_client(given: httpx.Client | None = None) -> Iterator[httpx.Client]:
    """The client that was given, or one that knows the way to Hugging Face."""
    if given is not None:
        yield given
        return
    with httpx.Client(follow_redirects=True, timeout=_TIMEOUT_S, auth=_authorise) as client:
        yield client


def _authorise(request: httpx.Request) -> httpx.Request:
    """Send the token to Hugging Face, and never to the storage that it redirects to."""
    token = os.environ.get("HF_TOKEN", "")
    if token and str(request.url).startswith(endpoint() + "/"):
        request.headers["Authorization"] = f"Bearer {token}"
    return request


def _names(body: bytes) -> list[str]:
    try:
        return [file.rfilename for file in msgspec.json.decode(body, type=_Listing).siblings]
    except msgspec.DecodeError as error:
        raise ModelError("the repository's listing is not what was expected") from error
