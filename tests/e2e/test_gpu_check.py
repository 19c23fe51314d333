"""The GPU check on a simulated GPU: every part of it that needs no real one."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from gpu_check import __main__ as check  # noqa: E402
from gpu_check import bundle, models, page, random_weights  # noqa: E402
from gpu_check.results import Config, Results  # noqa: E402

from assistant.memory.gguf.header import BY_NAME, Tensor  # noqa: E402


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpu_check", *arguments]
    return subprocess.run(
        [*command, "--scratch", str(folder / "scratch"), "--results", str(folder / "results")],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_everything_that_needs_no_gpu_runs_and_its_goals_hold(tmp_path: Path) -> None:
    done = run(tmp_path, "--simulated")
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads((tmp_path / "results" / "simulated.json").read_text())
    assert {name: part["state"] for name, part in data["parts"].items()} == dict.fromkeys(
        ("build", "memory", "headroom", "speed"), "done"
    )
    assert all(goal.holds for goal in page.goals(data) if not goal.timed)

    plans = page.rows_of(data, "plans")
    assert {(row["model"], row["limit_gib"]) for row in plans} == {
        (name, limit) for name in models.KINDS for limit in (8, 16, 24)
    }
    loads = page.rows_of(data, "loads")
    assert {row["model"] for row in loads} == set(models.KINDS)
    # the driver's share is what the simulated driver takes, and was found as what is left over
    assert {row["taken"]["driver"] for row in loads} == {5 << 20}
    partly = [row for row in loads if 0 < row["expert_groups_on_gpu"] < row["expert_groups"]]
    assert partly, "no plan had to leave experts on the host"

    rungs = {row["name"] for row in page.rows_of(data, "rungs")}
    assert {"plan", "trim", "drop", "context", "batch", "cache", "experts", "host", "least"} < rungs
    takes = page.rows_of(data, "takes")
    assert takes[-1]["refused"] > 0, "the second process never had to wait for memory"
    assert len(page.rows_of(data, "placements")) == len(page.rows_of(data, "offload")) == 3

    text = (tmp_path / "results" / "simulated.md").read_text()
    assert "No GPU was used" in text
    assert all(name in text for name in models.KINDS)


def test_a_part_without_time_left_plans_and_loads_nothing(tmp_path: Path) -> None:
    """The part itself, started when its time was used up."""
    config = Config(
        simulated=True, scratch=str(tmp_path), models=str(tmp_path), seconds=60, started_s=0
    )
    paths = [BENCHMARKS.parents[1], BENCHMARKS, BENCHMARKS.parent / "equipment"]
    done = subprocess.run(
        [sys.executable, "-m", "gpu_check.memory", config.to_json()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["model"] for row in rows if row["table"] == "plans"} == set(models.KINDS)
    assert not [row for row in rows if row["table"] == "loads"]
    skipped = [row for row in rows if row["table"] == "skipped"]
    assert len(skipped) == 2 * len(models.KINDS)
    assert {row["why"] for row in skipped} == {"the part's time was used up"}


def test_a_part_that_does_not_end_is_ended_and_keeps_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that passes the limit as soon as a row is kept."""
    row = {"table": "skipped", "of": "loads", "what": "dense", "why": "a reason"}
    code = f"import time; print({json.dumps(row)!r}, flush=True); time.sleep(600)"
    config = Config(simulated=True, scratch=str(tmp_path), models=str(tmp_path), seconds=60)
    results = Results(tmp_path / "simulated.json")
    entry = results.start("memory", config.seconds)
    clock = SimpleNamespace(monotonic=lambda: 1000.0 if entry["rows"] else 0.0)
    monkeypatch.setattr(check, "time", clock)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert check._collect(process, config, entry, results) is False
        finally:
            check._end(process)
    assert process.returncode == -signal.SIGKILL
    kept = json.loads(results.path.read_text())
    assert kept["parts"]["memory"]["rows"] == [row]
    assert "Not run." in results.path.with_suffix(".md").read_text()


def test_no_part_is_started_without_time(tmp_path: Path) -> None:
    done = run(tmp_path, "--simulated", "--parts", "memory", "--seconds", "0")
    assert done.returncode == 1
    data = json.loads((tmp_path / "results" / "simulated.json").read_text())
    assert data["parts"]["memory"]["state"] == "not run: the time was used up"


