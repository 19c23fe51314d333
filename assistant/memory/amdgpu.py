"""AMD cards on Linux: the kernel driver's own figures in sysfs."""

from __future__ import annotations

from pathlib import Path

from assistant.memory.devices import Card, normal_bus_id


def read_amdgpu(root: Path = Path("/")) -> tuple[Card, ...]:
    """Every card whose driver is amdgpu; none where there is no such driver.

    Source: `mem_info_vram_total` and `mem_info_vram_used` (kernel, "AMDGPU: Memory accounting").
    """
    cards = []
    for device in sorted((root / "sys/class/drm").glob("card[0-9]*/device")):
        total, used = (_number(device / f"mem_info_vram_{kind}") for kind in ("total", "used"))
        if total is None or used is None:
            continue
        address = _event(device / "uevent").get("PCI_SLOT_NAME", "")
        cards.append(
            Card(
                name=_line(device / "product_name") or "AMD graphics",
                bus_id=normal_bus_id(address),
                driver="amdgpu",
                total_bytes=total,
                free_bytes=max(0, total - used),
            )
        )
    return tuple(cards)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _event(path: Path) -> dict[str, str]:
    return {key: value for key, _, value in (x.partition("=") for x in _line(path).splitlines())}
