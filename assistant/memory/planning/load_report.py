"""What a load took compared with what the plan predicted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from assistant.llama import DeviceMemory
from assistant.memory.planning import HOST_MEMORY, Plan

_MAPPED_SUFFIX = "_Mapped"  # buffer type of weights that stay in the mapped file ("CPU_Mapped")


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on one device by class."""

    weights_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


class DeviceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One device after a load.

    Attributes:
        mapped_bytes: of its weights, what is only mapped from the file: whole ranges of it, with
            tensors in between that are elsewhere. The kernel reads and drops such pages as it
            likes, so they are left out of the comparison.
        unexplained_bytes: how much more of the device went than llama.cpp accounts for (a CUDA
            context, pools, other programs); None where nobody measured.
    """

    device: str
    planned: Sizes
    actual: Sizes
    mapped_bytes: int = 0
    unexplained_bytes: int | None = None

    @property
    def comparable(self) -> tuple[Sizes, Sizes]:
        """Planned and actual without what cannot be compared."""
        if not self.mapped_bytes:
            return self.planned, self.actual
        return (
            msgspec.structs.replace(self.planned, weights_bytes=0),
            msgspec.structs.replace(self.actual, weights_bytes=0),
        )

    @property
    def exact(self) -> bool:
        """Whether weights and cache are as planned, to the byte."""
        planned, actual = self.comparable
        return (planned.weights_bytes, planned.kv_bytes) == (
            actual.weights_bytes,
            actual.kv_bytes,
        )


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """A plan held against what llama.cpp says after the load."""

    devices: tuple[DeviceReport, ...]

    @property
    def error_percent(self) -> float:
        """How far the actual total is from the planned one; positive where more was taken."""
        pairs = [device.comparable for device in self.devices]
        planned = sum(pair[0].total_bytes for pair in pairs)
        actual = sum(pair[1].total_bytes for pair in pairs)
        return 100 * (actual - planned) / planned if planned else 0.0

    @property
    def exact(self) -> bool:
        return all(device.exact for device in self.devices)

    def lines(self) -> list[str]:
        """For the log and the terminal: a line a device, then the total."""
        rows = [
            f"{item.device}: weights {_mib(item.actual.weights_bytes)}"
            f" (planned {_mib(item.planned.weights_bytes)}"
            f"{', mapped' if item.mapped_bytes else ''}),"
            f" cache {_mib(item.actual.kv_bytes)} ({_mib(item.planned.kv_bytes)}),"
            f" compute {_mib(item.actual.compute_bytes)} ({_mib(item.planned.compute_bytes)})"
            + (
                ""
                if item.unexplained_bytes is None
                else f", beside that {_mib(item.unexplained_bytes)}"
            )
            for item in self.devices
        ]
        return [*rows, f"in all {self.error_percent:+.2f} % compared with the plan"]


def compare(
    planned: Iterable[DeviceMemory],
    actual: Iterable[DeviceMemory],
    free_before: Mapping[str, int] | None = None,
    free_after: Mapping[str, int] | None = None,
) -> LoadReport:
    """Hold a plan's figures against llama.cpp's own.

    Args:
        planned: of the plan; see `planned_memory`.
        actual: of the loaded context (`assistant.llama.breakdown.read`).
        free_before, free_after: free bytes by device around the load, where they were read.
    """
    actual = list(actual)
    wanted, found = _by_device(planned), _by_device(actual)
    mapped = {
        row.device: row.weights_bytes for row in actual if row.buffer_type.endswith(_MAPPED_SUFFIX)
    }
    reports = []
    for device in sorted(
        wanted.keys() | found.keys(), key=lambda name: (name == HOST_MEMORY, name)
    ):
        taken = found.get(device, Sizes())
        reports.append(
            DeviceReport(
                device=device,
                planned=wanted.get(device, Sizes()),
                actual=taken,
                mapped_bytes=mapped.get(device, 0),
                unexplained_bytes=_unexplained(device, taken, free_before or {}, free_after or {}),
            )
        )
    return LoadReport(devices=tuple(reports))


def _unexplained(
    device: str, taken: Sizes, before: Mapping[str, int], after: Mapping[str, int]
) -> int | None:
    if device == HOST_MEMORY or device not in before or device not in after:
        return None
    return before[device] - after[device] - taken.total_bytes


def planned_memory(plan: Plan) -> tuple[DeviceMemory, ...]:
    """A plan's own figures in the form of llama.cpp's breakdown."""
    return tuple(
        DeviceMemory(
            buffer_type=usage.device.name,
            device=usage.device.name,
            weights_bytes=usage.weights_bytes + usage.other_bytes,
            kv_bytes=usage.kv_bytes,
            compute_bytes=usage.compute_bytes,
            is_host=usage.device.name == HOST_MEMORY,
        )
        for usage in plan.usages
        if usage.weights_bytes or usage.kv_bytes or usage.compute_bytes
    )


def _by_device(rows: Iterable[DeviceMemory]) -> dict[str, Sizes]:
    sums: dict[str, Sizes] = {}
    for row in rows:
        old = sums.get(row.device, Sizes())
        sums[row.device] = Sizes(
            weights_bytes=old.weights_bytes + row.weights_bytes,
            kv_bytes=old.kv_bytes + row.kv_bytes,
            compute_bytes=old.compute_bytes + row.compute_bytes,
        )
    return sums


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
