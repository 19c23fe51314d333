"""Other programs' known failures, each tried on ours."""

from __future__ import annotations

from collections.abc import Iterator

import known_failures
import pytest
from simulated import GIB, Gpu, Machine

from assistant.memory.planning.dry_run import DryRun


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[known_failures.Bench]:
    gpus = [Gpu("SIM0", total_bytes=24 * GIB), Gpu("SIM1", total_bytes=12 * GIB)]
    machine = Machine(tmp_path_factory.mktemp("gpus"), gpus)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in machine.environment().items():
            patch.setenv(key, value)
        with DryRun() as dry_run:
            yield known_failures.Bench(dry_run, machine)


@pytest.mark.parametrize("name", known_failures.TRIALS)
def test_it_does_not_happen_to_us(name: str, bench: known_failures.Bench) -> None:
    outcome = known_failures.TRIALS[name](bench)
    assert outcome.holds, outcome.seen
