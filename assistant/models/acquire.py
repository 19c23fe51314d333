"""Bringing a model from outside the catalogue here: all its files, side by side, proved."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import httpx

from assistant import paths
from assistant.errors import ModelError
from assistant.memory.gguf.header import read_header
from assistant.models.fetch import fetch, side_by_side
from assistant.models.hub import Wanted, WantedFile
from assistant.models.local_store import Origin, read_origin, write_origin
from assistant.models.storage import (
    Report,
    accept,
    disk_errors,
    exclusive,
    is_whole,
    once_it_moves,
    partial_dir,
    require_space,
    sha256_of,
)


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
        return  # the same bytes, whoever brought them
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
    """Of one place only: bytes from elsewhere are never gone on with."""
    place = hashlib.sha256(f"{file.remote.url} {file.sha256}".encode()).hexdigest()[:12]
    return partial_dir() / f"{file.file}.{place}.part"


def _validator(file: WantedFile) -> Path:
    return _partial(file).with_suffix(".etag")


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
