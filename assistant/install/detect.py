"""Describes the machine: GPUs, drivers, toolkits, compilers, the installed llama.cpp.

The description is frozen data that can be recorded as JSON. Nothing here raises or loads llama.cpp:
what is missing or does not answer is left out.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec


class Vendor(StrEnum):
    """Who made a GPU."""

    NVIDIA = "nvidia"
    AMD = "amd"
    INTEL = "intel"
    APPLE = "apple"


class Backend(StrEnum):
    """What llama.cpp computes with. The CPU is always there besides."""

    CUDA = "cuda"
    HIP = "hip"
    VULKAN = "vulkan"
    METAL = "metal"
    CPU = "cpu"


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU.

    Attributes:
        architecture: CUDA compute capability ("8.6") or AMD target ("gfx1100"); empty if unknown.
        driver: whether a driver answers for it.
        integrated: whether it is part of the processor and shares the machine's memory.
    """

    vendor: Vendor
    name: str = ""
    architecture: str = ""
    total_bytes: int = 0
    driver: bool = True
    integrated: bool = False


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine, as far as a build of llama.cpp is concerned. An empty string means: not found.

    Attributes:
        system: "linux", "darwin" or "windows".
        processor: "x86_64", "arm64" or another name that the system gives.
        cuda_driver: newest CUDA version that NVIDIA's driver supports.
        cuda: version of the CUDA toolkit; `nvcc` is its compiler.
        rocm: version of ROCm; `rocm_path` is its folder.
        glslc, vulkan_headers, spirv_headers: what a build for Vulkan needs.
        compiler: the C++ compiler: "gcc", "clang", "msvc".
        other_compilers: further versions of gcc by command, such as {"g++-12": "12.3.0"}.
        installed: backends of the llama.cpp that is installed; empty if none is.
        installed_version: of llama-cpp-python.
    """

    system: str
    processor: str = "x86_64"
    wsl: bool = False
    container: bool = False
    gpus: tuple[Gpu, ...] = ()
    cuda_driver: str = ""
    cuda: str = ""
    nvcc: str = ""
    rocm: str = ""
    rocm_path: str = ""
    glslc: bool = False
    vulkan_headers: bool = False
    spirv_headers: bool = False
    compiler: str = ""
    compiler_version: str = ""
    other_compilers: dict[str, str] = {}
    installed: tuple[Backend, ...] = ()
    installed_version: str = ""


def version_of(text: str) -> tuple[int, ...]:
    """The numbers of a version: "12.4" is (12, 4). Stops at what is not a number."""
    numbers = []
    for part in text.split("."):
        if not part.isdecimal() or len(part) > 9:
            break
        numbers.append(int(part))
    return tuple(numbers)


_PCI_VENDORS = {"0x10de": Vendor.NVIDIA, "0x1002": Vendor.AMD, "0x8086": Vendor.INTEL}
_COMMAND_LIMIT_S = 10.0
_GCC_VERSIONS = range(9, 20)
_LIBRARY = re.compile(r"(?:lib)?ggml-(cuda|hip|vulkan|metal)\.")


def detect(root: Path = Path("/")) -> Machine:
    """This machine.

    Args:
        root: of the file system; another one in tests.
    """
    system = {"win32": "windows", "darwin": "darwin"}.get(sys.platform, "linux")
    nvidia, cuda_driver = _nvidia()
    nvcc = _nvcc(root)
    rocm, rocm_path = _rocm(root)
    compiler, compiler_version = _compiler()
    backends, version = installed_build()
    return Machine(
        system=system,
        processor=platform.machine(),
        wsl="microsoft" in _read(root / "proc/version").lower(),
        container=any((root / name).exists() for name in (".dockerenv", "run/.containerenv")),
        gpus=(*nvidia, *_pci_gpus(root, has_nvidia=bool(nvidia)), *_apple(system)),
        cuda_driver=cuda_driver,
        cuda=release(_output(nvcc, "--version")) if nvcc else "",
        nvcc=nvcc,
        rocm=rocm,
        rocm_path=rocm_path,
        glslc=shutil.which("glslc") is not None,
        vulkan_headers=_exists(root, "VULKAN_SDK", "include/vulkan/vulkan.h"),
        spirv_headers=_exists(root, "VULKAN_SDK", "include/spirv/unified1/spirv.hpp"),
        compiler=compiler,
        compiler_version=compiler_version,
        other_compilers=_gcc_versions(),
        installed=backends,
        installed_version=version,
    )


def installed_build() -> tuple[tuple[Backend, ...], str]:
    """Backends and version of the installed llama-cpp-python, told from its files."""
    try:
        version = importlib.metadata.version("llama-cpp-python")
        spec = importlib.util.find_spec("llama_cpp")
    except (importlib.metadata.PackageNotFoundError, ImportError):
        return (), ""
    folders = spec.submodule_search_locations if spec else None
    names = [path.name for folder in folders or () for path in (Path(folder) / "lib").glob("*")]
    return backends_of(names), version


def backends_of(names: Sequence[str]) -> tuple[Backend, ...]:
    """Backends by the names of the libraries: "libggml-cuda.so" means CUDA."""
    found = {Backend(match[1]) for name in names if (match := _LIBRARY.match(name))}
    return (*sorted(found), Backend.CPU) if names else ()


def release(text: str) -> str:
    """The version in what a compiler says of itself: "release 12.4, V12.4.131" is 12.4."""
    found = re.search(r"release (\d+\.\d+)", text)
    return found[1] if found else ""


def amd_target(gfx_target_version: int) -> str:
    """The LLVM target of an AMD GPU: 110000 is gfx1100, 90010 is gfx90a (kfd_topology.c)."""
    major, rest = divmod(gfx_target_version, 10000)
    minor, stepping = divmod(rest, 100)
    return f"gfx{major}{minor:x}{stepping:x}" if major else ""


def cuda_version(number: int) -> str:
    """A CUDA version as the driver counts it: 12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}" if number > 0 else ""


