"""What a name of Hugging Face means, and which file of a repository is the model. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from assistant.errors import ModelError

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
    r"(?<![0-9a-z])(?:mmproj|lora|adapter|vocab|tokenizer|projector|control[-_.]vector)(?![0-9a-z])",
    re.IGNORECASE,
)
_HELPER = re.compile(
    r"(?<![0-9a-z])(?:mtp|draft|speculator|eagle3?|imatrix)(?![0-9a-z])", re.IGNORECASE
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
    bare = re.sub(r"^https?://", "", text, flags=re.IGNORECASE)
    mirror = re.sub(r"^https?://", "", endpoint).rstrip("/") + "/"
    sites = (*_SITES, mirror) if endpoint else _SITES
    site = next((site for site in sites if bare.lower().startswith(site.lower())), "")
    if not site and bare != text:
        return HubName()
    query = ""
    if site:
        parts = urlsplit("//x/" + bare[len(site) :])
        text, query = unquote(parts.path), parts.query
    steps = [step for step in text.strip("/").split("/") if step]
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
