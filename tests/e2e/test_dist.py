"""What a release consists of: complete, reproducible, and installable without a checkout."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from assistant import __version__

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("assistant", "lsp", "context")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dist", ROOT / ".ci" / "dist.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(target: Path) -> Path:
    command = [sys.executable, str(ROOT / ".ci" / "dist.py"), "--without-editors"]
    subprocess.run([*command, "--output", str(target)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return dist / f"underkeel-{__version__}-py3-none-any.whl"


def sources() -> set[str]:
    """Every file of the packages that is not generated."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert sources() | {"assistant/install/build.lock"} == {
        name for name in names if ".dist-info/" not in name
    }
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert any(name.endswith(".scm") for name in names)


def test_the_sdist_holds_nothing_that_was_built_here(dist: Path) -> None:
    """It is the same in a tree where the editors' packages have been built before."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    known = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    with tarfile.open(dist / f"underkeel-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names - {"PKG-INFO"} <= known


def test_the_sdist_gives_the_same_wheel(dist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(dist / f"underkeel-{__version__}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "w")]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1577836800"}
    subprocess.run(command, cwd=tree, check=True, capture_output=True, env=environment)
    assert (tmp_path / "w" / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_same_sources_give_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    sums = (dist / "SHA256SUMS").read_text()
    assert (build(tmp_path) / "SHA256SUMS").read_text() == sums
    for line in sums.splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest


def test_the_requirements_name_the_wheel_and_all_that_it_needs_with_hashes(
    dist: Path, wheel: Path
) -> None:
    """With them, an index that offers another `underkeel` is refused (case T21)."""
    text = (dist / f"underkeel-{__version__}-requirements.txt").read_text()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert text.startswith(f"underkeel=={__version__} \\\n    --hash=sha256:{digest}\n")
    pinned = {name.lower() for name in re.findall(r"(?m)^([\w.-]+)(?:\[.*\])?==", text)}
    metadata = zipfile.ZipFile(wheel).read(f"underkeel-{__version__}.dist-info/METADATA").decode()
    needed = re.findall(r"(?m)^Requires-Dist: ([\w.-]+)(?!.*extra ==)", metadata)
    assert {name.lower() for name in needed} <= pinned


def test_a_package_of_the_same_name_is_refused(dist: Path, wheel: Path, tmp_path: Path) -> None:
    """The owner of the name on an index, or in a folder, cannot run code (case T21)."""
    text = (dist / f"underkeel-{__version__}-requirements.txt").read_text()
    ours = tmp_path / "requirements.txt"
    ours.write_text("".join(text.splitlines(keepends=True)[:2]))
    command = [
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-index"),
        *("--ignore-installed", "--require-hashes", "-r", str(ours), "--find-links"),
    ]
    done = subprocess.run([*command, str(dist)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(tmp_path / wheel.name, "w") as rival:
        for name in source.namelist():
            rival.writestr(name, source.read(name))
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode != 0 and "HASH" in done.stderr.upper()


def test_runtime_pins_are_those_that_are_tested() -> None:
    def pins(path: str) -> set[tuple[str, str]]:
        found = re.findall(r"(?m)^([\w.-]+)(?:\[.*\])?==(\S+)", (ROOT / path).read_text())
        return set(found)

    assert pins("assistant/install/requirements.lock") < pins("requirements.lock")


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; its dependencies come from the tests' own."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    install = ["-m", "pip", "--python", str(folder), "install", "--no-deps", "--no-index"]
    # The checkout may be on the path of the interpreter that runs pip, not on the new one's.
    done = subprocess.run(
        [sys.executable, *install, str(wheel)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    shared = {sysconfig.get_paths()["purelib"], *map(str, _site_packages())}
    lines = "".join(f"{path}\n" for path in shared)
    (site / "zz_dependencies.pth").write_text(lines, encoding="utf-8")
    return folder


def _site_packages() -> list[Path]:
    return [Path(path) for path in sys.path if path.endswith("site-packages")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--version"], f"underkeel {__version__}"),
        (["--help"], "doctor"),
        (["recommend", "--help"], "recommend"),
        (["doctor", "--help"], "--deep"),
    ],
)
def test_the_installed_command_runs(
    environment: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    command = [str(environment / "bin" / "underkeel"), *arguments]
    variables = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=variables)
    assert done.returncode == 0 and expected in done.stdout, done.stderr


def test_it_runs_from_its_own_files(environment: Path, tmp_path: Path) -> None:
    code = "import assistant, lsp, context; print(assistant.__file__, lsp.__file__)"
    command = [str(environment / "bin" / "python"), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert all(path.startswith(str(environment)) for path in done.stdout.split())


def test_the_neovim_archive_is_the_plugin(script: ModuleType, tmp_path: Path) -> None:
    first = script.neovim_archive(tmp_path / "a.tar.gz", ROOT / "editors" / "nvim")
    second = script.neovim_archive(tmp_path / "b.tar.gz", ROOT / "editors" / "nvim")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        names = archive.getnames()
    assert "underkeel.nvim/lua/underkeel/init.lua" in names and "underkeel.nvim/LICENSE" in names
