"""`make gpu-bundle`: all that a GPU machine without a network needs beside this repository.

    python3 -m gpu_check.bundle FOLDER [--python-version 3.12]

The pinned source of llama-cpp-python without what is not built (models, docs, tools, tests, other
backends), and wheels of every package that the product needs at run time or to build it, checked
against the lock files' hashes. Repository and bundle together must stay within 64 MiB.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MOST_BYTES = 64 << 20
_LLAMA = "llama-cpp-python"
_BUILD_PACKAGES = ("pip", "scikit-build-core", "pathspec", "packaging", "ninja")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")

# Of the source archive, below its top folder.
_KEPT = re.compile(
    r"(CMakeLists\.txt|pyproject\.toml|README\.md|LICENSE\.md|PKG-INFO|llama_cpp/.*"
    r"|vendor/llama\.cpp/(CMakeLists\.txt|LICENSE|cmake/.*|include/.*|src/.*|ggml/CMakeLists\.txt"
    r"|ggml/(cmake|include)/.*|ggml/src/[^/]+|ggml/src/ggml-(cpu|cuda)/.*))"
)
_LEFT_OUT = re.compile(r"ggml-cpu/(arch/(?!x86|arm)|spacemit|kleidiai)")
# llama.cpp's common library and its vendored headers are not built, so nothing may ask for them.
_CHANGES = {
    "CMakeLists.txt": ("set(LLAMA_BUILD_COMMON ON ", "set(LLAMA_BUILD_COMMON OFF "),
    "vendor/llama.cpp/CMakeLists.txt": ("add_subdirectory(vendor)", ""),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python-version", default=f"3.{sys.version_info.minor}")
    wanted = parser.parse_args()
    folder: Path = wanted.folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "wheels").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        lock = _pins(ROOT / "requirements.lock") | _pins(ROOT / ".ci" / "build.lock")
        source = _download_source(lock, Path(scratch))
        trim(source, folder / source.name)
        _download_wheels(lock, folder / "wheels", Path(scratch), wanted.python_version)
    facts = {"python": wanted.python_version, "llama_cpp_python": source.name}
    (folder / "bundle.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    size, tree = _size(folder), _tracked_bytes()
    print(f"bundle {size / 2**20:.1f} MiB + repository {tree / 2**20:.1f} MiB, of 64 MiB")
    if size + tree > MOST_BYTES:
        sys.exit("gpu-bundle: that is more than may be brought along; leave packages out")


def trim(source: Path, target: Path) -> None:
    """Write the archive again with the files that a CUDA build needs.

    Raises:
        ValueError: the archive is not laid out as that of the pinned version.
    """
    changed = set()
    with tarfile.open(source) as old, tarfile.open(target, "w:gz", compresslevel=9) as new:
        for member in old:
            name = member.name.partition("/")[2]
            if not member.isfile() or not _KEPT.fullmatch(name) or _LEFT_OUT.search(name):
                continue
            file = old.extractfile(member)
            assert file is not None
            content = file.read()
            if name in _CHANGES:
                before, after = (text.encode() for text in _CHANGES[name])
                if before not in content:
                    raise ValueError(f"{source.name}: {name} has no {before.decode()!r}")
                content = content.replace(before, after)
                changed.add(name)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    if changed != set(_CHANGES):
        raise ValueError(f"{source.name}: missing {sorted(set(_CHANGES) - changed)}")


def _pins(path: Path) -> dict[str, list[tuple[str, str]]]:
    """The lock file's pins by package: what to install with its hashes, and its marker."""
    found: dict[str, list[tuple[str, str]]] = {}
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        pin = re.match(r"([A-Za-z0-9_.-]+)==\S+", line)
        if pin is None:
            continue
        before, _, hashes = line.partition("--hash")
        _, _, marker = before.partition(";")
        plain = f"{pin[0]} --hash{hashes}"
        found.setdefault(_normal(pin[1]), []).append((plain, marker.strip()))
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _download_source(lock: dict[str, list[tuple[str, str]]], folder: Path) -> Path:
    _pip_download(folder, lock[_LLAMA][0][0], "--no-binary", ":all:")
    [source] = folder.glob("llama_cpp_python-*.tar.gz")
    return source


def _download_wheels(
    lock: dict[str, list[tuple[str, str]]], target: Path, scratch: Path, python: str
) -> None:
    from packaging.markers import Marker

    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    names = {*_run_time_packages(environment), *_BUILD_PACKAGES} - {_LLAMA, "underkeel"}
    lines = [
        plain
        for name in sorted(names)
        for plain, marker in lock.get(name, [])
        if not marker or Marker(marker).evaluate(environment)
    ]
    if missing := [name for name in names if name not in lock]:
        sys.exit(f"gpu-bundle: the lock files have no {', '.join(missing)}")
    wheels = ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    for platform in _PLATFORMS:
        wheels += ["--platform", f"{platform}_x86_64"]
    _pip_download(target, "\n".join(lines), *wheels, scratch=scratch)


def _pip_download(folder: Path, pins: str, *options: str, scratch: Path | None = None) -> None:
    requirements = (scratch or folder) / "pins.txt"
    requirements.write_text(pins + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "-qq", "download", "--no-deps", "--require-hashes"]
    subprocess.run([*command, "-d", str(folder), "-r", str(requirements), *options], check=True)


def _run_time_packages(environment: dict[str, str]) -> set[str]:
    """Every package that the product needs at run time there.

    Its own needs are read from pyproject.toml, theirs from what is installed here.
    """
    from packaging.requirements import Requirement

    found: set[str] = set()
    with (ROOT / "pyproject.toml").open("rb") as file:
        own = tomllib.load(file)["project"]["dependencies"]
    waiting = [(Requirement(text), "") for text in own]
    while waiting:
        wanted, extra = waiting.pop()
        if wanted.marker and not wanted.marker.evaluate({**environment, "extra": extra}):
            continue
        name = _normal(wanted.name)
        if name in found and not wanted.extras:
            continue
        found.add(name)
        needs = [Requirement(text) for text in metadata.requires(wanted.name) or ()]
        waiting += [(need, each) for need in needs for each in ("", *wanted.extras)]
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tracked_bytes() -> int:
    return sum(path.stat().st_size for path in _tracked() if path.is_file())


def _tracked() -> Iterator[Path]:
    answer = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True
    )
    return (ROOT / name.decode() for name in answer.stdout.split(b"\0") if name)


if __name__ == "__main__":
    main()
