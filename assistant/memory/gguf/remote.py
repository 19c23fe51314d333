"""Headers of GGUFs on a server, read by range requests: a few MiB of a model, not all of it.

A model is named by its URL, or as Hugging Face names it: `owner/name` (the repository, one of its
GGUFs chosen), `owner/name:Q4_K_M` (the one with this in its name), `owner/name/path/to/file.gguf`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from assistant.errors import GGUFError, ModelError
from assistant.http_client import open_client
from assistant.hugging_face import authorise_hub, hub_endpoint
from assistant.memory.gguf.header import Header, read_parts
from assistant.memory.gguf.hub_name import choose_file, parse_hub_name
from assistant.memory.gguf.reader import ByteSource

_TIMEOUT_S = 30.0
_LISTING_LIMIT_BYTES = 16 << 20
_REPOSITORY = re.compile(r"^[\w.-]+/[\w.-]+$")
_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+)$")
_HEADERS = {"User-Agent": "underkeel", "Accept-Encoding": "identity"}
_OFFLINE = "Check the connection, or name a file on this machine"


def is_remote(name: str) -> bool:
    """Whether a model's name is a URL or a Hugging Face repository, by its form alone."""
    name = name.strip()
    if name.lower().startswith(("http://", "https://", "hf.co/", "huggingface.co/")):
        return True
    repository, _, _ = name.partition(":")
    parts = repository.split("/")
    if name.startswith((".", "/", "~")) or len(parts) < 2:
        return False
    return len(parts) == 2 or name.lower().endswith(".gguf") or parts[2] == "tree"


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
            advice = "Set HF_TOKEN to a token that may read it, or run: hf auth login"
            raise self._refused(f"the server refuses ({response.status_code})", advice)
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            raise self._refused(f"the server answers {response.status_code}", "Check the name")
        found = _RANGE.match(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise self._refused("the server sends another range than was requested", "Download it")
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in {"", "identity"}:
            raise self._refused(f"the server compresses the file ({encoding})", "Download it first")
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
        parsed = parse_hub_name(name, hub_endpoint())
        if not parsed.repository:
            return urlsplit(name.strip())._replace(query="", fragment="").geturl()
    except ValueError as error:
        raise ModelError(f"this is no URL ({error})", subject=name, advice="Check it") from error
    file = parsed.path
    if not file or parsed.folder:
        files = list_files(parsed.repository, client, parsed.revision)
        file = choose_file(files, parsed.quantisation, parsed.repository, file)
    base = f"{hub_endpoint()}/{parsed.repository}/resolve/{quote(parsed.revision)}"
    return f"{base}/{quote(file)}"


def listing_url(repository: str, revision: str = "main") -> str:
    """Where the server lists a repository's files."""
    at = "" if revision == "main" else f"/revision/{quote(revision, safe='')}"
    return f"{hub_endpoint()}/api/models/{quote(repository)}{at}"


def list_files(repository: str, client: httpx.Client, revision: str = "main") -> list[str]:
    """The paths of all files of a Hugging Face repository.

    Raises:
        ModelError: it cannot be listed.
    """
    if not _REPOSITORY.match(repository):
        raise ModelError("this is not a repository's name", subject=repository)
    url = listing_url(repository, revision)
    try:
        with client.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                raise ModelError(
                    f"the repository cannot be listed (status {response.status_code})",
                    subject=repository,
                    advice="Check its name; for a private one set HF_TOKEN or run: hf auth login",
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


@contextmanager
def http_client(given: httpx.Client | None = None) -> Iterator[httpx.Client]:
    """The client that was given, or one that knows the way to Hugging Face."""
    if given is not None:
        yield given
        return
    with open_client(
        follow_redirects=True, timeout=_TIMEOUT_S, auth=authorise_hub, headers=_HEADERS
    ) as client:
        yield client


def _names(body: bytes) -> list[str]:
    try:
        return [file.rfilename for file in msgspec.json.decode(body, type=_Listing).siblings]
    except msgspec.DecodeError as error:
        raise ModelError("the repository's listing is not what was expected") from error
