"""Where the models that are here came from, and what their bytes were: one record a model."""

from __future__ import annotations

from pathlib import Path

import msgspec

from assistant import paths
from assistant.models.storage import disk_errors


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
    except (OSError, msgspec.DecodeError):
        return None


def remove_origin(name: str) -> None:
    """Forget a model.

    Raises:
        ModelError: the models folder cannot be written.
    """
    target = _folder() / f"{name}.json"
    with disk_errors(target):
        target.unlink(missing_ok=True)
