"""Which build of llama.cpp fits a machine, and what prevents it. Pure.

Sources of the tables: NVIDIA's CUDA release notes (supported architectures), the CUDA installation
guide for Linux (newest supported gcc), llama.cpp's docs/build.md and CMakeLists.txt in
ggml/src/ggml-{cuda,hip,vulkan} (flags, least versions), llama-cpp-python's README (wheel indexes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from assistant.install.machine import Backend, Gpu, Machine, Vendor, version_of

# First CUDA toolkit that compiles for a compute capability; of others, any does.
_FIRST_CUDA: dict[tuple[int, ...], tuple[int, ...]] = {
    (8, 0): (11, 0), (8, 6): (11, 1), (8, 7): (11, 4), (8, 9): (11, 8), (9, 0): (11, 8),
    (10, 0): (12, 8), (10, 3): (12, 9), (12, 0): (12, 8), (12, 1): (12, 9),
}  # fmt: skip
# From this CUDA toolkit on, the least compute capability that it compiles for.
_LEAST_CAPABILITY = (((13,), (7, 5)), ((12,), (5, 0)), ((0,), (5, 0)))
# Up to this CUDA toolkit, the newest gcc that nvcc accepts.
_NEWEST_GCC = (
    ((11, 3), 10), ((11, 8), 11), ((12, 3), 12), ((12, 7), 13), ((12, 9), 14), ((99,), 15),
)  # fmt: skip
_LEAST_ROCM = (6, 1)
_BLACKWELL = (12, 0)
_RENDER_GROUP = "Join the groups and log in again: sudo usermod -aG render,video $USER"

_INDEX = "https://abetlen.github.io/llama-cpp-python/whl/"
_CUDA_WHEELS = ((13, 2), (13, 0), (12, 5), (12, 4), (12, 3), (12, 2), (12, 1), (11, 8))

_COMPILER_ADVICE = {
    "darwin": "Install Apple's command line tools: xcode-select --install",
    "windows": "Install the Build Tools for Visual Studio with C++",
}
_PACKAGE_COMMANDS = {
    "debian": "apt-get install",
    "fedora": "dnf install",
    "suse": "zypper install",
    "arch": "pacman -S",
    "alpine": "apk add",
    "nixos": "nix-shell -p",
}
_COMPILER_PACKAGES = {
    "debian": "build-essential",
    "fedora": "gcc-c++",
    "suse": "gcc-c++",
    "arch": "base-devel",
    "alpine": "build-base linux-headers",
    "nixos": "gcc",
}
_VULKAN_PACKAGES = {
    "debian": "libvulkan-dev glslc spirv-headers",
    "fedora": "vulkan-headers vulkan-loader-devel glslc spirv-headers-devel",
    "suse": "vulkan-devel shaderc spirv-headers",
    "arch": "vulkan-headers vulkan-icd-loader shaderc spirv-headers",
    "alpine": "vulkan-headers vulkan-loader-dev shaderc spirv-headers",
    "nixos": "vulkan-headers vulkan-loader shaderc spirv-headers",
}


@dataclass(frozen=True)
class Obstacle:
    """What prevents a build, and what to do about it."""

    message: str
    advice: str


@dataclass(frozen=True)
class Choice:
    """The build of llama.cpp that fits a machine.

    Attributes:
        backend: what it computes with.
        reason: why this one.
        arguments: for CMake, when it is built from source.
        obstacles: what prevents building it from source; empty if nothing does.
        wheel_index: a package index with this build ready-made, not run by us and without pinned
            hashes; empty if none is known.
        installed: whether the installed llama.cpp has this backend already, and can be loaded.
        notes: what else the user should know, such as GPUs that stay unused.
    """

    backend: Backend
    reason: str
    arguments: tuple[str, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    wheel_index: str = ""
    installed: bool = False
    notes: tuple[str, ...] = ()


def choose(machine: Machine, requested: Backend | None = None) -> Choice:
    """The best build that can be made here, else the best that could be after some installation.

    Args:
        requested: use this backend instead of the best one.
    """
    if requested is not None:
        return _option(machine, requested, f"{requested} was requested")
    options = [_option(machine, backend, reason) for backend, reason in _preferred(machine)]
    first = options[0]
    if not first.obstacles or first.installed:
        return first
    for option in options[1:]:
        if option.backend is not Backend.CPU and not option.obstacles:
            missing = "; ".join(obstacle.advice for obstacle in first.obstacles)
            better = f"{_NAMES[first.backend]} would be faster: {missing}"
            return replace(option, notes=(*option.notes, better))
    return first


def cpu_only_beside_gpu(machine: Machine) -> bool:
    """Whether a GPU with a driver is left unused, because the installed build is for the CPU only.

    Integrated GPUs of Intel do not count: they are no faster than the CPU that they are part of.
    """
    return set(machine.installed) == {Backend.CPU} and _preferred(machine)[0][0] is not Backend.CPU


_NAMES = {
    Backend.CUDA: "CUDA",
    Backend.HIP: "ROCm",
    Backend.VULKAN: "Vulkan",
    Backend.METAL: "Metal",
    Backend.CPU: "the CPU",
}


def _preferred(machine: Machine) -> list[tuple[Backend, str]]:
    """Backends for the usable GPUs, the best first, each with a reason; at least the CPU."""
    found: list[tuple[Backend, str]] = []
    gpus = [gpu for gpu in machine.gpus if gpu.driver]
    if machine.system == "darwin":
        found.append((Backend.METAL, "macOS has Metal"))
    nvidia = [gpu for gpu in gpus if gpu.vendor is Vendor.NVIDIA]
    modern = [gpu for gpu in nvidia if (version_of(gpu.architecture) or (9,)) >= (5, 0)]
    if modern:
        found.append((Backend.CUDA, f"CUDA is the fastest on {_listed(modern)}"))
    amd = [gpu for gpu in gpus if gpu.vendor is Vendor.AMD]
    discrete = [gpu for gpu in amd if not gpu.integrated]
    if discrete and machine.system == "linux":
        found.append((Backend.HIP, f"ROCm is the fastest on {_listed(discrete)}"))
    intel = [gpu for gpu in gpus if gpu.vendor is Vendor.INTEL and not gpu.integrated]
    # In WSL, Vulkan reaches no GPU but through a slow translation layer.
    if (vulkan := [*nvidia, *amd, *intel]) and machine.system != "darwin" and not machine.wsl:
        found.append((Backend.VULKAN, f"Vulkan runs on {_listed(vulkan)}"))
    return [*found, (Backend.CPU, "there is no GPU that llama.cpp can use")]


def _option(machine: Machine, backend: Backend, reason: str) -> Choice:
    build = _BUILDS[backend](machine)
    obstacles = build.obstacles
    if not machine.compiler:
        obstacles = (Obstacle("no C++ compiler was found", _compiler_advice(machine)), *obstacles)
    if machine.locked:
        advice = "Install Underkeel into an environment of its own: uv tool install, or pipx"
        obstacles = (Obstacle(machine.locked, advice), *obstacles)
    return Choice(
        backend=backend,
        reason=reason,
        arguments=build.arguments,
        obstacles=obstacles,
        wheel_index="" if machine.locked else _wheel_index(machine, backend),
        installed=backend in machine.installed and machine.loads,
        notes=(*unusable(machine), *_left_out(machine, backend), *build.notes),
    )


def _compiler_advice(machine: Machine) -> str:
    if machine.sandbox:
        return f"Install Underkeel outside {machine.sandbox}, whose sandbox has no compiler"
    if machine.system in _COMPILER_ADVICE:
        return _COMPILER_ADVICE[machine.system]
    return f"Install a C++ compiler{_packages(machine, _COMPILER_PACKAGES)}"


def _packages(machine: Machine, names: dict[str, str]) -> str:
    """The command that installs them; Debian's, named as such, where the family is unknown."""
    if found := names.get(machine.distribution):
        return f": {_PACKAGE_COMMANDS[machine.distribution]} {found}"
    return f" (Debian, Ubuntu: {_PACKAGE_COMMANDS['debian']} {names['debian']})"


