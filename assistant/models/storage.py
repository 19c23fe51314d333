"""How a pull tells what it does, and steps that begin with their first byte.

The models folder: partial files, disk space, hashes, and the moment a file gets its name.

A model has its name only when all its bytes are there and proved. What is under way lies in
`.partial` beside the models, on the same file system, so that the last step is one rename.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import filelock

from assistant import paths
from assistant.errors import DownloadError, ModelError

Advance = Callable[[int], None]
"""Told how many bytes more are done."""

_CHUNK_BYTES = 1 << 20
_SPARE_BYTES = 64 << 20  # left free: a disk filled to its last byte breaks other programs
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def partial_dir() -> Path:
    """Where unfinished files are stored, made if need be."""
    folder = paths.models_dir() / ".partial"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a `ModelError` about `path`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> ModelError:
    """What the file system refused, for a person."""
    if error.errno in _FULL:
        return ModelError(
            "the disk is full",
            subject=str(path),
            advice="Free space, or set UNDERKEEL_MODELS to a folder on a larger disk; what was "
            "fetched is kept, pull again to go on",
        )
    return ModelError(
        f"the models folder cannot be written ({error.strerror or error})",
        subject=str(path),
        advice="Fix its permissions, or set UNDERKEEL_MODELS to a folder that you own",
    )


def require_space(needed_bytes: int, what: str) -> None:
    """Refuse before anything is fetched.

    Raises:
        ModelError: the models folder's disk has no room for `needed_bytes` more.
    """
    folder = partial_dir()
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if needed_bytes + _SPARE_BYTES > free:
        raise ModelError(
            f"{what} needs {_gigabytes(needed_bytes)} on disk, {_gigabytes(free)} are free",
            subject=str(paths.models_dir()),
            advice="Free space, or set UNDERKEEL_MODELS to a folder on a larger disk",
        )


def sha256_of(path: Path, advance: Advance | None = None) -> str:
    """SHA-256 of a file as lower-case hex.

    Raises:
        ModelError: it cannot be read.
    """
    digest = hashlib.sha256()
    with disk_errors(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            if advance:
                advance(len(chunk))
    return digest.hexdigest()


def is_whole(path: Path, size_bytes: int, sha256: str, advance: Advance | None = None) -> bool:
    """Whether `path` holds exactly these bytes. An empty `sha256` is not compared."""
    try:
        if path.stat().st_size != size_bytes:
            return False
    except OSError:
        return False
    return not sha256 or sha256_of(path, advance) == sha256


def accept(
    partial: Path, target: Path, size_bytes: int, sha256: str, advance: Advance | None = None
) -> None:
    """Give a finished file its name, if it is what it should be; remove it if it is not.

    Raises:
        DownloadError: size or hash is wrong.
        ModelError: the rename is refused.
    """
    if not is_whole(partial, size_bytes, sha256, advance):
        with disk_errors(partial):
            partial.unlink(missing_ok=True)
        raise DownloadError(
            "the file that came is not the file that was requested (its size or SHA-256 differs)",
            subject=target.name,
            advice="It was removed. Pull again, or from another source with --from; if it happens "
            "again, something on the way changes files",
        )
    with disk_errors(target):
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # the name must not outlive the bytes in a power cut
        partial.replace(target)


@contextlib.contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Only one process at a time makes the model of this file name.

    Raises:
        ModelError: another one is at it.
    """
    lock = filelock.FileLock(partial_dir() / f"{name}.lock")
    with disk_errors(partial_dir()):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise ModelError(
                "another process is fetching this model", subject=name, advice="Wait for it"
            ) from error
    try:
        yield
    finally:
        lock.release()


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"


class Report(Protocol):
    """Told how a pull goes on; may be called from several threads."""

    def step(self, label: str, total_bytes: int) -> Advance:
        """A step begins; the answer receives every byte that is done."""
        ...

    def note(self, text: str) -> None:
        """Something the user wants to know."""
        ...


class Silent:
    """A Report for those who do not look."""

    def step(self, label: str, total_bytes: int) -> Advance:  # noqa: ARG002
        return lambda _: None

    def note(self, text: str) -> None:
        pass


def once_it_moves(report: Report, label: str, total_bytes: int) -> Advance:
    """A step that begins with its first byte: none is shown for a source that never answers."""
    begin = functools.cache(lambda: report.step(label, total_bytes))
    lock = threading.Lock()

    def advance(done: int) -> None:
        if done:
            with lock:
                step = begin()
            step(done)

    return advance
