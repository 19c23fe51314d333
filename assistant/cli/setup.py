"""The installation: `setup`, `uninstall`, and what is wrong with it: `doctor`, `logs`, `bundle`."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from assistant import paths, service, settings
from assistant.cli.daemon import stop
from assistant.cli.terminal import console, print_json, printable, say
from assistant.client.client import DaemonClient
from assistant.daemon.process.instance import running_pid
from assistant.doctor import Finding, Level, examine
from assistant.errors import DaemonError, InstallError
from assistant.install import builder
from assistant.install.choice import Choice, choose
from assistant.install.detect import detect
from assistant.install.machine import Backend, Gpu, Machine
from assistant.install.progress import ProgressLine
from assistant.install.uninstall import Trace, program, remove, traces
from assistant.wire import Status

_POLL_S = 0.3
_STYLES = {
    Level.OK: ("ok  ", "green"),
    Level.WARN: ("warn", "yellow"),
    Level.FAIL: ("FAIL", "red"),
}


def register(app: typer.Typer) -> None:
    app.command()(setup)
    app.command()(uninstall)
    app.command()(doctor)
    app.command()(logs)
    app.command()(bundle)


def setup(
    *,
    backend: Annotated[
        Backend | None, typer.Option(help="Use this backend instead of the best one.")
    ] = None,
    wheel_index: Annotated[
        str | None,
        typer.Option(help="Download a ready-made wheel from this package index (PEP 503)."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only show what fits; install nothing.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Install again, even if this build is installed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print machine and choice as JSON; install nothing.")
    ] = False,
) -> None:
    """Find the build of llama.cpp that fits this machine's GPUs, and install it.

    It is built from the pinned sources, or downloaded from an index that you agree to. An
    interrupted build resumes. The installed build stays until the new one has loaded a model.
    """
    machine = detect()
    choice = choose(machine, backend)
    if as_json:
        found = {"machine": machine, "choice": choice}
        print_json(found, indent=2)
        return
    _describe(machine, choice)
    if choice.installed and not rebuild and not wheel_index:
        say("", f"Installed already: llama.cpp for {choice.backend}. Nothing to do.")
        return
    if wheel_index is None and choice.obstacles:
        _explain_obstacles(choice)
        raise typer.Exit(1)
    if check:
        say("", "To install it, run: underkeel setup")
        return
    with builder.only_one(_root()):
        _install(choice, wheel_index, yes=yes)
    _after()


def _install(choice: Choice, wheel_index: str | None, *, yes: bool) -> None:
    folders = builder.Folders.of(_root(), choice)
    if wheel_index:
        _ask(
            f"Download llama-cpp-python {builder.pinned_version()} from {wheel_index}? It was "
            "not built by Underkeel, and no hash of it is pinned.",
            yes=yes,
        )
    else:
        _ask(f"Build llama.cpp for {choice.backend} now? It takes some minutes.", yes=yes)
    line = ProgressLine("llama.cpp", sys.stderr)
    try:
        if wheel_index:
            wheel, digest = builder.fetch(folders, wheel_index, line.show)
            line.end("downloaded")
            say(f"{wheel.name}, SHA-256 {digest}")
            _ask("Install it?", yes=yes)
        else:
            wheel = builder.build(folders, choice, line.show)
        builder.install(folders, wheel, choice.backend, line.show)
    except (InstallError, KeyboardInterrupt):
        line.end("stopped")
        raise
    line.end("installed, and it has loaded a model")


def _root() -> Path:
    return paths.cache_dir() / "llama.cpp"


def _after() -> None:
    shutil.rmtree(_root(), ignore_errors=True)
    try:
        running = running_pid() is not None
    except DaemonError:
        running = False
    if running:
        say("The daemon still runs with the previous build. Run: underkeel restart")


def _describe(machine: Machine, choice: Choice) -> None:
    tools = {
        "CUDA toolkit": machine.cuda,
        "ROCm": machine.rocm,
        "Vulkan SDK": "found" if machine.glslc and machine.vulkan_headers else "",
        "C++ compiler": f"{machine.compiler} {machine.compiler_version}".strip(),
    }
    for gpu in machine.gpus:
        say(f"GPU            {_gpu(gpu)}")
    if not machine.gpus:
        say("GPU            none found")
    for name, found in tools.items():
        say(f"{name:14} {found or 'not found'}")
    installed = ", ".join(machine.installed) or "nothing"
    broken = "" if machine.loads else "; it cannot be loaded"
    version = machine.installed_version or "not installed"
    say(f"llama.cpp      {version} (built for: {installed}{broken})")
    say("", f"Fits best: llama.cpp for {choice.backend}, because {printable(choice.reason)}.")
    for note in choice.notes:
        say(f"Note: {note}.")


def _gpu(gpu: Gpu) -> str:
    parts = [gpu.name or f"{gpu.vendor.upper()} GPU"]
    if gpu.architecture:
        parts.append(gpu.architecture)
    if gpu.total_bytes:
        parts.append(f"{gpu.total_bytes / (1 << 30):.1f} GiB")
    if gpu.integrated:
        parts.append("integrated")
    return ", ".join(parts if gpu.driver else [*parts, "no driver"])


def _explain_obstacles(choice: Choice) -> None:
    say("", "It cannot be built here yet:")
    for obstacle in choice.obstacles:
        say(f"  {obstacle.message}. {obstacle.advice}.")
    if choice.wheel_index:
        say(
            "",
            "Or download a ready-made wheel, which the authors of llama-cpp-python publish:",
            f"  underkeel setup --wheel-index {choice.wheel_index}",
        )


def _ask(question: str, *, yes: bool) -> None:
    """End the command, with exit code 1, unless the answer is yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InstallError("there is no terminal to ask in", subject=question, advice="Add --yes")
    if not typer.confirm(printable(question), default=True, err=True):
        raise typer.Exit(1)


