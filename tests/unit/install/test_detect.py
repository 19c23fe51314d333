"""What is read from the kernel's files and from compilers' versions."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from assistant.install import detect
from assistant.install.machine import Backend, Gpu, Vendor


def device(root: Path, name: str, kind: str, vendor: str, **files: str) -> Path:
    folder = root / "sys/bus/pci/devices" / name
    folder.mkdir(parents=True)
    for file, text in {"class": kind, "vendor": vendor, **files}.items():
        (folder / file).write_text(f"{text}\n")
    return folder


def with_driver(root: Path, folder: Path, name: str) -> None:
    (root / "drivers" / name).mkdir(parents=True, exist_ok=True)
    (folder / "driver").symlink_to(root / "drivers" / name)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """An Intel GPU with a driver, an AMD GPU with one, an NVIDIA GPU without, a network adapter."""
    intel = device(tmp_path, "0000:00:02.0", "0x030000", "0x8086")
    with_driver(tmp_path, intel, "i915")
    vram = str(24 << 30)
    amd = device(tmp_path, "0000:03:00.0", "0x030000", "0x1002", mem_info_vram_total=vram)
    with_driver(tmp_path, amd, "amdgpu")
    device(tmp_path, "0000:04:00.0", "0x030200", "0x10de")
    device(tmp_path, "0000:05:00.0", "0x020000", "0x10de")
    for number, target in enumerate((0, 110000)):
        node = tmp_path / f"sys/class/kfd/kfd/topology/nodes/{number}"
        node.mkdir(parents=True)
        (node / "properties").write_text(f"simd_count 96\ngfx_target_version {target}\n")
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/renderD128").touch()
    return tmp_path


def test_gpus_on_the_bus(machine: Path) -> None:
    intel, amd, nvidia = detect.detect(machine).gpus
    assert intel == Gpu(vendor=Vendor.INTEL, kernel_driver="i915", integrated=True)
    assert amd == Gpu(
        vendor=Vendor.AMD,
        architecture="gfx1100",
        total_bytes=24 << 30,
        kernel_driver="amdgpu",
    )
    assert nvidia == Gpu(vendor=Vendor.NVIDIA, driver=False)


@pytest.mark.parametrize("driver", ["vfio-pci", "radeon", "nouveau", ""])
def test_a_kernel_driver_that_llama_cpp_cannot_use(tmp_path: Path, driver: str) -> None:
    """A GPU that is passed to a virtual machine, or runs with an old or a free driver."""
    gpu = device(tmp_path, "0000:03:00.0", "0x030000", "0x1002")
    if driver:
        with_driver(tmp_path, gpu, driver)
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/renderD128").touch()
    (found,) = detect.detect(tmp_path).gpus
    assert (found.driver, found.kernel_driver) == (False, driver)


def test_each_gpu_has_its_own_node_and_target(tmp_path: Path) -> None:
    """Of two GPUs only the second was passed on; the compute driver lists them the other way."""
    for bus in ("03", "0a"):
        gpu = device(tmp_path, f"0000:{bus}:00.0", "0x030000", "0x1002")
        with_driver(tmp_path, gpu, f"{bus}/amdgpu")
        (gpu / f"drm/renderD1{bus}").mkdir(parents=True)
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/renderD10a").touch()
    for number, (target, location) in enumerate([(110000, 0x0A00), (100300, 0x0300)]):
        node = tmp_path / f"sys/class/kfd/kfd/topology/nodes/{number}"
        node.mkdir(parents=True)
        text = f"location_id {location}\ngfx_target_version {target}\n"
        (node / "properties").write_text(text)
    first, second = detect.detect(tmp_path).gpus
    assert (first.driver, first.architecture) == (False, "gfx1030")
    assert (second.driver, second.architecture) == (True, "gfx1100")


def refuse_access(monkeypatch: pytest.MonkeyPatch, refused: Path) -> None:
    """As for another user; the tests may run as root, who may do everything."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != refused and real(path, mode))


