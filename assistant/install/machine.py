"""The description of a machine, as far as a build of llama.cpp is concerned.

It is frozen data that can be recorded as JSON: `underkeel setup --json` prints it.
"""

from __future__ import annotations

from enum import StrEnum

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
        driver: whether a driver answers for it that llama.cpp can use.
        kernel_driver: the kernel's driver for it ("amdgpu", "nouveau"); empty if none or unknown.
        accessible: whether this user may open its device.
        integrated: whether it is part of the processor and shares the machine's memory.
    """

    vendor: Vendor
    name: str = ""
    architecture: str = ""
    total_bytes: int = 0
    driver: bool = True
    kernel_driver: str = ""
    accessible: bool = True
    integrated: bool = False


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine, as far as a build of llama.cpp is concerned. An empty string means: not found.

    Attributes:
        system: "linux", "darwin" or "windows".
        processor: "x86_64", "arm64" or another name that the system gives.
        distribution: the family of Linux distributions, by its package manager: "debian", "fedora",
            "suse", "arch", "alpine", "nixos".
        musl: whether the C library is musl, for which NVIDIA and wheel indexes build nothing.
        sandbox: "flatpak" or "snap" if this runs inside one.
        cuda_driver: newest CUDA version that NVIDIA's driver supports.
        cuda: version of the CUDA toolkit; `nvcc` is its compiler.
        other_toolkits: further CUDA toolkits: versions by the path of their nvcc.
        rocm: version of ROCm; `rocm_path` is its folder.
        kfd: whether this user may open AMD's compute device, which ROCm needs.
        glslc, vulkan_headers, spirv_headers: what a build for Vulkan needs.
        compiler: the C++ compiler: "gcc", "clang", "msvc".
        other_compilers: further versions of gcc by command, such as {"g++-12": "12.3.0"}.
        installed: backends of the llama.cpp that is installed; empty if none is.
        installed_version: of llama-cpp-python.
        loads: whether the installed llama.cpp can be loaded; one for CUDA needs NVIDIA's driver.
        locked: why nothing can be installed into the program's environment; empty if it can.
    """

    system: str
    processor: str = "x86_64"
    distribution: str = ""
    musl: bool = False
    wsl: bool = False
    container: bool = False
    sandbox: str = ""
    gpus: tuple[Gpu, ...] = ()
    cuda_driver: str = ""
    cuda: str = ""
    nvcc: str = ""
    other_toolkits: dict[str, str] = {}
    rocm: str = ""
    rocm_path: str = ""
    kfd: bool = True
    glslc: bool = False
    vulkan_headers: bool = False
    spirv_headers: bool = False
    compiler: str = ""
    compiler_version: str = ""
    other_compilers: dict[str, str] = {}
    installed: tuple[Backend, ...] = ()
    installed_version: str = ""
    loads: bool = True
    locked: str = ""


def version_of(text: str) -> tuple[int, ...]:
    """The numbers of a version: "12.4" is (12, 4). Stops at what is not a number."""
    numbers = []
    for part in text.split("."):
        if not part.isdecimal() or len(part) > 9:
            break
        numbers.append(int(part))
    return tuple(numbers)
