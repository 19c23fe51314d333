"""Installs Underkeel as its users do, in clean environments, runs it, and removes it again.

    python tests/benchmarks/installs.py [--pythons 3.11 3.13] [--tools uv] [--sources wheel]
        [--save]

Every combination of Python, installer (`uv tool install`, `pipx install`, `pip install`) and source
(a checkout, the wheel, the sdist) gets a home of its own with nothing in it. Versions of packages
are those that the installer chooses, not the lock file's. Downloads are cached between the
combinations, and so is the wheel of llama-cpp-python, which is built once: it is the same for all
Pythons. The starter model is linked into each home; `make models` downloads it. It completes code
where the wheel is installed; checkout and sdist give the same files (tests/e2e/test_dist.py), so
there only the commands without a model run.

Prints JSON; `--save` also puts it into tests/benchmarks/results/installs.json, beside the rows that
are there from earlier runs on other combinations. The exit status is 1 where a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from head import head

from assistant import __version__, paths
from assistant.install import builder

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests" / "benchmarks" / "results" / "installs.json"
PYTHONS = ("3.11", "3.12", "3.13")
TOOLS = ("uv", "pipx", "pip")
SOURCES = ("checkout", "wheel", "sdist")
_MODEL = "starter-moe.gguf"
_CATALOGUE_MODEL = "qwen3-coder-30b-a3b"
_OF_THE_TOOL = {".local/share/pipx/venvs/.underkeel.lock"}
"""What pipx itself leaves after `pipx uninstall`."""
_KEPT_VARIABLES = ("PIP_", "UV_", "SSL_", "HTTP", "http", "NO_PROXY", "no_proxy", "REQUESTS_")
_LIMIT_S = 240.0
_TRIES = 3
"""Of a completion: on a busy machine the model may load for longer than a request waits."""

Row = dict[str, Any]


class Failed(Exception):  # noqa: N818
    """A command or a check failed; the text says which."""


@dataclass(frozen=True)
class Place:
    """What the combinations share.

    Attributes:
        sources: what can be installed, by name.
        wheels: a folder with llama-cpp-python's wheel.
        tools: an environment with pipx and uv.
    """

    root: Path
    sources: Mapping[str, Path]
    wheels: Path
    tools: Path

    @property
    def uv(self) -> str:
        return str(self.tools / "bin" / "uv")


def prepare(root: Path) -> Place:
    """Build what is to be installed; what is there from an earlier run is used again."""
    checkout, dist, tools = root / "checkout", root / "dist", root / "tools"
    if not tools.exists():
        call([sys.executable, "-m", "venv", str(tools)])
        call([str(tools / "bin/pip"), "install", "-q", "pipx", "uv"])
    if not checkout.exists():
        call(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", str(checkout)])
    if not dist.exists():
        script = checkout / ".ci" / "dist.py"
        call([sys.executable, str(script), "--without-editors", "--output", str(dist)])
    wheels = root / "wheels"
    if not wheels.exists():
        pinned = f"{builder.NAME}=={builder.pinned_version()}"
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels)]
        call([*command, pinned], limit_s=3600)
    return Place(
        root,
        {
            "checkout": checkout,
            "wheel": next(dist.glob("*.whl")),
            "sdist": next(dist.glob(f"underkeel-{__version__}.tar.gz")),
        },
        wheels,
        tools,
    )


def interpreter(version: str) -> str:
    """A Python of this version: on the path, or one of pyenv's (whose shims may refuse to run)."""
    name = f"python{version}"
    own = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/{name}"))
    for path in filter(None, [shutil.which(name), *map(str, reversed(own))]):
        if run([path, "--version"]).returncode == 0:
            return path
    raise Failed(f"no Python {version} was found")


