"""Headers of GGUFs on a server, read by range requests: a few MiB of a model, not all of it.

A model is named by its URL, or as Hugging Face names it: `owner/name` (the repository, one of its
GGUFs chosen), `owner/name:Q4_K_M` (the one with this in its name), `owner/name/path/to/file.gguf`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

import httpx
import msgspec

from assistant.errors import DownloadError, GGUFError, ModelError
from assistant.http_client import authorise_hub, hub_endpoint, open_client
from assistant.memory.gguf import ByteSource
from assistant.memory.gguf.header import Header, read_parts

_SITES = ("huggingface.co/", "www.huggingface.co/", "hf.co/")
_PAGES = {"resolve", "blob", "raw", "tree", "commit", "commits", "blame"}
_LISTS = {"datasets", "spaces", "api", "collections"}
_SUFFIX = ".gguf"
_PART = re.compile(r"-(\d{5})-of-\d{5}\.gguf$", re.IGNORECASE)
_QUANTISATION = re.compile(
    r"(?<![0-9a-z])(?:i?q[1-9](?:_(?:k|[01348]|xxs|xs|s|m|l|xl|xxl|nl|r4|r8))+|tq[12]_0"
    r"|mxfp4|nvfp4|bf16|fp?16|fp?32)(?![0-9a-z])",
    re.IGNORECASE,
)
_NEVER = re.compile(
    r"(?<![0-9a-z])(?:mm[-_.]?proj|lora|adapter|vocab|tokenizer|projector|control[-_.]vector|clip|vae"
    r"|(?:audio|image|vision)[-_.]encoder)(?![0-9a-z])",
    re.IGNORECASE,
)
_HELPER = re.compile(
    r"(?<![0-9a-z])(?:mtp|draft|speculator|eagle3?|dflash|medusa|imatrix)(?![0-9a-z])",
    re.IGNORECASE,
)
# Which file of a repository is meant where none is named, best first.
_PREFERRED = ("Q4_K_M", "MXFP4", "Q4_K_S", "Q4_0", "IQ4_XS", "Q5_K_M", "Q6_K", "Q8_0")
_MAX_NAMED = 8


@dataclass(frozen=True, slots=True)
class HubName:
    """A name, taken apart.

    Attributes:
        repository: "owner/name"; empty for an address elsewhere.
        path: of a file, or (with `folder`) of a folder of the repository; may be empty.
        quantisation: as it was written behind a colon; may be empty.
        revision: branch, tag or commit.
    """

    repository: str = ""
    path: str = ""
    quantisation: str = ""
    revision: str = "main"
    folder: bool = False


def parse_hub_name(name: str, endpoint: str = "") -> HubName:
    """Read `owner/name`, `owner/name:Q4_K_M`, `owner/name/file.gguf`, or an address of the site as
    a browser shows it.

    Args:
        endpoint: the address of a mirror.

    Raises:
        ValueError: it is no address.
        ModelError: it is an address of the site that names no model.
    """
    text = name.strip()
    text = re.sub(r"^(?:hf|huggingface)://(?:models/)?", "hf.co/", text, flags=re.IGNORECASE)
    bare = re.sub(r"^https?://", "", text, flags=re.IGNORECASE)
    bare = re.sub(r"^([^/:]+):443(?=/)", r"\1", bare)
    mirror = re.sub(r"^https?://", "", endpoint).rstrip("/") + "/"
    sites = (*_SITES, mirror) if endpoint else _SITES
    site = next((site for site in sites if bare.lower().startswith(site.lower())), "")
    if not site and bare != text:
        return HubName()
    query = ""
    steps = [step for step in text.split("/") if step]
    if site:
        parts = urlsplit("//x/" + bare[len(site) :])
        # A branch such as refs/pr/3 is one step of an address.
        steps, query = [unquote(step) for step in parts.path.split("/") if step], parts.query
    if site == mirror and not _is_page(steps):
        return HubName()  # a server of files, whatever else it is
    if site and (not steps or steps[0] in _LISTS or len(steps) < 2):
        raise ModelError(
            "this address names no model", subject=name, advice="Name owner/repository[:Q4_K_M]"
        )
    if len(steps) > 3 and steps[2] in _PAGES:
        path = "/".join(steps[4:])
        return HubName("/".join(steps[:2]), path, "", steps[3], not _is_gguf(path) and bool(path))
    if len(steps) > 2 and steps[2] not in _PAGES:
        return HubName("/".join(steps[:2]), "/".join(steps[2:]))
    repository, _, wanted = "/".join(steps[:2]).partition(":")
    shown = parse_qs(query).get("show_file_info", [""])[0]
    return HubName(repository, shown if _is_gguf(shown) else "", wanted.strip())


def choose_file(files: Sequence[str], wanted: str, repository: str, folder: str = "") -> str:
    """The first part of the GGUF that is meant; the middle quantisation where none is named.

    Files beside a model (projectors, importance matrices, adapters, drafts) are never taken for it.

    Raises:
        ModelError: there is none, or none of that name, or it is not clear which is meant.
    """
    inside = folder.strip("/") + "/" if folder else ""
    models = [file for file in files if file.startswith(inside) and _is_model(file)]
    models = [file for file in models if not _HELPER.search(_base(file))] or [
        file for file in models if quantisation_of(file)
    ]
    matches = [file for file in models if not wanted or _is_wanted(file, wanted)]
    matches = [file for file in matches if wanted and _ud(file) == _ud(wanted)] or matches
    if not matches:
        raise ModelError(
            f"no GGUF with {wanted!r} in its name" if wanted else "there is no GGUF in it",
            subject=repository,
            advice=f"Its GGUFs: {_named(models)}",
        )
    kinds = [kind.lower() for kind in _PREFERRED]
    found = min(
        matches,
        key=lambda file: (
            kinds.index(kind) if (kind := quantisation_of(file)) in kinds else len(kinds),
            file,
        ),
    )
    same = [file for file in matches if quantisation_of(file) == quantisation_of(found)]
    if len({_stem(file) for file in same}) > 1:
        raise ModelError(
            "several files could be meant",
            subject=repository,
            advice=f"Name one, as {repository}/FILE: {_named(same)}",
        )
    return found


def quantisation_of(text: str) -> str:
    """The quantisation that a file's name or path says, in lower case; empty for none."""
    for part in (_base(text), text):
        if found := _QUANTISATION.findall(part):
            return str(found[-1]).lower().replace("fp", "f") if found[-1] else ""
    return ""