def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 1
    assert "SIMULATED=1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "kind", [*random_weights._SCALES, *random_weights._SCALES_WITH_MINIMUM, "mxfp4", "f16"]
)
def test_random_blocks_have_the_deviation_that_was_asked_for(kind: str) -> None:
    """By the gguf package's own dequantisation, not by ours."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    tensor = Tensor("blk.0.attn_q.weight", (2048, 256), BY_NAME[kind], 0)
    count = 2048 * 64 // tensor.type.block_elements
    raw = random_weights._blocks(tensor, count, 0.02, np.random.default_rng(3))
    rows = np.frombuffer(raw, np.uint8).reshape(64, -1)
    if kind == "f16":
        values = rows.view(np.float16).astype(np.float32)
    else:
        values = dequantize(rows, GGMLQuantizationType[kind.upper()])
    # the scales of mxfp4 are powers of two
    assert values.std() == pytest.approx(0.02, rel=0.42 if kind == "mxfp4" else 0.05)
    assert abs(values.mean()) < 0.2 * values.std()


def archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, text in files.items():
            member = tarfile.TarInfo(f"llama_cpp_python-1/{name}")
            member.size = len(text.encode())
            file.addfile(member, io.BytesIO(text.encode()))
    return path


SOURCES = {
    "CMakeLists.txt": "set(LLAMA_BUILD_COMMON ON CACHE BOOL)",
    "pyproject.toml": "[build-system]",
    "llama_cpp/__init__.py": "",
    "vendor/llama.cpp/CMakeLists.txt": "add_subdirectory(src)\nadd_subdirectory(vendor)\n",
    "vendor/llama.cpp/src/llama.cpp": "",
    "vendor/llama.cpp/ggml/src/ggml-cuda/mmq.cu": "",
    "vendor/llama.cpp/ggml/src/ggml-cpu/arch/x86/quants.c": "",
    "vendor/llama.cpp/ggml/src/ggml-cpu/arch/riscv/quants.c": "",
    "vendor/llama.cpp/ggml/src/ggml-vulkan/shader.comp": "",
    "vendor/llama.cpp/tools/mtmd/mtmd.cpp": "",
    "vendor/llama.cpp/models/vocab.gguf": "",
    ".git/objects/pack/one": "",
}


def test_the_source_is_trimmed_to_what_a_cuda_build_needs(tmp_path: Path) -> None:
    bundle.trim(archive(tmp_path / "old.tar.gz", SOURCES), tmp_path / "new.tar.gz")
    with tarfile.open(tmp_path / "new.tar.gz") as new:
        names = {name.partition("/")[2] for name in new.getnames()}
        file = new.extractfile("llama_cpp_python-1/vendor/llama.cpp/CMakeLists.txt")
        assert file is not None and b"add_subdirectory(vendor)" not in file.read()
    left_out = {"vulkan", "riscv", "tools", "models", ".git"}
    assert not [name for name in names if any(part in name for part in left_out)]
    assert len(names) == len(SOURCES) - len(left_out)


def test_a_source_that_is_laid_out_otherwise_is_not_trimmed_silently(tmp_path: Path) -> None:
    changed = SOURCES | {"CMakeLists.txt": "option(LLAMA_BUILD_COMMON)"}
    with pytest.raises(ValueError, match="LLAMA_BUILD_COMMON"):
        bundle.trim(archive(tmp_path / "old.tar.gz", changed), tmp_path / "new.tar.gz")


@pytest.mark.parametrize(
    ("variables", "command"),
    [
        (["SIMULATED=1"], ".venv/bin/python -m gpu_check --simulated"),
        (["BUNDLE=b", "PYTHON=python3"], "python3 -m gpu_check"),
    ],
)
def test_make_runs_it_by_the_python_that_has_or_installs_the_packages(
    variables: list[str], command: str
) -> None:
    root = BENCHMARKS.parents[1]
    made = subprocess.run(
        ["make", "-n", "gpu-check", *variables],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f" {command}" in made.stdout
