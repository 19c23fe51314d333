"""When and how an engine that died is started again. Pure.

Every plan keeps its own account. A death that is its fault (want of memory, a crash, a hang) is a
strike; a kill or a stop signal from outside is none. What wipes the account clean is good service:
`forgive_s` of it and `forgive_answers` answers since the last strike, however often somebody killed
the process meanwhile. So a driver that fails once a week never costs a plan, and one that fails
three times in a row does:

    strikes   the plan is barred for               the last resort rests for
    1, 2      not at all                           not at all
    3         bar_s         10 min                 rest_s        30 s
    4         twice that    20 min                 twice that     1 min
    ...       most_bar_s    a day                  most_rest_s   10 min

Three deaths never lead to a fourth: what follows them is another plan. Once its bar has ended a
plan is on probation: it may be tried, and a single further death bars it for twice as long. Where
every plan is barred, the safest one is tried again and again, after rests that grow: nobody is left
without service for good by what a driver did an hour ago.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


NO_FAULT = frozenset({Cause.OUTSIDE, Cause.REFUSED})
"""What says nothing against a plan."""


@dataclass(frozen=True)
class Merit:
    """What a plan has done since its last strike: so long served, and so many answers."""

    served_s: float = 0.0
    answers: int = 0

    def __add__(self, other: Merit) -> Merit:
        return Merit(self.served_s + other.served_s, self.answers + other.answers)


@dataclass(frozen=True)
class Death:
    """One death: when on the monotonic clock, loaded how, and of what.

    `after`: what the plan had done since the strike before.
    """

    at_s: float
    plan: LoadSpec
    cause: Cause
    after: Merit = Merit()


@dataclass(frozen=True)
class Restart:
    """Start again on this step of the plans, after this pause.

    `rest`: every plan is barred, and this is the last resort, or the one that is free first.
    """

    step: int
    delay_s: float
    rest: bool = False


@dataclass(frozen=True)
class Rules:
    """How patient the supervisor is.

    Attributes:
        strikes: so many on one plan, and it is barred.
        bar_s, most_bar_s: for so long, doubled by each further strike up to the most.
        rest_s, most_rest_s: the same for the safest plan where all are barred.
        forgive_s, forgive_answers: so much good service wipes out a plan's strikes.
        memory_s: strikes that are this old are forgotten anyway.
        calm_s: deaths older than this do not delay a restart.
        free_restarts: deaths within `calm_s` that are followed by a start at once.
        first_delay_s, most_delay_s: the pause after the next one doubles up to the most.
    """

    strikes: int = 3
    bar_s: float = 600.0
    most_bar_s: float = 86_400.0
    rest_s: float = 30.0
    most_rest_s: float = 600.0
    forgive_s: float = 300.0
    forgive_answers: int = 20
    memory_s: float = 2 * 86_400.0
    calm_s: float = 30.0
    free_restarts: int = 2
    first_delay_s: float = 0.25
    most_delay_s: float = 5.0

    def forgives(self, merit: Merit) -> bool:
        return merit.served_s >= self.forgive_s and merit.answers >= self.forgive_answers


USUAL = Rules()


def next_restart(
    deaths: Sequence[Death],
    plans: Sequence[LoadSpec],
    now_s: float,
    *,
    least_step: int = 0,
    merits: Mapping[LoadSpec, Merit] | None = None,
    rules: Rules = USUAL,
) -> Restart | None:
    """How to start after `deaths`; None where memory was refused for every plan that is left.

    Want of memory goes down at once: the same plan would want the same memory. Others get the same
    plan again until they have struck `rules.strikes` times on it. What was refused is not asked
    for again at once; it does not count as a strike, since memory may come back.

    Args:
        plans: from the best to the safest; equal ones may follow each other.
        least_step: no plan above this one, for other reasons.
        merits: what plans have done since their last strikes.
    """
    merits = merits or {}
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
    left = range(min(first, len(plans)), len(plans))
    delay_s = _delay_s(deaths, now_s, rules)
    free_s = {i: _free_s(deaths, plans[i], now_s, merits.get(plans[i]), rules) for i in left}
    for step in left:
        if free_s[step] <= now_s:
            return Restart(step, delay_s)
    if not left:
        return None
    safest = left[-1]
    free_s[safest] = _free_s(deaths, plans[safest], now_s, None, rules, last_resort=True)
    step = min(left, key=lambda i: (free_s[i], -i))
    return Restart(step, max(free_s[step] - now_s, delay_s), rest=free_s[step] > now_s)


def strikes(
    deaths: Sequence[Death],
    plan: LoadSpec,
    now_s: float,
    merit: Merit | None = None,
    rules: Rules = USUAL,
) -> int:
    """How many of `deaths` count against `plan`. `merit`: what it has done since the last one."""
    count = 0
    for death in _faults(deaths, plan):
        if now_s - death.at_s >= rules.memory_s:
            continue
        count = 1 if rules.forgives(death.after) else count + 1
    return 0 if merit is not None and rules.forgives(merit) else count


def barred(
    deaths: Sequence[Death],
    plan: LoadSpec,
    now_s: float,
    merit: Merit | None = None,
    rules: Rules = USUAL,
) -> bool:
    """Whether a plan has died too often to be tried now."""
    return _free_s(deaths, plan, now_s, merit, rules) > now_s


def _faults(deaths: Sequence[Death], plan: LoadSpec) -> Iterator[Death]:
    """Those of `deaths` that speak against `plan`."""
    return (death for death in deaths if death.plan == plan and death.cause not in NO_FAULT)


def _free_s(
    deaths: Sequence[Death],
    plan: LoadSpec,
    now_s: float,
    merit: Merit | None,
    rules: Rules,
    *,
    last_resort: bool = False,
) -> float:
    """When a plan may be tried again; long ago where it is not barred."""
    beyond = strikes(deaths, plan, now_s, merit, rules) - rules.strikes
    if beyond < 0:
        return float("-inf")
    last_s = max(death.at_s for death in _faults(deaths, plan))
    first, most = (
        (rules.rest_s, rules.most_rest_s) if last_resort else (rules.bar_s, rules.most_bar_s)
    )
    return last_s + min(first * 2.0 ** min(beyond, 30), most)


def _delay_s(deaths: Sequence[Death], now_s: float, rules: Rules) -> float:
    recent = sum(now_s - death.at_s < rules.calm_s for death in deaths)
    doublings = recent - rules.free_restarts - 1
    if doublings < 0:
        return 0.0
    return float(min(rules.first_delay_s * 2 ** min(doublings, 30), rules.most_delay_s))
