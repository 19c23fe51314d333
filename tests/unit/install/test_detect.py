"""What is read from the kernel's files and from compilers' versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.install import detect
from assistant.install.detect import Backend, Gpu, Vendor


def device(root: Path, name: str, kind: str, vendor: str, **files: str) -> Path:
    folder = root / "sys/bus/pci/devices" / name
    folder.mkdir(parents=True)
    for file, text in {"class": kind, "vendor": vendor, **files}.items():
        (folder / file).write_text(f"{text}\n")
    return folder


def with_driver(root: Path, folder: Path, name: str) -> None:
    (root / "drivers" / name).mkdir(parents=True)
    (folder / "driver").symlink_to(root / "drivers" / name)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """An Intel GPU with a driver, an AMD card with one, an NVIDIA card without, a network card."""
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
    assert intel == Gpu(vendor=Vendor.INTEL, integrated=True)
    assert amd == Gpu(vendor=Vendor.AMD, architecture="gfx1100", total_bytes=24 << 30)
    assert nvidia == Gpu(vendor=Vendor.NVIDIA, driver=False)


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
