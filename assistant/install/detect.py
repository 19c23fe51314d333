"""Describes the machine: GPUs, drivers, toolkits, compilers, the installed llama.cpp.

The description is frozen data that can be recorded as JSON. Nothing here raises, or loads llama.cpp
into this process: what is missing or does not answer is left out.
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
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from assistant.install.machine import Backend, Gpu, Machine, Vendor, version_of

_PCI_VENDORS = {"0x10de": Vendor.NVIDIA, "0x1002": Vendor.AMD, "0x8086": Vendor.INTEL}
_COMMAND_LIMIT_S = 10.0
_GCC_VERSIONS = range(9, 20)
_LIBRARY = re.compile(r"(?:lib)?ggml-(cuda|hip|vulkan|metal)\.")
_USABLE_DRIVERS = {"amdgpu", "i915", "xe"}
"""The kernel's drivers with which llama.cpp computes; NVIDIA's answers through NVML."""
_DISTRIBUTIONS = {
    "debian": "debian",
    "ubuntu": "debian",
    "fedora": "fedora",
    "rhel": "fedora",
    "suse": "suse",
    "opensuse": "suse",
    "arch": "arch",
    "alpine": "alpine",
    "nixos": "nixos",
}
_TEGRA = {"tegra210": "5.3", "tegra186": "6.2", "tegra194": "7.2", "tegra234": "8.7"}
"""Compute capabilities of the Jetsons' chips (NVIDIA's list of CUDA GPUs)."""


def detect(root: Path = Path("/")) -> Machine:
    """This machine.

    Args:
        root: of the file system; another one in tests.
    """
    system = {"win32": "windows", "darwin": "darwin"}.get(sys.platform, "linux")
    nvidia, cuda_driver = _nvidia()
    nvcc, *others = _nvccs(root) or [""]
    rocm, rocm_path = _rocm(root)
    compiler, compiler_version = _compiler()
    backends, version = installed_build()
    return Machine(
        system=system,
        processor=platform.machine(),
        distribution=distribution(_read(root / "etc/os-release")),
        musl=any((root / "lib").glob("ld-musl-*")),
        wsl="microsoft" in _read(root / "proc/version").lower(),
        container=_container(root),
        sandbox=_sandbox(root),
        gpus=(
            *(nvidia or _tegra(root)),
            *_pci_gpus(root, has_nvidia=bool(nvidia)),
            *_apple(system),
        ),
        cuda_driver=cuda_driver,
        cuda=_release_of(nvcc) if nvcc else "",
        nvcc=nvcc,
        other_toolkits={other: _release_of(other) for other in others},
        rocm=rocm,
        rocm_path=rocm_path,
        kfd=_openable(root / "dev/kfd"),
        glslc=shutil.which("glslc") is not None,
        vulkan_headers=_exists(root, "VULKAN_SDK", "include/vulkan/vulkan.h"),
        spirv_headers=_exists(root, "VULKAN_SDK", "include/spirv/unified1/spirv.hpp"),
        compiler=compiler,
        compiler_version=compiler_version,
        other_compilers=_gcc_versions(),
        installed=backends,
        installed_version=version,
        loads=backends in {(), (Backend.CPU,)} or _loads(),
        locked=locked_environment(
            Path(sys.prefix),
            Path(sysconfig.get_path("purelib")),
            own=sys.prefix != sys.base_prefix,
        ),
    )


def locked_environment(prefix: Path, packages: Path, *, own: bool) -> str:
    """Why pip cannot install into an environment; empty if it can.

    Args:
        packages: its folder of packages.
        own: whether it is a virtual environment, rather than the system's Python (PEP 668).
    """
    if not own and (packages.parent / "EXTERNALLY-MANAGED").exists():
        return f"the Python in {prefix} is managed by the system's package manager"
    if packages.exists() and not os.access(packages, os.W_OK):
        return f"the program's environment {prefix} cannot be written"
    return ""


def distribution(os_release: str) -> str:
    """The family of a distribution, by /etc/os-release (os-release(5))."""
    found = dict(re.findall(r'(?m)^(ID|ID_LIKE)="?([^"\n]*)"?$', os_release))
    names = f"{found.get('ID', '')} {found.get('ID_LIKE', '')}".replace("-", " ").split()
    return next((_DISTRIBUTIONS[name] for name in names if name in _DISTRIBUTIONS), "")


def _container(root: Path) -> bool:
    files = (".dockerenv", "run/.containerenv", "run/host/container-manager")
    return "KUBERNETES_SERVICE_HOST" in os.environ or any((root / name).exists() for name in files)


def _sandbox(root: Path) -> str:
    if (root / ".flatpak-info").exists():
        return "flatpak"
    return "snap" if os.environ.get("SNAP") else ""


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


def _loads() -> bool:
    """Whether llama.cpp can be loaded, tried in a process: a build for a GPU needs its driver."""
    command = [sys.executable, "-c", "import llama_cpp; print('loaded')"]
    return "loaded" in _output(*command)


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
    version, count = 0, 0
    with suppress(pynvml.NVMLError):
        version = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    with suppress(pynvml.NVMLError):
        count = pynvml.nvmlDeviceGetCount()
    for index in range(count):
        with suppress(pynvml.NVMLError):  # this one is lost; the others may answer
            gpus.append(_nvidia_gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)))
    with suppress(pynvml.NVMLError):
        pynvml.nvmlShutdown()
    return tuple(gpus), cuda_version(version)


def _nvidia_gpu(library: Any, handle: Any) -> Gpu:
    """Not every driver answers every question: a Jetson's or a Spark's has no memory of its own."""
    name, architecture, total = "", "", 0
    with suppress(library.NVMLError):
        raw = library.nvmlDeviceGetName(handle)
        name = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    with suppress(library.NVMLError):
        major, minor = library.nvmlDeviceGetCudaComputeCapability(handle)
        architecture = f"{major}.{minor}"
    shared = False
    try:
        total = int(library.nvmlDeviceGetMemoryInfo(handle).total)
    except library.NVMLError_NotSupported:
        shared = True
    except library.NVMLError:
        pass
    return Gpu(
        vendor=Vendor.NVIDIA,
        name=name,
        architecture=architecture,
        total_bytes=total,
        kernel_driver="nvidia",
        integrated=shared,
    )


def _tegra(root: Path) -> tuple[Gpu, ...]:
    """The GPU of a Jetson, which is on no bus; older drivers have no NVML for it."""
    tree = root / "proc/device-tree"
    found = re.search(r"nvidia,(tegra\d+)", _read(tree / "compatible"))
    if found is None:
        return ()
    nodes = [root / "dev" / name for name in ("nvhost-gpu", "nvgpu/igpu0")]
    return (
        Gpu(
            vendor=Vendor.NVIDIA,
            name=_read(tree / "model").strip("\0\n "),
            architecture=_TEGRA.get(found[1], ""),
            driver=any(node.exists() for node in nodes),
            accessible=any(_openable(node) for node in nodes),
            integrated=True,
        ),
    )


def _pci_gpus(root: Path, *, has_nvidia: bool) -> Iterator[Gpu]:
    """GPUs on the PCI bus, without those of NVIDIA that their driver has named already."""
    targets = _amd_targets(root)
    for vendor, device in _pci_devices(root):
        if vendor is Vendor.NVIDIA and has_nvidia:
            continue
        driver = (device / "driver").resolve().name if (device / "driver").exists() else ""
        total = _read(device / "mem_info_vram_total").strip()
        # Its own node, where the kernel names it; in a container it may not have been passed.
        names = [path.name for path in (device / "drm").glob("renderD*")] or ["renderD*"]
        nodes = [node for name in names for node in (root / "dev/dri").glob(name)]
        integrated = device.name.startswith("0000:00:") or (
            vendor is Vendor.AMD and total.isdecimal() and int(total) <= 2 << 30
        )
        accessible = any(map(_openable, nodes)) or not nodes
        yield Gpu(
            vendor=vendor,
            architecture=_amd_target_of(device.name, targets) if vendor is Vendor.AMD else "",
            total_bytes=int(total) if total.isdecimal() else 0,
            driver=driver in _USABLE_DRIVERS and bool(nodes) and accessible,
            kernel_driver=driver,
            accessible=accessible,
            integrated=integrated,
        )


def _openable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


def _pci_devices(root: Path) -> Iterator[tuple[Vendor, Path]]:
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor = _PCI_VENDORS.get(_read(device / "vendor").strip())
        if vendor is not None and _read(device / "class").startswith("0x03"):
            yield vendor, device


def _amd_targets(root: Path) -> list[tuple[int, str]]:
    """Location and LLVM target of each GPU that the kernel's compute driver knows, in its order.

    The location is the bus's number times 256 plus device and function (kfd_topology.c); -1 where
    a node names none.
    """
    found = []
    for node in sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*")):
        values = dict(re.findall(r"(?m)^(\w+) (\d{1,9})$", _read(node / "properties")))
        if target := amd_target(int(values.get("gfx_target_version", 0))):  # a CPU has none
            found.append((int(values.get("location_id", -1)), target))
    return found


def _amd_target_of(address: str, targets: list[tuple[int, str]]) -> str:
    """The target of the GPU at a PCI address; taken off the list."""
    parts = re.fullmatch(r"[0-9a-f]{4,8}:([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", address)
    place = (int(parts[1], 16) << 8 | int(parts[2], 16) << 3 | int(parts[3])) if parts else -1
    for found in targets:
        if found[0] in {place, -1}:
            targets.remove(found)
            return found[1]
    return ""


def _apple(system: str) -> tuple[Gpu, ...]:
    if system != "darwin" or platform.machine() != "arm64":
        return ()
    name = _output("sysctl", "-n", "machdep.cpu.brand_string").strip()
    return (Gpu(vendor=Vendor.APPLE, name=name, integrated=True),)


def _nvccs(root: Path) -> list[str]:
    """Every nvcc, the one that CMake would take first; each toolkit once."""
    folders = [
        Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)
    ]
    local = root / "usr/local"
    # The names as numbers: cuda-12.10 comes before cuda-12.9.
    versioned = sorted(
        local.glob("cuda-*"), key=lambda path: version_of(path.name.partition("-")[2]), reverse=True
    )
    folders += [local / "cuda", root / "opt/cuda", *versioned]
    paths = [Path(found)] if (found := shutil.which("nvcc")) else []
    paths += [folder / "bin" / name for folder in folders for name in ("nvcc", "nvcc.exe")]
    unique: dict[Path, str] = {}
    for path in paths:
        if path.is_file():
            unique.setdefault(path.resolve(), str(path))
    return list(unique.values())


def _release_of(nvcc: str) -> str:
    return release(_output(nvcc, "--version"))


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
