"""What Underkeel has written on this machine, and the removal of it."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from assistant import paths
from assistant.errors import InstallError

_TEMPORARY = ("underkeel-demo-*", "underkeel-trial-*", "underkeel-oracle-*")
_DISTRIBUTION = "underkeel"


@dataclass(frozen=True)
class Trace:
    """Something on disk that is Underkeel's.

    Attributes:
        what: what it is, for people.
        path: a file, a link or a folder with all that is in it.
        size_bytes: what its removal frees.
        personal: whether it is kept unless everything is to be removed.
    """

    what: str
    path: Path
    size_bytes: int
    personal: bool = False


@dataclass(frozen=True)
class Program:
    """How the program itself was installed.

    Attributes:
        command: what removes it; empty where no program can.
        advice: what to do by hand where there is no command.
    """

    command: tuple[str, ...] = ()
    advice: str = ""


def traces(service_files: Iterable[Path] = ()) -> list[Trace]:
    """Everything that is there, in the order in which to remove it.

    Args:
        service_files: of the service manager.
    """
    found = [*_service(service_files), *_folders(), *_temporary()]
    unique: dict[Path, Trace] = {}
    for trace in found:
        if os.path.lexists(trace.path):
            unique.setdefault(trace.path, trace)
    return list(unique.values())


def remove(found: Sequence[Trace]) -> None:
    """Remove them, and the folders above them that were ours and are empty now.

    Links are removed, not what they point to.

    Raises:
        InstallError: something could not be removed; the rest has been.
    """
    failed = []
    for trace in found:
        try:
            if trace.path.is_dir() and not trace.path.is_symlink():
                shutil.rmtree(trace.path)
            else:
                trace.path.unlink(missing_ok=True)
        except OSError as error:
            failed.append(f"{trace.path} ({error.strerror})")
    # Without XDG_RUNTIME_DIR, the folder of the socket is in one that was made for it.
    temporary = Path(tempfile.gettempdir())
    above = [trace.path.parent for trace in found if trace.path.parent.parent == temporary]
    for folder in [*_parents(), *above]:
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
    if failed:
        raise InstallError(
            f"not removed: {', '.join(failed)}", advice="Remove it by hand, or check its owner"
        )


def program(prefix: str = sys.prefix, direct_url: str | None = None) -> Program:
    """How the program is removed, by where it runs from.

    Args:
        prefix: of its environment.
        direct_url: its direct_url.json (PEP 610); None reads the installed one.
    """
    parts = Path(prefix).parts
    if ("uv", "tools") in itertools.pairwise(parts):
        return Program(("uv", "tool", "uninstall", _DISTRIBUTION))
    if ("pipx", "venvs") in itertools.pairwise(parts):
        return Program(("pipx", "uninstall", _DISTRIBUTION))
    if checkout := _checkout(_direct_url() if direct_url is None else direct_url):
        return Program(advice=f"The program runs from {checkout}; delete that folder")
    if parts[-1:] == ("environment",) and "globalStorage" in parts:
        return Program(advice=f"VS Code installed the program; delete {prefix}")
    command = f"{sys.executable} -m pip uninstall {_DISTRIBUTION}"
    return Program(advice=f"Remove the program with: {command}, or delete its environment {prefix}")


def _service(files: Iterable[Path]) -> Iterator[Trace]:
    for path in files:
        yield _trace("service", path)


def _folders() -> Iterator[Trace]:
    yield _trace("socket and lock", paths.runtime_dir())
    yield _trace("caches", paths.cache_dir())
    yield _trace("logs and statistics", paths.state_dir(), personal=True)
    yield _trace("settings", paths.config_file(), personal=True)
    models = paths.models_dir()
    if os.environ.get("UNDERKEEL_MODELS"):
        # The user's own folder may hold models of other programs.
        from assistant.models import local_store

        for model in local_store.local_models():
            for file in model.files if local_store.read_origin(model.name) else ():
                yield _trace(f"model {model.name}", file, personal=True)
        yield _trace("models' origins", models / ".origins", personal=True)
        yield _trace("unfinished downloads", models / ".partial", personal=True)
    else:
        yield _trace("models", models, personal=True)


def _parents() -> Iterator[Path]:
    """Folders that are ours because of their name, the inner ones first."""
    for path in (paths.models_dir(), paths.config_file(), paths.cache_dir(), paths.state_dir()):
        if path.parent.name == _DISTRIBUTION or path.parent == _home():
            yield path.parent


def _home() -> Path | None:
    return paths.config_file().parent if os.environ.get("UNDERKEEL_HOME") else None


def _temporary() -> Iterator[Trace]:
    """What a killed process has left behind."""
    folder = Path(tempfile.gettempdir())
    for pattern in _TEMPORARY:
        for path in sorted(folder.glob(pattern)):
            if not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid():
                yield _trace("temporary files", path)


def _trace(what: str, path: Path, *, personal: bool = False) -> Trace:
    return Trace(what, path, _size(path), personal)


def _size(path: Path) -> int:
    """Bytes of a file or of a folder's files; links count nothing."""
    if path.is_symlink() or not path.exists():
        return 0
    if not path.is_dir():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder) / name
            if not file.is_symlink():
                total += file.lstat().st_size
    return total


def _direct_url() -> str:
    try:
        return importlib.metadata.distribution(_DISTRIBUTION).read_text("direct_url.json") or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _checkout(direct_url: str) -> str:
    """The folder of an editable installation; "" for any other."""
    try:
        found = json.loads(direct_url)
        editable = found["dir_info"]["editable"]
        return str(found["url"]).removeprefix("file://") if editable else ""
    except (ValueError, KeyError, TypeError):
        return ""
