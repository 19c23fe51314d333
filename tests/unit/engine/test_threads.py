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


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("files", "group", "quota"),
    [
        ({f"{V2}/cpu.max": "max 100000"}, "0::/", 0.0),
        ({f"{V2}/cpu.max": "150000 100000"}, "0::/", 1.5),
        ({f"{V2}/cpu.max": "?"}, "0::/", 0.0),
        ({f"{V2}/cpu.max": "1 0"}, "0::/", 0.0),
        ({f"{V2}/cpu.max": "1" * 5000 + " 100000"}, "0::/", 0.0),
        ({f"{V2}/cpu.max": "150000 100000"}, "", 1.5),
        ({f"{V2}/a/b/cpu.max": "200000 100000"}, "0::/a/b", 2.0),
        ({f"{V2}/a/cpu.max": "50000 100000", f"{V2}/a/b/cpu.max": "max 1"}, "0::/a/b", 0.5),
        ({f"{V2}/a/b/cpu.max": "90000 30000", f"{V2}/a/cpu.max": "8 2"}, "0::/a/b", 3.0),
        ({f"{V2}/cpu.max": "300000 100000"}, "0::/docker/not/mounted/here", 3.0),
        ({f"{V2}/cpu.max": "300000 100000"}, "0::/../other", 3.0),
        ({f"{V2}/other/cpu.max": "1 1"}, "0::/a", 0.0),
        ({f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, "4:cpu:/", 0.0),
        (
            {f"{V1}/a/cpu.cfs_quota_us": "250000", f"{V1}/a/cpu.cfs_period_us": "100000"},
            "7:memory:/x\n4:cpu:/a/b\n0::/init.scope",
            2.5,
        ),
        (
            {f"{V1},cpuacct/cpu.cfs_quota_us": "5", f"{V1},cpuacct/cpu.cfs_period_us": "5"},
            "4:cpu,cpuacct:/docker/1",
            1.0,
        ),
        ({f"{V1}/cpu.cfs_quota_us": "250000"}, "4:cpu:/", 0.0),
        ({f"{V1}set/cpu.cfs_quota_us": "1", f"{V1}set/cpu.cfs_period_us": "1"}, "3:cpuset:/", 0.0),
    ],
)
def test_each_control_group_above_is_read(
    tmp_path: Path, files: dict[str, str], group: str, quota: float
) -> None:
    """The tightest one counts, in version 1 and 2, nested or seen from inside a container."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    if group:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(group + "\n")
    assert processors(tmp_path).quota == quota


def test_llama_cpp_is_reported() -> None:
    expected = choose_threads(0, processors()).count
    struct = context_params(LoadSpec(path="m.gguf"))
    assert (struct.n_threads, struct.n_threads_batch) == (expected, expected)
    struct = context_params(LoadSpec(path="m.gguf", n_threads=3))
    assert (struct.n_threads, struct.n_threads_batch) == (3, expected)
