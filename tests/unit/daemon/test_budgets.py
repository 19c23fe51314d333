"""The budget falls at once, climbs slowly, never swings under noise, never promises too much."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.daemon.budgets import BudgetState, Gauges, Memory, Policy, decide
from assistant.wire import BudgetNow

POLICY = Policy(full_tokens=1024)
MARGIN = 1_000_000
PLENTY = 100_000
NOISE = 0.099  # of the margin, from one extreme to the other: just under the gap

shares = st.floats(min_value=0.0, max_value=3.0)
cells = st.integers(min_value=0, max_value=4096)


def gauges(share: float, cells_free: int = PLENTY, engine: float = 1.0) -> Gauges:
    memory = Memory("CUDA0", int(share * MARGIN), MARGIN)
    return Gauges(cells_free=cells_free, memories=(memory,), engine_free_share=engine)


def run(looks: Iterable[Gauges], policy: Policy = POLICY, step_s: float = 1.0) -> list[BudgetNow]:
    """The budget at each look, `step_s` apart."""
    state, found = BudgetState(), []
    for index, look in enumerate(looks):
        state, now = decide(policy, state, look, index * step_s)
        found.append(now)
    return found


def test_all_is_well() -> None:
    assert run([gauges(1.0)]) == [BudgetNow(tokens=1024, level=0, reason="")]


@pytest.mark.parametrize(
    ("share", "level", "tokens"),
    [(0.76, 0, 1024), (0.74, 1, 768), (0.49, 2, 512), (0.29, 3, 256), (0.1, 4, 128), (0, 4, 128)],
)
def test_it_falls_at_once_to_the_level_of_the_headroom(
    share: float, level: int, tokens: int
) -> None:
    before, after = run([gauges(2.0), gauges(share)])
    assert before.level == 0
    assert (after.level, after.tokens) == (level, tokens)


def test_an_operators_requirement_is_kept_and_said() -> None:
    wanted = dataclasses.replace(gauges(2.0), least_level=1)
    found = run([wanted] * 30 + [gauges(2.0)] * 10)
    assert {(now.level, now.tokens, now.reason) for now in found[:30]} == {
        (1, 768, "an operator set it")
    }
    assert found[-1].level == 0
    worse = dataclasses.replace(gauges(0.4), least_level=1)
    assert run([worse])[0].level == 2 and "margin" in run([worse])[0].reason


def test_it_climbs_one_level_at_a_time() -> None:
    found = run([gauges(0.0)] + [gauges(2.0)] * 40)
    levels = [now.level for now in found]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0
    assert set(levels) == {0, 1, 2, 3, 4}
    first_full = levels.index(0)
    whole_s = POLICY.floor_level * POLICY.hold_s
    assert whole_s <= first_full <= whole_s + 2


def test_a_dip_on_the_way_up_starts_the_wait_again() -> None:
    held = [gauges(0.0), *[gauges(2.0)] * 5, gauges(0.2), *[gauges(2.0)] * 4]
    assert [now.level for now in run(held)][-5:] == [4] * 5


def test_cells_are_never_promised_twice() -> None:
    (now,) = run([gauges(2.0, cells_free=700)])
    assert now.tokens + POLICY.answer_tokens <= 700
    assert (now.tokens, now.level) == (512, 2)
    assert "700 free cells" in now.reason


def test_below_the_floor_only_what_the_cells_hold() -> None:
    (now,) = run([gauges(2.0, cells_free=100)])
    assert (now.tokens, now.level) == (36, 4)
    assert "100 free cells" in now.reason
    assert run([gauges(2.0, cells_free=10)])[0].tokens == 0


def test_the_floor_waits_for_cells_that_come_back() -> None:
    lent = Gauges(cells_free=100, cells_lent=900)
    (now,) = run([lent])
    assert (now.tokens, now.level) == (POLICY.floor_tokens, 4)
    assert "100 free cells" in now.reason
    small = dataclasses.replace(lent, cells_lent=50)
    assert run([small])[0].tokens == 100 + 50 - POLICY.answer_tokens


def test_reasons_name_what_is_scarce() -> None:
    memory = (Memory("CUDA0", 200 << 20, 256 << 20), Memory("CUDA1", 30 << 20, 256 << 20))
    (now,) = run([Gauges(cells_free=PLENTY, memories=memory)])
    assert now.reason == "CUDA1 has 30 MiB free of a 256 MiB margin"
    assert "90% full" in run([gauges(2.0, engine=0.1)])[0].reason
    refused = Gauges(cells_free=PLENTY, refused=True)
    assert run([refused])[0] == BudgetNow(tokens=128, level=4, reason="an allocation was refused")
    climbing = run([gauges(0.1), gauges(2.0)])[-1]
    assert climbing.reason == "memory has just come back"


def test_the_picture_that_is_kept_is_of_this_policy() -> None:
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    command = [sys.executable, str(benchmarks / "budget_plot.py")]
    drawn = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert drawn == (benchmarks / "results" / "budget.svg").read_text(encoding="utf-8")


def test_a_remote_engine_has_only_its_gauge() -> None:
    (now,) = run([Gauges(cells_free=PLENTY, engine_free_share=0.5)])
    assert now == BudgetNow(tokens=1024)


def test_a_small_full_budget_has_no_higher_floor() -> None:
    (now,) = run([gauges(0.0)], Policy(full_tokens=100))
    assert now.tokens == 100


@given(st.lists(st.tuples(shares, shares, cells, cells), min_size=1, max_size=60))
@settings(max_examples=examples(100), deadline=None)
def test_more_headroom_never_gives_less(
    looks: Sequence[tuple[float, float, int, int]],
) -> None:
    """Two runs, one better off at every look: its budget is at least the other's at every look."""
    worse = run([gauges(min(a, b), min(c, d)) for a, b, c, d in looks])
    better = run([gauges(max(a, b), max(c, d)) for a, b, c, d in looks])
    for low, high in zip(worse, better, strict=True):
        assert low.tokens <= high.tokens
        assert low.level >= high.level


