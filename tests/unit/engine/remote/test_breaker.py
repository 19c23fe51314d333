"""The circuit breaker, and the pauses between tries."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from assistant.engine.remote.failures import Breaker, Circuit, Patience, retry_pause_s

PATIENCE = Patience(failures=3, first_pause_s=5, most_pause_s=20)


def opened() -> Breaker:
    breaker = Breaker(PATIENCE)
    for _ in range(3):
        assert breaker.begin(0)
        breaker.failed(0)
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(PATIENCE)
    for _ in range(10):
        breaker.failed(0)
        breaker.failed(0)
        breaker.succeeded()
    assert breaker.state(0) is Circuit.CLOSED
    assert opened().state(4.9) is Circuit.OPEN


def test_open_it_lets_nobody_through_and_half_open_one() -> None:
    breaker = opened()
    assert not breaker.begin(4.9)
    assert breaker.begin(5)
    assert not breaker.begin(5), "a second try beside the first"
    breaker.given_up()
    assert breaker.begin(5), "the first left without an answer"


def test_each_failed_try_doubles_the_pause_up_to_the_most() -> None:
    breaker, now = opened(), 0.0
    pauses = []
    for _ in range(4):
        now += breaker.wait_s(now)
        assert breaker.begin(now)
        breaker.failed(now)
        pauses.append(breaker.wait_s(now))
    assert pauses == [10, 20, 20, 20]


def test_one_success_closes_it() -> None:
    breaker = opened()
    assert breaker.begin(6)
    breaker.succeeded()
    assert breaker.state(6) is Circuit.CLOSED
    breaker.failed(6)
    assert breaker.state(6) is Circuit.CLOSED


def test_late_failures_of_older_requests_do_not_lengthen_the_pause() -> None:
    breaker = opened()
    breaker.failed(1)
    breaker.failed(2)
    assert breaker.wait_s(2) == 3


@example(  # the sum of time and pause rounds up
    [
        ("f", 0.0),
        ("f", 20.0),
        ("f", 29.85963428935642),
        ("f", 29.28258811838224),
        ("f", 29.624378356676768),
    ]
)
@given(st.lists(st.tuples(st.sampled_from("fsg"), st.floats(0, 30)), max_size=60))
def test_it_is_never_shut_for_good(steps: list[tuple[str, float]]) -> None:
    breaker, now = Breaker(PATIENCE), 0.0
    for step, passed in steps:
        now += passed
        if breaker.begin(now):
            if step == "f":
                breaker.failed(now)
            elif step == "s":
                breaker.succeeded()
            else:
                breaker.given_up()
        assert breaker.wait_s(now) <= PATIENCE.most_pause_s
    assert breaker.begin(now + PATIENCE.most_pause_s)


@given(st.integers(1, 40), st.floats(0, 1), st.floats(0, 1e6))
def test_pauses_grow_within_bounds(attempt: int, dice: float, asked_s: float) -> None:
    assert 0 < retry_pause_s(attempt, 0, dice) <= 5
    assert retry_pause_s(attempt, 0, 0) <= retry_pause_s(attempt + 1, 0, 0)
    assert retry_pause_s(attempt, asked_s, dice) <= 30
