"""The installed llama.cpp is replaced only by one that loads a model, and comes back otherwise."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from pathlib import Path
from assistant.errors import InstallError
from assistant.install import builder
from assistant.install.machine import Backend

builder.tools = lambda folders, report: Path(sys.argv[1])  # has pip; nothing is downloaded
folders = builder.Folders(Path(sys.argv[2]), Path(sys.argv[2]) / "build")
try:
    builder.install(folders, Path(sys.argv[3]), Backend(sys.argv[4]), print)
except InstallError as error:
    sys.exit(f"{error}")
"""


def wheel(folder: Path, version: str, files: dict[str, bytes]) -> Path:
    """A wheel of llama-cpp-python with these files, in a build's folder."""
    info = f"llama_cpp_python-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {version}\n"
    about = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        **files,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": about.encode(),
    }
    record = ""
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    path = folder / "build" / "wheel" / f"llama_cpp_python-{version}-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def real_files() -> dict[str, bytes]:
    """The llama.cpp that the tests run with."""
    files = importlib.metadata.distribution("llama-cpp-python").files or []
    return {
        str(file): Path(str(file.locate())).read_bytes()
        for file in files
        if file.parts[0] == "llama_cpp" and "__pycache__" not in file.parts
    }


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with an old build, and the other packages of the tests."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (site / "shared.pth").write_text("".join(f"{path}\n" for path in [ROOT, *shared]))
    old = wheel(tmp_path / "old", "0.0.1", {"llama_cpp/__init__.py": b"old = True\n"})
    pip = ["-m", "pip", "--python", str(folder), "install", "--no-deps", "--no-index", str(old)]
    subprocess.run([sys.executable, *pip], check=True, capture_output=True)
    return folder


def install(
    environment: Path, wheel: Path, backend: str = "cpu"
) -> subprocess.CompletedProcess[str]:
    python = environment / "bin" / "python"
    arguments = [sys.executable, str(wheel.parents[2]), str(wheel), backend]
    return subprocess.run(
        [str(python), "-c", SCRIPT, *arguments], capture_output=True, text=True, cwd=environment
    )


def installed(environment: Path) -> str:
    code = "import importlib.metadata as m; print(m.version('llama-cpp-python'))"
    command = [str(environment / "bin" / "python"), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_build_that_loads_a_model_is_installed(environment: Path, tmp_path: Path) -> None:
    done = install(environment, wheel(tmp_path / "new", "9.9.9", real_files()))
    assert done.returncode == 0, done.stderr
    assert installed(environment) == "9.9.9"
    assert not (tmp_path / "new" / "build").exists(), "what was built is cleared away"


def test_a_broken_build_is_not_installed(environment: Path, tmp_path: Path) -> None:
    broken = {"llama_cpp/__init__.py": b"raise RuntimeError('undefined symbol: ggml_x')\n"}
    done = install(environment, wheel(tmp_path / "new", "9.9.9", broken))
    assert done.returncode == 1 and "undefined symbol: ggml_x" in done.stderr
    assert "The previous build is still in use" in done.stderr
    assert installed(environment) == "0.0.1"


def test_a_build_that_breaks_once_installed_is_taken_back(
    environment: Path, tmp_path: Path
) -> None:
    files = real_files()
    check = b"assert '/staged/' in __file__, 'broken in place'\n"
    files["llama_cpp/__init__.py"] = check + files["llama_cpp/__init__.py"]
    done = install(environment, wheel(tmp_path / "new", "9.9.9", files))
    assert done.returncode == 1 and "broken in place" in done.stderr
    assert "restoring the previous build" in done.stdout
    assert installed(environment) == "0.0.1"
    code = "import llama_cpp; assert llama_cpp.old"
    subprocess.run([str(environment / "bin" / "python"), "-c", code], check=True)


def test_a_build_without_a_device_for_its_backend_is_not_installed(
    environment: Path, tmp_path: Path
) -> None:
    done = install(environment, wheel(tmp_path / "new", "9.9.9", real_files()), "cuda")
    assert done.returncode == 1 and "finds no device for cuda, only: CPU" in done.stderr
    assert installed(environment) == "0.0.1"