@given(st.lists(st.tuples(shares, cells, cells), min_size=1, max_size=60))
@settings(max_examples=examples(100), deadline=None)
def test_it_never_promises_what_is_not_there(looks: Sequence[tuple[float, int, int]]) -> None:
    seen = [
        dataclasses.replace(gauges(share, free), cells_lent=lent) for share, free, lent in looks
    ]
    for (share, free, lent), now in zip(looks, run(seen), strict=True):
        here = max(0, free - POLICY.answer_tokens)
        once_returned = max(0, free + lent - POLICY.answer_tokens)
        assert now.tokens <= max(here, min(POLICY.floor_tokens, once_returned))
        assert now.tokens >= min(POLICY.floor_tokens, once_returned)
        assert now.tokens <= POLICY.full_tokens
        assert bool(now.reason) == (now.tokens < POLICY.full_tokens or now.level > 0)
        if share < POLICY.enter[-1]:
            assert now.level == POLICY.floor_level


@given(
    st.floats(min_value=0.0, max_value=1.5),
    st.lists(st.floats(min_value=-0.5, max_value=0.5), min_size=50, max_size=200),
)
@settings(max_examples=examples(60), deadline=None)
def test_noise_does_not_make_it_swing(share: float, noise: Sequence[float]) -> None:
    """Noise narrower than the gap: once down it stays, even with no wait before a climb."""
    eager = dataclasses.replace(POLICY, hold_s=0.0)
    looks = [gauges(max(0.0, share + NOISE * item)) for item in noise]
    levels = [now.level for now in run(looks, eager)]
    assert levels == sorted(levels)


@given(
    st.lists(shares, max_size=40),
    st.floats(min_value=0.1, max_value=2.0),
)
@settings(max_examples=examples(60), deadline=None)
def test_recovery_is_bounded(history: Sequence[float], step_s: float) -> None:
    """Whatever happened: once all is well, the full budget is back in the promised time."""
    looks_per_level = POLICY.hold_s / step_s + 2  # each wait starts and ends on a look
    enough = int(POLICY.floor_level * looks_per_level) + 1
    looks = [gauges(share) for share in history] + [gauges(1.0)] * enough
    assert run(looks, step_s=step_s)[-1].level == 0


@given(st.lists(st.tuples(shares, cells), min_size=1, max_size=40))
@settings(max_examples=examples(50), deadline=None)
def test_there_are_few_different_budgets(looks: Sequence[tuple[float, int]]) -> None:
    steps = {POLICY.tokens(level) for level in range(POLICY.floor_level + 1)}
    for now in run(gauges(*look) for look in looks):
        assert now.tokens in steps or now.tokens < POLICY.floor_tokens


def test_cells_come_back_at_once_and_memory_slowly() -> None:
    """S1: a request's own cells are free when it ends; only memory is waited for."""
    lent = Gauges(cells_free=512, cells_lent=1536)
    returned = Gauges(cells_free=2048)
    policy = Policy(full_tokens=1984, floor_tokens=512)
    for _ in range(12):
        full, used, again = run([returned, lent, returned], policy, step_s=0.1)
        assert (full.tokens, again) == (1984, full)
        assert "512 free cells" in used.reason and "come back" not in used.reason
    short = dataclasses.replace(lent, memories=(Memory("CUDA0", 0, MARGIN),))
    assert run([short, returned], policy)[-1].reason == "memory has just come back"
