"""Builds llama-cpp-python for a choice, or fetches it, and puts it in place of the installed one.

An interrupted build resumes: the tools, the sources and what is compiled stay in the cache folder
until the build is installed. The installed build is replaced last, and comes back if the new one
cannot load a model.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from assistant.errors import InstallError
from assistant.install.choice import Choice
from assistant.install.machine import Backend
from assistant.install.progress import StepCounter
from assistant.memory.sampler import read_host_memory

NAME = "llama-cpp-python"
_HERE = Path(__file__).parent
_INCLUDE = _HERE / "llama_cpp.cmake"
_TRIAL_LIMIT_S = 300.0
_LAST_LINES = 12
_LEAST_DISK_BYTES = {Backend.CUDA: 4 << 30, Backend.HIP: 4 << 30}
_COMPILER_BYTES = {Backend.CUDA: 3 << 29, Backend.HIP: 2 << 30}
"""What a compiler of the largest files may take; less for the others."""
_DEVICES = {
    Backend.CUDA: "CUDA",
    Backend.HIP: "ROCm",
    Backend.VULKAN: "Vulkan",
    Backend.METAL: ("MTL", "Metal"),
}
"""How the names of a backend's devices begin."""

Report = Callable[[str], None]
"""Is given one line on what happens now."""


def lock_file(name: str) -> Path:
    """A lock file of the package; in a checkout, the build tools' one is in .ci."""
    packaged = _HERE / name
    return packaged if packaged.exists() else _HERE.parents[1] / ".ci" / name


def pin(name: str = NAME) -> str:
    """The lock file's entry for a package: its version and hashes."""
    text = lock_file("requirements.lock").read_text(encoding="utf-8")
    found = re.search(rf"(?m)^{re.escape(name)}==.*\n(?:    .*\n)*", text)
    if found is None:
        raise InstallError("the lock file has no entry for this package", subject=name)
    return found[0]


def pinned_version() -> str:
    return pin().partition("==")[2].split()[0]


@dataclass(frozen=True)
class Folders:
    """Where a build is kept while it is made.

    Attributes:
        root: of everything that setup keeps.
        build: of this one build: another version, option or Python has another folder.
    """

    root: Path
    build: Path

    @classmethod
    def of(cls, root: Path, choice: Choice) -> Folders:
        parts = (pin(), _INCLUDE.read_text(encoding="utf-8"), sys.version, *choice.arguments)
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
        return cls(root, root / f"{pinned_version()}-{choice.backend}-{digest}")


