"""What a death is taken for."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from assistant.daemon.crash_history import (
    Cause,
    OutOfMemoryKills,
    cause_of,
    from_outside,
)
from assistant.errors import WorkerDiedError


@pytest.mark.parametrize(
    ("exit_code", "said", "hung", "killed", "cause"),
    [
        (-signal.SIGKILL, "", False, False, Cause.OUTSIDE),
        (-signal.SIGKILL, "", False, True, Cause.MEMORY),
        (-signal.SIGTERM, "", False, False, Cause.OUTSIDE),
        (-signal.SIGABRT, "GGML_ASSERT(n > 0) failed", False, False, Cause.CRASH),
        (-signal.SIGABRT, "CUDA error: out of memory", False, False, Cause.MEMORY),
        (-signal.SIGSEGV, "", False, False, Cause.CRASH),
        (1, "MemoryError", False, False, Cause.MEMORY),
        (-signal.SIGKILL, "it said nothing for 60 s", True, False, Cause.HANG),
        (None, "", False, False, Cause.CRASH),
    ],
)
def test_causes(exit_code: int | None, said: str, hung: bool, killed: bool, cause: Cause) -> None:
    death = WorkerDiedError(f"the engine's process ended ({said})")
    death.exit_code, death.hung = exit_code, hung
    assert cause_of(death, killed_for_memory=killed) is cause


def test_one_that_somebody_stopped_did_not_hang_by_itself() -> None:
    death = WorkerDiedError("it said nothing for 60 s and was ended")
    death.exit_code, death.hung, death.stopped = -signal.SIGKILL, True, True
    assert cause_of(death, killed_for_memory=False) is Cause.OUTSIDE
    assert from_outside(death)


def test_kills_are_counted_once_in_either_place(tmp_path: Path) -> None:
    events = tmp_path / "sys/fs/cgroup/memory.events"
    events.parent.mkdir(parents=True)
    vmstat = tmp_path / "proc/vmstat"
    vmstat.parent.mkdir()
    events.write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    kills = OutOfMemoryKills(tmp_path)
    assert not kills.any_new()
    events.write_text("low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    assert kills.any_new() and not kills.any_new()
    vmstat.write_text("pgfault 9\noom_kill 7\n")
    assert kills.any_new()
    events.unlink()
    vmstat.unlink()
    assert not kills.any_new()
