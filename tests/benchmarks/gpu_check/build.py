"""Part A: the bundle's packages, and llama.cpp built with CUDA for the one GPU that is here.

Needs Python 3.11 or later, nvcc, CMake and a C++ compiler; no network. Standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from gpu_check.results import Config, Row, emit, open_rows, skip

# The cache types that plans and the ladder use; the others' kernels take minutes to compile.
_CACHE_TYPES = "f16-f16;q8_0-q8_0"
_OPTIONS = {
    "GGML_CUDA": "ON",
    "GGML_CUDA_NCCL": "OFF",
    "GGML_CUDA_FA_QUANTS": _CACHE_TYPES,
    "LLAVA_BUILD": "OFF",
    "LLAMA_CURL": "OFF",
}


def main() -> None:
    config = Config.from_arguments()
    open_rows()
    if config.simulated:
        skip("build", "llama.cpp with CUDA", "simulated: this Python's own build is used")
        return
    if not config.bundle:
        skip("build", "llama.cpp with CUDA", "no bundle: this Python's own packages are used")
        return
    bundle = Path(config.bundle).resolve()
    _check_python(bundle)
    python = python_of(config)
    started = time.monotonic()
    if not python.exists():
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", str(python.parents[1])], check=True
        )
    _pip(bundle, python, *map(str, sorted((bundle / "wheels").glob("*.whl"))))
    emit("build", step="packages", seconds=round(time.monotonic() - started, 1))
    started = time.monotonic()
    architecture = cuda_architecture()
    options = _OPTIONS | {"CMAKE_CUDA_ARCHITECTURES": f"{architecture}-real"}
    environment = {
        "CMAKE_ARGS": " ".join(f"-D{name}={value}" for name, value in options.items()),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(_cores()),
    }
    [source] = bundle.glob("llama_cpp_python-*.tar.gz")
    # pip's cache knows nothing of build options: it would return a wheel built with others.
    options_of_pip = ("--no-build-isolation", "--no-cache-dir", "--verbose")
    _pip(bundle, python, *options_of_pip, str(source), environment=environment)
    emit(
        "build",
        step=f"llama.cpp with CUDA for sm_{architecture}",
        seconds=round(time.monotonic() - started, 1),
        cores=_cores(),
        options=options,
        tools={name: _version(name) for name in ("nvcc", "cmake", "c++")},
    )
    code = "import llama_cpp; print(llama_cpp.llama_supports_gpu_offload())"
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    if answer.stdout.strip() != "True":
        raise RuntimeError("the library that was built knows no GPU")


def python_of(config: Config) -> Path:
    """The Python that the other parts run under where a bundle is used."""
    return config.folder / "venv" / "bin" / "python"


def _check_python(bundle: Path) -> None:
    made_for = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["python"]
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != made_for:
        raise SystemExit(
            f"gpu-check: the bundle holds wheels for Python {made_for}, this is {here}."
            f" Make it again with: make gpu-bundle PYTHON_VERSION={here}"
        )


def _pip(
    bundle: Path, python: Path, *arguments: str, environment: dict[str, str] | None = None
) -> None:
    """Run the bundle's own pip from its wheel; nothing is fetched."""
    [pip] = (bundle / "wheels").glob("pip-*.whl")
    command = [
        str(python),
        f"{pip}/pip",
        "install",
        "--no-index",
        "--no-deps",
        "--no-input",
        "--no-compile",
    ]
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])
    answer = subprocess.run(
        [*command, *arguments],
        check=False,
        env={**os.environ, "PATH": path, **(environment or {})},
    )
    if answer.returncode != 0:
        raise SystemExit("gpu-check: pip failed; its output is above, in build.log")


def _cores() -> int:
    """Cores that this process may use; a container or taskset allows fewer than there are."""
    return len(os.sched_getaffinity(0))


def cuda_architecture() -> str:
    """The first GPU's compute capability as nvcc wants it: "90" for 9.0."""
    gpus = gpu_facts()
    if not gpus:
        raise SystemExit("gpu-check: nvidia-smi shows no GPU. Try: make gpu-check SIMULATED=1")
    return str(gpus[0]["compute_capability"]).replace(".", "")


def gpu_facts() -> list[Row]:
    """What nvidia-smi says of each GPU; nothing where there is none."""
    keys = ("name", "memory.total", "driver_version", "compute_cap")
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={','.join(keys)}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    names = ("name", "memory", "driver", "compute_capability")
    rows = [line.split(", ") for line in answer.stdout.splitlines() if answer.returncode == 0]
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def _version(tool: str) -> str:
    path = shutil.which(tool)
    if path is None:
        return "not found"
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    lines = [line for line in answer.stdout.splitlines() if any(map(str.isdigit, line))]
    return (lines[-2] if tool == "nvcc" and len(lines) > 1 else (lines or [""])[0]).strip()


if __name__ == "__main__":
    main()