_EDITORS = (
    "The editors' plugins are removed in the editors (VS Code: code --uninstall-extension "
    "underkeel.underkeel)."
)


def uninstall(
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Remove models, settings, logs, statistics and the program too."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop the daemon, and remove its service, its caches and its socket.

    Models, settings, logs and statistics stay unless --all is given. What is removed is listed
    first.
    """
    key_name = settings.load()[0].remote.key_name
    found = traces(service.installed_files())
    removed = [trace for trace in found if everything or not trace.personal]
    ours = program()
    _list("This is removed:", removed)
    if everything and ours.command:
        say(f"  the program, by: {' '.join(ours.command)}")
    _list("This stays (--all removes it too):", [one for one in found if one not in removed])
    if not removed and not everything:
        say("Nothing is there to remove.")
        return
    _confirm_removal(yes=yes)
    if service.installed_files():
        service.uninstall()
    if running_pid() is not None:
        stop(force=True)
    remove(removed)
    say("Removed.")
    if not everything:
        return
    if key_name:
        say(f"The keyring still has your entry {printable(key_name)}.")
    say(_EDITORS)
    if ours.command and shutil.which(ours.command[0]):
        subprocess.run(ours.command, check=False)
    elif ours.command:
        say(f"Remove the program with: {' '.join(ours.command)}")
    else:
        say(f"{ours.advice}.")


def _list(title: str, found: list[Trace]) -> None:
    if not found:
        return
    say(title)
    for trace in found:
        size = f"{trace.size_bytes / 1e6:,.1f} MB"
        say(f"  {trace.what:20} {size:>12}  {trace.path}")


def _confirm_removal(*, yes: bool) -> None:
    """End the command, with exit code 1, unless the answer is yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InstallError("there is no terminal to ask in", advice="Add --yes")
    if not typer.confirm("Remove it?", default=False, err=True):
        raise typer.Exit(1)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Verify the model's checksum too, however large it is.")
    ] = False,
) -> None:
    """Check this machine; report ok, warn or fail, with what to do. Exits with 1 on a failure."""
    found: list[Finding] = []
    for finding in examine(deep=deep):
        found.append(finding)
        if not as_json:
            show(finding)
    failures = sum(finding.level is Level.FAIL for finding in found)
    warnings = sum(finding.level is Level.WARN for finding in found)
    if as_json:
        print_json(found, indent=2)
    else:
        say("", f"{len(found)} checks: {failures} failed, {warnings} with warnings.")
    raise typer.Exit(1 if failures else 0)


def show(finding: Finding) -> None:
    """One finding, and under it what to do."""
    mark, colour = _STYLES[finding.level]
    out = console()
    if not out.is_terminal:
        say(f"{mark}  {finding.check:10} {finding.message}")
        if finding.advice:
            say(f"{'':17}{finding.advice}")
        return
    table = Table.grid(padding=(0, 1))
    table.add_column(width=5, style=colour)
    table.add_column(width=10)
    table.add_column(overflow="fold")
    table.add_row(mark, printable(finding.check), printable(finding.message))
    if finding.advice:
        table.add_row("", "", Text(printable(finding.advice), style="bold"))
    out.print(table)


def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Number of lines.")] = 50,
) -> None:
    """Show the end of the daemon's log. It never contains code."""
    path = paths.log_file()
    text, offset = _tail(path, lines)
    typer.echo(printable(text, lines=True), nl=False)
    while follow:
        time.sleep(_POLL_S)
        text, offset = _more(path, offset)
        typer.echo(printable(text, lines=True), nl=False)


def _tail(path: Path, lines: int) -> tuple[str, int]:
    """The last lines, and where the file ended."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, maxlen=lines)), file.tell()
    except FileNotFoundError as error:
        raise DaemonError(
            "there is no log yet", subject=str(path), advice="Run: underkeel serve"
        ) from error
    except OSError as error:
        raise DaemonError(
            f"the log cannot be read ({error.strerror})", subject=str(path)
        ) from error


def _more(path: Path, offset: int) -> tuple[str, int]:
    """What was added after `offset`; a rotated file is read from its start."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            file.seek(0 if path.stat().st_size < offset else offset)
            return file.read(), file.tell()
    except FileNotFoundError:
        return "", 0


def bundle(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new folder, or a .zip.", show_default=False),
    ] = None,
) -> None:
    """Collect files for a bug report. They contain no code, and nothing is sent anywhere."""
    from assistant import service
    from assistant.doctor import bundle as bundles

    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    target = output or Path(f"underkeel-bundle-{stamp}.zip")
    status, metrics = asyncio.run(_request_status())
    files = bundles.gather(examine(), status, metrics, service.status())
    bundles.write(files, target)
    for name, text in files.items():
        say(f"{len(text.encode()):>9,}  {name}")
    say("", f"Wrote {target}. Look through it before you share it.")


async def _request_status() -> tuple[Status | None, str]:
    try:
        async with asyncio.timeout(10), DaemonClient(autostart=False) as client:
            return await client.status(), await client.metrics()
    except (DaemonError, TimeoutError):
        return None, ""
