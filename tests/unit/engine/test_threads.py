"""How many threads compute, and why."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.llama import LoadSpec, Processors, choose_threads, processors
from assistant.llama.structs import context_params


@pytest.mark.parametrize(
    ("machine", "count", "reason"),
    [
        (Processors(cores=8, logical=16, allowed=16), 8, "one for each core"),
        (Processors(cores=8, logical=8, allowed=8), 8, "one for each core"),
        (Processors(logical=4), 4, "one for each core"),
        (Processors(), 1, "one for each core"),
        (Processors(cores=8, logical=16, allowed=6), 3, "may run on"),
        (Processors(cores=8, logical=16, allowed=1), 1, "may run on"),
        (Processors(cores=64, logical=128, allowed=128, quota=2.0), 2, "control group"),
        (Processors(cores=64, logical=128, allowed=128, quota=3.5), 3, "control group"),
        (Processors(cores=64, logical=128, allowed=128, quota=0.5), 1, "control group"),
    ],
)
def test_one_a_core_that_may_be_used(machine: Processors, count: int, reason: str) -> None:
    chosen = choose_threads(0, machine)
    assert chosen.count == count
    assert reason in chosen.reason


def test_what_is_set_is_done() -> None:
    assert choose_threads(5, Processors(cores=2, logical=2, allowed=2, quota=1.0)).count == 5


@given(st.integers(0, 64), st.integers(1, 2), st.integers(0, 128), st.floats(0, 128))
def test_never_none_and_never_more_than_there_are(
    cores: int, ways: int, allowed: int, quota: float
) -> None:
    machine = Processors(cores, cores * ways, min(allowed, cores * ways), quota)
    assert 1 <= choose_threads(0, machine).count <= max(cores, 1)


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000\n", 0.0), ("150000 100000\n", 1.5), ("?", 0.0), ("1 0", 0.0)]
)
def test_the_control_group_is_read(tmp_path: Path, text: str, quota: float) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert processors(tmp_path / "cpu.max").quota == quota
    assert processors(tmp_path / "none").quota == 0.0


def test_llama_cpp_is_reported() -> None:
    expected = choose_threads(0, processors()).count
    struct = context_params(LoadSpec(path="m.gguf"))
    assert (struct.n_threads, struct.n_threads_batch) == (expected, expected)
    struct = context_params(LoadSpec(path="m.gguf", n_threads=3))
    assert (struct.n_threads, struct.n_threads_batch) == (3, expected)