def test_a_user_outside_the_group_render(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_access(monkeypatch, machine / "dev/dri/renderD128")
    amd = detect.detect(machine).gpus[1]
    assert not amd.accessible and not amd.driver


def test_a_jetson_is_on_no_bus(tmp_path: Path) -> None:
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_text(
        "nvidia,p3768-0000+p3767-0000\0nvidia,p3767\0nvidia,tegra234\0"
    )
    (tree / "model").write_text("NVIDIA Jetson Orin Nano Developer Kit\0")
    (gpu,) = detect.detect(tmp_path).gpus
    assert (gpu.name, gpu.architecture) == ("NVIDIA Jetson Orin Nano Developer Kit", "8.7")
    assert gpu.integrated and not gpu.driver, "its device is missing"
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvhost-gpu").touch()
    assert detect.detect(tmp_path).gpus[0].driver


class PartialNvml:
    """NVIDIA's library on machines where it does not answer every question."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818
        pass

    def __init__(self, answers: list[dict[str, object]]) -> None:
        self.answers = answers

    def __getattr__(self, name: str) -> Callable[..., object]:
        def ask(handle: dict[str, object] | None = None) -> object:
            answer = (handle or {}).get(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        return 13000

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.answers)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, object]:  # noqa: N802
        if not self.answers[index]:
            raise self.NVMLError("GPU is lost")
        return self.answers[index]


def test_a_gpu_that_answers_in_part_and_one_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Spark shares its memory and has none of its own; a lost GPU does not hide the others."""
    shared = {
        "nvmlDeviceGetName": b"NVIDIA GB10",
        "nvmlDeviceGetCudaComputeCapability": (12, 1),
        "nvmlDeviceGetMemoryInfo": PartialNvml.NVMLError_NotSupported(),
    }
    silent = {
        "nvmlDeviceGetName": "NVIDIA A100",
        "nvmlDeviceGetCudaComputeCapability": PartialNvml.NVMLError("no permission"),
        "nvmlDeviceGetMemoryInfo": PartialNvml.NVMLError("no permission"),
    }
    monkeypatch.setitem(sys.modules, "pynvml", PartialNvml([shared, {}, silent]))
    found = detect.detect(tmp_path)
    assert found.cuda_driver == "13.0"
    assert [(gpu.name, gpu.architecture, gpu.integrated) for gpu in found.gpus] == [
        ("NVIDIA GB10", "12.1", True),
        ("NVIDIA A100", "", False),
    ]


def test_two_cuda_toolkits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one on the path comes first; a link to it counts once."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    for folder, version in (
        ("usr/bin", "11.8"),
        ("usr/local/cuda-12.9/bin", "12.9"),
        ("usr/local/cuda-12.10/bin", "12.10"),
    ):
        tool = tmp_path / folder / "nvcc"
        tool.parent.mkdir(parents=True)
        tool.write_text(f"#!/bin/sh\necho 'tools, release {version}, V{version}.1'\n")
        tool.chmod(0o755)
    (tmp_path / "usr/local/cuda").symlink_to(tmp_path / "usr/local/cuda-12.9")
    monkeypatch.setenv("PATH", f"{tmp_path}/usr/bin:/usr/bin:/bin")
    found = detect.detect(tmp_path)
    assert (found.nvcc, found.cuda) == (str(tmp_path / "usr/bin/nvcc"), "11.8")
    local = tmp_path / "usr/local"
    assert found.other_toolkits == {
        str(local / "cuda/bin/nvcc"): "12.9",
        str(local / "cuda-12.10/bin/nvcc"): "12.10",
    }


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", "debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "fedora"),
        ('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', "suse"),
        ("NAME=Manjaro\nID=manjaro\nID_LIKE=arch", "arch"),
        ("ID=alpine\n", "alpine"),
        ("ID=nixos\n", "nixos"),
        ("ID=void\n", ""),
        ("", ""),
    ],
)
def test_distributions(text: str, family: str) -> None:
    assert detect.distribution(text) == family


