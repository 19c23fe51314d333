"""Settings, the model and its plan, the socket and the daemon behind it, the service, editors."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from assistant import __version__, paths
from assistant.client import DaemonClient, ServiceState, Status
from assistant.daemon.models.engines import LocalPlanning, is_checkpoint_folder
from assistant.daemon.process.instance import running_pid
from assistant.daemon.process.settings_diff import advice
from assistant.doctor.findings import Finding, note, well, wrong
from assistant.errors import DaemonError, PlanError, SettingsError, UnderkeelError
from assistant.memory.probes.sampler import Reader
from assistant.models import catalogue, local_store
from assistant.models.local_store import State
from assistant.models.storage import Silent
from assistant.service import manager
from assistant.service.manager import ServiceNow
from assistant.service.units import Manager
from assistant.settings import Settings

_GIB = 1 << 30
_HASH_UNASKED_BYTES = 2 * _GIB  # a second or few
_TAIL_BYTES = 1 << 16
_NVIM_PLACES = ("site/pack/*/*/*", "lazy/*", "plugged/*")
_VSCODE_PLACES = (".vscode", ".vscode-server", ".vscode-oss", ".vscode-insiders")


def settings(problems: Sequence[SettingsError]) -> list[Finding]:
    path = paths.config_file()
    if problems:
        return [wrong("settings", str(problem), f"Mend {path}") for problem in problems]
    what = "is read without complaint" if path.exists() else "is not there; the defaults hold"
    return [well("settings", f"{path} {what}")]


def model(chosen: Settings, *, deep: bool) -> list[Finding]:
    """The model's file. `deep` compares its hash, however large it is."""
    name = chosen.model.name
    if is_checkpoint_folder(name):
        size = sum(file.stat().st_size for file in Path(name).expanduser().glob("*.safetensors"))
        return [well("model", f"{name}, {size / _GIB:.2f} GiB, a folder of safetensors")]
    try:
        path = catalogue.resolve(name)
    except UnderkeelError as error:
        return [_of("model", error)]
    local = next((found for found in local_store.local_models() if path in found.files), None)
    size = sum(file.stat().st_size for file in (local.files if local else (path,)))
    said = f"{name}, {size / _GIB:.2f} GiB, {path}"
    if local is None:
        return [well("model", f"{said}; nobody told its SHA-256")]
    if size > _HASH_UNASKED_BYTES and not deep:
        return [well("model", f"{said}; its bytes were not compared (--deep does)")]
    verdict = local_store.verify(local, Silent())
    if verdict.state is State.WRONG:
        mend = f"Run: underkeel models remove {local.name}, and: underkeel pull {local.name}"
        return [wrong("model", f"{said}: {verdict.reason}", mend)]
    return [well("model", f"{said}; {verdict.reason}")]


def plan(chosen: Settings, look: Reader, ours: Status | None) -> list[Finding]:
    """Whether the model fits what is free; a daemon that has it loaded has shown that already."""
    if ours is not None and ours.state is ServiceState.READY:
        lines = "; ".join(ours.load)
        return [well("plan", f"loaded{': ' + lines if lines else ''}")]
    try:
        loadable = LocalPlanning(chosen.model, look)()
    except PlanError as error:
        fitting = "; ".join(error.alternatives)
        says = f"{error.message}{'. Would fit: ' + fitting if fitting else ''}"
        return [wrong("plan", says, error.advice or "Run: underkeel recommend")]
    except UnderkeelError as error:
        return [_of("plan", error)]
    rung = loadable.ladder[0]
    held = ", ".join(f"{size / _GIB:.2f} GiB on {name}" for name, size in rung.holds.items())
    return [well("plan", f"it fits: {held}")]


def place() -> list[Finding]:
    """The socket's folder, and what lies in it."""
    try:
        folder = paths.runtime_dir()
        path = paths.socket_path()
    except DaemonError as error:
        return [_of("socket", error)]
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        return [wrong("socket", f"{path} is no socket", "Move it away")]
    return [well("socket", f"{folder} is yours alone")]