def environment(place: Place, home: Path) -> dict[str, str]:
    """Nothing of ours, but how this machine reaches a package index."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT_VARIABLES)}
    links = f"{kept.get('PIP_FIND_LINKS', '')} {place.wheels}".strip()
    return kept | {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "PATH": os.pathsep.join([str(home / ".local/bin"), str(place.tools / "bin"), os.defpath]),
        "LANG": "C.UTF-8",
        "PIP_FIND_LINKS": links,
        "UV_FIND_LINKS": str(place.wheels),
        "PIP_CACHE_DIR": str(place.root / "cache" / "pip"),
        "UV_CACHE_DIR": str(place.root / "cache" / "uv"),
        "UV_PYTHON_DOWNLOADS": "never",
    }


def call(
    command: list[str], env: Mapping[str, str] | None = None, limit_s: float = 1200.0
) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed."""
    done = run(command, env, limit_s)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-8:]
        raise Failed(f"{' '.join(command[:4])} exited with {done.returncode}: {' / '.join(said)}")
    return done


def run(
    command: list[str], env: Mapping[str, str] | None = None, limit_s: float = _LIMIT_S
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=env,
        cwd=env["HOME"] if env else None,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=limit_s,
        check=False,
    )


def install(
    place: Place, tool: str, python: str, source: Path, env: Mapping[str, str]
) -> tuple[Path, list[str]]:
    """Install it; returns the command, and what lists the environment's packages."""
    home = Path(env["HOME"])
    if tool == "uv":
        call([place.uv, "tool", "install", "-q", "--python", python, str(source)], env)
        inside = home / ".local/share/uv/tools/underkeel"
        command = home / ".local/bin/underkeel"
    elif tool == "pipx":
        call([str(place.tools / "bin/pipx"), "install", "--python", python, str(source)], env)
        inside = home / ".local/share/pipx/venvs/underkeel"
        command = home / ".local/bin/underkeel"
    else:
        inside = home / "environment"
        call([python, "-m", "venv", str(inside)], env)
        call([str(inside / "bin/python"), "-m", "pip", "install", "-q", str(source)], env)
        command = inside / "bin" / "underkeel"
    if not command.exists():
        raise Failed(f"{command} does not exist after {tool}")
    return command, [place.uv, "pip", "freeze", "--python", str(inside / "bin/python")]


