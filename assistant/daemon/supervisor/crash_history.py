"""What engines died of, and the history of every plan: how it served, deaths and refusals."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from assistant.daemon.supervisor.restart_policy import (
    NO_FAULT,
    Cause,
    Death,
    Merit,
    Restart,
    Rules,
    barred,
    next_restart,
)
from assistant.errors import LoadError, PlanError, UnderkeelError, WorkerDiedError
from assistant.llama.spec import LoadSpec

log = logging.getLogger(__name__)

# Supervision looks back no further than its own rules do; more would only take memory.
_KEPT = 200


class CrashHistory:
    """Remembers deaths for as long as the rules look back, and what each plan did meanwhile.

    Attributes:
        deaths: how often an engine's process ended by itself.
        refusals: how often memory was refused and it lived on.
        free_s: by its clock, when a plan is free again; None unless all are barred.
    """

    def __init__(self, clock: Callable[[], float], rules: Rules) -> None:
        self._clock = clock
        self._rules = rules
        self._entries: list[Death] = []
        self._merits: dict[LoadSpec, Merit] = {}
        self._serving: LoadSpec | None = None
        self._since_s = 0.0
        self._answers = 0
        self.deaths = self.refusals = 0
        self.free_s: float | None = None

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def due(self) -> bool:
        """Whether all plans were barred and one is free again."""
        return self.free_s is not None and self._clock() >= self.free_s

    def serves(self, spec: LoadSpec | None) -> None:
        """From now on this plan serves; None for none."""
        self._settle()
        self._serving, self._since_s = spec, self._clock()

    def answered(self) -> None:
        """The plan that serves has answered a request."""
        self._answers += 1

    def note(self, spec: LoadSpec, cause: Cause, error: UnderkeelError) -> None:
        """A plan had this end; it serves no longer."""
        self.serves(None)
        merit = self._merits.pop(spec, Merit()) if cause not in NO_FAULT else Merit()
        self._entries.append(Death(self._clock(), spec, cause, merit))
        del self._entries[:-_KEPT]
        if cause is Cause.REFUSED:
            self.refusals += 1
            log.warning("memory was refused (%d times so far): %s", self.refusals, error)
            return
        self.deaths += 1
        log.error("the engine died (%d so far, cause=%s): %s", self.deaths, cause.value, error)

    def forget_refusals(self) -> None:
        """Plans were made for the memory of now: what was refused before says nothing of it."""
        self._entries = [death for death in self._entries if death.cause is not Cause.REFUSED]

    def barred(self, spec: LoadSpec) -> bool:
        """Whether a plan has died too often to be tried now."""
        self._settle()
        merit = self._merits.get(spec)
        return barred(self._entries, spec, self._clock(), merit, self._rules)

    def restart(self, plans: Sequence[LoadSpec], least_step: int) -> Restart:
        """How to start after all this.

        Raises:
            PlanError: memory was refused for every plan that is left.
            LoadError: every plan has died too often; `free_s` says when one is tried again.
        """
        self._settle()
        now_s = self._clock()
        found = next_restart(
            self._entries,
            plans,
            now_s,
            least_step=least_step,
            merits=self._merits,
            rules=self._rules,
        )
        self.free_s = None
        if found is not None and not found.rest:
            return found
        last = self._entries[-1]
        if found is None:
            raise PlanError(
                "memory was refused for every plan",
                subject=last.plan.path,
                advice="Free memory, or choose a smaller model; it is tried again later",
            )
        self.free_s = now_s + found.delay_s
        raise LoadError(
            f"the engine died on every plan, last of {last.cause.value}",
            subject=last.plan.path,
            advice=f"The safest is tried again in {found.delay_s:.0f} s. A smaller model or context"
            " may do; what it died of is in: underkeel logs",
        )

    def _settle(self) -> None:
        """Credit the plan that serves with what it did until now."""
        if self._serving is not None:
            now_s = self._clock()
            done = Merit(now_s - self._since_s, self._answers)
            self._merits[self._serving] = self._merits.get(self._serving, Merit()) + done
            self._since_s = now_s
        self._answers = 0


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
    """Counts what the kernel killed because memory was full, in this control group or at all."""

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


def cause_of_load(error: UnderkeelError, *, killed_for_memory: bool) -> Cause:
    """The cause of a load's failure. Most deaths while loading are from lack of memory, and none is
    worth a second try of the same plan; but a kill from outside says nothing about the plan."""
    if not isinstance(error, WorkerDiedError):
        return Cause.REFUSED
    cause = cause_of(error, killed_for_memory=killed_for_memory)
    return Cause.OUTSIDE if cause is Cause.OUTSIDE else Cause.MEMORY


def from_outside(death: WorkerDiedError) -> bool:
    """Whether somebody killed or stopped it, which says nothing about what it was doing."""
    return cause_of(death, killed_for_memory=False) is Cause.OUTSIDE