@dataclass(frozen=True)
class _Build:
    """How to build for a backend. The attributes are those of a choice."""

    arguments: tuple[str, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[str, ...] = ()


def _cuda(machine: Machine) -> _Build:
    """With the first toolkit that nothing prevents and that compiles for every GPU, else any."""
    others = sorted(
        machine.other_toolkits.items(), key=lambda item: version_of(item[1]), reverse=True
    )
    toolkits = [(machine.nvcc, machine.cuda), *others]
    builds = [
        _cuda_with(machine, nvcc, cuda) for nvcc, cuda in toolkits if nvcc and version_of(cuda)
    ]
    if machine.musl:
        message = "NVIDIA's compiler and libraries need glibc; this system's C library is musl"
        advice = "Use a distribution with glibc, or Vulkan: underkeel setup --backend vulkan"
        return _Build(("-DGGML_CUDA=on",), (Obstacle(message, advice),))
    if not builds:
        message = "the CUDA toolkit (nvcc) was not found"
        return _Build(("-DGGML_CUDA=on",), (Obstacle(message, _cuda_advice(machine)),))
    return min(builds, key=lambda build: (bool(build.obstacles), len(build.notes)))


def _cuda_advice(machine: Machine) -> str:
    newest = f" {machine.cuda_driver} or older" if version_of(machine.cuda_driver) else ""
    if machine.processor == "aarch64" and any(
        gpu.vendor is Vendor.NVIDIA and gpu.integrated for gpu in machine.gpus
    ):
        return f"Install the CUDA toolkit{newest} with JetPack: apt-get install nvidia-jetpack"
    package = ", the package for WSL without a driver" if machine.wsl else ""
    return f"Install the CUDA toolkit{newest}{package}: developer.nvidia.com/cuda-downloads"


def _cuda_with(machine: Machine, nvcc: str, cuda: str) -> _Build:
    toolkit, driver = version_of(cuda)[:2], version_of(machine.cuda_driver)[:2]
    obstacles = []
    if driver and toolkit[0] > driver[0]:
        message = f"the toolkit is CUDA {cuda}; the driver supports CUDA {machine.cuda_driver}"
        advice = f"Update NVIDIA's driver, or: {_cuda_advice(machine)}"
        obstacles.append(Obstacle(message, advice))
    capabilities = sorted(
        {
            version_of(gpu.architecture)[:2]
            for gpu in machine.gpus
            if gpu.vendor is Vendor.NVIDIA and gpu.driver and version_of(gpu.architecture)
        }
    )
    supported = [one for one in capabilities if _compiles(toolkit, one)]
    left_out = [_capability(one) for one in capabilities if one not in supported]
    notes: tuple[str, ...] = ()
    if capabilities and not supported:
        message = f"CUDA {cuda} does not compile for compute capability {', '.join(left_out)}"
        obstacles.append(Obstacle(message, _other_toolkit(capabilities[-1])))
    elif left_out:
        message = f"CUDA {cuda} does not compile for compute capability {', '.join(left_out)}"
        advice = "hide that GPU with CUDA_VISIBLE_DEVICES, or install another toolkit"
        notes = (f"{message}; {advice}",)
    arguments = ["-DGGML_CUDA=on", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
    if supported:
        arguments.append("-DCMAKE_CUDA_ARCHITECTURES=" + ";".join(map(_architecture, supported)))
    compiler, obstacle = _cuda_host_compiler(machine, cuda)
    if compiler:
        arguments.append(f"-DCMAKE_CUDA_HOST_COMPILER={compiler}")
    return _Build(tuple(arguments), (*obstacles, *obstacle), notes)


def _capability(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _compiles(toolkit: tuple[int, ...], capability: tuple[int, ...]) -> bool:
    least = next((least for since, least in _LEAST_CAPABILITY if toolkit >= since), (0,))
    return toolkit >= _FIRST_CUDA.get(capability, (0,)) and capability >= least


def _other_toolkit(capability: tuple[int, ...]) -> str:
    if first := _FIRST_CUDA.get(capability):
        return f"Install the CUDA toolkit {'.'.join(map(str, first))} or newer"
    return "Install the CUDA toolkit 12"


def _architecture(capability: tuple[int, ...]) -> str:
    """Machine code for exactly this GPU; Blackwell's FP4 instructions need the "a" (llama.cpp)."""
    major, minor = (*capability, 0)[:2]
    return f"{major}{minor}{'a' if capability >= _BLACKWELL else ''}-real"


def _cuda_host_compiler(machine: Machine, cuda: str) -> tuple[str, tuple[Obstacle, ...]]:
    """Another gcc where the default one is too new for nvcc."""
    toolkit = version_of(cuda)[:2]
    if machine.compiler != "gcc" or not machine.compiler_version:
        return "", ()
    newest = next((gcc for until, gcc in _NEWEST_GCC if toolkit <= until), None)
    if newest is None:  # a toolkit newer than this table
        return "", ()
    if (version_of(machine.compiler_version) or (0,))[0] <= newest:
        return "", ()
    fitting = {
        version_of(version): command
        for command, version in machine.other_compilers.items()
        if version_of(version) and version_of(version)[0] <= newest
    }
    if fitting:
        return fitting[max(fitting)], ()
    message = f"CUDA {cuda} accepts gcc up to {newest}; this is {machine.compiler_version}"
    names = {"debian": f"g++-{newest}", "suse": f"gcc{newest}-c++", "arch": f"gcc{newest}"}
    advice = f"Install gcc {newest} beside it{_packages(machine, names)}"
    return "", (Obstacle(message, advice),)


def _hip(machine: Machine) -> _Build:
    targets = sorted(
        {
            gpu.architecture
            for gpu in machine.gpus
            if gpu.vendor is Vendor.AMD
            and gpu.driver
            and not gpu.integrated
            and gpu.architecture.startswith("gfx")
        }
    )
    arguments = ["-DGGML_HIP=on"]
    if targets:
        arguments.append(f"-DGPU_TARGETS={';'.join(targets)}")
    if machine.rocm_path:
        arguments.append(f"-DCMAKE_HIP_COMPILER={machine.rocm_path}/llvm/bin/clang++")
    obstacles = []
    if not machine.rocm:
        advice = "Install ROCm with its developer packages: rocm.docs.amd.com"
        obstacles.append(Obstacle("ROCm was not found", advice))
    elif version_of(machine.rocm) < _LEAST_ROCM:
        message = f"ROCm {machine.rocm} is too old"
        obstacles.append(Obstacle(message, "Install ROCm 6.1 or newer"))
    if not machine.kfd:
        advice = (
            "Start the container with --device /dev/kfd --device /dev/dri"
            if machine.container
            else _RENDER_GROUP
        )
        obstacles.append(Obstacle("AMD's compute device /dev/kfd cannot be opened", advice))
    return _Build(tuple(arguments), tuple(obstacles))


def _vulkan(machine: Machine) -> _Build:
    parts = {
        "glslc": machine.glslc,
        "Vulkan headers": machine.vulkan_headers,
        "SPIR-V headers": machine.spirv_headers,
    }
    missing = [name for name, found in parts.items() if not found]
    if not missing:
        return _Build(("-DGGML_VULKAN=on",))
    advice = (
        "Install the Vulkan SDK: vulkan.lunarg.com"
        if machine.system == "windows"
        else f"Install what Vulkan needs{_packages(machine, _VULKAN_PACKAGES)}"
    )
    obstacle = Obstacle(f"not found: {', '.join(missing)}", advice)
    return _Build(("-DGGML_VULKAN=on",), (obstacle,))


def _metal(machine: Machine) -> _Build:
    if machine.system == "darwin":
        return _Build(("-DGGML_METAL=on",))
    obstacle = Obstacle("Metal exists on macOS only", "Choose another backend")
    return _Build(("-DGGML_METAL=on",), (obstacle,))


_BUILDS: dict[Backend, Callable[[Machine], _Build]] = {
    Backend.CUDA: _cuda,
    Backend.HIP: _hip,
    Backend.VULKAN: _vulkan,
    Backend.METAL: _metal,
    Backend.CPU: lambda _: _Build(),
}


def _wheel_index(machine: Machine, backend: Backend) -> str:
    """llama-cpp-python's own wheel index for this backend; "" where its README names none."""
    if machine.musl:
        return ""
    if machine.processor not in {"x86_64", "AMD64"} and backend is not Backend.METAL:
        return ""
    if backend is Backend.CUDA:
        driver = version_of(machine.cuda_driver)[:2]
        fitting = [one for one in _CUDA_WHEELS if one <= driver]
        return f"{_INDEX}cu{fitting[0][0]}{fitting[0][1]}" if fitting else ""
    if backend is Backend.HIP:
        return f"{_INDEX}rocm72" if version_of(machine.rocm)[:2] == (7, 2) else ""
    return _INDEX + backend.value


def unusable(machine: Machine) -> Iterator[str]:
    """GPUs that llama.cpp cannot use as things are, and what to do."""
    for gpu in machine.gpus:
        name = _named(gpu)
        if gpu.driver and gpu.vendor is Vendor.NVIDIA and _too_old(gpu):
            yield f"{name} is too old for CUDA 12 (compute capability {gpu.architecture})"
        # An integrated GPU without a driver is usual on servers; nothing is lost with it.
        expected = gpu.vendor is Vendor.NVIDIA or not gpu.integrated or machine.container
        if not gpu.driver and (expected or not gpu.accessible):
            yield f"{name} {_reason_unusable(machine, gpu)}"


def _reason_unusable(machine: Machine, gpu: Gpu) -> str:
    nvidia = gpu.vendor is Vendor.NVIDIA
    if machine.container:
        flag = "--gpus all" if nvidia else "--device /dev/dri"
        return f"is not passed into this container; start it with {flag}"
    if machine.wsl:
        return "has no driver; install it in Windows, not in WSL"
    if machine.sandbox:
        return f"cannot be used in {machine.sandbox}'s sandbox; install Underkeel outside of it"
    if gpu.kernel_driver == "vfio-pci":
        return "is passed to a virtual machine (vfio-pci)"
    if not gpu.accessible:
        return f"cannot be opened by this user. {_RENDER_GROUP}"
    if gpu.kernel_driver == "nvidia":
        library = (
            "add /run/opengl-driver/lib to LD_LIBRARY_PATH"
            if machine.distribution == "nixos"
            else "restart after an update of the driver; nvidia-smi shows whether it works"
        )
        return f"has a driver, but NVIDIA's library does not answer; {library}"
    if gpu.kernel_driver in {"nouveau", "radeon"}:
        better = "NVIDIA's" if nvidia else "amdgpu"
        return f"runs with {gpu.kernel_driver}, which llama.cpp cannot use; install {better}"
    advice = "; install NVIDIA's" if nvidia else ""
    return f"has no working driver{advice}"


def _left_out(machine: Machine, backend: Backend) -> Iterator[str]:
    """GPUs of other vendors beside those that the backend uses."""
    vendor = {Backend.CUDA: Vendor.NVIDIA, Backend.HIP: Vendor.AMD}.get(backend)
    others = [
        gpu
        for gpu in machine.gpus
        if vendor and gpu.driver and not gpu.integrated and gpu.vendor is not vendor
    ]
    if others:
        verb = "is" if len(others) == 1 else "are"
        yield (
            f"{_listed(others)} {verb} not used with {_NAMES[backend]}; Vulkan uses all: "
            "underkeel setup --backend vulkan"
        )


def _named(gpu: Gpu) -> str:
    return gpu.name or f"a GPU by {gpu.vendor.upper()}"


def _too_old(gpu: Gpu) -> bool:
    return bool(version_of(gpu.architecture)) and version_of(gpu.architecture) < (5, 0)


def _listed(gpus: list[Gpu]) -> str:
    names = list(dict.fromkeys(gpu.name or f"GPUs by {gpu.vendor.upper()}" for gpu in gpus))
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
