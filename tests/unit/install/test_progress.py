"""How far a build is, from what the compiler prints, and how long it will still take."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.install.progress import ProgressLine, StepCounter, Steps, duration


def test_the_time_left_comes_from_the_files_that_are_compiled() -> None:
    counter = StepCounter()
    assert counter.read("  *** Building project with Ninja...", 100.0) is None
    assert counter.read("  [1/83] /usr/bin/g++ -O3 ...", 102.0) == Steps(1, 83, None)
    assert counter.read("warning: unused variable [2/3]", 103.0) is None
    assert counter.read("  [20/83] /usr/bin/g++ -O3 ...", 140.0) == Steps(20, 83, 126.0)
    assert counter.read("[83/83] ld", 280.0) == Steps(83, 83, 0.0)


def test_a_resumed_build_counts_only_what_it_compiled_itself() -> None:
    counter = StepCounter()
    counter.read("[60/80] cc", 0.0)
    assert counter.read("[70/80] cc", 50.0) == Steps(70, 80, 50.0)


def test_a_second_build_begins_its_own_count() -> None:
    counter = StepCounter()
    counter.read("*** Building project with Ninja", 0.0)
    counter.read("[80/80] cc", 100.0)
    counter.read("[1/10] cc", 110.0)
    assert counter.read("[6/10] cc", 120.0) == Steps(6, 10, 8.0)


@given(st.lists(st.tuples(st.text(max_size=30), st.floats(0, 1e6)), max_size=30))
def test_any_output_is_read(lines: list[tuple[str, float]]) -> None:
    counter = StepCounter()
    for text, now_s in lines:
        steps = counter.read(text, now_s)
        assert steps is None or steps.left_s is None or steps.left_s >= 0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3, "3 s"), (42, "40 s"), (89, "90 s"), (91, "2 min"), (600, "10 min"),
        (3590, "1 h 0 min"), (4800, "1 h 20 min"),
    ],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_elsewhere_than_on_a_terminal_a_line_every_half_minute() -> None:
    output = io.StringIO()
    line = ProgressLine("llama.cpp", output)
    line.show("compiling, 1 of 83 files")
    line.show("compiling, 2 of 83 files")
    line.end()
    first, last = output.getvalue().splitlines()
    assert first == "llama.cpp: compiling, 1 of 83 files (0 s so far)"
    assert last.startswith("llama.cpp: done")
    assert "\r" not in output.getvalue() and "\033" not in output.getvalue()