def _nvidia() -> tuple[tuple[Gpu, ...], str]:
    """NVIDIA's GPUs, and the newest CUDA that the driver supports."""
    try:
        import pynvml
    except ImportError:
        return (), ""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return (), ""
    gpus: list[Gpu] = []
    version = ""
    try:
        version = cuda_version(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        gpus.extend(_nvidia_gpu(pynvml, handle) for handle in handles)
    except pynvml.NVMLError:
        pass  # what has answered so far is kept
    with suppress(pynvml.NVMLError):
        pynvml.nvmlShutdown()
    return tuple(gpus), version


def _nvidia_gpu(library: Any, handle: Any) -> Gpu:
    name = library.nvmlDeviceGetName(handle)
    major, minor = library.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        vendor=Vendor.NVIDIA,
        name=name.decode("utf-8", "replace") if isinstance(name, bytes) else name,
        architecture=f"{major}.{minor}",
        total_bytes=int(library.nvmlDeviceGetMemoryInfo(handle).total),
    )


def _pci_gpus(root: Path, *, has_nvidia: bool) -> Iterator[Gpu]:
    """GPUs on the PCI bus, without those of NVIDIA that their driver has named already."""
    targets = _amd_targets(root)
    for vendor, device in _pci_devices(root):
        if vendor is Vendor.NVIDIA and has_nvidia:
            continue
        driver = (device / "driver").resolve().name if (device / "driver").exists() else ""
        total = _read(device / "mem_info_vram_total").strip()
        visible = any((root / "dev/dri").glob("renderD*"))
        integrated = device.name.startswith("0000:00:") or (
            vendor is Vendor.AMD and total.isdecimal() and int(total) <= 2 << 30
        )
        yield Gpu(
            vendor=vendor,
            architecture=targets.pop(0) if vendor is Vendor.AMD and targets else "",
            total_bytes=int(total) if total.isdecimal() else 0,
            driver=vendor is not Vendor.NVIDIA and bool(driver) and visible,
            integrated=integrated,
        )


def _pci_devices(root: Path) -> Iterator[tuple[Vendor, Path]]:
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor = _PCI_VENDORS.get(_read(device / "vendor").strip())
        if vendor is not None and _read(device / "class").startswith("0x03"):
            yield vendor, device


def _amd_targets(root: Path) -> list[str]:
    """LLVM targets of the GPUs that the kernel's compute driver knows, in its order."""
    found = []
    for node in sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*")):
        text = _read(node / "properties")
        if match := re.search(r"(?m)^gfx_target_version (\d{1,9})$", text):
            found.append(amd_target(int(match[1])))
    return list(filter(None, found))  # a CPU is a node without a target


def _apple(system: str) -> tuple[Gpu, ...]:
    if system != "darwin" or platform.machine() != "arm64":
        return ()
    name = _output("sysctl", "-n", "machdep.cpu.brand_string").strip()
    return (Gpu(vendor=Vendor.APPLE, name=name, integrated=True),)


def _nvcc(root: Path) -> str:
    if found := shutil.which("nvcc"):
        return found
    named = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    for folder in [*map(Path, filter(None, named)), root / "usr/local/cuda"]:
        for name in ("bin/nvcc", "bin/nvcc.exe"):
            if (folder / name).is_file():
                return str(folder / name)
    return ""


def _rocm(root: Path) -> tuple[str, str]:
    folder = Path(os.environ.get("ROCM_PATH") or root / "opt/rocm")
    found = re.match(r"\d+\.\d+(\.\d+)?", _read(folder / ".info/version"))
    has_compiler = (folder / "llvm/bin/clang++").exists()
    return (found[0], str(folder)) if found and has_compiler else ("", "")


def _compiler() -> tuple[str, str]:
    """The C++ compiler that CMake will take, and its version."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    for name in filter(None, names):
        text = _output(name, "--version") if shutil.which(name) else ""
        if found := re.search(r"(\d+\.\d+(\.\d+)?)", text):
            return ("clang" if "clang" in text else "gcc"), found[1]
    if sys.platform == "win32" and (shutil.which("cl") or _visual_studio()):
        return "msvc", ""
    return "", ""


def _visual_studio() -> bool:
    """Whether Visual Studio's tools are installed; CMake finds them by itself."""
    base = os.environ.get("ProgramFiles(x86)", "")  # noqa: SIM112
    where = Path(base) / "Microsoft Visual Studio/Installer/vswhere.exe"
    query = ("-products", "*", "-requires", "Microsoft.VisualStudio.Component.VC.Tools.x86.x64")
    return bool(base and where.exists() and _output(str(where), *query).strip())


def _gcc_versions() -> dict[str, str]:
    found = {}
    for number in _GCC_VERSIONS:
        if shutil.which(f"g++-{number}"):
            found[f"g++-{number}"] = _output(f"g++-{number}", "-dumpfullversion").strip()
    return {command: version for command, version in found.items() if version}


def _exists(root: Path, variable: str, name: str) -> bool:
    folders = [Path(os.environ[variable])] if os.environ.get(variable) else []
    return any((folder / name).exists() for folder in [*folders, root / "usr", root / "usr/local"])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    """What a command prints; nothing where it fails or hangs."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMMAND_LIMIT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
