"""How many threads llama.cpp computes with on a CPU, and why.

All threads of a graph wait for each other at each of its thousands of nodes, so that the slowest
sets the pace. On two cores two threads write 1.3 times as fast as one and read 1.7 times as fast;
with a third, writing falls below the rate of one (tests/benchmarks/results/threads_batches.json).
Two threads on one core would share what the core computes with; such cores have not been measured.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Processors:
    """What a process may compute on; 0 where that is not known.

    Attributes:
        cores, logical: of the machine; a core may show as several logical processors.
        allowed: logical processors that this process may run on.
        quota: the most that its control group lets it use at a time; 0.0 for no limit.
    """

    cores: int = 0
    logical: int = 0
    allowed: int = 0
    quota: float = 0.0


@dataclass(frozen=True)
class Threads:
    """A number of threads, and the reason in a few words."""

    count: int
    reason: str


def choose(wanted: int, processors: Processors) -> Threads:
    """The threads for prefill and decode alike. Pure.

    Args:
        wished: what the settings say; 0 leaves it to this.
    """
    if wanted > 0:
        return Threads(wanted, "as set in model.n_threads")
    limits = [Threads(processors.cores or processors.logical or 1, "one a core")]
    if processors.allowed:
        share = processors.cores / processors.logical if processors.logical else 0.0
        cores = math.ceil(processors.allowed * (share or 1.0))
        limits.append(Threads(cores, "one a core that this process may run on"))
    if processors.quota:
        whole = max(int(processors.quota), 1)
        limits.append(Threads(whole, "as many as the control group lets run at a time"))
    return min(limits, key=lambda limit: limit.count)


def processors(quota_file: Path = _QUOTA) -> Processors:
    """Those of this machine, for this process."""
    return Processors(
        cores=psutil.cpu_count(logical=False) or 0,
        logical=psutil.cpu_count() or 0,
        allowed=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        quota=_quota(quota_file),
    )


def _quota(path: Path) -> float:
    """Of a control group's `cpu.max`: microseconds of computing, and in how many of them."""
    try:
        most, period = path.read_text(encoding="ascii").split()
        return int(most) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number either
        return 0.0
