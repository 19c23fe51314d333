"""The soak's own instrument: it sees a leak, and takes no change of rung for one."""

from __future__ import annotations

import pytest
from gauges import Gauge, Reading
from hypothesis import given
from hypothesis import strategies as st

LEVELS = {"plan": 180.0, "experts": 230.0, "host": 300.0}
spells = st.lists(
    st.tuples(st.sampled_from(sorted(LEVELS)), st.integers(4, 30)), min_size=3, max_size=15
)


def gauge(stays: list[tuple[str, int]], leak_mib_per_hour: float, noise_mib: float = 0.0) -> Gauge:
    """A reading a second; the first two of each stay still show what was there before."""
    found, now_s, before = Gauge("worker"), 0.0, 250.0
    for state, length in stays:
        for second in range(length):
            level = LEVELS[state] if second > 1 else before
            wobble = noise_mib * (-1) ** second
            leaked = leak_mib_per_hour * now_s / 3600
            found.rows.append(Reading(now_s, level + leaked + wobble, 9, 3, state, now_s / 4))
            now_s += 1.0
        before = LEVELS[state]
    return found


@given(spells)
def test_rungs_alone_are_no_growth(stays: list[tuple[str, int]]) -> None:
    assert abs(gauge(stays, 0.0).slope_mib_per_hour()) < 1e-6


@given(spells, st.floats(10, 1000))
def test_a_leak_is_seen_through_the_rungs(stays: list[tuple[str, int]], leak: float) -> None:
    found = gauge(stays, leak)
    if any(entry["between_s"] > 2 for entry in found.states().values()):
        assert found.slope_mib_per_hour() == pytest.approx(leak, rel=1e-6)


def test_figures_say_what_was_seen() -> None:
    stays = [("plan", 30), ("host", 30), ("plan", 30), ("host", 30)]
    figures = gauge(stays, 60.0, noise_mib=0.5).figures()
    assert figures["slope_mib_per_hour"] == pytest.approx(60.0, rel=0.2)
    assert set(figures["at_equal_states"]) == {"plan", "host"}
    assert figures["at_equal_states"]["host"]["last_mib"] > LEVELS["host"]
    assert (figures["most_files"], figures["most_threads"]) == (9, 3)
    assert gauge(stays, 0.0).cpu_share(10.0, 20.0) == 0.25
