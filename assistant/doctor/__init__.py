"""Checks the installation: what works, what does not, and what to do about it.

`checks` has those of Python, llama.cpp, memory, disk and limits. Here are those of settings, model,
plan, socket, daemon, service and editors, and the order of all. A check that raises an unexpected
error is a finding too.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from assistant import __version__, paths
from assistant import service as service_manager
from assistant import settings as all_settings
from assistant.client.client import DaemonClient
from assistant.daemon.loading import LocalPlanning, is_checkpoint_folder
from assistant.daemon.process.instance import running_pid
from assistant.daemon.process.settings_changes import advice as settings_advice
from assistant.doctor import checks
from assistant.doctor.checks import Finding, Level, fail, ok, warn
from assistant.engine.remote import RemoteEngine
from assistant.engine.types import Counting, LoadSpec, ModelInfo
from assistant.errors import DaemonError, LoadError, PlanError, SettingsError, UnderkeelError
from assistant.install.detect import detect
from assistant.memory.devices import ask_backend, merge
from assistant.memory.planning import machine_of
from assistant.memory.planning.together import explain_settings
from assistant.memory.sampler import Probes, Reader
from assistant.models import catalogue, local_store
from assistant.models.fetch import Silent
from assistant.models.local_store import State
from assistant.service import Manager, ServiceNow
from assistant.settings import RemoteSettings, Settings
from assistant.wire import ServiceState, Status

__all__ = ["Finding", "Level", "bundle", "examine"]

_GIB = 1 << 30
_ALWAYS_HASHED_BYTES = 2 * _GIB  # takes a few seconds
_TAIL_BYTES = 1 << 16
_NVIM_FOLDERS = ("site/pack/*/*/*", "lazy/*", "plugged/*")
_VSCODE_FOLDERS = (".vscode", ".vscode-server", ".vscode-oss", ".vscode-insiders")


def settings(problems: Sequence[SettingsError]) -> list[Finding]:
    path = paths.config_file()
    if problems:
        return [fail("settings", str(problem), f"Fix {path}") for problem in problems]
    what = "is valid" if path.exists() else "does not exist; the defaults apply"
    return [ok("settings", f"{path} {what}")]


def model(chosen: Settings, *, deep: bool) -> list[Finding]:
    """The model's file. `deep` verifies its checksum, however large it is."""
    name = chosen.model.name
    if is_checkpoint_folder(name):
        size = sum(file.stat().st_size for file in Path(name).expanduser().glob("*.safetensors"))
        return [ok("model", f"{name}, {size / _GIB:.2f} GiB, a folder of safetensors")]
    try:
        path = catalogue.resolve(name)
    except UnderkeelError as error:
        return [_of("model", error)]
    local = next((found for found in local_store.local_models() if path in found.files), None)
    size = sum(file.stat().st_size for file in (local.files if local else (path,)))
    said = f"{name}, {size / _GIB:.2f} GiB, {path}"
    if local is None:
        return [ok("model", f"{said}; no published SHA-256 to compare with")]
    if size > _ALWAYS_HASHED_BYTES and not deep:
        return [ok("model", f"{said}; checksum not verified (use --deep)")]
    verdict = local_store.verify(local, Silent())
    if verdict.state is State.WRONG:
        advice = f"Run: underkeel models remove {local.name}, and: underkeel pull {local.name}"
        return [fail("model", f"{said}: {verdict.reason}", advice)]
    return [ok("model", f"{said}; {verdict.reason}")]


def plan(chosen: Settings, look: Reader, ours: Status | None) -> list[Finding]:
    """Whether the model fits the free memory; it does where the daemon has it loaded."""
    if ours is not None and ours.state is ServiceState.READY:
        lines = "; ".join(ours.load)
        return [ok("plan", f"loaded{': ' + lines if lines else ''}")]
    try:
        loadable = LocalPlanning(chosen.model, look)()
    except PlanError as error:
        fitting = "; ".join(error.alternatives)
        says = f"{error.message}{'. These would fit: ' + fitting if fitting else ''}"
        return [fail("plan", says, error.advice or "Run: underkeel recommend")]
    except UnderkeelError as error:
        return [_of("plan", error)]
    rung = loadable.ladder[0]
    held = ", ".join(f"{size / _GIB:.2f} GiB on {name}" for name, size in rung.holds.items())
    return [ok("plan", f"it fits: {held}"), *(warn("plan", one) for one in loadable.caveats)]


