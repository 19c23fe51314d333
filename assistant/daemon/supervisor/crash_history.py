"""The book of what became of plans: how they served, deaths and refusals, and what follows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

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
from assistant.errors import LoadError, PlanError, UnderkeelError
from assistant.llama.spec import LoadSpec

log = logging.getLogger(__name__)

# Supervision looks back no further than its own rules do; more would only take memory.
_KEPT = 200


class DeathBook:
    """Remembers deaths for as long as the rules look back, and what each plan did meanwhile.

    Attributes:
        deaths: how often an engine's process ended by itself.
        refusals: how often memory was refused and it lived on.
        free_s: by the book's clock, when a plan is free again; None unless all are barred.
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
