"""Host memory: what the kernel calls available, and what the control groups leave of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from assistant.memory.probes.devices import HostMemory

_KIB = 1024


def read_host_memory(root: Path = Path("/")) -> HostMemory:
    """Host memory now.

    Linux: MemAvailable, lowered to what each control group above this process leaves (v2:
    memory.max - memory.current, v1: limit - usage), where page cache that the kernel can drop at
    once (inactive_file) counts as free. Elsewhere: what psutil says.

    Args:
        root: where `/proc` and `/sys` are looked for.
    """
    kernel = _meminfo(root / "proc/meminfo")
    if kernel is None:
        memory = psutil.virtual_memory()
        return HostMemory(memory.total, memory.available)
    tightest = HostMemory(*kernel)
    for group in _groups(root):
        left = max(0, group.limit_bytes - group.used_bytes)
        if group.limit_bytes < tightest.total_bytes and left < tightest.available_bytes:
            tightest = HostMemory(group.limit_bytes, left, str(group.path))
    return tightest


@dataclass(frozen=True, slots=True)
class _Group:
    path: Path
    limit_bytes: int
    used_bytes: int


def _meminfo(path: Path) -> tuple[int, int] | None:
    """(MemTotal, MemAvailable) in bytes."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        found = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
        total, available = (
            int(found[key].split()[0]) * _KIB for key in ("MemTotal", "MemAvailable")
        )
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return total, available


def _groups(root: Path) -> Iterator[_Group]:
    """Every memory control group above this process whose limit can be read."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    mount = root / "sys/fs/cgroup"
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            yield from _chain(mount, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            yield from _chain(
                mount / "memory",
                path,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            )


def _chain(mount: Path, path: str, limit: str, usage: str, cache: str) -> Iterator[_Group]:
    """The group at `path` and all above it, as far as they are mounted here.

    Inside a container `path` may be the host's, which is not mounted; its own group is then the
    mount itself.
    """
    inner = PurePosixPath(path.lstrip("/"))
    if ".." in inner.parts:
        inner = PurePosixPath()
    for part in (inner, *inner.parents):
        folder = mount / part
        limit_bytes, used_bytes = _number(folder / limit), _number(folder / usage)
        if limit_bytes is None or used_bytes is None:
            continue
        droppable = _stat(folder / "memory.stat", cache)
        yield _Group(folder, limit_bytes, max(0, used_bytes - droppable))


def _number(path: Path) -> int | None:
    """The file's number; None for "max", a missing or an unreadable file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _stat(path: Path, key: str) -> int:
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0
