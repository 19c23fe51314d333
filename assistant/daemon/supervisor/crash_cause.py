"""What an engine's process died of, as far as its end tells."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from assistant.daemon.supervisor.restart_policy import Cause
from assistant.errors import LoadError, WorkerDiedError

# Nobody but a person or another program sends these; but see `OutOfMemoryKills`.
_OUTSIDE = {-number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)}
_WANTED_MEMORY = re.compile(
    r"out of memory|failed to allocate|cannot allocate|unable to allocate|bad_alloc|MemoryError"
    r"|NO_MEMORY",
    re.IGNORECASE,
)
# A device that cannot compute the first batch (`assistant.engine.worker`) is as good as full.
_REFUSED = re.compile(rf"{_WANTED_MEMORY.pattern}|the first batch of", re.IGNORECASE)


class OutOfMemoryKills:
    """Counts what the kernel killed for want of memory, in this control group or at all."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._files = (root / "sys/fs/cgroup/memory.events", root / "proc/vmstat")
        self._seen = self._read()

    def any_new(self) -> bool:
        """Whether there were any since the last question."""
        before, self._seen = self._seen, self._read()
        return self._seen > before

    def _read(self) -> int:
        total = 0
        for path in self._files:
            try:
                text = path.read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
            total += int(found[1]) if found else 0
        return total


def smaller_may_do(error: LoadError) -> bool:
    """Whether the devices refused a load, and not the file, so that another shape may do."""
    return _REFUSED.search(error.message) is not None


def cause_of(death: WorkerDiedError, *, killed_for_memory: bool) -> Cause:
    """The cause of a death. `killed_for_memory`: the kernel killed something just before it."""
    if death.stopped:
        return Cause.OUTSIDE
    if death.hung:
        return Cause.HANG
    if killed_for_memory or _WANTED_MEMORY.search(death.message):
        return Cause.MEMORY
    if death.exit_code in _OUTSIDE:
        return Cause.OUTSIDE
    return Cause.CRASH


def from_outside(death: WorkerDiedError) -> bool:
    """Whether somebody killed or stopped it, which says nothing about what it was doing."""
    return cause_of(death, killed_for_memory=False) is Cause.OUTSIDE
