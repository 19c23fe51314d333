"""The book of what became of plans: deaths and refusals, and what follows from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from assistant.daemon.supervision import Cause, Death, Restart, Rules, next_restart, strikes
from assistant.errors import LoadError, PlanError, UnderkeelError
from assistant.llama.spec import LoadSpec

log = logging.getLogger(__name__)

# Supervision looks back no further than its own rules do; more would only take memory.
_KEPT = 200


class DeathBook:
    """Remembers deaths for as long as the rules look back.

    Attributes:
        deaths: how often an engine's process ended by itself.
        refusals: how often memory was refused and it lived on.
    """

    def __init__(self, clock: Callable[[], float], rules: Rules) -> None:
        self._clock = clock
        self._rules = rules
        self._entries: list[Death] = []
        self.deaths = self.refusals = 0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def note(self, spec: LoadSpec, cause: Cause, error: UnderkeelError) -> None:
        """A plan had this end."""
        self._entries.append(Death(self._clock(), spec, cause))
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

    def struck(self, spec: LoadSpec) -> bool:
        """Whether a plan has died too often to be tried again."""
        count = strikes(self._entries, spec, self._clock(), self._rules)
        return count >= self._rules.strikes

    def restart(self, plans: Sequence[LoadSpec], least_step: int) -> Restart:
        """How to start after all this.

        Raises:
            PlanError: memory was refused for every plan that is left.
            LoadError: every plan has died too often.
        """
        found = next_restart(
            self._entries, plans, self._clock(), least_step=least_step, rules=self._rules
        )
        if found is not None:
            return found
        last = self._entries[-1]
        if last.cause is Cause.REFUSED:
            raise PlanError(
                "memory was refused for every plan",
                subject=last.plan.path,
                advice="Free memory, or choose a smaller model; it is tried again later",
            )
        raise LoadError(
            f"the engine died on every plan, last of {last.cause.value}",
            subject=last.plan.path,
            advice="Choose a smaller model or context; what it died of is in: underkeel logs",
        )
