"""What engines died of, the history of every plan, and when an engine is started again.

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

import logging
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from assistant.errors import LoadError, PlanError, UnderkeelError, WorkerDiedError
from assistant.llama import LoadSpec
from assistant.memory.devices import RAISE_THE_LIMIT, merge
from assistant.memory.sampler import read_host_memory

log = logging.getLogger(__name__)

_KEPT = 200


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


# Supervision looks back no further than its own rules do; more would only take memory.


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
        log.error("the worker crashed (%d so far, cause=%s): %s", self.deaths, cause.value, error)

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
            limit = merge((), (), read_host_memory())[-1].limit_in_words
            advice = "Free memory, or choose a smaller model; it is tried again later"
            raise PlanError(
                f"memory was refused for every plan{f'; {limit}' if limit else ''}",
                subject=last.plan.path,
                advice=f"{advice}. {RAISE_THE_LIMIT}" if limit else advice,
            )
        self.free_s = now_s + found.delay_s
        raise LoadError(
            f"the worker crashed on every plan, the last time by: {last.cause.value}",
            subject=last.plan.path,
            advice=f"The safest is tried again in {found.delay_s:.0f} s. A smaller model or context"
            " may help. The causes are in: underkeel logs",
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
