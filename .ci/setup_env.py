"""Make the project's environment in .venv: pinned, hash-checked, built once.

Runs under any Python 3.11 or later, with the standard library only. Safe to repeat: when nothing
that matters has changed since the last run, it does nothing. llama-cpp-python is built from source,
which takes minutes, so its progress is shown.

    python3 .ci/setup_env.py            make or mend .venv
    python3 .ci/setup_env.py --force    make it anew
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / ".underkeel-stamp"
LOCK = ROOT / "requirements.lock"
BUILD_LOCK = ROOT / ".ci" / "build.lock"
LOG = VENV / "setup.log"
OLDEST = (3, 11)
# What changes the build of llama.cpp besides the lock files.
BUILD_VARIABLES = ("CMAKE_ARGS", "CC", "CXX", "CFLAGS", "CXXFLAGS")


def fail(message: str, advice: str) -> None:
    sys.exit(f"setup: {message}\n       {advice}")


def fingerprint() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in (LOCK, BUILD_LOCK, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    for name in BUILD_VARIABLES:
        digest.update(f"{name}={os.environ.get(name, '')}\n".encode())
    return digest.hexdigest()


def make_venv(*, force: bool) -> None:
    if force and VENV.exists():
        shutil.rmtree(VENV)
    if (VENV / "bin" / "python").exists():
        return
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    except subprocess.CalledProcessError:
        fail("the virtual environment cannot be made", "On Debian: apt-get install python3-venv")


class Progress:
    """One line on a terminal, a line every half minute elsewhere."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.started = time.monotonic()
        self.shown = 0.0
        self.terminal = sys.stdout.isatty()

    def show(self, detail: str) -> None:
        now = time.monotonic()
        if now - self.shown < (0.2 if self.terminal else 30):
            return
        self.shown = now
        line = f"{self.label}: {detail} ({now - self.started:.0f} s)"
        print(f"\r\033[K{line[:110]}" if self.terminal else line, end="" if self.terminal else "\n")
        sys.stdout.flush()

    def done(self) -> None:
        start = "\r\033[K" if self.terminal else ""
        print(f"{start}{self.label}: done ({time.monotonic() - self.started:.0f} s)", flush=True)


STEP = re.compile(r"\[(\d+)/(\d+)\]")
PACKAGE = re.compile(r"^\s*(Collecting|Downloading|Building wheels? for|Installing) (.{0,60})")


def pip(label: str, *arguments: str) -> None:
    """Run pip with its full output in the log and one line of progress here."""
    progress = Progress(label)
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-v", "--no-input"]
    environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}
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
            if step := STEP.search(line):
                detail = f"compiling llama.cpp, {step[1]} of {step[2]}"
            elif package := PACKAGE.match(line):
                detail = f"{package[1].lower()} {package[2].strip()}"
            progress.show(detail)
        if process.wait() != 0:
            print("".join(["\n", *tail]))
            fail(f"pip failed; the whole log is {LOG}", "Mend what it names, then run again")
    progress.done()


def main() -> None:
    if sys.version_info < OLDEST:
        fail(
            f"Python {sys.version.split()[0]} is too old; 3.11 or later is needed",
            "Name one: make PYTHON=python3.12 ...",
        )
    force = "--force" in sys.argv[1:]
    wanted = fingerprint()
    if not force and STAMP.exists() and STAMP.read_text(encoding="utf-8") == wanted:
        return
    if shutil.which(os.environ.get("CC", "cc")) is None and shutil.which("gcc") is None:
        fail("no C compiler is found", "On Debian: apt-get install build-essential")
    make_venv(force=force)
    STAMP.unlink(missing_ok=True)
    LOG.unlink(missing_ok=True)
    pip("Build tools", "--require-hashes", "-r", str(BUILD_LOCK))
    print("llama.cpp is built from source now, once; on two cores that takes about four minutes.")
    pip("Packages", "--require-hashes", "--no-build-isolation", "-r", str(LOCK))
    pip("Underkeel", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    STAMP.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