def second_plan(chosen: Settings, look: Reader, ours: Status | None) -> list[Finding]:
    """The same of the model for explanations, beside the first one."""
    if not chosen.explain.name or (ours and ours.explain_state is ServiceState.READY):
        return []
    taken: dict[str, int] = {}
    try:
        if ours is None or ours.state is not ServiceState.READY:
            first = LocalPlanning(chosen.model, look)().ladder[0]
            taken = {name: -size for name, size in first.holds.items()}
        second = LocalPlanning(explain_settings(chosen), look, lambda: taken)()
    except UnderkeelError as error:
        advice = error.advice or "Run: underkeel recommend"
        return [warn("plan", f"explanations: {error.message}", advice)]
    return [warn("plan", f"explanations: {caveat}") for caveat in second.caveats]


def socket() -> list[Finding]:
    """The socket and its folder."""
    try:
        folder = paths.runtime_dir()
        path = paths.socket_path()
    except DaemonError as error:
        return [_of("socket", error)]
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        return [fail("socket", f"{path} is not a socket", "Move that file away")]
    return [ok("socket", f"{folder} is private to you")]


def daemon() -> tuple[list[Finding], Status | None]:
    """The running daemon, if there is one."""
    try:
        pid = running_pid()
    except DaemonError:
        return [], None  # the socket's own finding says why
    if pid is None:
        return [ok("daemon", "not running; the first request starts it")], None
    status = asyncio.run(_status())
    if status is None:
        return [
            fail("daemon", f"process {pid} does not answer", "Run: underkeel stop --force")
        ], None
    said = f"process {status.pid}, version {status.version}, {status.state.value}"
    found = [ok("daemon", said)]
    if status.version != __version__:
        advice = "Run: underkeel restart"
        found = [fail("daemon", f"{said}; this command is version {__version__}", advice)]
    if status.error is not None:
        found.append(_of("daemon", status.error.rebuild()))
    if status.deaths:
        advice = "The cause is in the log. Run: underkeel logs"
        found.append(warn("daemon", f"its worker has crashed {status.deaths} times", advice))
    found += [warn("daemon", caveat) for caveat in status.caveats]
    if status.settings is not None and status.settings.pending:
        found += [warn("daemon", line) for line in settings_advice(status.settings.pending)]
    return found, status


async def _status() -> Status | None:
    try:
        async with asyncio.timeout(5), DaemonClient(autostart=False) as client:
            return await client.status()
    except (DaemonError, TimeoutError):
        return None


def service(now: ServiceNow | None = None) -> list[Finding]:
    """How the daemon is started."""
    now = now or service_manager.status()
    if now.manager is Manager.NONE:
        return [ok("service", "no service manager; clients start the daemon")]
    if not now.installed:
        return [ok("service", "not installed; clients start the daemon")]
    if not now.listening:
        advice = "Run: underkeel service install"
        return [fail("service", f"installed, but not listening: {now.detail}", advice)]
    ends = "; it stops at logout" if now.lingers is False else ""
    return [ok("service", f"installed ({now.manager.value}): {now.detail}{ends}")]


def log() -> list[Finding]:
    """Recent errors in the daemon's log."""
    path = paths.log_file()
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _TAIL_BYTES, 0))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return [ok("log", f"{path} does not exist yet")]
    except OSError as error:
        return [fail("log", f"{path}: {error.strerror}", "Fix the permissions of that file")]
    errors = [line for line in lines if " ERROR " in line or '"level":"error"' in line]
    if not errors:
        return [ok("log", f"no recent errors in {path}")]
    return [
        warn("log", f"{len(errors)} recent errors, the last: {errors[-1]}", "Run: underkeel logs")
    ]


def editors(home: Path | None = None) -> list[Finding]:
    """Installed editors, and whether they have our plugin."""
    home = home or Path.home()
    found = []
    if nvim := shutil.which("nvim"):
        installed = any(_nvim_plugins(home))
        advice = "Add the folder editors/nvim with your plugin manager; README.md shows how"
        found.append(
            ok("editors", f"Neovim ({nvim}), with the plugin")
            if installed
            else warn(
                "editors", f"Neovim ({nvim}), without the plugin (in the usual folders)", advice
            )
        )
    if code := shutil.which("code") or shutil.which("codium"):
        installed = any(
            "underkeel" in path.name.lower()
            for folder in _VSCODE_FOLDERS
            for path in (home / folder / "extensions").glob("*")
        )
        advice = "Install the extension: code --install-extension underkeel.vsix"
        found.append(
            ok("editors", f"VS Code ({code}), with the extension")
            if installed
            else warn("editors", f"VS Code ({code}), without the extension", advice)
        )
    return found or [warn("editors", "neither Neovim nor VS Code was found on PATH")]


