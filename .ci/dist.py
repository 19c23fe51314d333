"""Build the files of a release into dist/, reproducibly, with checksums.

    underkeel-VERSION-py3-none-any.whl      the program, for pip, pipx and uv
    underkeel-VERSION.tar.gz                its sources
    underkeel-VERSION-requirements.txt      the wheel and every package that it needs, with hashes
    build-requirements.txt                  what builds llama.cpp, with hashes
    llama_cpp.cmake                         options of that build, and which files it leaves out
    underkeel-VERSION.vsix                  the VS Code extension, with the wheel and these in it
    underkeel.nvim-VERSION.tar.gz           the Neovim plugin
    SHA256SUMS                              checksums of all of them

The version is `__version__` in assistant/__init__.py and nowhere else. The same commit gives the
same bytes: run it twice and compare SHA256SUMS.

To install from these files, without trusting a name on an index:

    pip install --require-hashes -r build-requirements.txt
    CMAKE_ARGS=-DCMAKE_PROJECT_llama_cpp_INCLUDE=$PWD/llama_cpp.cmake pip install \\
        --require-hashes --no-build-isolation --find-links . -r underkeel-VERSION-requirements.txt

To publish: change the version and CHANGELOG.md, commit, tag vVERSION, run `make test` and
`make dist`, check SHA256SUMS on a second machine, then upload wheel and sdist to the package
index (twine upload), the .vsix to the extension galleries, and all files to the release page.

    python .ci/dist.py [--without-editors]      the editors' packages need node and npm
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VSCODE = ROOT / "editors" / "vscode"
RUNTIME_LOCK = ROOT / "assistant" / "install" / "requirements.lock"
BUILD_LOCK = ROOT / ".ci" / "build.lock"
CMAKE_INCLUDE = ROOT / "assistant" / "install" / "llama_cpp.cmake"
EPOCH = "1577836800"
"""2020-01-01, the date of every archived file."""


def version() -> str:
    text = (ROOT / "assistant" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        sys.exit("dist: assistant/__init__.py names no version")
    return found[1]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def python_packages(target: Path) -> tuple[Path, Path]:
    """The wheel and the sdist."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(target)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = target.glob("underkeel-*.whl")
    (sdist,) = target.glob("underkeel-*.tar.gz")
    return wheel, sdist


def requirements(wheel: Path, lock: str) -> str:
    """A requirements file for `pip install --require-hashes --find-links FOLDER -r FILE`.

    FOLDER holds the wheel. Whatever an index offers under the same name has another hash, and pip
    refuses it.
    """
    pinned = re.sub(r"(?m)^#.*\n", "", lock)
    number = wheel.name.split("-")[1]
    return f"underkeel=={number} \\\n    --hash=sha256:{sha256(wheel)}\n{pinned}"


def vscode_extension(target: Path, program: list[Path]) -> Path:
    """The extension, which carries the program that it installs."""
    inside = VSCODE / "program"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    for path in program:
        shutil.copy(path, inside / path.name)
    try:
        for command in (["npm", "ci", "--ignore-scripts"], ["npm", "run", "package"]):
            subprocess.run(command, cwd=VSCODE, check=True, stdout=subprocess.DEVNULL)
        return Path(shutil.move(VSCODE / "underkeel.vsix", target))
    finally:
        shutil.rmtree(inside)


def neovim_archive(target: Path, folder: Path) -> Path:
    """The plugin as a .tar.gz with one folder in it."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = int(EPOCH)
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    sources = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    sources["LICENSE"] = ROOT / "LICENSE"
    with (
        target.open("wb") as file,
        gzip.GzipFile("", "wb", mtime=int(EPOCH), fileobj=file) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, path in sorted(sources.items()):
            if path.is_file():
                archive.add(path, f"underkeel.nvim/{name}", filter=plain)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--without-editors", action="store_true")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    chosen = parser.parse_args()
    target, number = chosen.output.absolute(), version()
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    wheel, sdist = python_packages(target)
    pinned = target / f"underkeel-{number}-requirements.txt"
    pinned.write_text(requirements(wheel, RUNTIME_LOCK.read_text(encoding="utf-8")), "utf-8")
    build_pinned = Path(shutil.copy(BUILD_LOCK, target / "build-requirements.txt"))
    include = Path(shutil.copy(CMAKE_INCLUDE, target))
    made = [wheel, sdist, pinned, build_pinned, include]
    if not chosen.without_editors:
        made.append(vscode_extension(target / f"underkeel-{number}.vsix", [wheel, *made[2:]]))
        archive = target / f"underkeel.nvim-{number}.tar.gz"
        made.append(neovim_archive(archive, ROOT / "editors" / "nvim"))
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(made))
    (target / "SHA256SUMS").write_text(sums, encoding="utf-8")
    print(sums, end="")


if __name__ == "__main__":
    main()