def _is_wanted(file: str, wanted: str) -> bool:
    """Whether `wanted` is the file's quantisation, or a whole word of its name."""
    kind = quantisation_of(wanted)
    if kind and _QUANTISATION.fullmatch(wanted.strip().removeprefix("UD-").removeprefix("ud-")):
        return quantisation_of(file) == kind and _ud(file) >= _ud(wanted)
    return bool(re.search(rf"(?<![0-9a-z]){re.escape(wanted.lower())}(?![0-9a-z])", file.lower()))


def _is_page(steps: Sequence[str]) -> bool:
    """Whether a path is one of the site's own, not that of a file elsewhere."""
    if len(steps) == 2:
        return not _is_gguf(steps[1]) and all(re.fullmatch(r"[\w.:-]+", step) for step in steps)
    return len(steps) > 3 and steps[2] in _PAGES


def _ud(text: str) -> bool:
    return bool(re.search(r"(?<![0-9a-z])ud-", text, re.IGNORECASE))


def _is_gguf(path: str) -> bool:
    return path.lower().endswith(_SUFFIX)


def _is_model(file: str) -> bool:
    part = _PART.search(file)
    if not _is_gguf(file) or (part and int(part[1]) != 1) or _NEVER.search(_base(file)):
        return False
    return not (re.search("imatrix", _base(file), re.IGNORECASE) and not quantisation_of(file))


def _base(file: str) -> str:
    return file.rpartition("/")[2]


def _stem(file: str) -> str:
    """A model's name, whatever folder it is in and into how many files it is split."""
    return _PART.sub(_SUFFIX, _base(file)).lower()


def _named(files: Sequence[str]) -> str:
    more = f" and {len(files) - _MAX_NAMED} more" if len(files) > _MAX_NAMED else ""
    return (", ".join(sorted(files)[:_MAX_NAMED]) or "none") + more


_TIMEOUT_S = 30.0
_LISTING_LIMIT_BYTES = 16 << 20
_REPOSITORY = re.compile(r"^[\w.-]+/[\w.-]+$")
_RANGE = re.compile(r"^bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})$")
_HEADERS = {"User-Agent": "underkeel", "Accept-Encoding": "identity"}
_OFFLINE = "Check the connection, or name a file on this machine"


def is_remote(name: str) -> bool:
    """Whether a model's name is a URL or a Hugging Face repository, by its form alone."""
    name = name.strip()
    if name.lower().startswith(("http://", "https://", "hf://", "hf.co/", "huggingface.co/")):
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
    base = f"{hub_endpoint()}/{parsed.repository}/resolve/{quote(parsed.revision, safe='')}"
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
    body = read_listing(listing_url(repository, revision), repository, client)
    try:
        return [file.rfilename for file in msgspec.json.decode(body, type=_Listing).siblings]
    except (ValueError, RecursionError) as error:
        raise ModelError("the repository's listing is not what was expected") from error


def read_listing(url: str, repository: str, client: httpx.Client) -> bytes:
    """What the server answers to a request for a repository's files: JSON, of bounded length.

    Raises:
        DownloadError: it is not available, or is too long.
    """
    try:
        with client.stream("GET", url) as response:
            if response.status_code != httpx.codes.OK:
                raise DownloadError(
                    f"the repository cannot be listed (status {response.status_code})",
                    subject=repository,
                    advice="Check its name; for a private one set HF_TOKEN or run: hf auth login",
                )
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _LISTING_LIMIT_BYTES:
                    raise DownloadError("the repository's listing is too long", subject=repository)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(
            f"the repository cannot be listed ({str(error) or type(error).__name__})",
            subject=repository,
            advice=_OFFLINE,
        ) from error
    return bytes(body)


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
