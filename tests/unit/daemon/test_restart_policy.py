"""Restarts after deaths: safer each time it must be, and never a fourth time on one plan."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from assistant.daemon.crash_history import (
    Cause,
    Death,
    Merit,
    Rules,
    barred,
    next_restart,
    strikes,
)
from assistant.llama import LoadSpec

FAULTS = (Cause.MEMORY, Cause.CRASH, Cause.HANG)
CPU = LoadSpec(path="m.gguf", n_ctx=8192)


PLANS = [replace(CPU, n_ctx=8192 >> number) for number in range(8)]


GOOD = Merit(Rules().forgive_s, Rules().forgive_answers)
merits = st.builds(Merit, st.floats(0, 500), st.integers(0, 40))


@given(
    causes=st.lists(st.tuples(st.sampled_from(FAULTS), st.floats(0, 100)), max_size=60),
    n_plans=st.integers(1, 8),
)
def test_three_deaths_on_a_plan_never_lead_to_a_fourth(
    causes: list[tuple[Cause, float]], n_plans: int
) -> None:
    """Whatever the pauses, what follows three deaths is another plan, or a rest."""
    plans, rules = PLANS[:n_plans], Rules()
    deaths: list[Death] = []
    step, now = 0, 0.0
    for cause, pause in causes:
        now += pause
        deaths.append(Death(now, plans[step], cause))
        found = next_restart(deaths, plans, now)
        assert found is not None
        if found.rest:
            break
        assert found.step >= step
        assert 0 <= found.delay_s <= rules.most_delay_s
        step = found.step
    per_plan = Counter(death.plan.n_ctx for death in deaths)
    assert all(count <= 3 for count in per_plan.values())


@given(
    lives=st.lists(st.tuples(st.sampled_from(FAULTS), st.floats(0, 2000), merits), max_size=80),
    n_plans=st.integers(1, 4),
)
def test_no_series_of_deaths_goes_on_without_growing_pauses_or_good_service(
    lives: list[tuple[Cause, float, Merit]], n_plans: int
) -> None:
    """From the third death of a plan on, the next start on it comes after a bar, or, where all are
    barred, after a rest; both grow with every further one. Good service begins a new series."""
    plans, rules = PLANS[:n_plans], Rules()
    deaths: list[Death] = []
    series: dict[int, list[float]] = {plan.n_ctx: [] for plan in plans}
    step, now = 0, 0.0
    for cause, pause, merit in lives:
        now += pause
        plan = plans[step]
        if rules.forgives(merit):
            series[plan.n_ctx] = []
        series[plan.n_ctx].append(now)
        deaths.append(Death(now, plan, cause, merit))
        found = next_restart(deaths, plans, now)
        assert found is not None
        now += found.delay_s
        step = found.step
        died = series[plans[step].n_ctx]
        beyond = len(died) - rules.strikes
        if beyond >= 0:
            last_resort = step == len(plans) - 1
            first, most = (
                (rules.rest_s, rules.most_rest_s)
                if last_resort
                else (rules.bar_s, rules.most_bar_s)
            )
            assert now - died[-1] >= min(first * 2**beyond, most) - 1e-6


@given(
    lives=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(list(Cause)), st.floats(0, 500), merits),
        min_size=1,
        max_size=60,
    ),
    later=st.floats(0, 1e6),
)
def test_nobody_is_left_without_service_for_good(
    lives: list[tuple[int, Cause, float, Merit]], later: float
) -> None:
    """After any history some plan is tried within the longest rest; at once, once that is over."""
    deaths, now, rules = [], 0.0, Rules()
    for step, cause, pause, merit in lives:
        now += pause
        deaths.append(Death(now, PLANS[step], cause, merit))
    now += later
    found = next_restart(deaths, PLANS[:4], now)
    if found is None:
        assert deaths[-1].cause is Cause.REFUSED and later < rules.calm_s
        return
    assert found.delay_s <= rules.most_rest_s
    if later >= rules.most_rest_s:
        assert found.delay_s == 0 and not found.rest


@given(lives=st.lists(st.tuples(st.sampled_from(FAULTS), st.floats(0, 100)), max_size=30))
def test_good_service_wipes_the_account(lives: list[tuple[Cause, float]]) -> None:
    deaths, now = [], 0.0
    for cause, pause in lives:
        now += pause
        deaths.append(Death(now, CPU, cause))
    assert strikes(deaths, CPU, now, GOOD) == 0
    assert not barred(deaths, CPU, now, GOOD)
    # A death after good service is the first of a new series.
    deaths.append(Death(now, CPU, Cause.CRASH, GOOD))
    assert strikes(deaths, CPU, now) == 1
    # Mere time without answers, or answers without time, prove nothing.
    for merit in (Merit(GOOD.served_s, 0), Merit(0.0, 10**6)):
        assert strikes(deaths, CPU, now, merit) == 1


@given(st.lists(st.floats(0, 10), min_size=1, max_size=100))
def test_kills_from_outside_cost_no_plan(pauses: list[float]) -> None:
    now, deaths = 0.0, []
    for pause in pauses:
        now += pause
        deaths.append(Death(now, PLANS[0], Cause.OUTSIDE))
        found = next_restart(deaths, PLANS, now)
        assert found is not None and found.step == 0


def step_after(deaths: list[Death], n_plans: int = 4, **options: Any) -> int | None:
    found = next_restart(deaths, PLANS[:n_plans], deaths[-1].at_s if deaths else 0, **options)
    return found.step if found else None


def test_want_of_memory_goes_down_at_once_and_a_crash_after_three() -> None:
    assert step_after([]) == 0
    assert step_after([Death(0, PLANS[0], Cause.MEMORY)]) == 1
    assert step_after([Death(0, PLANS[0], Cause.CRASH)]) == 0
    three = [Death(t, PLANS[0], Cause.CRASH) for t in range(3)]
    assert step_after(three) == 1


def test_the_last_resort_rests_ever_longer_and_is_tried_again() -> None:
    rules, now = Rules(), 0.0
    deaths, rests = [], []
    for _ in range(10):
        deaths.append(Death(now, CPU, Cause.CRASH))
        found = next_restart(deaths, [CPU], now)
        assert found is not None and found.step == 0
        if found.rest:
            rests.append(found.delay_s)
        now += found.delay_s
        again = next_restart(deaths, [CPU], now)
        assert again is not None and not again.rest
    assert rests[:3] == [rules.rest_s, 2 * rules.rest_s, 4 * rules.rest_s]
    assert rests[-1] == rules.most_rest_s


def test_a_bar_ends_and_one_more_death_doubles_it() -> None:
    rules = Rules()
    deaths = [Death(0.0, CPU, Cause.HANG)] * 3
    assert barred(deaths, CPU, rules.bar_s - 1) and not barred(deaths, CPU, rules.bar_s)
    deaths.append(Death(rules.bar_s, CPU, Cause.HANG))
    assert barred(deaths, CPU, 3 * rules.bar_s - 1) and not barred(deaths, CPU, 3 * rules.bar_s)


def test_equal_plans_count_as_one() -> None:
    plans = [PLANS[0], PLANS[0], PLANS[0], PLANS[1]]
    for deaths in ([Death(0, CPU, Cause.MEMORY)], [Death(t, CPU, Cause.CRASH) for t in range(3)]):
        found = next_restart(deaths, plans, 3)
        assert found is not None and found.step == 3


def test_a_plan_made_again_keeps_its_strikes_and_a_limit_is_kept() -> None:
    three = [Death(t, PLANS[1], Cause.CRASH) for t in range(3)]
    found = next_restart(three, PLANS[1:3], 3)
    assert found is not None and found.step == 1
    assert step_after([], least_step=2) == 2


def test_old_deaths_are_forgiven_and_forgotten() -> None:
    rules = Rules()
    deaths = [Death(0, PLANS[0], Cause.CRASH)] * 3
    deaths.append(Death(rules.memory_s, PLANS[0], Cause.CRASH))
    found = next_restart(deaths, PLANS, rules.memory_s)
    assert found is not None and (found.step, found.delay_s) == (0, 0.0)


def test_pauses_grow_while_it_dies_again_and_again() -> None:
    deaths, delays = [], []
    for number in range(9):
        deaths.append(Death(number * 0.1, CPU, Cause.OUTSIDE))
        found = next_restart(deaths, [CPU], number * 0.1)
        assert found is not None
        delays.append(found.delay_s)
    assert delays == [0, 0, 0.25, 0.5, 1, 2, 4, 5, 5]
