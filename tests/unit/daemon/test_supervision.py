"""Restarts after deaths: safer each time it must be, and never a fourth time on one plan."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from assistant.daemon.supervision import Cause, Death, Rules, next_restart
from assistant.llama.spec import LoadSpec

FAULTS = (Cause.MEMORY, Cause.CRASH, Cause.HANG)
CPU = LoadSpec(path="m.gguf", n_ctx=8192)


PLANS = [replace(CPU, n_ctx=8192 >> number) for number in range(8)]


@given(
    causes=st.lists(st.tuples(st.sampled_from(FAULTS), st.floats(0, 100)), max_size=60),
    n_plans=st.integers(1, 8),
)
def test_three_deaths_on_a_plan_never_lead_to_a_fourth(
    causes: list[tuple[Cause, float]], n_plans: int
) -> None:
    plans = PLANS[:n_plans]
    deaths: list[Death] = []
    step, now = 0, 0.0
    for cause, pause in causes:
        now += pause
        deaths.append(Death(now, plans[step], cause))
        found = next_restart(deaths, plans, now)
        if found is None:
            break
        assert found.step >= step
        assert 0 <= found.delay_s <= Rules().most_delay_s
        step = found.step
    per_plan = Counter(death.plan.n_ctx for death in deaths)
    assert all(count <= 3 for count in per_plan.values())


@given(st.lists(st.floats(0, 10), min_size=1, max_size=100))
def test_kills_from_outside_cost_no_plan(pauses: list[float]) -> None:
    now, deaths = 0.0, []
    for pause in pauses:
        now += pause
        deaths.append(Death(now, PLANS[0], Cause.OUTSIDE))
        found = next_restart(deaths, PLANS, now)
        assert found is not None and found.step == 0


def step_after(deaths: list[Death], n_plans: int = 4, **options: int) -> int | None:
    found = next_restart(deaths, PLANS[:n_plans], deaths[-1].at_s if deaths else 0, **options)
    return found.step if found else None


def test_want_of_memory_goes_down_at_once_and_a_crash_after_three() -> None:
    assert step_after([]) == 0
    assert step_after([Death(0, PLANS[0], Cause.MEMORY)]) == 1
    assert step_after([Death(0, PLANS[0], Cause.CRASH)]) == 0
    three = [Death(t, PLANS[0], Cause.CRASH) for t in range(3)]
    assert step_after(three) == 1
    assert step_after(three, n_plans=1) is None


def test_equal_plans_count_as_one() -> None:
    plans = [PLANS[0], PLANS[0], PLANS[0], PLANS[1]]
    for deaths in ([Death(0, CPU, Cause.MEMORY)], [Death(t, CPU, Cause.CRASH) for t in range(3)]):
        found = next_restart(deaths, plans, 3)
        assert found is not None and found.step == 3


def test_a_plan_made_anew_keeps_its_strikes_and_a_limit_is_kept() -> None:
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