def daemon() -> tuple[list[Finding], Status | None]:
    """The daemon that runs, if one does."""
    try:
        pid = running_pid()
    except DaemonError:
        return [], None  # the socket's own finding says why
    if pid is None:
        return [well("daemon", "none is running; the first request starts one")], None
    status = asyncio.run(_status())
    if status is None:
        return [
            wrong("daemon", f"process {pid} does not answer", "Run: underkeel stop --force")
        ], None
    said = f"process {status.pid}, version {status.version}, {status.state.value}"
    found = [well("daemon", said)]
    if status.version != __version__:
        mend = "Run: underkeel restart"
        found = [wrong("daemon", f"{said}; this command is version {__version__}", mend)]
    if status.error is not None:
        found.append(_of("daemon", status.error.rebuild()))
    if status.deaths:
        mend = "What it died of is in: underkeel logs"
        found.append(note("daemon", f"its worker died {status.deaths} times", mend))
    if status.settings is not None and status.settings.pending:
        found += [note("daemon", line) for line in advice(status.settings.pending)]
    return found, status


async def _status() -> Status | None:
    try:
        async with asyncio.timeout(5), DaemonClient(autostart=False) as client:
            return await client.status()
    except (DaemonError, TimeoutError):
        return None


def service(now: ServiceNow | None = None) -> list[Finding]:
    """Who starts the daemon."""
    now = now or manager.status()
    if now.manager is Manager.NONE:
        return [well("service", "no service manager; clients start the daemon")]
    if not now.installed:
        return [well("service", "not installed; clients start the daemon")]
    if not now.listening:
        mend = "Run: underkeel service install"
        return [wrong("service", f"installed, but its socket is not held: {now.detail}", mend)]
    ends = "; it ends at logout" if now.lingers is False else ""
    return [well("service", f"installed ({now.manager.value}): {now.detail}{ends}")]


def log() -> list[Finding]:
    """The end of the log."""
    path = paths.log_file()
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return [well("log", f"{path} is not there yet")]
    except OSError as error:
        return [wrong("log", f"{path}: {error.strerror}", "Mend that file's mode")]
    errors = [line for line in lines if " ERROR " in line or '"level":"error"' in line]
    if not errors:
        return [well("log", f"no errors in {path} of late")]
    return [note("log", f"{len(errors)} errors of late, the last: {errors[-1]}", "underkeel logs")]


def editors(home: Path | None = None) -> list[Finding]:
    """Editors that are here, and whether our plugin is."""
    home = home or Path.home()
    found = []
    if nvim := shutil.which("nvim"):
        there = any(_nvim_plugins(home))
        mend = "See editors/nvim; or point your plugin manager there"
        found.append(
            well("editors", f"Neovim ({nvim}), with the plugin")
            if there
            else note("editors", f"Neovim ({nvim}), no plugin of ours in the usual places", mend)
        )
    if code := shutil.which("code") or shutil.which("codium"):
        there = any(
            "underkeel" in path.name.lower()
            for place in _VSCODE_PLACES
            for path in (home / place / "extensions").glob("*")
        )
        mend = "Run: make vsix, then: code --install-extension"
        found.append(
            well("editors", f"VS Code ({code}), with the extension")
            if there
            else note("editors", f"VS Code ({code}), without the extension", mend)
        )
    return found or [note("editors", "no editor that we have a plugin for was found on PATH")]


def _nvim_plugins(home: Path) -> Iterator[Path]:
    base = os.environ.get("XDG_DATA_HOME") or str(home / ".local" / "share")
    for place_ in _NVIM_PLACES:
        yield from (Path(base) / "nvim").glob(f"{place_}/lua/underkeel/init.lua")


def _of(about: str, error: UnderkeelError) -> Finding:
    subject = f"{error.subject}: " if error.subject else ""
    return wrong(about, f"{subject}{error.message}", error.advice)