def checks(
    command: Path, env: Mapping[str, str], python: str, *, model: bool
) -> Iterator[tuple[str, str]]:
    """What each command showed, by name; with `model`, also those that load or measure.

    Raises:
        Failed: it is not what it should be.
    """

    def said(*arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        done = run([str(command), *arguments], env)
        if done.returncode not in codes:
            raise Failed(f"{arguments}: exit {done.returncode}: {done.stdout}{done.stderr}")
        if "Traceback" in done.stderr or "Warning" in done.stderr:
            raise Failed(f"{arguments} warned: {done.stderr}")
        return done.stdout

    def require(name: str, text: str, expected: str) -> tuple[str, str]:
        if expected not in text:
            raise Failed(f"{name}: no {expected!r} in {text[:400]!r}")
        return name, expected

    yield require("version", said("--version"), f"underkeel {__version__}")
    yield require("help", said("help"), "headroom")
    yield require("help page", said("help", "headroom"), "budget")
    findings = json.loads(said("doctor", "--json", codes=(0, 1)))
    failed = [f"{one['check']}: {one['message']}" for one in findings if one["level"] == "fail"]
    if failed:
        raise Failed(f"doctor: {failed}")
    by_name = {one["check"]: one["message"] for one in findings}
    yield require("doctor", by_name["python"], f"Python {python}")
    yield require("packages", by_name["packages"], "all packages are installed")
    yield require("models", said("models", "list"), "starter-moe")
    if not model:
        return
    yield require("plan", said("plan", _CATALOGUE_MODEL), "qwen3moe")
    project = Path(env["HOME"]) / "project"
    project.mkdir()
    (project / "sums.py").write_text("def add(first, second):\n    return \n", encoding="utf-8")
    place = f"{project / 'sums.py'}:2:12"
    texts = (said("complete", place).strip() for _ in range(_TRIES))
    if not (text := next(filter(None, texts), "")):
        raise Failed("complete: no suggestion")
    yield "completion", text[:80]
    yield require("status", said("status"), "underkeel ready")


def uninstall(command: Path, env: Mapping[str, str], tool: str) -> None:
    """Remove it as the program says; nothing of it may be left.

    Raises:
        Failed: something is left.
    """
    home = Path(env["HOME"])
    listed = run([str(command), "uninstall", "--all"], env)
    if listed.returncode != 1 or "models" not in listed.stdout or not command.exists():
        raise Failed(f"uninstall without an answer: {listed.stdout}{listed.stderr}")
    call([str(command), "uninstall", "--all", "--yes"], env)
    if tool == "pip":
        python = str(command.parent / "python")
        call([python, "-m", "pip", "uninstall", "-q", "--yes", "underkeel"], env)
    left = [
        name
        for path in home.rglob("*")
        if "underkeel" in (name := str(path.relative_to(home))) and name not in _OF_THE_TOOL
    ]
    if left:
        raise Failed(f"left after uninstall --all: {left[:10]}")


def combination(place: Place, python: str, tool: str, source: str) -> Row:
    """Install, check and uninstall; the row says what came of it."""
    row: Row = {"python": python, "tool": tool, "source": source}
    home = Path(tempfile.mkdtemp(prefix="home-", dir=place.root))
    (home / "tmp").mkdir()
    models = home / ".local/share/underkeel/models"
    models.mkdir(parents=True)
    os.link((paths.models_dir() / _MODEL).resolve(), models / _MODEL)
    env = environment(place, home)
    command = None

    def step(name: str, work: Callable[[], Any]) -> Any:
        started = time.monotonic()
        result = work()
        row[f"{name}_s"] = round(time.monotonic() - started, 1)
        return result

    try:
        found = interpreter(python)
        command, freeze = step(
            "install", lambda: install(place, tool, found, place.sources[source], env)
        )
        row["packages"] = len(call(freeze, env).stdout.splitlines())
        row["checks"] = step(
            "checks", lambda: dict(checks(command, env, python, model=source == "wheel"))
        )
        step("uninstall", lambda: uninstall(command, env, tool))
        row["passed"] = True
    except (Failed, subprocess.TimeoutExpired) as error:
        row |= {"passed": False, "failure": str(error)[:2000]}
        if command is not None and command.exists():
            run([str(command), "stop", "--force"], env)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return row


def merged(new: list[Row]) -> list[Row]:
    """The kept rows, those of the same combinations replaced, in the order of the matrix."""
    kept = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    rows = {(row["python"], row["tool"], row["source"]): row for row in [*kept, *new]}
    order = [(python, tool, source) for python in PYTHONS for tool in TOOLS for source in SOURCES]
    return [rows[key] for key in order if key in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pythons", nargs="+", choices=PYTHONS, default=PYTHONS)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "installs")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the home is cleared away
    place = prepare(options.folder.absolute())
    versions = {
        "uv": call([place.uv, "--version"]).stdout.split()[1],
        "pipx": call([str(place.tools / "bin/pipx"), "--version"]).stdout.strip(),
    }
    result = head("installs", **versions, commit=_commit(place.sources["checkout"]))
    new: list[Row] = []
    for python in options.pythons:
        for tool in options.tools:
            for source in options.sources:
                row = combination(place, python, tool, source)
                new.append({**row, "date": result["date"]})
                print(json.dumps(row), file=sys.stderr)
                if options.save:  # after each, so that an interrupted run keeps what it has
                    _write(result, merged(new))
    rows = merged(new) if options.save else new
    print(json.dumps(rows, indent=1, ensure_ascii=False))
    sys.exit(0 if all(row["passed"] for row in new) else 1)


def _write(result: Row, rows: list[Row]) -> None:
    passed = f"{sum(row['passed'] for row in rows)} of {len(rows)}"
    text = json.dumps({**result, "passed": passed, "rows": rows}, indent=1, ensure_ascii=False)
    RESULT.write_text(text + "\n", encoding="utf-8")


def _commit(checkout: Path) -> str:
    return call(["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]).stdout.strip()


if __name__ == "__main__":
    main()