def _nvim_plugins(home: Path) -> Iterator[Path]:
    base = os.environ.get("XDG_DATA_HOME") or str(home / ".local" / "share")
    for folder in _NVIM_FOLDERS:
        yield from (Path(base) / "nvim").glob(f"{folder}/lua/underkeel/init.lua")


def _of(check: str, error: UnderkeelError) -> Finding:
    subject = f"{error.subject}: " if error.subject else ""
    return fail(check, f"{subject}{error.message}", error.advice)


_ANSWER_S = 15.0


def local_answers(chosen: RemoteSettings) -> bool:
    """Whether a local model is used, always or as the fallback."""
    return not chosen.url or chosen.fallback


def server(chosen: RemoteSettings) -> list[Finding]:
    """Query the server with the key and certificates of the settings; nothing is generated."""
    if not chosen.url:
        return []
    try:
        info = asyncio.run(_ask(chosen))
    except TimeoutError:
        return [
            fail(
                "server",
                f"{chosen.url} did not answer within {_ANSWER_S:.0f} s",
                "Check that the server runs",
            )
        ]
    except UnderkeelError as error:
        subject = f"{error.subject}: " if error.subject else ""
        return [fail("server", f"{subject}{error.message}", error.advice)]
    counts = (
        "exactly"
        if info.counting is Counting.EXACT
        else "as an upper bound (set remote.tokenizer for exact counts)"
    )
    serves = f"{info.server} serves {info.name}, {info.n_ctx} tokens of context"
    return [ok("server", f"{serves}; prompt tokens are counted {counts}")]


async def _ask(chosen: RemoteSettings) -> ModelInfo:
    engine = RemoteEngine(chosen)
    try:
        async with asyncio.timeout(_ANSWER_S):
            return await engine.load(LoadSpec(path=""))
    finally:
        await engine.close()


def examine(*, deep: bool = False) -> Iterator[Finding]:
    """Run every check, those first that others depend on.

    Args:
        deep: verify the model's checksum, however long it takes.
    """
    chosen, problems = all_settings.load()
    probes = Probes()
    try:
        sample = probes()
        backend = cache(ask_backend)  # a child process
        yield from _safely("python", lambda: [checks.python(), checks.packages()])
        yield from _safely(
            "llama.cpp",
            lambda: checks.build(backend(), sample.gpus, sample.trouble, detect()),
        )
        yield from _safely("threads", lambda: [checks.computing(chosen.model.n_threads)])
        with suppress(LoadError):  # reported already
            merged = merge(backend(), sample.gpus, sample.host_memory, sample.lost)
            yield from _safely("speed", lambda: checks.speed(machine_of(merged).gpus))
        swap_bytes = psutil.swap_memory().used
        yield from _safely("memory", lambda: checks.memory(sample.host_memory, swap_bytes))
        folders = [("models", paths.models_dir()), ("logs", paths.state_dir())]
        yield from _safely("disk", lambda: checks.disk(folders))
        yield from _safely("limits", lambda: checks.limits(mlock=chosen.model.mlock))
        yield from _safely("settings", lambda: settings(problems))
        yield from _safely("socket", socket)
        found, status = daemon()
        yield from found
        yield from _safely("service", service)
        yield from _safely("server", lambda: server(chosen.remote))
        if local_answers(chosen.remote):
            yield from _safely("model", lambda: model(chosen, deep=deep))
            yield from _safely("plan", lambda: plan(chosen, probes, status))
            yield from _safely("plan", lambda: second_plan(chosen, probes, status))
        yield from _safely("log", log)
        yield from _safely("editors", editors)
    finally:
        probes.close()


def _safely(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except UnderkeelError as error:
        return [fail(name, str(error.message), error.advice)]
    except Exception as error:  # the other checks still run
        return [fail(name, f"the check itself failed: {type(error).__name__}: {error}")]
