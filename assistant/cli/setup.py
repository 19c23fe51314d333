"""`underkeel setup` installs the llama.cpp that fits this machine; `uninstall` removes it all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from assistant import paths, service, settings
from assistant.cli.daemon import stop
from assistant.cli.terminal import print_json, printable, say
from assistant.daemon.process.instance import running_pid
from assistant.errors import DaemonError, InstallError
from assistant.install import builder
from assistant.install.choice import Choice, choose
from assistant.install.detect import detect
from assistant.install.machine import Backend, Gpu, Machine
from assistant.install.progress import ProgressLine
from assistant.install.uninstall import Trace, program, remove, traces


def register(app: typer.Typer) -> None:
    app.command()(setup)
    app.command()(uninstall)


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