@contextmanager
def only_one(root: Path) -> Iterator[None]:
    """Let one setup run at a time.

    Raises:
        InstallError: another one is running.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(root / "setup.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InstallError("another setup is running", advice="Wait until it ends") from error
    try:
        yield
    finally:
        lock.release()


def build(folders: Folders, choice: Choice, report: Report) -> Path:
    """Build the wheel from the pinned sdist.

    Raises:
        InstallError: a tool is missing, the disk is too small, or the compiler failed.
    """
    if found := list((folders.build / "wheel").glob("*.whl")):
        return found[0]
    _require_space(folders.root, _LEAST_DISK_BYTES.get(choice.backend, 1 << 30))
    python = tools(folders, report)
    source = _sources(folders, python, report)
    include = f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={_INCLUDE}"
    arguments = [*shlex.split(os.environ.get("CMAKE_ARGS", "")), include, *choice.arguments]
    environment = {
        **os.environ,
        "CMAKE_ARGS": shlex.join(arguments),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(
            processes(choice.backend, read_host_memory().available_bytes)
        ),
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", "")]),
    }
    command = [
        *(str(python), "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation"),
        *("--no-cache-dir", "--config-settings", f"build-dir={folders.build / 'objects'}"),
        *("--wheel-dir", str(folders.build / "unfinished"), str(source)),
    ]
    counter = StepCounter()

    def read(line: str) -> None:
        if steps := counter.read(line, time.monotonic()):
            report(f"compiling, {steps}")

    report("configuring")
    _run(command, folders.build / "build.log", environment, read)
    (folders.build / "unfinished").rename(folders.build / "wheel")
    return next((folders.build / "wheel").glob("*.whl"))


def processes(backend: Backend, available_bytes: int, cores: int = os.cpu_count() or 1) -> int:
    """How many compilers run at once: as many as there are cores, and memory for."""
    needed_bytes = _COMPILER_BYTES.get(backend, 1 << 29)
    return max(1, min(cores, available_bytes // needed_bytes))


def fetch(folders: Folders, index: str, report: Report) -> tuple[Path, str]:
    """Download the wheel of the pinned version from an index.

    Returns:
        The wheel and its SHA-256, which nothing has verified.

    Raises:
        InstallError: the index has no wheel for this version, system and Python.
    """
    python = tools(folders, report)
    target = folders.root / f"{pinned_version()}-{hashlib.sha256(index.encode()).hexdigest()[:12]}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    command = [
        *(str(python), "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--index-url", index, "--dest", str(target), f"{NAME}=={pinned_version()}"),
    ]
    report("downloading the wheel")
    _run(command, target / "download.log")
    wheel = next(target.glob("*.whl"))
    return wheel, hashlib.sha256(wheel.read_bytes()).hexdigest()


def tools(folders: Folders, report: Report) -> Path:
    """The Python of an environment with pip, CMake, Ninja and scikit-build-core, all pinned.

    It is apart from the program's own environment, which has no pip where uv made it.
    """
    lock = lock_file("build.lock")
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = folders.root / f"tools-{digest}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "complete"
    if stamp.exists():
        return python
    report("installing the build tools")
    shutil.rmtree(folder, ignore_errors=True)
    log = folders.root / "tools.log"
    _run([sys.executable, "-m", "venv", str(folder)], log)
    _run([str(python), "-m", "pip", "install", "--require-hashes", "-r", str(lock)], log)
    stamp.touch()
    return python


def _sources(folders: Folders, python: Path, report: Report) -> Path:
    """The unpacked sdist, whose hash pip has verified."""
    target = folders.build / "source"
    if target.exists():
        return target
    report("downloading the sources, 77 MB")
    folders.build.mkdir(parents=True, exist_ok=True)
    wanted = folders.build / "pin.txt"
    wanted.write_text(pin(), encoding="utf-8")
    download = folders.build / "download"
    command = [
        *(str(python), "-m", "pip", "download", "--no-deps", "--no-build-isolation"),
        *("--no-binary", NAME, "--require-hashes", "--dest", str(download), "-r", str(wanted)),
    ]
    _run(command, folders.build / "download.log")
    report("unpacking the sources")
    unpacked = folders.build / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(next(download.glob("*.tar.gz"))) as archive:
        archive.extractall(unpacked, filter="data")
    next(unpacked.iterdir()).rename(target)
    shutil.rmtree(download)
    return target


def try_out(backend: Backend, folder: Path | None = None) -> None:
    """Load a small model with the build in `folder`, or with the installed one.

    Raises:
        InstallError: it cannot, or it has no device of this backend.
    """
    environment = dict(os.environ)
    if folder is not None:
        paths = [str(folder), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, "-m", "assistant.install.trial"]
    advice = "The previous build is still in use"
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=_TRIAL_LIMIT_S,
            env=environment,
            check=False,
        )
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        message = f"the new build loaded no model within {_TRIAL_LIMIT_S:.0f} s"
        raise InstallError(message, advice=advice) from error
    except ValueError as error:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        message = f"the new build cannot load a model: {said[-1] if said else 'it crashed'}"
        raise InstallError(message, advice=advice) from error
    if folder is not None and not Path(found["folder"]).is_relative_to(folder):
        raise InstallError("another build was loaded than the new one", subject=found["folder"])
    start = _DEVICES.get(backend)
    if start and not any(name.startswith(start) for name in found["devices"]):
        listed = ", ".join(found["devices"])
        message = f"the new build finds no device for {backend}, only: {listed}"
        raise InstallError(message, advice=advice)


def install(folders: Folders, wheel: Path, backend: Backend, report: Report) -> None:
    """Try the wheel, put it in place of the installed build, and try it there.

    Raises:
        InstallError: it cannot load a model or be installed; the previous build is in place.
    """
    python = tools(folders, report)
    log = wheel.parent / "install.log"
    report("loading a model with the new build")
    staged = wheel.parent / "staged"
    shutil.rmtree(staged, ignore_errors=True)
    pip = [str(python), "-m", "pip"]
    options = ["install", "--no-deps", "--no-index"]
    _run([*pip, *options, "--target", str(staged), str(wheel)], log)
    try_out(backend, staged)
    report("installing")
    kept = folders.root / "previous"
    shutil.rmtree(kept, ignore_errors=True)
    files = _copy_installed(kept)
    here = [*pip, "--python", sys.executable]
    try:
        _run([*here, *options, "--force-reinstall", str(wheel)], log)
        try_out(backend)
    except InstallError:
        report("restoring the previous build")
        _run([*here, "uninstall", "--yes", NAME], log)
        for path, copy in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(copy, path)
        raise
    shutil.rmtree(kept, ignore_errors=True)
    shutil.rmtree(wheel.parents[1] if wheel.parent.name == "wheel" else wheel.parent)


def _copy_installed(target: Path) -> dict[Path, Path]:
    """Copies of the installed build's files, by the path that each belongs to."""
    try:
        files = importlib.metadata.distribution(NAME).files or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    copies = {}
    for number, file in enumerate(files):
        path = Path(str(file.locate()))
        if path.is_file():
            target.mkdir(parents=True, exist_ok=True)
            copies[path] = Path(shutil.copy2(path, target / str(number)))
    return copies


def _require_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InstallError(
            f"the build needs {needed_bytes >> 30} GiB of disk, {free / (1 << 30):.1f} are free",
            subject=str(folder),
            advice="Free some space",
        )


def _run(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    read: Callable[[str], None] = lambda _: None,
) -> None:
    """Run a command with its output in `log`; its last lines are in the error if it fails.

    Ended with this process: a keyboard interrupt reaches the compiler too.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last: list[str] = []
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment,
            )
        except OSError as error:
            raise InstallError(
                f"it cannot be run ({error.strerror})", subject=command[0]
            ) from error
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                last = [*last[1 - _LAST_LINES :], line.rstrip()[:200]]
                read(line)
    if process.returncode != 0:
        raise InstallError(
            f"{_name(command)} failed:\n  " + "\n  ".join(last),
            advice=f"The full log is {log}. After fixing it, run setup again: it resumes",
        )


def _name(command: Sequence[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:4]])
