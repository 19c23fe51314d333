"""Make the development environment in .venv: pinned, checked against hashes, built once.

Runs under any Python 3.11 or later, with the standard library only. Safe to repeat: when nothing
that matters has changed since the last run, it does nothing. llama-cpp-python is built from source,
which takes minutes, so its progress is shown. It is rebuilt only when its version, its build
options or the CPU change.

    python3 .ci/setup_env.py            make .venv or bring it up to date
    python3 .ci/setup_env.py --force    delete .venv first
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from assistant.install.progress import ProgressLine, StepCounter  # noqa: E402

VENV = ROOT / ".venv"
STAMP = VENV / ".underkeel-stamp"
LLAMA_STAMP = VENV / ".underkeel-llama-stamp"
LOCK = ROOT / "requirements.lock"
BUILD_LOCK = ROOT / ".ci" / "build.lock"
CMAKE_INCLUDE = ROOT / "assistant" / "install" / "llama_cpp.cmake"
LOG = VENV / "setup.log"
OLDEST = (3, 11)
LLAMA = "llama-cpp-python"
CACHE_HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
LLAMA_CACHE = CACHE_HOME / "underkeel-build"
KEPT_BUILDS = 3
# What changes the build of llama.cpp besides its version.
BUILD_VARIABLES = ("CMAKE_ARGS", "CC", "CXX", "CFLAGS", "CXXFLAGS")
PACKAGE = re.compile(r"^\s*(Collecting|Downloading|Building wheels? for|Installing) (.{0,60})")


def fail(message: str, advice: str) -> None:
    sys.exit(f"setup: {message}\n       {advice}")


def pins(lock: str) -> dict[str, str]:
    """The lock file's entries with their hashes, by package name.

    A package has several where its version depends on Python's; they are kept together.
    """
    found: dict[str, str] = {}
    text = re.sub(r"(?m)^#.*\n", "", lock)
    for entry in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE):
        if entry.strip():
            name = re.split(r"[\[=]", entry, maxsplit=1)[0]
            found[name] = found.get(name, "") + entry
    return found


def digest(parts: Iterable[str | bytes]) -> str:
    total = hashlib.sha256(sys.version.encode())
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()


def build_options() -> list[str]:
    return [f"{name}={os.environ.get(name, '')}" for name in BUILD_VARIABLES]


def fingerprint() -> str:
    """Changes when anything that is installed changes."""
    files = (LOCK, BUILD_LOCK, CMAKE_INCLUDE, ROOT / "pyproject.toml", Path(__file__))
    return digest([*(path.read_bytes() for path in files), *build_options()])


def llama_fingerprint(pin: str) -> str:
    """Changes when llama.cpp must be built again: it is compiled for this machine's CPU."""
    return digest([pin, CMAKE_INCLUDE.read_bytes(), *build_options(), cpu_features()])


def cpu_features() -> str:
    """The instructions that this machine's CPU has, as Linux lists them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"(?m)^(flags|Features)\s*:(.*)$", text)
    return " ".join(sorted(found[2].split())) if found else ""


def make_venv(*, force: bool) -> None:
    if force and VENV.exists():
        shutil.rmtree(VENV)
    if (VENV / "bin" / "python").exists():
        return
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    except subprocess.CalledProcessError:
        fail("the virtual environment cannot be made", "On Debian: apt-get install python3-venv")


def pip(label: str, *arguments: str) -> None:
    """Run pip with its full output in the log and one line of progress here."""
    progress, counter = ProgressLine(label), StepCounter()
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-v", "--no-input"]
    include = shlex.quote(f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={CMAKE_INCLUDE}")
    environment = {
        **os.environ,
        "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1),
        "CMAKE_ARGS": f"{include} {os.environ.get('CMAKE_ARGS', '')}".strip(),
    }
    detail = "starting"
    with LOG.open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            cwd=ROOT,
        )
        assert process.stdout is not None
        tail: list[str] = []
        for line in process.stdout:
            log.write(line)
            tail = [*tail[-14:], line]
            if steps := counter.read(line, time.monotonic()):
                detail = f"compiling, {steps}"
            elif package := PACKAGE.match(line):
                detail = f"{package[1].lower()} {package[2].strip()}"
            progress.show(detail)
        if process.wait() != 0:
            print("".join(["\n", *tail]))
            fail(f"pip failed; the full log is {LOG}", "Fix what it names, then run again")
    progress.end()


def main() -> None:
    if sys.version_info < OLDEST:
        fail(
            f"Python {sys.version.split()[0]} is too old; 3.11 or later is needed",
            "Name one: make PYTHON=python3.12 ...",
        )
    force = "--force" in sys.argv[1:]
    current = fingerprint()
    if not force and STAMP.exists() and STAMP.read_text(encoding="utf-8") == current:
        return
    if shutil.which(os.environ.get("CC", "cc")) is None and shutil.which("gcc") is None:
        fail("no C compiler was found", "On Debian: apt-get install build-essential")
    make_venv(force=force)
    STAMP.unlink(missing_ok=True)
    LOG.unlink(missing_ok=True)
    entries = pins(LOCK.read_text(encoding="utf-8"))
    llama_pin = entries.pop(LLAMA)
    packages, llama = VENV / "packages.lock", VENV / "llama.lock"
    packages.write_text("".join(entries.values()), encoding="utf-8")
    llama.write_text(llama_pin, encoding="utf-8")
    # The lock file is complete, so pip resolves nothing: --no-deps.
    pip("Build tools", "--require-hashes", "-r", str(BUILD_LOCK))
    pip("Packages", "--require-hashes", "--no-deps", "--no-build-isolation", "-r", str(packages))
    build_llama(llama, llama_fingerprint(llama_pin))
    pip("Underkeel", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    STAMP.write_text(current, encoding="utf-8")


def build_llama(lock: Path, current: str) -> None:
    """Build llama.cpp, unless this environment has this build already."""
    if LLAMA_STAMP.exists() and LLAMA_STAMP.read_text(encoding="utf-8") == current:
        return
    LLAMA_STAMP.unlink(missing_ok=True)
    # pip's cache knows nothing of build options: it would return a wheel built with others. So
    # each build has a cache of its own.
    cache = ("--cache-dir", str(LLAMA_CACHE / current[:16]))
    print("llama.cpp is built from source now, once.")
    options = ("--force-reinstall", "--no-deps", "--no-build-isolation", *cache)
    pip("llama.cpp", "--require-hashes", *options, "-r", str(lock))
    LLAMA_STAMP.write_text(current, encoding="utf-8")
    remove_old_builds(LLAMA_CACHE, LLAMA_CACHE / current[:16])


def remove_old_builds(folder: Path, used: Path) -> None:
    """Keep the caches of the builds that were used last, `KEPT_BUILDS` in all, and say so.

    Anything else in the folder stays, and so does what cannot be removed.
    """
    with suppress(OSError):
        os.utime(used)
    builds = []
    for path in folder.glob("*"):
        with suppress(OSError):
            if re.fullmatch("[0-9a-f]{16}", path.name) and path.is_dir() and not path.is_symlink():
                builds.append((path == used, path.stat().st_mtime_ns, path))
    for *_, path in sorted(builds, reverse=True)[KEPT_BUILDS:]:
        shutil.rmtree(path, ignore_errors=True)
        left = "cannot be removed" if path.exists() else "removed"
        print(f"Cache of an older build of llama.cpp {left}: {path}")


if __name__ == "__main__":
    main()
