"""When and how an engine that died is started again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from assistant.llama.spec import LoadSpec


class Cause(StrEnum):
    """What an engine died of.

    `OUTSIDE` is a kill or a stop signal by somebody else, which says nothing about the plan.
    `REFUSED` is no death: memory was refused and the process lived on, with nothing loaded.
    """

    MEMORY = "memory"
    REFUSED = "refused"
    CRASH = "crash"
    HANG = "hang"
    OUTSIDE = "outside"


@dataclass(frozen=True)
class Death:
    """One death: when on the monotonic clock, loaded how, and of what."""

    at_s: float
    plan: LoadSpec
    cause: Cause


@dataclass(frozen=True)
class Restart:
    """Start again on this step of the plans, after this pause."""

    step: int
    delay_s: float


@dataclass(frozen=True)
class Rules:
    """How patient the supervisor is.

    Attributes:
        strikes: so many deaths on one plan, and it is never tried again...
        memory_s: ...until they are this old.
        calm_s: deaths older than this do not delay a restart.
        free_restarts: deaths within `calm_s` that are followed by a start at once.
        first_delay_s, most_delay_s: the pause after the next one doubles up to the most.
    """

    strikes: int = 3
    memory_s: float = 86_400.0
    calm_s: float = 30.0
    free_restarts: int = 2
    first_delay_s: float = 0.25
    most_delay_s: float = 5.0


USUAL = Rules()


def next_restart(
    deaths: Sequence[Death],
    plans: Sequence[LoadSpec],
    now_s: float,
    *,
    least_step: int = 0,
    rules: Rules = USUAL,
) -> Restart | None:
    """How to start after `deaths`; None where every plan that is left has failed too often.

    Want of memory goes down at once: the same plan would want the same memory. Others get the same
    plan again until they have struck `rules.strikes` times on it. What was refused is not asked
    for again at once; it does not count as a strike, since memory may come back.

    Args:
        plans: from the best to the safest; equal ones may follow each other.
        least_step: no plan above this one, for other reasons.
    """
    first = least_step
    if deaths and deaths[-1].plan in plans:
        died_on = deaths[-1].plan
        step = plans.index(died_on)
        recent = now_s - deaths[-1].at_s < rules.calm_s
        if recent and deaths[-1].cause in {Cause.MEMORY, Cause.REFUSED}:
            below = (i for i in range(step, len(plans)) if plans[i] != died_on)
            nothing = len(plans) if deaths[-1].cause is Cause.REFUSED else step
            step = next(below, nothing)
        first = max(first, step)
    for step in range(first, len(plans)):
        if strikes(deaths, plans[step], now_s, rules) < rules.strikes:
            return Restart(step, _delay_s(deaths, now_s, rules))
    return None


def strikes(deaths: Sequence[Death], plan: LoadSpec, now_s: float, rules: Rules = USUAL) -> int:
    """How many of `deaths` count against `plan`."""
    return sum(
        death.plan == plan
        and death.cause not in {Cause.OUTSIDE, Cause.REFUSED}
        and now_s - death.at_s < rules.memory_s
        for death in deaths
    )


def _delay_s(deaths: Sequence[Death], now_s: float, rules: Rules) -> float:
    recent = sum(now_s - death.at_s < rules.calm_s for death in deaths)
    doublings = recent - rules.free_restarts - 1
    if doublings < 0:
        return 0.0
    return float(min(rules.first_delay_s * 2 ** min(doublings, 30), rules.most_delay_s))
