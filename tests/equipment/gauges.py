"""What a process held over time, judged at equal states: growth that its state does not explain.

A worker's memory follows the rung that it serves on (weights and cache on the host or on
the GPU), so a plain line through all of it says which rungs came first and last, not what leaks.
Here every state (a process on a rung) has a level of its own, and all share one slope.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

_SETTLED_S = 3.0
"""So long after a change of state a process is still loading or giving back."""


@dataclass(frozen=True)
class Reading:
    """One look at a process (or several of a kind).

    Attributes:
        own_mib: resident memory but for what is mapped from files or shared: of a model's pages
            more become resident as more experts are used, which is no growth.
        state: what its memory depends on.
    """

    at_s: float
    own_mib: float
    files: int
    threads: int
    state: str
    cpu_s: float = 0.0


@dataclass
class Gauge:
    """Readings of one kind of process, in order."""

    name: str
    rows: list[Reading] = field(default_factory=list)

    def settled(self) -> list[Reading]:
        """Readings of states that have lasted for a while, without the warm first fifth."""
        found: list[Reading] = []
        started_s, state = float("-inf"), ""
        from_s = self.rows[0].at_s + (self.rows[-1].at_s - self.rows[0].at_s) / 5
        for row in self.rows:
            if row.state != state:
                started_s, state = row.at_s, row.state
            if row.at_s - started_s >= _SETTLED_S and row.at_s >= from_s:
                found.append(row)
        return found

    def slope_mib_per_hour(self) -> float:
        """By least squares over the settled readings, each state with a level of its own; in hours
        of real time. 0 where no state was seen twice."""
        times, sizes = [], []
        for rows in self._by_state().values():
            at = np.array([row.at_s for row in rows])
            own = np.array([row.own_mib for row in rows])
            times.append(at - at.mean())
            sizes.append(own - own.mean())
        if not times:
            return 0.0
        across, up = np.concatenate(times) / 3600, np.concatenate(sizes)
        spread = float(across @ across)
        return float(across @ up) / spread if spread else 0.0

    def states(self) -> dict[str, dict[str, float]]:
        """By state: the median of its first and of its last third, and how long it was watched."""
        found = {}
        for state, rows in self._by_state().items():
            third = max(len(rows) // 3, 1)
            found[state] = {
                "first_mib": round(float(np.median([row.own_mib for row in rows[:third]])), 1),
                "last_mib": round(float(np.median([row.own_mib for row in rows[-third:]])), 1),
                "between_s": round(rows[-1].at_s - rows[0].at_s, 1),
                "readings": len(rows),
            }
        return found

    def cpu_share(self, from_s: float, to_s: float) -> float | None:
        """Cores that the process had in a span of time; None where it was not seen twice."""
        rows = [row for row in self.rows if from_s - 1.5 <= row.at_s <= to_s + 1.5]
        if len(rows) < 2 or rows[-1].cpu_s < rows[0].cpu_s:
            return None
        return round((rows[-1].cpu_s - rows[0].cpu_s) / (rows[-1].at_s - rows[0].at_s), 2)

    def figures(self) -> dict[str, Any]:
        return {
            "first_mib": round(self.rows[0].own_mib, 1),
            "last_mib": round(self.rows[-1].own_mib, 1),
            "slope_mib_per_hour": round(self.slope_mib_per_hour(), 1),
            "at_equal_states": self.states(),
            "most_files": max(row.files for row in self.rows),
            "most_threads": max(row.threads for row in self.rows),
        }

    def _by_state(self) -> dict[str, list[Reading]]:
        found: dict[str, list[Reading]] = {}
        for row in self.settled():
            found.setdefault(row.state, []).append(row)
        return {state: rows for state, rows in found.items() if len(rows) > 2}