def test_sandboxes_and_musl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNAP", raising=False)
    assert detect.detect(tmp_path).sandbox == ""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/ld-musl-x86_64.so.1").touch()
    monkeypatch.setenv("SNAP", "/snap/code/1")
    assert detect.detect(tmp_path).sandbox == "snap" and detect.detect(tmp_path).musl
    (tmp_path / ".flatpak-info").touch()
    assert detect.detect(tmp_path).sandbox == "flatpak"


def test_environments_that_pip_cannot_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "lib/python3.12/site-packages"
    packages.mkdir(parents=True)
    assert detect.locked_environment(tmp_path, packages, own=False) == ""
    (packages.parent / "EXTERNALLY-MANAGED").touch()
    assert "package manager" in detect.locked_environment(tmp_path, packages, own=False)
    assert detect.locked_environment(tmp_path, packages, own=True) == ""
    refuse_access(monkeypatch, packages)
    assert "cannot be written" in detect.locked_environment(tmp_path, packages, own=True)


def test_a_container_sees_the_bus_but_not_the_gpus(machine: Path) -> None:
    (machine / "dev/dri/renderD128").unlink()
    (machine / ".dockerenv").touch()
    found = detect.detect(machine)
    assert found.container and not any(gpu.driver for gpu in found.gpus)


def test_wsl_and_toolkits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "VULKAN_SDK", "CXX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/version").write_text("Linux 5.15 (Microsoft@WSL2)")
    tools = {
        "usr/local/cuda/bin/nvcc": "Cuda compilation tools, release 12.4, V12.4.131",
        "opt/rocm/llvm/bin/clang++": "",
        "g++": "g++ (Debian 12.2.0-14) 12.2.0",
        "g++-11": "11.4.0",
        "glslc": "",
    }
    for name, said in tools.items():
        tool = tmp_path / name
        tool.parent.mkdir(parents=True, exist_ok=True)
        tool.write_text(f"#!/bin/sh\necho '{said}'\n")
        tool.chmod(0o755)
    (tmp_path / "opt/rocm/.info").mkdir()
    (tmp_path / "opt/rocm/.info/version").write_text("6.3.1-48\n")
    header = tmp_path / "usr/include/vulkan/vulkan.h"
    header.parent.mkdir(parents=True)
    header.touch()
    found = detect.detect(tmp_path)
    assert found.wsl and not found.container and found.gpus == ()
    assert (found.cuda, found.nvcc) == ("12.4", str(tmp_path / "usr/local/cuda/bin/nvcc"))
    assert (found.rocm, found.rocm_path) == ("6.3.1", str(tmp_path / "opt/rocm"))
    assert (found.compiler, found.compiler_version) == ("gcc", "12.2.0")
    assert found.other_compilers == {"g++-11": "11.4.0"}
    assert found.glslc and found.vulkan_headers and not found.spirv_headers


@pytest.mark.parametrize(
    ("names", "backends"),
    [
        (["libllama.so", "libggml-cpu.so", "libggml-base.so"], [Backend.CPU]),
        (["libllama.so", "libggml-cuda.so", "libggml-cuda.so.0"], [Backend.CUDA, Backend.CPU]),
        (["llama.dll", "ggml-vulkan.dll"], [Backend.VULKAN, Backend.CPU]),
        (["libllama.dylib", "libggml-metal.dylib"], [Backend.METAL, Backend.CPU]),
        ([], []),
    ],
)
def test_the_installed_build_by_its_files(names: list[str], backends: list[Backend]) -> None:
    assert list(detect.backends_of(names)) == backends


def test_version_numbers() -> None:
    assert [detect.amd_target(number) for number in (110000, 90010, 90402, 100306, 0)] == [
        "gfx1100", "gfx90a", "gfx942", "gfx1036", "",
    ]  # fmt: skip
    assert [detect.cuda_version(number) for number in (12040, 13000, 0)] == ["12.4", "13.0", ""]
    assert detect.release("nothing of the kind") == ""
