"""Whether the machine has anything to spare for work that nobody has asked for yet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

_FRESH_S = 10.0
_BUSY_SHARE = 1.5


@dataclass(frozen=True)
class Machine:
    """The machine at a moment.

    Attributes:
        load: processes that run or wait for a core, for each core; a minute's average.
        on_battery: False where there is none, or nobody knows.
    """

    load: float
    on_battery: bool

    def may_work_ahead(self, *, on_battery: bool, wanted: bool = False) -> bool:
        """Whether to compute what may be wanted; `on_battery` is the user's word for that case.

        What is `wanted` would be computed a moment later anyway: load is no reason to wait.
        """
        return (wanted or self.load < _BUSY_SHARE) and (on_battery or not self.on_battery)


def look() -> Machine:
    """The machine now."""
    try:
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        load = 0.0
    return Machine(load=load, on_battery=_on_battery())


class Watch:
    """The machine as it was at most a few seconds ago."""

    def __init__(
        self, look: Callable[[], Machine] = look, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._seen: Machine | None = None
        self._seen_at = 0.0

    def machine(self) -> Machine:
        """What was seen last, or is seen now if that is too long ago."""
        if self._seen is None or self._clock() - self._seen_at > _FRESH_S:
            self._seen, self._seen_at = self._look(), self._clock()
        return self._seen


def _on_battery() -> bool:
    import psutil

    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, RuntimeError):
        return False
    return battery is not None and battery.power_plugged is False
